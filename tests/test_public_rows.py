"""Rows of public data sets as they should not be: each is refused by file, line and field, or gives
a question that can be asked and answered."""

import json
import unicodedata

import numpy as np
import pytest

from dits_lib.agents import TASKS, parse_answer
from dits_lib.tasks import DataError
from dits_lib.tasks.base import Question, standing_in
from dits_lib.tasks.public import PUBLIC, PublicDataset, load_splits

from .test_public import ROWS, arc_row, cbt_row, hotpot_row, mmlu_row, trivia_row, write

GONE = object()
VALUES = (
    *(GONE, None, True, False, 5, -1, 10**15, 2.5),
    *(
        "",
        " ",
        "\u200b",
        "The",
        "!!!",
        "AB",
        "x",
        "1",
        "<A>x</A>",
        "two\nlines",
        "x\x00",
        "x\ud800",
    ),
    *([], ["x"], [None], [5], [[]], ["x", "x"], {}, {"x": 1}),
)
"""What is put in the place of each part of a row."""


def places(value, place=()):
    """Paths of all parts of a row; of a list the first two items."""
    inner = value.items() if isinstance(value, dict) else ()
    inner = list(enumerate(value))[:2] if isinstance(value, list) else inner
    for key, part in inner:
        yield (*place, key)
        yield from places(part, (*place, key))


def put(row, place, value):
    """A copy of a row with one part changed, or gone."""
    row = json.loads(json.dumps(row))
    inner = row
    for key in place[:-1]:
        inner = inner[key]
    if value is GONE:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return row


def read(name, row, folder):
    """The question that a file of one row gives."""
    write(folder, name, [json.dumps(row)])
    slices = load_splits(PUBLIC[name], folder, 40, 5000)
    (question,) = (q for part in slices.values() for q in part.questions)
    return question


def assert_sound(question, task):
    """It can be asked, and every gold answer is right when the agents give it."""
    assert question.id.split("-", 1)[1].strip() and question.text.strip()
    assert isinstance(question.meta["family"], str) and question.meta["family"].strip()
    shown = json.dumps(question.to_json(), ensure_ascii=False)
    assert shown.encode() and "None" not in shown and unicodedata.is_normalized("NFC", shown)
    system = TASKS[task].system("chat", {})
    assert question.answers and set(question.views) >= set(TASKS[task].readers)
    for answer in question.answers:
        assert system.score(question, parse_answer(f"<A>{answer}</A>")) == 1.0
    for nothing in ("?", "The", "", None):
        if nothing not in question.options.values():  # the text of an option names it
            assert system.score(question, nothing) == 0.0
    for agent, sentences in question.meta.get("script", {}).items():
        assert all(sentence in question.views[agent] for sentence in sentences)
    if TASKS[task].choice:
        letters = question.letters
        assert set(question.answers) <= set(letters) and len(set(letters)) == len(letters) > 1
    if TASKS[task].warm_start:
        TASKS[task].warm_start(question, np.random.default_rng(0))


@pytest.mark.parametrize("name", list(PUBLIC))
def test_every_mutated_row_is_refused_by_its_field_or_gives_a_sound_question(name, tmp_path):
    row, dataset = ROWS[name](1), PUBLIC[name]
    path, known = tmp_path / f"{name}.jsonl", {key.lower() for key in (*row, *dataset.fields)}
    refused = sound = 0
    for place in [*places(row), ()]:
        for value in VALUES:
            if not place and value is GONE:
                continue
            try:
                question = read(name, put(row, place, value) if place else value, tmp_path)
            except DataError as error:
                line, refused = str(error), refused + 1
                start, field = f"{path}:1: field '", line.split("'")[1]
                assert line.startswith(start) and "\n" not in line and len(line) < 400, line
                assert field.split(".")[0].lower() in known or not place, (place, value, line)
                assert "no row of" not in line, (place, value, line)  # each has its own reason
            else:
                sound += 1
                assert_sound(question, dataset.task)
    assert refused + sound >= 112 and refused > 40 and sound > 5


@pytest.mark.parametrize(
    ("name", "place", "value", "message"),
    [
        ("hotpotqa", ("context", "sentences"), None, "'context.sentences': null; expected list"),
        ("hotpotqa", ("context", "sentences", 0, 1), None, "'context.sentences.0.1': null"),
        (
            "hotpotqa",
            ("supporting_facts", "sent_id", 0),
            "0",
            "'supporting_facts.sent_id.0': a str",
        ),
        ("hotpotqa", ("supporting_facts", "sent_id"), [0], "2 titles but 1 sentence numbers"),
        ("hotpotqa", ("context", "sentences", 0), [" "], "a supporting paragraph is empty"),
        ("hotpotqa", ("id",), " ", "'id': empty"),
        ("hotpotqa", ("answer",), "The", "'answer': 'The' can never be right"),
        ("hotpotqa", ("answer",), "<A>x</A>", "'answer': '<A>x</A>' holds <A> or </A>"),
        ("triviaqa", ("answer", "aliases"), "AB", "'answer.aliases': a str; expected list"),
        (
            "triviaqa",
            ("answer",),
            {"value": "!!!", "aliases": ["The"]},
            "'answer': '!!!' can never",
        ),
        ("triviaqa", ("search_results", "title"), ["one"], "1 titles but 2 texts"),
        ("triviaqa", ("question_id",), "", "'question_id': empty"),
        ("cbt", ("sentences", 3), None, "'sentences.3': null; expected str"),
        ("cbt", ("options",), "Ann", "'options': a str; expected list"),
        ("arc_challenge", ("choices", "label", 0), 1, "'choices.label.0': a int; expected str"),
        ("arc_challenge", ("choices", "label", 1), "1", "'choices.label': 1, 1, 3; no label"),
        ("arc_challenge", ("choices", "text", 0), "", "'choices.text.0': empty, but the right"),
        ("mmlu", ("answer",), True, "'answer': a bool; expected int"),
        ("mmlu", ("choices",), list("abcdefghijklmnopqrstuvwxyz1"), "27 options; expected 2 to 26"),
        ("mmlu", ("choices",), ["x"] * 4, "'choices': all options say 'x'"),
        ("webwalkerqa", ("question",), "x", "'question': stands twice, in large and in small"),
        ("webwalkerqa", ("root_url",), "http://[", "'root_url': 'http://['; expected an http"),
        ("webwalkerqa", ("lang",), 5, "'lang': a int; expected str"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(name, place, value, message, tmp_path):
    with pytest.raises(DataError) as caught:
        read(name, put(ROWS[name](1), place, value), tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / name}.jsonl:1: field ")
    assert message in str(caught.value)


def test_aliases_that_no_reply_can_match_are_dropped(tmp_path):
    row = put(trivia_row(1), ("answer",), {"value": "The", "aliases": ["!!!", "", "City 1", "a"]})
    question = read("triviaqa", row, tmp_path)
    assert question.answers == ("City 1",)
    assert TASKS["exchange"].system("chat", {}).score(question, "?") == 0.0


@pytest.mark.parametrize("name", ["hotpotqa", "triviaqa", "cbt", "arc_challenge"])
def test_a_row_in_any_unicode_form_gives_the_same_question(name, tmp_path):
    """Ids, views and order of the rows too; a copy of a question in another form is a repeat."""
    text = json.dumps([ROWS[name](n) for n in range(12)], ensure_ascii=False)
    text = text.replace("Tower", "Tór").replace("city", "cité").replace("story", "stóry")
    text = text.replace("falls", "fälls")
    found = []
    for form in ("NFC", "NFD"):
        write(tmp_path / form, name, json.loads(unicodedata.normalize(form, text)))
        slices = load_splits(PUBLIC[name], tmp_path / form, 40, 5000)
        found.append([part.questions for part in slices.values()])
    assert found[0] == found[1] and "\u0301" not in repr(found) and "\u0308" not in repr(found)
    rows = json.loads(text) + json.loads(unicodedata.normalize("NFD", text))
    write(tmp_path / "both", name, rows)
    slices = load_splits(PUBLIC[name], tmp_path / "both", 40, 5000)
    assert sum(len(part.questions) for part in slices.values()) == 12


def test_an_id_belongs_to_one_question(tmp_path):
    write(tmp_path, "hotpotqa", [hotpot_row(1), hotpot_row(2) | {"id": "h1"}, hotpot_row(1)])
    with pytest.raises(DataError, match=r"hotpotqa.jsonl:\d: field 'id': hotpotqa-h1 is the id of"):
        load_splits(PUBLIC["hotpotqa"], tmp_path, 40, 5000)


def test_rows_of_the_hub_are_checked_as_those_of_files():
    for row, message in (
        (
            put(hotpot_row(1), ("context", "sentences", 0), None),
            "field 'context.sentences.0': null",
        ),
        (put(hotpot_row(1), ("question",), "x\x00"), "field 'question': holds a NUL"),
        ([], r"field '\(row\)': a list"),
    ):
        with pytest.raises(DataError, match=f"hub row 7: {message}"):
            PUBLIC["hotpotqa"].checked(row, 40, "hub row 7")


def test_unanswerable_rows_of_a_hub_are_left_out_and_counted(tmp_path, monkeypatch):
    """Nobody can mend them there. In a file of one's own they are told."""
    from datasets import load_dataset

    rows = [hotpot_row(i) for i in range(12)]
    rows[3] = put(rows[3], ("answer",), "!!!")
    file = tmp_path / "rows.json"
    file.write_text("\n".join(map(json.dumps, rows)))
    table = load_dataset("json", data_files=str(file), split="train", cache_dir=str(tmp_path))
    monkeypatch.setattr("datasets.load_dataset", lambda *args, **kwargs: table)
    slices = load_splits(PUBLIC["hotpotqa"], None, 40, 5000)
    assert slices["test"].unanswerable == 1 and slices["test"].repeats == 0
    assert len(slices["test"].questions) == 11
    write(tmp_path, "hotpotqa", rows)
    with pytest.raises(DataError, match=r":4: field 'answer': '!!!' can never be right"):
        load_splits(PUBLIC["hotpotqa"], tmp_path, 40, 5000)


def test_a_class_that_fails_on_a_row_gives_one_line_too():
    class Careless(PublicDataset):
        name, fields = "careless", {"question": str}

        def question(self, row, words):
            return Question("x", row["question"], tuple(row["answers"]), {})

    with pytest.raises(DataError, match=r"^row 3: field '\(row\)': no row of careless \(KeyError"):
        Careless().checked({"question": "who"}, 40, "row 3")


ROMAN = "Which are true?\nI. Stones fall.\nII. Smoke falls.\nIII. Light falls."


def test_a_roman_list_in_a_question_holds_no_options(tmp_path):
    """The warm start once taught the solver to answer `I`."""
    options = ["I only\nD. and more", "II only", "I. and II.", "C. S. Lewis"]
    row = mmlu_row(1) | {"question": ROMAN, "choices": options, "answer": 0}
    question = read("mmlu", row, tmp_path)
    own = Question("1", f"{ROMAN}\nA. I only\nB. II only\nC. all", ("A",), {}, {})
    for asked, letters in ((question, "ABCD"), (own, "ABC")):
        assert asked.letters == tuple(letters)
        said = {
            parse_answer(turn.text)
            for seed in range(60)
            for turn in TASKS["debate"].warm_start(asked, np.random.default_rng(seed))
        }
        assert said == {None, *letters}
    statements = Question("2", ROMAN, ("x",), {}, {})
    assert statements.letters == ()
    assert read("arc_challenge", arc_row(1), tmp_path).letters == ("A", "B", "C")


def test_a_warm_start_tells_only_what_the_views_hold(tmp_path):
    row = hotpot_row(1)
    late = "Late in this paragraph the tower is said to be in the town of Builders."
    row["context"]["sentences"][0] = ["Word " * 38, late]
    row["supporting_facts"] = {"title": ["Tower 1", "Tower 1", "Builder 1"], "sent_id": [0, 1, 0]}
    question = read("hotpotqa", row, tmp_path)  # 40 words of context
    told = [sentence for said in question.meta["script"].values() for sentence in said]
    assert told == [" ".join(["Word"] * 38), "Builder 1 was born in year 1801."]
    by_hand = Question(
        "1", "q", ("x",), {"alice": "a b", "bob": "c"}, {"script": {"alice": [late]}}
    )
    for asked in (question, by_hand):
        turns = TASKS["exchange"].warm_start(asked, np.random.default_rng(0))
        assert all(late not in turn.text for turn in turns)
    assert standing_in([" b  c ", "", "c d"], "a b\nc") == [" b  c "]


def test_cbt_needs_something_to_read_in_both_halves(tmp_path):
    row = cbt_row(1)
    row["sentences"][10:] = [" "] * 10
    with pytest.raises(DataError, match="field 'sentences': those of bob are empty"):
        read("cbt", row, tmp_path)
