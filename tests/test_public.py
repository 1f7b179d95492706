"""Public data sets on rows written here in their schema; chat prompts; warm start; adapters on
disk; the plan."""

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dits_lib.agents import TASKS, finish, make_system, parse_answer, rendered_turns, web_system
from dits_lib.agents.chat_template import knows_system
from dits_lib.agents.rendering import _encode
from dits_lib.commands.plan import main, report
from dits_lib.engines import (
    TransformersEngine,
    add,
    attach,
    chain_of,
    load_model,
    merge,
    read_deltas,
    write_deltas,
)
from dits_lib.pairs import extract_pairs
from dits_lib.rollout import sample_dialogues
from dits_lib.search import SearchSettings, tree_search
from dits_lib.settings import ROOT, ParamsError
from dits_lib.suite.notebooks import questions_needed
from dits_lib.suite.params import check_params, load_params
from dits_lib.suite.pipeline import Pipeline
from dits_lib.suite.planning import (
    MACHINES,
    count_work,
    lengths,
    model_size,
    peak_memory,
    size_of,
)
from dits_lib.suite.store import Store
from dits_lib.tasks import DataError
from dits_lib.tasks.public import PUBLIC, SHARES, Slice, check_disjoint, load_splits
from dits_lib.tasks.public.base import deal, first_words
from dits_lib.training import Place, SFTSettings, train_sft

from .conftest import MODEL


def hotpot_row(n):
    titles = [f"Tower {n}", f"Builder {n}", f"River {n}", f"Town {n}"]
    sentences = [
        [f"Tower {n} was built by builder {n}.", " It is tall."],
        [f"Builder {n} was born in year {1800 + n}."],
        ["A river flows."],
        ["A town sleeps."],
    ]
    return {
        "id": f"h{n}",
        "question": f"When was the builder of tower {n} born?",
        "answer": str(1800 + n),
        "type": "bridge",
        "level": "easy",
        "supporting_facts": {"title": titles[:2], "sent_id": [0, 0]},
        "context": {"title": titles, "sentences": sentences},
    }


def trivia_row(n):
    found = {
        "title": [f"Page {n}", "Other"],
        "search_context": [
            f"The capital of land {n} is city {n}. " + "More words. " * 80,
            "Nothing here.",
        ],
    }
    return {
        "question": f"What is the capital of land {n}?",
        "question_id": f"t{n}",
        "search_results": found,
        "entity_pages": {"title": [], "wiki_context": []},
        "answer": {"value": f"City {n}", "aliases": [f"City {n}", f"Town of {n}"]},
    }


def cbt_row(n):
    return {
        "sentences": [f"{i} Sentence {i} of story {n}." for i in range(1, 21)],
        "question": f"21 Then XXXXX went home in story {n}.",
        "answer": "Ann",
        "options": ["Ann", "Bob", "Cat"],
    }


def arc_row(n):
    return {
        "id": f"a{n}",
        "question": f"What falls down, number {n}?",
        "choices": {"text": ["stone", "smoke", "light"], "label": ["1", "2", "3"]},
        "answerKey": "1",
    }


def mmlu_row(n):
    return {
        "question": f"How much is {n} plus 1?",
        "subject": "elementary_mathematics",
        "choices": [str(n), str(n + 1), "0", "9"],
        "answer": 1,
    }


def webwalker_row(n):
    return {
        "Question": f"When does hall {n} open?",
        "answer": f"At {n} o'clock",
        "root_url": f"https://example.org/{n}",
        "type": "single_source",
    }


ROWS = {
    "webwalkerqa": webwalker_row,
    "hotpotqa": hotpot_row,
    "2wikimultihopqa": hotpot_row,
    "triviaqa": trivia_row,
    "cbt": cbt_row,
    "arc_challenge": arc_row,
    "mmlu": mmlu_row,
}


def write(folder, name, rows):
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.jsonl"
    path.write_text(
        "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n"
    )
    return path


@pytest.mark.parametrize("name", list(PUBLIC))
def test_every_data_set_gives_disjoint_splits(name, tmp_path):
    write(tmp_path, name, [ROWS[name](n) for n in range(50)] + [ROWS[name](3)])
    dataset = PUBLIC[name]
    slices = load_splits(dataset, tmp_path, 40, 5000)
    texts = [q.text for part in slices.values() for q in part.questions]
    assert len(texts) == len(set(texts)) == 50 and slices["train"].repeats == 1
    assert {split: len(part.questions) for split, part in slices.items()} == {
        split: round(50 * share) for split, share in SHARES.items()
    }
    system = (
        web_system("chat") if dataset.task == "deep_search" else make_system(dataset.task, "chat")
    )
    for part in slices.values():
        for question in part.questions:
            assert (
                question.meta["split"] == part.split
                and set(question.views) == set(system.agents)
                and question.answers
            )
            assert all(len(view.split()) <= 40 for view in question.views.values())
            assert system.score(question, question.answers[0]) == 1.0
    assert load_splits(dataset, tmp_path, 40, 5000)["test"].digest == slices["test"].digest
    assert len(load_splits(dataset, tmp_path, 40, 20)["train"].questions) == 8
    assert dataset.hub_id and dataset.licence and set(dataset.hub_split) == set(SHARES)


def test_neither_half_of_a_multi_hop_context_suffices(tmp_path):
    write(tmp_path, "hotpotqa", [hotpot_row(n) for n in range(50)])
    first = set()
    for part in load_splits(PUBLIC["hotpotqa"], tmp_path, 40, 5000).values():
        for question in part.questions:
            number = int(question.answers[0]) - 1800
            tower, builder = f"Tower {number} was built", f"was born in year {1800 + number}"
            holders = [
                next(a for a, view in question.views.items() if fact in view)
                for fact in (tower, builder)
            ]
            assert sorted(holders) == ["alice", "bob"] and question.meta["neither_suffices"]
            assert question.meta["script"][holders[1]] == [
                f"Builder {number} was born in year {1800 + number}."
            ]
            first.add(holders[0])
    assert first == {"alice", "bob"}  # which agent has which follows from the question


def test_hub_splits_in_files_of_their_own_and_overlap(tmp_path):
    write(tmp_path, "hotpotqa_train", [hotpot_row(n) for n in range(30)])
    write(tmp_path, "hotpotqa_validation", [hotpot_row(n) for n in range(25, 40)])
    slices = load_splits(PUBLIC["hotpotqa"], tmp_path, 100, 5000)
    assert len(slices["test"].questions) == 15 and slices["test"].source.endswith(
        "hotpotqa_validation.jsonl"
    )
    assert (
        sum(len(slices[s].questions) for s in ("train", "validation", "development")) == 25
        and slices["train"].repeats == 5
    )
    question = slices["test"].questions[0]
    with pytest.raises(DataError, match="is in 'train' and in 'test'; splits must be disjoint"):
        check_disjoint(
            "hotpotqa",
            {
                "test": slices["test"],
                "train": Slice("train", "x", (replace(question, id="other"),), 0),
            },
        )


def changed(row, **fields):
    return {k: v for k, v in (row | fields).items() if v is not None}


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("hotpotqa", '{"id": ', "not valid JSON"),
        ("hotpotqa", "[1]", "field '(row)': a list"),
        ("hotpotqa", changed(hotpot_row(1), answer=None), "field 'answer': missing"),
        ("hotpotqa", changed(hotpot_row(1), answer=" "), "field 'answer': empty"),
        ("hotpotqa", changed(hotpot_row(1), question=""), "field 'question': empty"),
        ("hotpotqa", changed(hotpot_row(1), context=[]), "field 'context': a list; expected dict"),
        (
            "hotpotqa",
            changed(hotpot_row(1), context={"title": ["a"], "sentences": []}),
            "field 'context': 1 titles but 0 lists",
        ),
        (
            "2wikimultihopqa",
            changed(hotpot_row(1), supporting_facts={"title": ["Nowhere"], "sent_id": [0]}),
            "field 'supporting_facts': names no paragraph",
        ),
        ("triviaqa", changed(trivia_row(1), answer={"aliases": []}), "field 'answer': neither"),
        (
            "triviaqa",
            changed(trivia_row(1), search_results=["x"]),
            "field 'search_results': a list",
        ),
        (
            "cbt",
            changed(cbt_row(1), question="21 Nobody is missing."),
            "field 'question': no XXXXX",
        ),
        (
            "cbt",
            changed(cbt_row(1), answer="Zoe"),
            "field 'answer': 'Zoe' is not among the options",
        ),
        ("cbt", changed(cbt_row(1), sentences=["one"]), "field 'sentences': 1 sentences"),
        (
            "arc_challenge",
            changed(arc_row(1), answerKey="D"),
            "field 'answerKey': 'D'; allowed: 1, 2, 3",
        ),
        (
            "arc_challenge",
            changed(arc_row(1), choices={"text": ["a"], "label": []}),
            "field 'choices': 0 labels and 1 texts",
        ),
        (
            "webwalkerqa",
            changed(webwalker_row(1), root_url="example.org"),
            "field 'root_url': 'example.org'; expected an http address",
        ),
        ("webwalkerqa", changed(webwalker_row(1), answer=" "), "field 'answer': empty"),
        ("mmlu", changed(mmlu_row(1), answer=4), "field 'answer': 4; allowed: 0 to 3"),
        ("mmlu", changed(mmlu_row(1), subject=3), "field 'subject': a int; expected str"),
    ],
)
def test_a_malformed_row_is_named_by_file_line_and_field(name, row, message, tmp_path):
    path = write(tmp_path, name, [ROWS[name](0), "", row])
    with pytest.raises(DataError) as caught:
        load_splits(PUBLIC[name], tmp_path, 100, 5000)
    assert (
        str(caught.value).startswith(f"{path}:3: ")
        and message in str(caught.value)
        and "\n" not in str(caught.value)
    )


def test_missing_data_and_too_few_questions_give_one_line(tmp_path):
    with pytest.raises(DataError, match=r"no file cbt\*.jsonl"):
        load_splits(PUBLIC["cbt"], tmp_path, 100, 5000)
    write(tmp_path, "arc_challenge", [arc_row(n) for n in range(20)])
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "dits_lib.commands.reproduce",
            "--dataset",
            "arc_challenge",
            "--set",
            f"data.data_dir={tmp_path}",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (
        done.returncode == 2
        and "train: 8 of 180 questions = sizes.sft_questions 60 + sizes.train_questions 48 + "
        "iterations.rounds 3 * iterations.questions 24 (05_iterations), "
        in done.stderr
        and "arc_challenge.jsonl: too few questions" in done.stderr
    )
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_hub_is_read_by_the_datasets_library(tmp_path, monkeypatch):
    """The same call that reads the hub, on a folder that `datasets` takes for one; and its refusal
    in one line."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    dataset = type(PUBLIC["hotpotqa"])()
    dataset.hub_id, dataset.config = str(tmp_path / "hub"), None
    write(tmp_path / "hub", "train", [hotpot_row(n) for n in range(30)])
    write(tmp_path / "hub", "validation", [hotpot_row(n) for n in range(30, 40)])
    slices = load_splits(dataset, None, 100, 5000)
    assert (
        len(slices["test"].questions) == 10
        and slices["test"].source == f"{tmp_path / 'hub'} validation"
    )
    assert sum(len(slices[s].questions) for s in ("train", "validation", "development")) == 30
    dataset.hub_id = str(tmp_path / "nowhere")
    with pytest.raises(
        DataError,
        match=r"nowhere \((train|validation)\): cannot be loaded from the hub: .*; or set data.data_dir",  # noqa: E501
    ):
        load_splits(dataset, None, 100, 5000)


def test_the_word_limit_drops_distractors_first():
    passages = ["needed one " * 10, "needed two " * 10, "far " * 30, "further " * 30]
    views, holder = deal(passages, [0, 1], 25, "seed")
    assert sorted(holder) == [0, 1] and all("needed" in view for view in views.values())
    assert first_words("a b\nc d", 3) == "a b\nc"


def test_set_and_dataset_change_the_parameters():
    params = load_params("micro", ["search.repetitions=3", "tasks=[debate]"])
    assert (
        params.search.repetitions == 3
        and params.tasks == ["debate"]
        and params.search.max_depth == 10
    )
    params = load_params("llama3-8b", (), "triviaqa")
    assert (params.profile, params.tasks, params.data.exchange) == (
        "llama3-8b-triviaqa",
        ["exchange"],
        "triviaqa",
    )
    assert params.dpo.beta == 0.7  # by its section by_data_set
    changed = load_params("llama3-8b", ["dpo.beta=0.3"], "triviaqa")
    assert changed.dpo.beta == 0.3 and load_params("llama3-8b", (), "hotpotqa").dpo.beta == 0.1
    for change, message in (
        ("search.repetitions", "expected KEY=VALUE"),
        ("search.repetitons=3", "did you mean 'repetitions'"),
        ("seed=[1", "not valid YAML"),
    ):
        with pytest.raises(ParamsError, match=message):
            load_params("micro", [change])
    assert load_params("micro", ["fidelity.validation={one_step: 8}"]).fidelity.validation == {
        "one_step": 8
    }
    with pytest.raises(ParamsError, match="--dataset squad: unknown; allowed: hotpotqa"):
        load_params("micro", (), "squad")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["model.engine=vllm"], "set sft.lora_rank and dpo.lora_rank above 0"),
        (
            ["model.engine=vllm", "sft.lora_rank=16", "dpo.lora_rank=32", "model.max_rank=64"],
            "have rank 72 together",
        ),
        (
            ["data.exchange=hotpotqa", "world.questions=x.jsonl", "tasks=[exchange]"],
            "both name questions; keep one",
        ),
        (["data.exchange=mmlu"], "data.exchange"),
        (["agents.prompts=formal"], "agents.prompts"),
        (
            ["data.debate=mmlu", "world.harmful.share=0.5"],
            "world.harmful plants harm in the micro world alone, but data.debate is mmlu",
        ),
        (
            ["influence.estimator=policy_gradient", "influence.temperature=0"],
            "set influence.temperature above 0",
        ),
        (["fidelity.validation={onestep: 8}"], "fidelity.validation"),
    ],
)
def test_parameters_that_do_not_fit_together(change, message):
    with pytest.raises(ParamsError, match=message):
        load_params("micro", change)


# Prompts

CHAT = {"exchange": ("hotpotqa", hotpot_row), "debate": ("arc_challenge", arc_row)}


@pytest.fixture
def asked(tmp_path):
    """Two questions of each task from public rows."""
    found = {}
    for task, (name, row) in CHAT.items():
        write(tmp_path, name, [row(n) for n in range(20)])
        found[task] = list(load_splits(PUBLIC[name], tmp_path, 40, 5000)["train"].questions[:2])
    return found


@pytest.mark.parametrize("task", list(CHAT))
def test_sampling_scoring_and_training_see_the_same_prompt(engine, asked, task):
    system = make_system(task, "chat", max_turns=3, max_new_tokens=6)
    sampled = []
    generate = engine.generate

    def recorded(requests, adapters=None):
        sampled.extend(request.prompt_ids for request in requests)
        return generate(requests, adapters)

    engine.generate = recorded
    try:
        trees = tree_search(
            engine, system, asked[task], SearchSettings(repetitions=2, rollouts=3), 0
        )
    finally:
        engine.generate = generate
    for pair in extract_pairs(engine.tokenizer, system, trees, -1.0, -1.0):
        assert pair.prompt_ids in sampled
    for question, dialogue in zip(
        asked[task], sample_dialogues(engine, system, asked[task], 0), strict=True
    ):
        rows = rendered_turns(engine.tokenizer, system, question, dialogue.turns)
        assert [tuple(prompt) for prompt, _ in rows] == [turn.prompt_ids for turn in dialogue.turns]


@pytest.mark.parametrize("style", ["chat", "optima"])
@pytest.mark.parametrize("task", list(CHAT))
def test_chat_messages_alternate_and_show_only_what_an_agent_may_read(asked, task, style):
    system, question = make_system(task, style), asked[task][0]
    turns = tuple(TASKS[task].warm_start(question, np.random.default_rng(0)))
    for agent in system.agents:
        messages = system.messages(question, turns, agent)
        assert messages[0]["role"] == "system" and question.text in messages[1]["content"]
        assert all(a["role"] != b["role"] for a, b in zip(messages, messages[1:], strict=False))
        assert question.views[agent] in messages[0]["content"]
        other = next(a for a in system.agents if a != agent)
        assert not question.views[other] or all(
            question.views[other] not in m["content"] for m in messages
        )


def test_a_template_without_a_system_role_gets_it_in_the_first_user_message(engine):
    import copy

    tokenizer = copy.deepcopy(engine.tokenizer)
    tokenizer.chat_template = "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{{ m['content'] }} {% endfor %}"  # noqa: E501
    assert not knows_system(tokenizer) and knows_system(engine.tokenizer)
    text = tokenizer("alice : ask\n\nbob", add_special_tokens=False)["input_ids"]
    assert _encode(tokenizer, (("system", "alice : ask"), ("user", "bob")))[: len(text)] == tuple(
        text
    )


@pytest.mark.parametrize("task", list(CHAT))
def test_gold_dialogues_hold_the_protocol(asked, task):
    system, lengths = make_system(task, "chat"), set()
    for seed in range(6):
        for question in asked[task]:
            turns = tuple(TASKS[task].warm_start(question, np.random.default_rng(seed)))
            assert (
                finish(system, question, turns).metric == 1.0
                and system.next_agent(question, turns) is None
            )
            assert all(
                system.next_agent(question, turns[:i]) == turn.agent for i, turn in enumerate(turns)
            )
            lengths.add(len(turns))
    assert lengths == ({2, 3} if task == "debate" else {3})


def test_endings_tell_no_agreement_from_nothing_parsed(asked):
    from dits_lib.agents import Turn

    system, question = make_system("exchange", "chat", max_turns=2), asked["exchange"][0]
    for texts, ended in (
        (("<A>x</A>", "<A>x</A>"), "answered"),
        (("<A>x</A>", "<A>y</A>"), "no agreement"),
        (("<A>x</A>", "<A>y</A> or <A>x</A>"), "answered"),
        (("<A>x</A>", "<A>x</A> or <A>y</A>"), "no agreement"),
        (("<A></A>", "x"), "no answer parsed"),
    ):
        turns = tuple(Turn(agent, text) for agent, text in zip(system.agents, texts, strict=False))
        assert finish(system, question, turns).ended == ended
    assert parse_answer("<A>x</A>!") == "x"


def test_what_speaks_is_part_of_every_key(tmp_path):
    labs = [
        Pipeline(load_params("smoke", change), "debate", Store(tmp_path))
        for change in ([], ["model.dtype=bfloat16"], ["seed=1"])
    ]
    keys = [lab.base_model().key for lab in labs]
    assert keys[0] != keys[1] and keys[0] == keys[2]


def test_a_scripted_wrong_answer_is_not_learned(asked):
    wrong = 0
    for seed in range(6):
        for turn in TASKS["debate"].warm_start(asked["debate"][0], np.random.default_rng(seed)):
            right = parse_answer(turn.text) in (None, asked["debate"][0].answers[0])
            assert turn.trainable == right
            wrong += not right
    assert wrong


def test_a_warm_start_uses_questions_that_no_search_uses(tmp_path, asked):
    write(tmp_path / "data", "arc_challenge", [arc_row(n) for n in range(60)])
    raw = load_params(
        "smoke",
        [
            f"data.data_dir={tmp_path / 'data'}",
            "data.debate=arc_challenge",
            "tasks=[debate]",
            "agents.prompts=chat",
            "agents.debate={max_turns: 3, max_new_tokens: 6}",
            "sft.warm_start=scripted",
            "notebooks=[01_rollout]",
            "sft.warm_questions=4",
            "sft.lora_rank=4",
            "sft.warm_steps=2",
            "sizes={sft_questions: 4, train_questions: 4}",
            "budget={questions: 4, rollouts: [2, 4]}",
            "iterations={rounds: 1, questions: 2}",
        ],
    ).model_dump()
    lab = Pipeline(check_params(raw, "warm"), "debate", Store(tmp_path / "runs"))
    needed = questions_needed(lab.params)["train"]
    warm = lab.start_model(0)
    assert (
        chain_of(warm.path)[1] and lab.start_model(0) == warm and warm.key != lab.base_model().key
    )
    searched = {q.id for q in lab.questions("train", needed - 4, 0)}
    assert not searched & {q.id for q in lab.questions("train", 4, 0, skip=needed - 4)}


# Adapters on disk


def test_a_chain_of_adapters_loads_as_peft_would_and_adds_up(tmp_path):
    from peft import PeftModel

    base = TransformersEngine.load(MODEL)
    rows = [{"prompt_ids": list(range(5, 15)), "reply_ids": list(range(20, 26))}] * 4
    config = SFTSettings(steps=3, batch=2, learning_rate=1e-2, lora_rank=4)
    train_sft(MODEL, rows, config, 0, tmp_path / "one")
    train_sft(tmp_path / "one", rows, config, 1, tmp_path / "two")
    assert not list((tmp_path / "one").glob("model*.safetensors"))
    by_peft = PeftModel.from_pretrained(load_model(MODEL)[0], tmp_path / "one").merge_and_unload()
    by_peft = PeftModel.from_pretrained(by_peft, tmp_path / "two").merge_and_unload()
    ids = [(tuple(range(5, 15)), tuple(range(20, 26)))]
    expected = TransformersEngine(by_peft, base.tokenizer).logprobs(ids)[0]
    assert TransformersEngine.load(tmp_path / "two").logprobs(ids)[0] == pytest.approx(
        expected, abs=1e-5
    )
    assert base.logprobs(ids)[0] != pytest.approx(expected, abs=1e-2)
    root, chain = chain_of(tmp_path / "two")
    assert root == str(MODEL) and [path.name for path in chain] == ["one", "two"]
    write_deltas(tmp_path / "sum", add(*map(read_deltas, chain)), str(MODEL))
    summed = load_model(MODEL)[0]
    merge(summed, read_deltas(tmp_path / "sum"))
    assert TransformersEngine(summed, base.tokenizer).logprobs(ids)[0] == pytest.approx(
        expected, abs=1e-5
    )


def test_in_bfloat16_adapters_stay_beside_the_weights_and_keep_what_merging_rounds_away(tmp_path):
    small = {"q_proj": (torch.full((1, 2), 1e-3), torch.ones(1, 1))}
    # A thousandth of a weight of 1 is less than half of its last digit.
    for put, said in (
        (attach, 2e-3),
        (merge, 0.0),
    ):
        model = torch.nn.ModuleDict(
            {"q_proj": torch.nn.Linear(2, 1, bias=False, dtype=torch.bfloat16)}
        )
        model["q_proj"].weight.data = torch.tensor([[1.0, -1.0]], dtype=torch.bfloat16)
        put(model, small)
        assert model["q_proj"](torch.ones(1, 2, dtype=torch.bfloat16)).item() == pytest.approx(
            said, rel=0.01
        )
    generator, exact = torch.Generator().manual_seed(0), load_model(MODEL)[0]
    sizes = {n: m for n, m in exact.named_modules() if n.endswith(("q_proj", "down_proj"))}
    deltas = {
        n: (
            torch.randn(2, m.in_features, generator=generator),
            0.01 * torch.randn(m.out_features, 2, generator=generator),
        )
        for n, m in sizes.items()
    }
    write_deltas(tmp_path / "one", deltas, str(MODEL))
    write_deltas(tmp_path / "two", deltas, str(tmp_path / "one"))
    attach(exact, add(deltas, deltas))
    ids = torch.tensor([list(range(5, 25))])
    with torch.no_grad():
        assert torch.allclose(
            exact(ids).logits, load_model(tmp_path / "two")[0](ids).logits, atol=1e-3
        )
    plain, beside, whole = (
        load_model(folder, "bfloat16", whole=w)[0].state_dict()
        for folder, w in ((MODEL, False), (tmp_path / "two", False), (tmp_path / "two", True))
    )
    assert all(torch.equal(beside[name], value) for name, value in plain.items())
    assert {value.dtype for value in whole.values()} == {torch.float32}


def test_training_goes_on_from_adapters_beside_bfloat16_weights(tmp_path):
    rows = [{"prompt_ids": list(range(5, 15)), "reply_ids": list(range(20, 26))}] * 4
    config, place = (
        SFTSettings(steps=3, batch=2, learning_rate=1e-2, lora_rank=4),
        Place(dtype="bfloat16"),
    )
    train_sft(MODEL, rows, config, 0, tmp_path / "one", place)
    train_sft(
        tmp_path / "one",
        rows,
        config.changed(gradient_checkpointing=True),
        1,
        tmp_path / "two",
        place,
    )
    ids = [(tuple(range(5, 15)), tuple(range(20, 26)))]
    found = {
        d: [
            sum(TransformersEngine.load(f, dtype=d).logprobs(ids)[0])
            for f in (MODEL, tmp_path / "one", tmp_path / "two")
        ]
        for d in ("float32", "bfloat16")
    }
    assert found["float32"][0] < found["float32"][1] < found["float32"][2]
    assert found["bfloat16"] == pytest.approx(found["float32"], rel=0.05, abs=0.1)


def test_adapters_of_different_modules_and_ranks_add_up(tmp_path):
    generator = torch.Generator().manual_seed(0)
    one = {"a": (torch.randn(2, 5, generator=generator), torch.randn(4, 2, generator=generator))}
    two = {
        "a": (torch.randn(3, 5, generator=generator), torch.randn(4, 3, generator=generator)),
        "b": (torch.ones(1, 5), torch.ones(4, 1)),
    }
    write_deltas(tmp_path, add(one, two), "base")
    found = read_deltas(tmp_path)
    for name in ("a", "b"):
        expected = sum(part[name][1] @ part[name][0] for part in (one, two) if name in part)
        assert torch.allclose(found[name][1] @ found[name][0], expected, atol=1e-6)


# The plan


def test_the_plan_counts_tokens_and_refuses_what_cannot_fit(capsys):
    params = load_params("micro")
    work = count_work(params).set_index(["notebook", "stage"])
    # Base, SFT, eight arms (one of two halves), four of them once more for equal epochs, for
    # each task.
    # Five of them are tested at a second temperature.
    dialogues = params.ablation.seeds * (2 + 13 + 5) * params.sizes.test_questions
    tokens = sum(
        system.max_turns * system.max_new_tokens / 2
        for system in (TASKS[task].system("micro", {}) for task in params.parts()[0].tasks)
    )
    assert work.loc[("03_selection_ablation", "evaluate"), "written"] == pytest.approx(
        dialogues * tokens
    )
    doubled = count_work(load_params("micro", ["influence.samples=2"])).set_index(
        ["notebook", "stage"]
    )
    score = ("03_selection_ablation", "score")
    assert doubled.loc[score, "written_with_adapters"] == pytest.approx(
        2 * work.loc[score, "written_with_adapters"]
    )
    # A warm-up is one more training before each scoring's pairs are scored.
    warmed = count_work(load_params("micro", ["influence.warmup_steps=10"]))
    warmed = warmed.set_index(["notebook", "stage"])
    more = warmed.loc[score] - work.loc[score]
    part = params.parts()[0]
    read = sum(lengths(part, task).row for task in part.tasks) * params.ablation.seeds
    assert more["models"] == len(part.tasks) * params.ablation.seeds
    # Ten steps, of both replies of each pair, and the reference's forward pass.
    assert more["trained"] == pytest.approx(10 * params.dpo.batch * 2 * read * 4 / 3)
    assert main(["--profile", "micro"]) == 0 and "peak memory" in capsys.readouterr().out
    size = replace(model_size(str(MODEL)), parameters=80_000_000_000, layers=80, hidden=8192)
    assert (
        report(params, size, "h100") == 2 and "does not fit the memory" in capsys.readouterr().err
    )
    assert set(MACHINES) >= {"h100", "cpu"}


@pytest.mark.parametrize(
    ("estimator", "column", "dialogues"),
    [
        # Before each repetition but the first a pair of each question plays all V questions;
        ("one_step", "written_with_adapters", lambda p, asked: asked * p.validation_questions),
        # or the policy plays each of the V questions again, whatever the number of pairs.
        ("policy_gradient", "written", lambda p, asked: 2 * p.validation_questions * 16),
    ],
)
def test_the_plan_counts_what_guides_a_search(estimator, column, dialogues):
    one = ["tasks=[exchange]", "notebooks=[01_rollout]", "influence.policy_samples=16"]
    by_q = load_params("micro", [*one, f"influence.estimator={estimator}"])
    guided = load_params("micro", [*one, "search.guide=both", f"influence.estimator={estimator}"])
    cost = [count_work(p).set_index("stage").loc["search", column] for p in (by_q, guided)]
    again, asked = (
        by_q.search.repetitions - 1,
        by_q.sizes.sft_questions + by_q.sizes.train_questions,
    )
    written = lengths(by_q, "exchange").written
    # Two searches, with the base model and with the SFT model.
    expected = again * dialogues(by_q.influence, asked) * written
    assert cost[1] - cost[0] == pytest.approx(expected)


def test_the_plan_counts_what_the_initial_model_reads_and_the_upper_half():
    one = ["tasks=[exchange]", "notebooks=[01_rollout, 02_scoring]"]
    one.append("scoring.pairs=1000")  # all that there are
    plain, fluent, upper = (
        count_work(load_params("micro", [*one, *more])).set_index(["notebook", "stage"])
        for more in ([], ["search.fluency_weight=1.0"], ["pairs.upper_half=true"])
    )
    search, score = ("01_rollout", "search"), ("02_scoring", "score")
    read, written = plain.loc[search, "read"], plain.loc[search, "written"]
    assert fluent.loc[search, "read"] == pytest.approx(read + written)
    assert fluent.loc[search, "written"] == written
    assert upper.loc[score, "written_with_adapters"] == pytest.approx(
        plain.loc[score, "written_with_adapters"] / 2
    )
    # With adapters alone trained, what speaks needs most: the initial model in float32 beside it.
    size = replace(model_size(str(MODEL)), parameters=1_000_000_000)
    adapters = ["sft.lora_rank=1", "dpo.lora_rank=1"]
    needed = [
        peak_memory(load_params("micro", [*adapters, *more]), size, MACHINES["cpu"])
        for more in ([], ["search.fluency_weight=1.0"])
    ]
    assert needed[1] - needed[0] == pytest.approx(4e9)
    # Gradients of scoring: fewer tokens in a pass, and checkpointing, need less. Of a model this
    # small, they need more than speaking.
    small = model_size(str(MODEL))
    chosen = ["influence.gradient_rows=1000", *adapters]
    fits = ([], ["influence.gradient_tokens=2000"], ["influence.gradient_checkpointing=true"])
    peaks = [
        peak_memory(load_params("micro", [*chosen, *fit]), small, MACHINES["cpu"]) for fit in fits
    ]
    assert peaks[0] > 1.5 * peaks[1] and peaks[0] > peaks[2]


def test_the_plan_of_deep_search_fits_the_machine_it_is_meant_for(capsys, monkeypatch):
    """QwQ-32B's own sizes (its configuration on the hub) on an H200, with a judge of 7.6 billion
    parameters beside it, and 100 GB of disk whatever is free here."""
    from transformers import Qwen2Config

    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100e9))

    config = Qwen2Config(
        vocab_size=152064,
        hidden_size=5120,
        intermediate_size=27648,
        num_hidden_layers=64,
        num_attention_heads=40,
        num_key_value_heads=8,
        tie_word_embeddings=False,
    )
    size, params = size_of(config), load_params("qwq-32b")
    assert size.parameters == pytest.approx(32.76e9, rel=0.01)
    assert (
        report(params, size, "h200", judge=7_600_000_000) == 0
        and "08_deep_search" in capsys.readouterr().out
    )
    assert (
        report(params, size, "h100") == 2 and "does not fit the memory" in capsys.readouterr().err
    )
    work = count_work(load_params("micro"))
    assert set(work["notebook"]) == set(load_params("micro").notebooks)
    micro, models = load_params("micro"), work.set_index(["notebook", "stage"])["models"]
    # Two tasks, eight arms of which one is two halves, four of them twice.
    assert (
        models["08_deep_search", "sft"] == micro.web.seeds
        and models["03_selection_ablation", "dpo"] == 2 * 13 * micro.ablation.seeds
    )
    assert lengths(params, "deep_search").longest < params.model.max_length


def test_the_plan_of_the_8b_profile_fits_the_machine_it_is_meant_for(capsys, monkeypatch):
    """Llama-3-8B's own sizes on an H100, for every data set."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    )
    size = size_of(config)
    assert size.parameters == pytest.approx(8.03e9, rel=0.01)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1e12))
    for name, data in PUBLIC.items():
        if data.task != "deep_search":
            assert report(load_params("llama3-8b", (), name), size, "h100") == 0
    assert "80 GB" in capsys.readouterr().out


def test_the_plan_names_a_model_that_is_not_there(capsys):
    assert main(["--profile", "smollm2", "--set", "model.path=models/none"]) == 2
    assert "no such model folder" in capsys.readouterr().err
