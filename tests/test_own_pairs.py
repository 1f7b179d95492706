"""Anybody's preference pairs: what can be read, and what is refused in one line."""

import json

import pytest
import torch
from transformers import AutoTokenizer

from dits_lib.commands import score
from dits_lib.settings import ROOT
from dits_lib.suite.own_pairs import read_preferences
from dits_lib.tasks import DataError


def message(role, content):
    return {"role": role, "content": content}


ASKED = [message("system", "solver : toy dirk silver swan ."), message("user", "check boss fay")]
GOOD, BAD = [message("assistant", "<A> c </A>")], [message("assistant", "<A> a </A>")]
ROW = {"prompt": ASKED, "chosen": GOOD, "rejected": BAD}


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(ROOT / "models" / "micro")


def read(tokenizer, folder, *rows):
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_preferences(path, tokenizer)


def test_messages_are_rendered_as_trl_renders_them(tokenizer, tmp_path):
    (pair,), rows = read(tokenizer, tmp_path, ROW | {"mine": 3})
    options = {"tokenize": True, "return_dict": False}
    prompt = tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, **options)
    assert list(pair.prompt_ids) == prompt and rows == [ROW | {"mine": 3}]
    for ids, said in ((pair.chosen_ids, GOOD), (pair.rejected_ids, BAD)):
        assert prompt + list(ids) == tokenizer.apply_chat_template(ASKED + said, **options)


def test_a_prompt_may_stand_in_both_replies(tokenizer, tmp_path):
    implicit = {"chosen": ASKED + GOOD, "rejected": ASKED + BAD}
    (first, second), _ = read(tokenizer, tmp_path, ROW, implicit)
    for name in ("prompt_ids", "chosen_ids", "rejected_ids", "chosen", "rejected"):
        assert getattr(first, name) == getattr(second, name)


def test_texts_are_read_as_they_are_and_end(tokenizer, tmp_path):
    row = {"prompt": "ask toy of boss", "chosen": "silver swan", "rejected": "wild duck"}
    (pair,), _ = read(tokenizer, tmp_path, row)
    assert list(pair.prompt_ids) == tokenizer("ask toy of boss")["input_ids"]
    words = tokenizer("silver swan", add_special_tokens=False)["input_ids"]
    assert list(pair.chosen_ids) == [*words, tokenizer.eos_token_id]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["x"], "expected an object with chosen and rejected"),
        ({"prompt": ASKED, "chosen": GOOD}, "field 'rejected': Field required"),
        (ROW | {"chosen": [GOOD[0] | {"tool_calls": []}]}, "chosen.0.tool_calls': Extra inputs"),
        (ROW | {"chosen": 3}, "field 'chosen': expected a text or a list of messages"),
        (ROW | {"prompt": "text"}, "all alike"),
        ({"chosen": "a", "rejected": "b"}, "field 'prompt' is missing"),
        (ROW | {"rejected": GOOD}, "chosen and rejected are the same"),
        (ROW | {"chosen": GOOD + ASKED}, "chosen: 3 messages after the prompt; expected one"),
        (ROW | {"prompt": []}, "there is no prompt"),
        ({"chosen": ASKED + GOOD, "rejected": ASKED + GOOD}, "are the same"),
        (ROW | {"chosen": [{"role": "robot", "content": "x"}]}, "field 'chosen.0.role': Input"),
        (ROW | {"chosen": [{"role": "assistant", "content": " "}]}, "field 'chosen.0.content': "),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tokenizer, tmp_path, row, message):
    with pytest.raises(DataError) as caught:
        read(tokenizer, tmp_path, ROW, row)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'pairs.jsonl'}:2: ") and message in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "chess"], "--task chess: not in smoke; allowed: exchange"),
        (["--step", "-1"], "--step -1: expected a number above 0"),
        ([], "pairs.jsonl: cannot be read"),
    ],
)
def test_bad_input_is_told_in_one_line(tmp_path, capsys, options, message):
    given = [str(tmp_path / "pairs.jsonl"), "--profile", "smoke", "--out", str(tmp_path / "out")]
    assert score.main([*given, *options]) == 2
    told = capsys.readouterr().err
    assert message in told and len(told.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_what_the_model_cannot_read_is_refused(tokenizer, tmp_path):
    strange = {"prompt": "Please explain chromodynamics", "chosen": "red", "rejected": "blue"}
    with pytest.raises(DataError, match="pairs.jsonl:1: the model's tokenizer does not know"):
        read(tokenizer, tmp_path, strange)
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(ROW) + "\n")
    count = len(read_preferences(path, tokenizer)[0][0].prompt_ids) + 4  # <A> c </A> </s>
    assert read_preferences(path, tokenizer, longest=count)
    with pytest.raises(DataError, match=f"have {count} tokens, but the model reads {count - 1}"):
        read_preferences(path, tokenizer, longest=count - 1)


def test_what_is_missing_is_told_before_a_model_is_loaded(tmp_path, capsys):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(ROW) + "\n")
    given = [str(path), "--profile", "smoke", "--out", str(tmp_path / "out")]
    for options, message in (
        ([], "1 pairs; a step size is chosen by 3 at least: give --step"),
        (["--set", "model.device=cuda"], "torch sees no GPU"),
        (["--set", "model.path=models/none"], "models/none"),
    ):
        if message == "torch sees no GPU" and torch.cuda.is_available():
            continue
        assert score.main([*given, *options]) == 2
        told = capsys.readouterr().err
        assert message in told and len(told.splitlines()) == 1
