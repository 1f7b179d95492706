"""What is taken away: adapters and weights speak as the suite's model, pairs train as its pairs."""

import json

import numpy as np
import pytest
import torch

from dits_lib.commands import export as command
from dits_lib.engines import load_model
from dits_lib.pairs import Pair
from dits_lib.settings import ROOT
from dits_lib.suite import export
from dits_lib.suite.own_pairs import score_own
from dits_lib.suite.params import load_params
from dits_lib.suite.pipeline import Pipeline, read_pairs
from dits_lib.suite.store import Store
from dits_lib.suite.studies.selection_ablation import trained_runs
from dits_lib.training import DPOSettings, train_dpo
from tests.stand_in_hub import files_of, reach, stand_in_hub

ADAPTERS = ("sft.lora_rank=4", "dpo.lora_rank=4")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(parameters, pipeline, {folder: what was told}) of an arm by influence, with all weights
    trained and by adapters."""
    root, found = tmp_path_factory.mktemp("export"), {}
    for name, changes in (("whole", ()), ("adapters", ADAPTERS)):
        params = load_params("smoke", list(changes)).serving(command.NOTEBOOK)
        params = params.model_copy(update={"tasks": ["debate"]})
        store = Store(root / "runs" / name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(export, "Pipeline", lambda p, task, own=store: Pipeline(p, task, own))
            told = export.export(params, "debate", "gamma_1", 0, root / name)
        found[name] = (params, Pipeline(params, "debate", store), root / name, told)
    return found


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def selected_pairs(pipeline, folder):
    """The suite's pairs that the export says were selected, and its rows of them."""
    rows = [json.loads(line) for line in (folder / "pairs" / "train.jsonl").open()]
    searched = export.pair_stage(pipeline, export.sft_stage(pipeline, 0)[0], 0)
    pairs = read_pairs(searched)
    assert [pair.id for pair in pairs] == [row["id"] for row in rows]
    kept = [number for number, row in enumerate(rows) if row["selected"]]
    return [pairs[i] for i in kept], [rows[i] for i in kept]


@pytest.mark.parametrize("name", ["whole", "adapters"])
def test_the_model_speaks_as_the_one_that_was_trained(exported, name):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _, pipeline, folder, told = exported[name]
    run = trained_runs(pipeline, 0, ("gamma_1",))[0]
    trained, _ = load_model(run.model.path, "float32", "cpu", whole=True)
    if told["adapter"]:
        base = AutoModelForCausalLM.from_pretrained(ROOT / "models" / "micro")
        taken = PeftModel.from_pretrained(base, folder / "model")
    else:
        taken = AutoModelForCausalLM.from_pretrained(folder / "model")
    assert told["adapter"] == (name == "adapters")
    ids = AutoTokenizer.from_pretrained(folder / "model")("solver : toy dirk silver swan")
    first, second = (logits(model, ids["input_ids"]) for model in (trained, taken))
    assert torch.allclose(first, second, atol=1e-5)
    untrained, _ = load_model(ROOT / "models" / "micro", "float32", "cpu")
    assert not torch.allclose(first, logits(untrained, ids["input_ids"]), atol=1e-3)


def test_merged_weights_speak_as_the_adapter(exported, tmp_path):
    from transformers import AutoModelForCausalLM

    params, pipeline, folder, _ = exported["adapters"]
    run = trained_runs(pipeline, 0, ("gamma_1",))[0]
    assert not export.write_model(run.model, tmp_path / "merged", "float32", "x", merged=True)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    trained, _ = load_model(run.model.path, "float32", "cpu", whole=True)
    assert torch.allclose(logits(merged, [3, 5, 8]), logits(trained, [3, 5, 8]), atol=1e-5)


def test_pairs_are_a_data_set_and_say_what_chose_them(exported):
    from datasets import load_dataset

    from dits_lib.selection import combined_score, top_share

    params, pipeline, folder, told = exported["whole"]
    data = load_dataset(str(folder / "pairs"), split="train")
    assert len(data) == told["pairs"] == told["exact"]
    assert sum(data["selected"]) == told["selected"] == round(0.5 * told["pairs"])
    assert {row["role"] for row in data[0]["chosen"]} == {"assistant"}
    h = combined_score(np.array(data["influence"]), np.array(data["q_chosen"]), 1.0)
    assert np.allclose(h, data["h"])
    lowest = min(value for value, kept in zip(data["h"], data["selected"], strict=True) if kept)
    highest = max(v for v, kept in zip(data["h"], data["selected"], strict=True) if not kept)
    assert lowest >= highest
    assert len(top_share(h, 0.5, np.random.default_rng(0))) == told["selected"]
    card = (folder / "pairs" / "README.md").read_text()
    assert f"{told['exact']} of {told['pairs']} pairs are rendered" in card
    assert str(ROOT) not in card + (folder / "model" / "README.md").read_text()


def test_trl_trains_on_the_exported_pairs_as_the_suite_on_its_own(exported, tmp_path):
    """Steps of TRL's own DPOTrainer, which renders the messages itself, give the weights that the
    suite's steps on the sampled tokens give (the first step of a warm-up has a rate of zero)."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    _, pipeline, folder, _ = exported["whole"]
    pairs, rows = selected_pairs(pipeline, folder)
    sft = export.sft_stage(pipeline, 0)[0].path
    settings = DPOSettings(
        steps=3, batch=len(pairs), learning_rate=1e-3, lora_rank=0, gradient_checkpointing=False
    )
    train_dpo(sft, pairs, settings, 0, tmp_path / "own")
    own = AutoModelForCausalLM.from_pretrained(tmp_path / "own")
    columns = ("prompt", "chosen", "rejected")
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(sft, attn_implementation="eager"),
        ref_model=AutoModelForCausalLM.from_pretrained(sft, attn_implementation="eager"),
        args=DPOConfig(
            output_dir=str(tmp_path / "trl"),
            max_steps=3,
            seed=0,
            data_seed=0,
            per_device_train_batch_size=len(rows),
            learning_rate=1e-3,
            warmup_steps=1,
            beta=settings.beta,
            max_length=None,
            use_cpu=True,
            bf16=False,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            lr_scheduler_type="linear",
            gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_list([{name: row[name] for name in columns} for row in rows]),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
    )
    read = [tuple(row["chosen_ids"]) for row in trainer.train_dataset]
    assert read == [pair.chosen_ids for pair in pairs]
    trainer.train()
    start = AutoModelForCausalLM.from_pretrained(sft)
    ways = [
        torch.cat(
            [(p - q).flatten() for p, q in zip(m.parameters(), start.parameters(), strict=True)]
        )
        for m in (own, trainer.model)
    ]
    # AdamW divides by the gradient's size: where that is nearly zero, rounding turns a sign.
    assert torch.cosine_similarity(*ways, dim=0) > 0.999
    assert ways[0].abs().max() > 1e-4


def test_what_the_command_exports_is_on_the_hub(exported, tmp_path, monkeypatch, capsys):
    _, pipeline, before, _ = exported["adapters"]
    new, store = tmp_path / "new", pipeline.store
    monkeypatch.setattr(export, "Pipeline", lambda p, task: Pipeline(p, task, store))
    changes = [part for change in (*ADAPTERS, "tasks=[debate]") for part in ("--set", change)]
    choice = ["--profile", "smoke", *changes, "--arm", "gamma_1", "--to", str(new)]
    with stand_in_hub() as hub:
        reach(hub.address, monkeypatch, tmp_path)
        assert command.main([*choice, "--push", "us/debater"]) == 0
        told = capsys.readouterr().out
        assert command.main([*choice, "--push", "us/debater"]) == 0
        assert capsys.readouterr().out == told
    for kind, part, name in (("model", "model", "debater"), ("dataset", "pairs", "debater-pairs")):
        held = hub.repositories[kind, f"us/{name}"]
        assert {k: v for k, v in held.items() if k != ".gitattributes"} == files_of(new / part)
        for path in set(files_of(before / part)) - {"README.md"}:  # as without the hub
            assert held[path] == (before / part / path).read_bytes(), path
    assert command.main(choice) == 2 and "not an empty folder; name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--arm", "gamma_9"], "--arm gamma_9: not in smoke; allowed: sft, full"),
        (["--arm", "full", "--task", "chess"], "--task chess: not in smoke; allowed: exchange"),
        (["--arm", "full", "--seed", "77"], "--seed 77: not in smoke; allowed: 0, 1"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(tmp_path, capsys, options, message):
    assert command.main(["--profile", "smoke", "--to", str(tmp_path / "new"), *options]) == 2
    told = capsys.readouterr().err
    assert message in told and len(told.splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_a_folder_that_holds_something_is_not_written_over(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert command.main(["--profile", "smoke", "--arm", "full", "--to", str(tmp_path)]) == 2
    assert "not an empty folder" in capsys.readouterr().err


def test_a_system_message_is_the_users_where_the_template_knows_none():
    told = {"role": "system", "content": "a"}
    asked, said = {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"}
    joined = {"role": "user", "content": "a\n\nb"}
    assert export._without_system([told, asked, said]) == [joined, said]
    alone = {"role": "user", "content": "a"}
    assert export._without_system([told, said]) == [alone, said]
    assert export._without_system([told]) == [alone]


def test_pairs_of_other_tokens_are_counted_as_such(exported):
    from dataclasses import replace

    from transformers import AutoTokenizer

    _, pipeline, folder, _ = exported["whole"]
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    pairs, rows = selected_pairs(pipeline, folder)
    pair: Pair = pairs[0]
    assert export._same_tokens(tokenizer, rows[0], pair)
    for field in ("prompt_ids", "chosen_ids", "rejected_ids"):
        other = replace(pair, **{field: (*getattr(pair, field)[:-1], 7)})
        assert not export._same_tokens(tokenizer, rows[0], other)


def test_pairs_scored_as_anybodys_have_the_scores_that_the_suite_gave_them(exported, tmp_path):
    params, pipeline, folder, _ = exported["whole"]
    file = folder / "pairs" / "train.jsonl"
    sft = export.sft_stage(pipeline, 0)[0]
    size = export.step_size_of(pipeline)
    model = params.model.model_copy(update={"path": sft.path})
    own = Pipeline(params.model_copy(update={"model": model}), "debate", Store(tmp_path))
    told, _, step = score_own(own, file, 0, size)
    before = [json.loads(line) for line in file.open()]
    assert step == size and [row["id"] for row in told] == [row["id"] for row in before]
    for key in ("influence", "influence_stderr"):
        assert np.allclose([row[key] for row in told], [row[key] for row in before])
    assert any(row["influence"] for row in told)
