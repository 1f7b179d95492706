"""Influence through training: against TRL's own training, finite differences and autograd."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.llama import modeling_llama

from dits_lib.engines import TransformersEngine, derive_seed, load_tokenizer
from dits_lib.influence import (
    ESTIMATORS,
    DPOLoss,
    InfluenceSettings,
    ScoreError,
    ScoringContext,
    Training,
)
from dits_lib.influence.base import Amount
from dits_lib.influence.estimators.through_training import ends_of, ends_said
from dits_lib.influence.unrolled import TrainingState, UnrolledDPO, guests_of, rates_of
from dits_lib.tasks import make_questions
from dits_lib.training import DPOSettings, train_dpo

from .conftest import MODEL, SYSTEMS


def unrolled(engine, some, seed=3, kept=None, fit=None, **changes):
    settings = DPOSettings(**({"steps": 5, "batch": 4} | changes))
    loss = DPOLoss(settings.beta, settings.nll_weight)
    run = UnrolledDPO(engine, some, loss, Training.of(settings), seed, kept, **(fit or {}))
    return run, settings


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


def test_pairs_that_are_left_out_change_nothing(engine, pairs):
    """A training on some of the pairs, with the rest as guests, is the training on these alone, and
    as often as one of these is read, a guest is."""
    some, kept = pairs["debate"][:11], np.array([0, 1, 3, 4, 7, 8, 10])
    run, _ = unrolled(engine, some, kept=kept, nll_weight=0.3)
    alone, _ = unrolled(engine, [some[i] for i in kept], nll_weight=0.3)
    weights = torch.zeros(11)
    weights[kept] = 1.0
    states, expected = run.train(weights), alone.train(torch.ones(7))
    for name, weight in expected[-1].weights.items():
        assert torch.equal(states[-1].weights[name], weight), name
    wanted = {name: torch.ones_like(w) for name, w in expected[-1].weights.items()}
    found = run.back(states, weights, [wanted])[kept]
    assert found == pytest.approx(alone.back(expected, torch.ones(7), [wanted]), rel=1e-3, abs=1e-4)
    assert [len(members) for members in run.batches] == [4, 3, 4, 3, 4]
    times = np.bincount(np.concatenate([*run.batches[:4], *run.guests[:4]]), minlength=11)
    assert times.tolist() == [2] * 11


def test_guests_come_once_a_pass():
    drawn = guests_of(np.array([2, 5, 6, 9, 11]), 3, 8, 0)
    assert [len(some) for some in drawn] == [2, 2, 1, 2, 2, 1, 2, 2]
    orders = [np.concatenate(drawn[start : start + 3]).tolist() for start in (0, 3)]
    assert sorted(orders[0]) == sorted(orders[1]) == [2, 5, 6, 9, 11] and orders[0] != orders[1]


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


def doubled(run):
    """The training begins in float64, a LoRA too, which is float32 else; its beginning."""
    parts = vars(run.start()).values()
    begun = TrainingState(*({n: t.double() for n, t in part.items()} for part in parts))
    run.start = lambda: begun
    return begun


KEPT = np.array([0, 2, 3, 5])


@pytest.mark.parametrize(
    "rank, kept, weights",
    [
        (0, None, [1.0, 0.7, 1.0, 1.3, 1.0, 1.0]),
        (4, None, [1.0, 0.7, 1.0, 1.3, 1.0, 1.0]),
        (0, KEPT, [1.0, 0.0, 0.7, 1.0, 0.1, 1.0]),
        (4, KEPT, [1.0, 0.0, 0.7, 1.0, 0.1, 1.0]),
    ],
)
def test_derivatives_are_those_of_retraining_with_one_weight_changed(
    exact, pairs, rank, kept, weights
):
    """Those of pairs that are left out too, at weight 0 and above."""
    some = pairs["exchange"][:6]
    run, _ = unrolled(exact, some, kept=kept, steps=5, batch=3, lora_rank=rank, nll_weight=0.2)
    begun = doubled(run)
    generator = torch.Generator().manual_seed(0)
    direction = {
        name: torch.randn(w.shape, generator=generator, dtype=torch.float64)
        for name, w in begun.weights.items()
    }
    weights = torch.tensor(weights, dtype=torch.float64)
    found = run.back(run.train(weights), weights, [direction, direction])
    assert np.abs(found).min() > 0
    assert np.array_equal(found[:, 0], found[:, 1])
    for pair in range(len(some)):
        step = torch.zeros_like(weights)
        far = 1e-6 if weights[pair] else 1e-8  # at 0 AdamW's epsilon is the scale
        step[pair] = far
        change = ends(run, weights + step, direction) - ends(run, weights - step, direction)
        assert found[pair, 0] == pytest.approx(change / (2 * far), rel=1e-4), pair


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


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("fit", [{"rows": 1}, {"rows": 2}, {"tokens": 4 * 80}])
def test_a_step_read_in_several_passes_is_the_same_step(exact, pairs, rank, fit):
    """Also its NLL term, which is a mean over the tokens of the whole batch."""
    some = pairs["exchange"][:6]
    weights = torch.tensor([1.0, 0.1, 0.7, 1.0, 0.1, 1.0], dtype=torch.float64)
    given = {"kept": KEPT, "batch": 3, "lora_rank": rank, "nll_weight": 0.3}
    whole, _ = unrolled(exact, some, **given)
    parts, _ = unrolled(exact, some, fit=fit, **given)
    doubled(whole), doubled(parts)
    assert len(whole._parts(whole._members(0, None), follow=True)) == 1
    assert len(parts._parts(parts._members(0, None), follow=True)) > 1
    states, others = whole.train(weights), parts.train(weights)
    last = states[-1].weights
    tight = {"rtol": 1e-9, "atol": 1e-12}
    for name, weight in last.items():
        assert torch.allclose(weight, others[-1].weights[name], **tight), name
    wanted = [{name: torch.ones_like(w) for name, w in last.items()}, last]
    expected = whole.back(states, weights, wanted)
    assert parts.back(states, weights, wanted) == pytest.approx(expected, rel=1e-7, abs=1e-11)
    rows = [(pair.prompt_ids, pair.chosen_ids) for pair in some]
    asked = states[-1], rows, [1.0, -0.5, 0.0, 2.0, 1.0, 1.0], 0.7, 64
    for name, gradient in whole.gradient(*asked).items():
        assert torch.allclose(gradient, parts.gradient(*asked)[name], **tight), name


class Apart:
    """An engine that learns with another, as vLLM does."""

    def __init__(self, engine):
        self.engine, self.learned = engine, []

    def __getattr__(self, name):
        return getattr(self.engine, name)

    @contextmanager
    def learning(self):
        learner = TransformersEngine.load(MODEL)
        learner.usage = self.engine.usage
        self.learned.append(learner)
        before = vars(learner.usage).copy()
        yield learner
        # What learns says nothing: that is for the engine that speaks.
        assert learner.usage.requests == before["requests"]


@pytest.mark.parametrize("name", ["through_training", "along_training"])
def test_what_speaks_takes_the_adapter_of_what_learns(engine, pairs, name):
    some, asked = pairs["exchange"][:6], make_questions("exchange", "validation", 4, 0)
    settings = InfluenceSettings(policy_samples=2)
    training = Training(steps=3, batch=4, learning_rate=1e-2, lora_rank=4)
    apart = Apart(engine)
    found = [
        ESTIMATORS[name](
            ScoringContext(own, SYSTEMS["exchange"], 1.0, settings, training=training),
            some,
            asked,
            0,
        )
        for own in (engine, apart)
    ]
    assert len(apart.learned) >= 2
    assert found[1].per_question == pytest.approx(found[0].per_question, rel=1e-4, abs=1e-7)


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


def test_a_second_round_is_a_removal_and_a_sweep_by_hand(engine, pairs):
    some, asked = pairs["exchange"][:8], make_questions("exchange", "validation", 4, 0)

    def scored(**options):
        given = {"orders": 2, "groups": 1, "weight": 0.8} | options
        settings = InfluenceSettings(policy_samples=2, options={"through_training": given})
        training = Training(steps=3, batch=4)
        context = ScoringContext(
            engine, SYSTEMS["exchange"], 1.0, settings, alpha=0.375, training=training
        )
        return context, ESTIMATORS["through_training"](context, some, asked, 7)

    context, once = scored()
    _, twice = scored(rounds=2, left_out=0.25)
    kept = sorted(sorted(range(8), key=lambda i: -once.value[i])[:3])
    weights, columns = torch.tensor([0.8 if i in kept else 0.2 for i in range(8)]), []
    for order in range(2):
        seed = ("round", 1, 7)
        drawn = derive_seed(seed, "order", order) % 2**31
        run = UnrolledDPO(engine, some, context.loss, context.training, drawn, kept=np.array(kept))
        states = run.train(weights)
        played = ends_said(context, run, engine, states[-1], [asked], (seed, order))
        wanted = ends_of(context, run, states[-1], played)
        columns.append(run.back(states, weights, wanted))
    second = np.concatenate(columns, axis=1)
    assert twice.per_question == pytest.approx((once.per_question + second) / 2)
    assert twice.stderr == pytest.approx(twice.per_question.std(1, ddof=1) / 2**0.5)
    # Three kept pairs are one batch, and the five others are beside each.
    assert (once.cost["gradients"], twice.cost["gradients"]) == (24, 24 + 2 * 3 * (4 + 5))
    assert (once.cost["sweeps"], twice.cost["sweeps"]) == (2, 4)
    for cost in ("generated_tokens", "prompt_tokens"):
        assert twice.cost[cost] > 1.5 * once.cost[cost]


def test_the_plan_counts_the_rounds():
    def effort(**options):
        settings = InfluenceSettings(policy_samples=4, options={"through_training": options})
        amount = Amount(100, 10, 1, 1, settings, training=Training(steps=6, batch=5), alpha=0.5)
        return ESTIMATORS["through_training"].takes(amount)

    one, three = effort(orders=2, groups=3), effort(orders=2, groups=3, rounds=3)
    assert one.dialogues == 2 * 40 and three.dialogues == 3 * one.dialogues
    assert one.gradient_rows == 2 * ((1 + 1 + 6) * 60 + 40)
    read = (1 + 1 + 6) * 60 * (1 + 1 / 0.75 + 1 / 0.5)  # those left out are read too
    assert three.gradient_rows == pytest.approx(2 * (read + 3 * 40))
    assert one.forward_rows == three.forward_rows == 200


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
