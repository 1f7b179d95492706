"""One's own questions in JSONL: what cannot be used is told by file, line and field, before
anything expensive."""

import json
import re
import unicodedata

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dits_lib.agents import TASKS
from dits_lib.settings import ROOT
from dits_lib.suite.checks import check_inputs
from dits_lib.suite.params import load_params
from dits_lib.suite.pipeline import Pipeline
from dits_lib.suite.question_checks import (
    check_words,
    first_unknown,
    own_questions,
    unknown_share,
)
from dits_lib.suite.store import Store
from dits_lib.tasks import DataError, make_questions, read_questions

from .test_guide import GUIDE, blocks
from .test_public import arc_row, webwalker_row
from .test_public import write as write_public
from .test_public_rows import GONE, VALUES, places, put

READERS = ("alice", "bob")

GOOD_ROW = {
    "id": "1",
    "text": "who",
    "answers": ["x"],
    "views": {"alice": "a", "bob": "b"},
    "meta": {"split": "test"},
}
BAD_ROWS = {
    "not json": ('{"id": 1', "not valid JSON"),
    "not an object": ("[1]", "expected one JSON object"),
    "missing field": (
        json.dumps({k: v for k, v in GOOD_ROW.items() if k != "answers"}),
        "field 'answers' is missing",
    ),
    "wrong type": (json.dumps(GOOD_ROW | {"text": 3}), "field 'text' is a int; expected str"),
    "empty answers": (json.dumps(GOOD_ROW | {"answers": []}), "field 'answers'"),
    "missing view": (
        json.dumps(GOOD_ROW | {"views": {"alice": "a"}}),
        "field 'views.bob' is missing",
    ),
    "unknown split": (
        json.dumps(GOOD_ROW | {"meta": {"split": "dev"}}),
        "field 'meta.split' is 'dev'; allowed: base",
    ),
    "meta is null": (json.dumps(GOOD_ROW | {"meta": None}), "field 'meta' is missing or no object"),
    "duplicate id": (json.dumps(GOOD_ROW), "occurs twice"),
}


@pytest.mark.parametrize("name", list(BAD_ROWS))
def test_a_broken_row_is_named_by_file_line_and_field(tmp_path, name):
    row, message = BAD_ROWS[name]
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps(GOOD_ROW) + "\n" + row + "\n")
    with pytest.raises(DataError) as error:
        read_questions(path, ("alice", "bob"))
    assert (
        str(error.value).startswith(f"{path}:2: ")
        and message in str(error.value)
        and "\n" not in str(error.value)
    )


def test_missing_and_empty_files_are_named(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_questions(tmp_path / "none.jsonl", ("alice",))
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no rows"):
        read_questions(tmp_path / "empty.jsonl", ("alice",))


def test_a_file_of_another_encoding_is_named(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes("é".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        read_questions(tmp_path / "latin.jsonl", ("alice",))


def test_own_questions_are_read(tmp_path):
    (tmp_path / "own.jsonl").write_text(json.dumps(GOOD_ROW) + "\n")
    question = read_questions(tmp_path / "own.jsonl", ("alice", "bob"))[0]
    assert question.answers == ("x",) and question.meta["family"] == "own data"


def write(path, rows):
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n")
    return path


def refused(path, rows, readers=READERS, choice=None):
    """The one line that tells what is wrong with the last row."""
    write(path, rows)
    with pytest.raises(DataError) as caught:
        read_questions(path, readers, choice)
    line = str(caught.value)
    assert line.startswith(f"{path}:{len(rows)}: ") and "\n" not in line and len(line) < 400
    return line


def row(**changes):
    """A second row that can be used beside `GOOD_ROW`, with some fields changed."""
    return GOOD_ROW | {"id": "2", "text": "what"} | changes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": NaN}', "NaN is no finite number"),
        ('{"id": -Infinity}', "-Infinity is no finite number"),
        ('{"id": 1e999}', "1e999 is no finite number"),
        ('{"id": %s}' % ("9" * 5000), "an integer of 5000 digits; at most 20 are read"),
        ('{"id": %s}' % ("9" * 400), "an integer of 400 digits"),
        ("[" * 100000, "more than 30 lists and objects inside each other"),
        ('{"id": ' + "[" * 60 + "]" * 60 + "}", "more than 30 lists and objects"),
        ('{"id": "1", "id": "2"}', "field 'id' stands twice in one object"),
        ('{"meta": {"split": "test", "split": "train"}}', "field 'split' stands twice"),
        ('{"id": "a\\u0000b"}', "field 'id': holds a NUL character"),
        ('{"answers": ["x", "\\ud800"]}', "field 'answers.1': holds \\ud800, half of a surrogate"),
        ('{"\\udfff": 1}', "half of a surrogate pair"),
        ('{"id": "a\x00b"}', "not valid JSON"),
        ("\x00", "not valid JSON"),
        ("{'id': 1}", "not valid JSON"),
    ],
)
def test_json_that_could_be_misread_is_refused_with_its_row(tmp_path, text, message):
    assert message in refused(tmp_path / "own.jsonl", [GOOD_ROW, text])


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path):
    for encoding, line in (("utf-8-sig", "\n"), ("utf-8-sig", "\r\n"), ("utf-8", "\n\ufeff")):
        path = tmp_path / "own.jsonl"
        path.write_bytes(line.join(map(json.dumps, (GOOD_ROW, row()))).encode(encoding))
        assert [q.id for q in read_questions(path, READERS)] == ["1", "2"]


def test_a_line_in_another_encoding_and_a_folder_are_named(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_bytes(json.dumps(GOOD_ROW).encode() + b"\n\n" + "{é}".encode("latin-1"))
    with pytest.raises(DataError, match=r"own.jsonl:3: not UTF-8"):
        read_questions(path, READERS)
    path.write_bytes(json.dumps(GOOD_ROW).encode("utf-16"))
    with pytest.raises(DataError, match=r"own.jsonl:1: not UTF-8"):
        read_questions(path, READERS)


SAME = (
    "Who  PAINTED the CAFÉ\u00a0?",
    unicodedata.normalize("NFD", "Who painted the Café ?"),
    "\uff37ho painted the café ?",
    "Who pain\u200bted the caf\u00e9\t?",
)


@pytest.mark.parametrize("text", SAME)
def test_a_question_stands_in_one_split(tmp_path, text):
    path, first = tmp_path / "own.jsonl", row(id="1", text="Who painted the Café ?")
    again = first | {"id": "2", "text": text, "meta": {"split": "train"}}
    line = refused(path, [first, again])
    assert f"field 'text': the question of {path}:1 again, which is in split 'test'" in line
    # In one split it may stand twice, and with other views it is another question.
    for allowed in (
        again | {"meta": {"split": "test"}},
        again | {"views": {"alice": "c", "bob": "b"}},
    ):
        write(path, [first, allowed])
        assert len(read_questions(path, READERS)) == 2
    assert "again" in refused(path, [first, again | {"views": {"alice": "A ", "bob": " b"}}])


CHOICE = {"views": {"solver": "", "critic": ""}, "text": "Which?\nA. one\nB. two\nC. three"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": " "}, "field 'id': empty"),
        ({"text": "\u200b \u00ad"}, "field 'text': empty"),
        ({"views": {"alice": " ", "bob": "b"}}, "field 'views.alice': empty; alice needs a text"),
        ({"views": {"alice": "a", "bob": None}}, "field 'views.bob' is missing"),
        ({"views": {"alice": "a", "bob": 5}}, "field 'views.bob' is a int; expected str"),
        ({"views": {"alice": "a", "bob": "b", "eve": []}}, "field 'views.eve' is a list"),
        ({"answers": "AB"}, "field 'answers' is a str; expected list"),
        ({"answers": [True]}, "field 'answers'"),
        ({"answers": ["The"]}, "field 'answers': 'The' can never be right"),
        ({"answers": ["x", "!!!"]}, "field 'answers': '!!!' can never be right"),
        ({"answers": ["x <A> y"]}, "field 'answers': 'x <A> y' holds <A> or </A>"),
        ({"answers": ["x</A>"]}, "holds <A> or </A>"),
        ({"meta": {"split": ["test"]}}, "field 'meta.split' is ['test']; allowed: base"),
        ({"meta": {"split": "test", "family": 3}}, "field 'meta.family' is a int; expected str"),
        ({"meta": {"split": "test", "reward_sign": 5}}, "field 'meta.reward_sign': 5; must be 1"),
        ({"meta": {"split": "test", "harmful": "no"}}, "field 'meta.harmful' is a str"),
        ({"meta": {"split": "test", "script": {"alice": "a"}}}, "field 'meta.script.alice' is a"),
        (
            {"meta": {"split": "test", "script": {"alice": ["b"]}}},
            "field 'meta.script.alice': tells what does not stand word for word in views.alice",
        ),
        ({"meta": {"split": "test", "script": {"eve": []}}}, "field 'meta.script.eve': no agent"),
        ({"meta": {"split": "test", "letters": ["A", "B"]}}, "'x' is none of the options"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path, changes, message):
    assert message in refused(tmp_path / "own.jsonl", [GOOD_ROW, row(**changes)])


def test_every_mutated_row_is_refused_by_its_field_or_can_be_used(tmp_path):
    meta = {"split": "test", "family": "x", "reward_sign": -1, "script": {"alice": ["a"]}}
    path, seen = tmp_path / "own.jsonl", {"refused": 0, "read": 0}
    for place in places(row(meta=meta)):
        for value in VALUES:
            mutated = put(row(meta=meta), place, value)
            write(path, [mutated])
            try:
                (question,) = own_questions(path, "exchange")
            except DataError as error:
                seen["refused"] += 1
                assert str(error).startswith(f"{path}:1: field '"), (mutated, error)
                assert str(error).split("'")[1].split(".")[0] in mutated or value is GONE
                assert "\n" not in str(error) and len(str(error)) < 400
            else:
                seen["read"] += 1
                assert question.id.strip() and question.meta["family"].strip()
                assert all(view.strip() for view in question.views.values())
                for answer in question.answers:
                    assert TASKS["exchange"].system("micro", {}).score(question, answer) == 1.0
    assert seen["refused"] > 150 and seen["read"] > 30, seen


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers": ["D"]}, "'D' is none of the options; allowed: A, B, C"),
        ({"answers": ["one"]}, "'one' is none of the options"),
        ({"text": "Which of A and B?", "answers": ["one"]}, "expected the letter of an option"),
        (
            {"text": "Which?\nI. red\nII. blue\nA. I\nB. II", "answers": ["I"]},
            "'I' is none of the options; allowed: A, B",
        ),
    ],
)
def test_the_answer_of_a_choice_is_a_letter_of_its_options(tmp_path, changes, message):
    readers, path = ("solver", "critic"), tmp_path / "own.jsonl"
    good = GOOD_ROW | CHOICE | {"answers": ["A"]}
    assert message in refused(path, [good, good | {"id": "2"} | changes], readers, choice=True)
    write(path, [good, good | {"id": "2", "text": "(A) red (B) blue", "answers": ["b"]}])
    assert len(own_questions(path, "debate")) == 2
    write(path, [good])
    assert read_questions(path, readers)[0].letters == ("A", "B", "C")


def test_an_answer_that_the_agents_cannot_give_is_refused(tmp_path, monkeypatch):
    """By the parser that reads their answers and by the task's own score, whatever these are."""
    path = write(tmp_path / "own.jsonl", [GOOD_ROW, row(answers=["x y", "A"])])
    with pytest.raises(DataError, match=r"own.jsonl:2: field 'answers': 'A' can never be right"):
        own_questions(path, "exchange")
    monkeypatch.setattr(TASKS["exchange"].system("micro", {}).__class__, "score", lambda *_: 0.0)
    write(path, [GOOD_ROW])
    with pytest.raises(DataError, match=r"own.jsonl:1: field 'answers': 'x' .* scores 0"):
        own_questions(path, "exchange")


def test_a_stage_reads_the_same_rows_as_the_check(tmp_path):
    """Also in a notebook that is opened by hand."""
    path = write(tmp_path / "own.jsonl", [GOOD_ROW | {"answers": ["The"]}])
    params = load_params("smoke", ["tasks=[exchange]", f"world.questions={path}"])
    lab = Pipeline(params.serving("01_rollout"), "exchange", Store(tmp_path / "runs"))
    with pytest.raises(DataError, match="'The' can never be right"):
        lab.questions("test", 1, 0)
    write(path, [GOOD_ROW])
    assert [q.id for q in lab.questions("test", 1, 0)] == ["1"]  # a mended file is read again


def own(tmp_path, rows, *changes):
    path = write(tmp_path / "own.jsonl", rows)
    return load_params("smoke", ["tasks=[exchange]", f"world.questions={path}", *changes])


def test_words_that_the_model_does_not_know_are_told_at_once(tmp_path):
    """The guide's own example with the default model, whose 164 words are another world's."""
    example = json.loads(blocks(GUIDE, "json")[0])
    with pytest.raises(DataError) as caught:
        check_inputs(own(tmp_path, [example]), ["01_rollout"])
    line = str(caught.value)
    assert (
        "the tokenizer of models/micro does not know 100% of the tokens of the questions and views"
        in line
    )
    assert "'Who', 'painted', 'it?'" in line and "set model.path to a model" in line
    assert line.count("own.jsonl") == 2 and "train: 1 of 20 questions" in line and "\n" not in line


def test_public_data_are_read_by_the_models_tokenizer_too(tmp_path):
    for name, row, key in (
        ("arc_challenge", arc_row, "model.path"),
        ("webwalkerqa", webwalker_row, "web.model"),
    ):
        path = write_public(tmp_path, name, [row(n) for n in range(120)])
        params = load_params("smoke", [f"data.data_dir={tmp_path}", "web.site=live"], name)
        with pytest.raises(DataError, match=rf"^{path}: the tokenizer of .* set {key} to a model"):
            check_words(params)


def test_a_search_of_unknown_words_does_not_begin(tmp_path):
    """In a notebook that is opened by hand nothing was checked before."""
    rows = [row(id=str(n), text=f"Who painted it {n}?", meta={"split": "train"}) for n in range(4)]
    lab = Pipeline(own(tmp_path, rows).serving("01_rollout"), "exchange", Store(tmp_path / "runs"))
    with pytest.raises(DataError, match=r"own.jsonl: the tokenizer of models/micro does not know"):
        lab.search(lab.base_model(), "train", 4, 0)


MICRO = [
    question.to_json() | {"meta": {"split": split}}
    for split in ("train", "validation", "development", "test")
    for question in make_questions("exchange", split, 40, 0)
]


def test_the_micro_worlds_own_words_pass_and_unknown_answers_do_not(tmp_path):
    check_inputs(own(tmp_path, MICRO), ["01_rollout"])
    with pytest.raises(DataError, match="does not know 100% of the tokens of the answers"):
        check_words(own(tmp_path, [r | {"answers": ["Frida Kahlo"]} for r in MICRO]))


def test_the_share_of_unknown_words_for_any_tokenizer():
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    assert unknown_share(tokenizer, ["a b", "", "a zebra"]) == 0.25
    assert first_unknown(tokenizer, ["a zebra", "zebra ox"], 5) == ["zebra", "ox"]
    alphabet = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    in_bytes = Tokenizer(models.BPE(alphabet, []))
    in_bytes.pre_tokenizer = pre_tokenizers.ByteLevel()
    for unknown in ({}, {"unk_token": "Z"}):  # some name one that is never used
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=in_bytes, **unknown)
        assert unknown_share(tokenizer, ["Frida Kahlo", "東京"]) == 0.0


def test_all_that_the_splits_lack_is_told_at_once_with_its_keys(tmp_path):
    rows = [r for r in MICRO if r["meta"]["split"] != "development"]
    changes = ("sizes.test_questions=50", "sizes.train_questions=30", "sizes.sft_questions=20")
    path = tmp_path / "own.jsonl"
    params = own(tmp_path, rows, *changes)
    with pytest.raises(DataError) as caught:
        check_inputs(params, ["03_selection_ablation"])
    assert str(caught.value) == (
        f"{path}: too few questions for the parameters, add some or lower the keys: "
        "train: 40 of 50 questions = sizes.sft_questions 20 + sizes.train_questions 30 "
        "(03_selection_ablation), "
        "development: 0 of 4 questions = influence.step_questions 4 (03_selection_ablation), "
        "test: 40 of 50 questions = sizes.test_questions 50 (03_selection_ablation)"
    )
    with pytest.raises(DataError) as caught:
        check_inputs(params, ["01_rollout"])  # asks for training questions alone
    assert str(caught.value).count(" of ") == 1


def test_the_parameter_file_to_copy_asks_for_as_many_questions_as_it_says(tmp_path):
    text = (ROOT / "params" / "own-questions.yaml").read_text().replace("\n# ", " ")
    told = {
        split: int(re.search(rf"(\d+)(?: of split| of) {split}", text)[1])
        for split in ("train", "validation", "development", "test")
    }
    assert f"{sum(told.values())} questions in the JSONL file" in text
    rows = [
        {
            "id": f"{split}-{number}",
            "text": f"{question.text} {number}",
            "answers": list(question.answers),
            "views": dict(question.views),
            "meta": {"split": split},
        }
        for split, count in told.items()
        for number, question in enumerate(make_questions("exchange", split, count, 0))
    ]
    path = write(tmp_path / "questions.jsonl", rows)
    # The micro model stands in for a chat model, which no test can fetch.
    changes = [f"world.questions={path}", "model.path=models/micro", "agents.prompts=micro"]
    params = load_params("own-questions", changes)
    check_inputs(params, params.notebooks)
    for split in told:
        few = [row for row in rows if row["id"] != f"{split}-0"]
        write(path, few)
        with pytest.raises(DataError, match=rf"{split}: {told[split] - 1} of {told[split]} quest"):
            check_inputs(params, params.notebooks)
