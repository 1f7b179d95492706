"""Influence through training: against TRL's own training, finite differences and autograd."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.llama import modeling_llama

from dits_lib.engines import TransformersEngine, load_tokenizer
from dits_lib.influence import (
    ESTIMATORS,
    DPOLoss,
    InfluenceSettings,
    ScoreError,
    ScoringContext,
    Training,
)
from dits_lib.influence.unrolled import TrainingState, UnrolledDPO, rates_of
from dits_lib.tasks import make_questions
from dits_lib.training import DPOSettings, train_dpo

from .conftest import MODEL, SYSTEMS


def unrolled(engine, some, seed=3, **changes):
    settings = DPOSettings(**({"steps": 5, "batch": 4} | changes))
    loss = DPOLoss(settings.beta, settings.nll_weight)
    return UnrolledDPO(engine, some, loss, Training.of(settings), seed), settings


@pytest.mark.parametrize("nll_weight", [0.0, 0.3])
def test_it_trains_as_trl_does(engine, pairs, tmp_path, nll_weight):
    """Seven pairs in batches of four: an epoch's last batch is small, and the order is TRL's."""
    some = pairs["debate"][:7]
    run, settings = unrolled(engine, some, nll_weight=nll_weight)
    last = run.train(torch.ones(len(some)))[-1]
    train_dpo(MODEL, some, settings, 3, tmp_path)
    trained = AutoModelForCausalLM.from_pretrained(tmp_path)
    before = dict(engine.model.named_parameters())
    for name, weight in trained.named_parameters():
        moved = weight - before[name]
        assert float(moved.abs().max()) > 1e-5 or not last.weights[name].sub(before[name]).any()
        assert torch.allclose(last.weights[name] - before[name], moved, atol=5e-6), name


def test_the_rates_are_those_of_the_schedule():
    from transformers import get_linear_schedule_with_warmup

    for steps in (1, 5, 30):
        optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
        schedule = get_linear_schedule_with_warmup(optimiser, max(1, steps // 10), steps)
        expected = []
        for _ in range(steps):
            expected.append(schedule.get_last_lr()[0])
            optimiser.step()
            schedule.step()
        assert rates_of(steps, 0.5) == pytest.approx(expected)


@pytest.fixture
def exact(monkeypatch):
    """An engine in float64 throughout, for derivatives by differences: the engine's logits, and
    transformers' norms and softmax, are cast to float32 on purpose."""

    def norm(self, states):
        return self.weight * states * (states**2).mean(-1, keepdim=True).add(1e-6).rsqrt()

    softmax = torch.nn.functional.softmax
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(modeling_llama.LlamaRMSNorm, "forward", norm)
    monkeypatch.setattr(
        torch.nn.functional, "softmax", lambda x, dim=-1, dtype=None: softmax(x, dim=dim)
    )
    model = AutoModelForCausalLM.from_pretrained(
        MODEL, dtype=torch.float64, attn_implementation="eager"
    )
    return TransformersEngine(model, load_tokenizer(MODEL))


def ends(run, weights, direction):
    """A linear function of the trained weights."""
    last = run.train(weights)[-1].weights
    return float(sum((last[name] * d).sum() for name, d in direction.items()))


@pytest.mark.parametrize("rank", [0, 4])
def test_derivatives_are_those_of_retraining_with_one_weight_changed(exact, pairs, rank):
    some = pairs["exchange"][:6]
    run, _ = unrolled(exact, some, steps=5, batch=3, lora_rank=rank)
    begun = run.start()  # a LoRA is float32
    doubled = [{n: t.double() for n, t in part.items()} for part in vars(begun).values()]
    run.start = lambda: TrainingState(*doubled)
    generator = torch.Generator().manual_seed(0)
    direction = {
        name: torch.randn(w.shape, generator=generator, dtype=torch.float64)
        for name, w in begun.weights.items()
    }
    weights = torch.tensor([1.0, 0.7, 1.0, 1.3, 1.0, 1.0], dtype=torch.float64)
    found = run.back(run.train(weights), weights, [direction, direction])
    assert np.array_equal(found[:, 0], found[:, 1])
    for pair in range(len(some)):
        step = torch.zeros_like(weights)
        step[pair] = 1e-6
        change = ends(run, weights + step, direction) - ends(run, weights - step, direction)
        assert found[pair, 0] == pytest.approx(change / 2e-6, rel=1e-4), pair


def test_the_sweep_is_autograds_through_all_steps_at_once(exact, pairs):
    """Three steps whose whole history autograd holds."""
    some = pairs["exchange"][:6]
    run, _ = unrolled(exact, some, steps=3, batch=3)
    weights = torch.ones(6, dtype=torch.float64)
    wanted = {name: torch.ones_like(w) for name, w in run.start().weights.items()}
    leaf, state = weights.clone().requires_grad_(), run.start().detached(leaves=True)
    for number in range(3):
        state = run.step(state, number, leaf, follow=True)
    total = sum((state.weights[name] * w).sum() for name, w in wanted.items())
    (expected,) = torch.autograd.grad(total, leaf)
    found = run.back(run.train(weights), weights, [wanted])[:, 0]
    assert found == pytest.approx(expected.numpy(), rel=1e-9)


def test_the_estimator_sweeps_once_an_order_and_group(engine, pairs):
    """Its columns differ by order and by questions; what the engine says is as before."""
    some, asked = pairs["exchange"][:8], make_questions("exchange", "validation", 6, 0)
    settings = InfluenceSettings(
        policy_samples=4, options={"through_training": {"orders": 2, "groups": 3}}
    )
    context = ScoringContext(
        engine, SYSTEMS["exchange"], 1.0, settings, training=Training(steps=4, batch=4)
    )
    before = {name: weight.clone() for name, weight in engine.model.named_parameters()}
    scores = ESTIMATORS["through_training"](context, some, asked, 0)
    assert scores.per_question.shape == (8, 6) and len(np.unique(scores.per_question)) == 48
    assert scores.value == pytest.approx(scores.per_question.mean(1), abs=1e-8)
    assert scores.cost["gradients"] == 2 * 4 * 4 and scores.cost["sweeps"] == 6
    after = dict(engine.model.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before)
    again = ESTIMATORS["through_training"](context, some, asked, 0)
    assert np.array_equal(scores.per_question, again.per_question)
    longer = replace(context, training=Training(steps=6, batch=4))
    other = ESTIMATORS["through_training"](longer, some, asked, 0)
    assert not np.array_equal(scores.value, other.value)


def test_a_training_in_sixteen_bits_is_refused(pairs):
    rough = TransformersEngine.load(MODEL, dtype="bfloat16")
    with pytest.raises(ScoreError, match="float32 alone.*bfloat16.*dpo.lora_rank"):
        UnrolledDPO(rough, pairs["exchange"][:4], DPOLoss(), Training(), 0)
    UnrolledDPO(rough, pairs["exchange"][:4], DPOLoss(), Training(lora_rank=4), 0)


@pytest.mark.parametrize("rank", [0, 4])
def test_slopes_are_products_with_each_pairs_gradient(engine, pairs, rank):
    some = pairs["debate"][:5]
    run, _ = unrolled(engine, some, lora_rank=rank, nll_weight=0.2)
    state = run.train(torch.ones(5))[-1].detached(leaves=True)
    generator = torch.Generator().manual_seed(1)
    direction = {n: torch.randn(w.shape, generator=generator) for n, w in state.weights.items()}
    found = run.slopes(state.detached(), [direction, direction], batch=5)
    losses = run._losses(state.weights, np.arange(5))
    for pair in range(5):
        gradient = torch.autograd.grad(
            losses[pair], list(state.weights.values()), retain_graph=True
        )
        product = sum((g * direction[n]).sum() for n, g in zip(direction, gradient, strict=True))
        assert found[pair] == pytest.approx([float(product)] * 2, rel=1e-3, abs=1e-4)
