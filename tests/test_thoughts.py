"""What a thinking model says aloud."""

import pytest

from dits_lib.tasks.thoughts import without_thoughts


@pytest.mark.parametrize(
    ("reply", "aloud"),
    [
        (" no thought, as it is\n", " no thought, as it is\n"),
        ("<think>is it?</think>\n\ncorrect", "correct"),
        ("the template opened the thought</think>\n<A>7</A>", "<A>7</A>"),
        ("<A>7</A> <think>was that right?</think>", "<A>7</A>"),
        ("<think>a</think>one <think>b</think>two", "one two"),
        ("<think>a <think>b</think> still a</think> said", "said"),
        ("first</think> second</think> said", "said"),
        ("<think><A>7</A> but then", ""),
        ("<think>a</think> said <think>cut sh", ""),
        ("<think></think>", ""),
    ],
)
def test_thoughts_are_not_said_aloud(reply, aloud):
    assert without_thoughts(reply) == aloud


def test_thoughts_by_the_hundred_thousand_are_read_in_time():
    assert without_thoughts("<think>" * 300_000) == ""
    assert without_thoughts("<think></think>" * 300_000 + "said") == "said"
