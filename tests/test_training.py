"""SFT and DPO by TRL: what is trained is what was said."""

import numpy as np
import pytest
import torch

from dits_lib.agents import prompt_ids, rendered_turns
from dits_lib.engines import ModelError, TransformersEngine, load_model
from dits_lib.pairs import best_dialogues
from dits_lib.training import DPOSettings, SFTSettings, TrainingError, train_dpo, train_sft

from .conftest import MODEL, SYSTEMS


def mean_logprob(folder, rows):
    engine = TransformersEngine.load(folder)
    return np.mean([sum(scores) for scores in engine.logprobs(rows)])


def test_sampling_scoring_and_training_see_the_same_prompt(engine, trees, pairs):
    """One rendering: the ids that were sampled from equal the ids that are trained on, turn by
    turn."""
    for task, system in SYSTEMS.items():
        tree = trees[task][0]
        leaf = tree.rewards[0][0]
        turns = tree.turns(leaf)
        for i, (turn, (prompt, reply)) in enumerate(
            zip(turns, rendered_turns(engine.tokenizer, system, tree.question, turns), strict=True)
        ):
            assert (
                tuple(prompt)
                == turn.prompt_ids
                == prompt_ids(engine.tokenizer, system, tree.question, turns[:i], turn.agent)
            )
            assert tuple(reply) == turn.token_ids
    # TRL gets these ids as they are; rendered as text and tokenised again they are the same.
    for pair in pairs["exchange"]:
        text = engine.tokenizer.decode(pair.prompt_ids)
        assert (
            tuple(engine.tokenizer(text, add_special_tokens=False)["input_ids"]) == pair.prompt_ids
        )


@pytest.mark.parametrize(("rank", "steps"), [(0, 12), (4, 40)])
def test_sft_raises_the_likelihood_of_its_replies(trees, tmp_path, rank, steps):
    rows = best_dialogues(trees["exchange"], 0.5)
    log = train_sft(
        MODEL,
        rows,
        SFTSettings(steps=steps, batch=8, learning_rate=1e-3, lora_rank=rank),
        0,
        tmp_path / "m",
    )
    examples = [(tuple(r["prompt_ids"]), tuple(r["reply_ids"])) for r in rows]
    assert mean_logprob(tmp_path / "m", examples) > mean_logprob(MODEL, examples) + 0.1 and log


def test_sft_loss_is_on_the_reply_alone(trees, tmp_path):
    """The first logged loss equals the mean negative log probability of the reply tokens."""
    rows = best_dialogues(trees["debate"], 0.5)[:4]
    log = train_sft(
        MODEL, rows, SFTSettings(steps=1, batch=4, learning_rate=1e-6), 0, tmp_path / "m"
    )
    scores = TransformersEngine.load(MODEL).logprobs(
        [(tuple(r["prompt_ids"]), tuple(r["reply_ids"])) for r in rows]
    )
    assert log[0]["loss"] == pytest.approx(-np.mean(np.concatenate(scores)), abs=2e-3)


@pytest.mark.parametrize(("rank", "nll"), [(0, 0.0), (4, 0.0), (0, 0.5)])
def test_dpo_widens_the_margin_and_logs_the_drift(pairs, tmp_path, rank, nll):
    some = pairs["exchange"][:16]
    config = DPOSettings(
        steps=10, batch=8, learning_rate=1e-3 if rank else 3e-4, lora_rank=rank, nll_weight=nll
    )
    log = train_dpo(MODEL, some, config, 0, tmp_path / "m")
    chosen, rejected = (
        [(p.prompt_ids, p.chosen_ids) for p in some],
        [(p.prompt_ids, p.rejected_ids) for p in some],
    )
    margin = [mean_logprob(f, chosen) - mean_logprob(f, rejected) for f in (MODEL, tmp_path / "m")]
    assert margin[1] > margin[0] + 0.1
    assert {"step", "loss", "drift_chosen", "drift_rejected"} <= set(log[-1]) and log[-1][
        "drift_chosen"
    ] > log[-1]["drift_rejected"]


def test_dpo_repeats_for_a_seed(pairs, tmp_path):
    config = DPOSettings(steps=4, batch=4, learning_rate=3e-4)
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_dpo(MODEL, pairs["debate"][:12], config, seed, tmp_path / name)
        weights.append(
            load_model(tmp_path / name)[0].state_dict()["model.layers.0.mlp.up_proj.weight"]
        )
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def files_of(folder):
    return sorted(folder.rglob("*")) if folder.exists() else []


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("sft", {"learning_rate": 1.0, "steps": 40}, None),
        ("dpo", {"beta": float("inf")}, "is not finite, so nothing was saved"),
    ],
)
def test_a_training_that_leaves_the_finite_numbers_saves_nothing(
    trees, pairs, tmp_path, rank, task, settings, message
):
    """A high rate alone is no fault, as long as its numbers are finite. Parameters take no infinite
    beta, so it is put past their check here."""
    kind, learn = (SFTSettings, train_sft) if task == "sft" else (DPOSettings, train_dpo)
    rows = best_dialogues(trees["exchange"], 0.5) if task == "sft" else pairs["exchange"]
    chosen = kind(steps=3, batch=4, learning_rate=1e-3, lora_rank=rank)
    chosen = chosen.model_copy(update=settings)
    out = tmp_path / "m"
    if message is None:
        assert np.isfinite([row["loss"] for row in learn(MODEL, rows, chosen, 0, out)]).all()
    else:
        with pytest.raises(TrainingError, match=message):
            learn(MODEL, rows, chosen, 0, out)
        assert not files_of(out)


def test_a_model_with_a_weight_that_is_no_number_is_refused_by_name(tmp_path, trees):
    model, tokenizer = load_model(MODEL)
    name, weight = next(iter(model.named_parameters()))
    weight.data.view(-1)[5] = float("nan")
    model.save_pretrained(tmp_path / "nan")
    tokenizer.save_pretrained(tmp_path / "nan")
    settings = SFTSettings(steps=2, batch=2, learning_rate=1e-3, lora_rank=0)
    rows = best_dialogues(trees["exchange"], 0.5)
    for use in (
        lambda: train_sft(tmp_path / "nan", rows, settings, 0, tmp_path / "m"),
        lambda: TransformersEngine.load(tmp_path / "nan"),
    ):
        with pytest.raises(ModelError, match=f"weight {name} holds numbers that are not finite"):
            use()
    assert not files_of(tmp_path / "m")


def test_rows_longer_than_the_model_reads_are_refused(tmp_path):
    settings = SFTSettings(steps=2, batch=2, learning_rate=1e-3, lora_rank=4)
    rows = [{"prompt_ids": (5,) * 300, "reply_ids": (6, 2)}] * 2
    with pytest.raises(ModelError, match="has 302 tokens, but the model reads 256"):
        train_sft(MODEL, rows, settings, 0, tmp_path / "m")
