"""Gradients and influence against autograd, TRL, finite differences and closed forms."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from dits_lib.engines import LoRAStack, ModelError, TransformersEngine, derive_seed, load_model
from dits_lib.influence import (
    ESTIMATORS,
    DPOLoss,
    InfluenceSettings,
    ScoreError,
    Scores,
    ScoringContext,
    ValidationPlay,
    beyond_grid,
    choose_step_size,
    dpo_gradients,
    dpo_losses,
    evaluate_adapters,
    flatten,
    fresh_stack,
    mean_and_stderr,
    metric_table,
    part,
    rank_correlation,
    reliability,
    step,
    step_response,
)
from dits_lib.influence.base import Amount, joined_cost, over_draws
from dits_lib.influence.estimators.dpo_loss import dpo_loss_influence
from dits_lib.influence.estimators.one_step import groups_of, one_step_influence
from dits_lib.influence.gradients import checkpointed, mean_lengths, passes
from dits_lib.influence.validation_gradients import logprob_gradients
from dits_lib.tasks import make_questions

from .conftest import MODEL, SYSTEMS

LOSS = DPOLoss(0.3, 0.0)
OPTIONS = {"loss": LOSS, "rank": 4, "scaling": 2.0, "seed": 5}
CONFIG = InfluenceSettings(rank=4, candidates=5)


@pytest.fixture(scope="module")
def some(pairs):
    return pairs["exchange"][:5] + pairs["debate"][:4]


def merged_engine(engine, stack, index):
    model, tokenizer = load_model(MODEL)
    modules = dict(model.named_modules())
    for name, (a, b) in stack.weights.items():
        modules[name].weight.data += stack.scaling * b[index] @ a
    return TransformersEngine(model, tokenizer)


def test_batched_gradients_equal_one_by_one(engine, some):
    together = flatten(dpo_gradients(engine, some, **OPTIONS))
    for i, pair in enumerate(some):
        alone = flatten(dpo_gradients(engine, [pair], **OPTIONS))[0]
        assert torch.allclose(together[i], alone, atol=1e-6, rtol=1e-4) and float(alone.norm()) > 0


def test_passes_hold_so_many_rows_and_so_many_tokens():
    """By hand: prompts of 5, 5, 5 and 20 tokens, replies of 1, 1, 4 and 1."""
    texts = [[((0,) * p, (0,) * r)] for p, r in ((5, 1), (5, 1), (5, 4), (20, 1))]
    order = [0, 1, 2, 3]
    assert list(passes(texts, order, 3)) == [[0, 1, 2], [3]]
    assert list(passes(texts, order, 9, 12)) == [[0, 1], [2], [3]]  # 2 x 6; 3 x 9 are too many
    assert list(passes(texts, order, 9, 27)) == [[0, 1, 2], [3]]
    assert list(passes(texts, order, 9, 95)) == [[0, 1, 2], [3]]  # 4 x (20 + 4) are 96
    assert list(passes(texts, order, 9, 96)) == [[0, 1, 2, 3]]
    assert list(passes(texts, order, 9, 1)) == [[0], [1], [2], [3]]
    assert list(passes([a + b for a, b in zip(texts, texts, strict=True)], order, 9, 24)) == [
        [0, 1],  # two texts each
        [2],
        [3],
    ]
    assert list(passes([], [], 4)) == []


def test_gradients_do_not_depend_on_how_they_fit_into_memory(engine, some):
    plain = flatten(dpo_gradients(engine, some, **OPTIONS))
    least = 2 * max(len(p.prompt_ids) + len(p.chosen_ids) for p in some)
    for fit in ({"rows": 2}, {"tokens": least}, {"tokens": 2 * least, "checkpointing": True}):
        assert torch.allclose(
            flatten(dpo_gradients(engine, some, **OPTIONS, **fit)), plain, atol=1e-6, rtol=1e-4
        )
    rows = [(p.prompt_ids, p.chosen_ids) for p in some]
    given = engine, rows, [1.0, -0.5, 0.0] * 3, [0, 1, 2] * 3, 3
    shared = {"rank": 4, "scaling": 2.0, "seed": 5, "temperature": 0.7}
    wanted = flatten(logprob_gradients(*given, **shared))
    for fit in ({"batch": 2}, {"tokens": least}, {"tokens": 2 * least, "checkpointing": True}):
        found = flatten(logprob_gradients(*given, **shared, **fit))
        assert torch.allclose(found, wanted, atol=1e-6, rtol=1e-4)


def test_checkpointed_layers_are_computed_again_and_nothing_stays_changed(engine, some):
    layer, runs = engine.model.model.layers[0].self_attn, []
    hook = layer.register_forward_hook(lambda *_: runs.append(layer.training))
    plain = flatten(dpo_gradients(engine, some, **OPTIONS))
    once = len(runs)
    again = flatten(dpo_gradients(engine, some, **OPTIONS, checkpointing=True))
    hook.remove()
    assert len(runs) == 3 * once and not any(runs)  # dropout in them would stay off
    assert torch.equal(plain, again)
    assert not any(module.training for module in engine.model.modules())
    assert not engine.model.is_gradient_checkpointing
    assert not engine.model.get_input_embeddings()._forward_hooks


def test_layers_without_checkpointing_are_named():
    model = torch.nn.Linear(2, 2)
    model.config = SimpleNamespace(model_type="odd")
    with pytest.raises(ModelError, match="odd: its layers cannot be checkpointed"):
        with checkpointed(model):
            pass


def test_how_gradients_fit_into_memory_decides_no_score():
    other = InfluenceSettings(
        gradient_rows=3, gradient_tokens=9, gradient_checkpointing=True, gradient_block=7
    )
    plain = InfluenceSettings()
    for name, record in ESTIMATORS.items():
        same = record.key(plain, LOSS) == record.key(other, LOSS)
        assert same == (name != "bergson_ekfac"), name  # which draws labels batch by batch


def test_gradients_equal_autograd_through_merged_weights(engine, some):
    """An independent path: B enters the weights of a plain model, whose loss autograd
    differentiates."""
    pair = some[0]
    model, _ = load_model(MODEL)
    stack = dpo_gradients(engine, [pair], **OPTIONS)
    leaves = {
        name: torch.zeros_like(b[0], requires_grad=True) for name, (_, b) in stack.weights.items()
    }
    weights = {
        f"{n}.weight": p for n, m in model.named_modules() if n in leaves for p in [m.weight]
    }
    changed = {
        f"{n}.weight": weights[f"{n}.weight"].detach()
        + stack.scaling * leaves[n] @ stack.weights[n][0]
        for n in leaves
    }

    def logprob(parameters, reply):
        ids = torch.tensor([[*pair.prompt_ids, *reply]])
        logits = torch.func.functional_call(model, parameters, (ids,)).logits[
            0, len(pair.prompt_ids) - 1 : -1
        ]
        return logits.log_softmax(1).gather(1, torch.tensor(reply)[:, None]).sum()

    policy = logprob(changed, pair.chosen_ids) - logprob(changed, pair.rejected_ids)
    with torch.no_grad():
        reference = logprob({}, pair.chosen_ids) - logprob({}, pair.rejected_ids)
    loss = -torch.nn.functional.logsigmoid(LOSS.beta * (policy - reference))
    for name, gradient in zip(
        leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True
    ):
        assert torch.allclose(stack.weights[name][1][0], gradient, atol=1e-6, rtol=1e-3), name


def test_the_gradient_of_a_is_zero_at_a_fresh_adapter(engine, some):
    stack = fresh_stack(engine, 1, 4, 2.0, 5)
    for a, _ in stack.weights.values():
        a.requires_grad_()
    loss = dpo_losses(engine, some[:1], stack, LOSS).sum()
    gradients = torch.autograd.grad(loss, [a for a, _ in stack.weights.values()], allow_unused=True)
    assert all(g is None or float(g.abs().max()) == 0 for g in gradients)


def test_dpo_loss_at_the_reference_is_log_two(engine, some):
    losses = dpo_losses(engine, some, fresh_stack(engine, len(some), 4, 2.0, 5), LOSS)
    assert losses.tolist() == pytest.approx([np.log(2)] * len(some), abs=1e-5)


@pytest.mark.parametrize("nll_weight", [0.0, 0.7])
@pytest.mark.parametrize("count", [1, 9])
def test_the_loss_and_its_gradient_equal_trls(engine, some, tmp_path, count, nll_weight):
    """TRL's own trainer computes the loss of a stepped policy against the base model, and its
    gradient by autograd: of one pair, and of a batch, whose NLL it divides by all its tokens."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    class TokenTrainer(DPOTrainer):
        def _prepare_dataset(self, dataset, *args, **kwargs):
            return dataset

    some = some[:count]
    stack = step(dpo_gradients(engine, some[:1], **OPTIONS), 0.5)
    stepped = merged_engine(engine, stack, 0)
    data = Dataset.from_list(
        [
            {n: list(getattr(p, n)) for n in ("prompt_ids", "chosen_ids", "rejected_ids")}
            for p in some
        ]
    )
    arguments = DPOConfig(
        output_dir=str(tmp_path),
        beta=0.3,
        use_cpu=True,
        bf16=False,
        report_to=[],
        max_length=None,
        disable_tqdm=True,
        per_device_train_batch_size=len(some),
        gradient_checkpointing=False,
        **(
            {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, nll_weight]}
            if nll_weight
            else {}
        ),
    )
    trainer = TokenTrainer(
        model=stepped.model,
        ref_model=load_model(MODEL)[0],
        args=arguments,
        train_dataset=data,
        processing_class=engine.tokenizer,
    )
    batch = trainer.data_collator([data[i] for i in range(len(some))])
    stepped.model.eval()
    loss = trainer.compute_loss(stepped.model, batch)
    repeated = LoRAStack(
        {
            n: (a, b.expand(len(some), -1, -1).clone().requires_grad_())
            for n, (a, b) in stack.weights.items()
        },
        stack.scaling,
    )
    whole = mean_lengths(some, torch.zeros(count, dtype=torch.long)) if count > 1 else None
    ours = dpo_losses(engine, some, repeated, DPOLoss(0.3, nll_weight), lengths=whole)
    assert float(loss.detach()) == pytest.approx(float(ours.mean().detach()), abs=1e-5)
    name = "model.layers.1.mlp.down_proj"
    full = torch.autograd.grad(loss, dict(stepped.model.named_modules())[name].weight)[0]
    a, b = repeated.weights[name]
    mine = torch.autograd.grad(ours.mean(), b)[0].sum(0)
    # Chain rule: W = W0 + s B A.
    assert torch.allclose(mine, stack.scaling * full @ a.T, atol=1e-5, rtol=1e-3)


def test_the_nll_term_turns_the_gradient_that_scores(engine, some):
    """Against autograd through the log probabilities at B = 0, where the DPO term's slope is
    beta / 2."""
    for weight in (0.0, 0.5):
        loss = DPOLoss(0.1, weight)
        found = flatten(dpo_gradients(engine, some, **(OPTIONS | {"loss": loss})))
        for i, pair in enumerate(some[:3]):
            stack = fresh_stack(engine, 1, 4, 2.0, 5)
            leaves = [b.requires_grad_() for _, b in stack.weights.values()]
            index = torch.zeros(1, dtype=torch.long)
            chosen, rejected = (
                engine.teacher_forced([(pair.prompt_ids, ids)], stack, index).sum()
                for ids in (pair.chosen_ids, pair.rejected_ids)
            )
            value = -0.1 / 2 * (chosen - rejected) - weight * chosen / len(pair.chosen_ids)
            wanted = torch.cat([g.flatten() for g in torch.autograd.grad(value, leaves)])
            assert torch.allclose(found[i], wanted, atol=1e-6, rtol=1e-3)
    plain = flatten(dpo_gradients(engine, some, **OPTIONS))
    assert torch.cosine_similarity(found, plain).min() < 0.95  # so the weight is no detail


def test_a_reference_of_ones_own_weighs_the_pairs(engine, some):
    """A pair that the policy has learned since its reference moves less: the slope of the DPO term
    is beta * sigmoid(-beta * margin)."""
    margins = [0.0, 2.0, -5.0]
    rows = [(p.prompt_ids, ids) for p in some[:3] for ids in (p.chosen_ids, p.rejected_ids)]
    own = np.array([sum(row) for row in engine.logprobs(rows)]).reshape(3, 2)
    known = {
        pair.id: (float(now[0]) - margin, float(now[1]))
        for pair, now, margin in zip(some, own, margins, strict=False)
    }
    loss = DPOLoss(0.3, 0.0, known)
    found = flatten(dpo_gradients(engine, some[:3], **(OPTIONS | {"loss": loss})))
    plain = flatten(dpo_gradients(engine, some[:3], **OPTIONS))
    for i, margin in enumerate(margins):
        slope = 2 / (1 + np.exp(0.3 * margin))
        assert torch.allclose(found[i], slope * plain[i], atol=1e-6, rtol=2e-3)
    with pytest.raises(KeyError):
        dpo_gradients(engine, some[3:4], **(OPTIONS | {"loss": loss}))


def test_classic_influence_is_the_first_order_change_of_the_loss(engine, some):
    """Against a finite difference: step along one pair, measure the validation pairs' loss before
    and after."""
    candidates, validation, size = some[:3], some[3:], 1e-2
    scores = dpo_loss_influence(engine, candidates, validation, size, CONFIG, 7, loss=LOSS)
    gradients = dpo_gradients(
        engine, candidates, loss=LOSS, rank=4, scaling=CONFIG.scaling, seed=derive_seed(7, "lora")
    )
    for i in range(len(candidates)):
        moved = step(part(gradients, i, i + 1), size)
        repeated = LoRAStack(
            {n: (a, b.expand(len(validation), -1, -1)) for n, (a, b) in moved.weights.items()},
            moved.scaling,
        )
        with torch.no_grad():
            drop = float((np.log(2) - dpo_losses(engine, validation, repeated, LOSS)).mean())
        assert drop == pytest.approx(scores.value[i], rel=0.08, abs=2e-6)
    assert scores.value == pytest.approx(scores.per_question.mean(1), abs=1e-9)
    with pytest.raises(ScoreError, match="no validation pairs"):
        dpo_loss_influence(engine, candidates, [], size, CONFIG, 7, loss=LOSS)


def test_influence_of_a_linear_model_has_its_closed_form(engine, some):
    """Adapters on the output layer alone make the logits linear in B, so gradient and influence can
    be written down: dL/dB = -beta/2 * s * sum_t (+-) (onehot_t - softmax_t) (A h_t)^T."""
    linear = TransformersEngine(
        copy.deepcopy(engine.model), engine.tokenizer, lora_targets=("lm_head",)
    )
    candidates, validation, size, config = (
        some[:2],
        some[2:4],
        0.5,
        InfluenceSettings(rank=4),
    )
    a = fresh_stack(linear, 1, 4, config.scaling, derive_seed(7, "lora")).weights["lm_head"][0]

    def closed_form(pair):
        total = torch.zeros(linear.model.config.vocab_size, 4)
        for sign, reply in ((1, pair.chosen_ids), (-1, pair.rejected_ids)):
            with torch.no_grad():
                hidden = linear.model.model(
                    torch.tensor([[*pair.prompt_ids, *reply]])
                ).last_hidden_state[0, len(pair.prompt_ids) - 1 : -1]
                logits = hidden @ linear.model.lm_head.weight.T
            error = torch.nn.functional.one_hot(
                torch.tensor(reply), logits.shape[1]
            ) - logits.softmax(1)
            total += sign * error.T @ (hidden @ a.T)
        return -LOSS.beta / 2 * config.scaling * total

    expected = [
        [size * float((closed_form(z) * closed_form(v)).sum()) for v in validation]
        for z in candidates
    ]
    scores = dpo_loss_influence(linear, candidates, validation, size, config, 7, loss=LOSS)
    assert scores.per_question == pytest.approx(np.array(expected), rel=1e-3, abs=1e-7)


def test_one_step_influence_equals_separate_models(engine, pairs):
    """Hundreds at once against the slow way: merge each step into a model of its own and play the
    same dialogues."""
    system, questions, size = (
        SYSTEMS["exchange"],
        make_questions("exchange", "validation", 6, 0),
        0.5,
    )
    candidates = pairs["exchange"][:7]
    scores = one_step_influence(engine, system, candidates, questions, size, CONFIG, 3, loss=LOSS)
    base = metric_table(evaluate_adapters(engine, system, questions, None, 1, CONFIG, 3), 1)[0]
    gradients = dpo_gradients(
        engine, candidates, loss=LOSS, rank=4, scaling=CONFIG.scaling, seed=derive_seed(3, "lora")
    )
    changed = 0
    for i in range(len(candidates)):
        other = merged_engine(engine, step(gradients, size), i)
        metric = metric_table(evaluate_adapters(other, system, questions, None, 1, CONFIG, 3), 1)[0]
        assert scores.per_question[i] == pytest.approx(metric - base)
        changed += (metric != base).any()
    assert changed  # the step is large enough for this test to mean something


def test_one_draw_of_a_is_the_scoring_as_ever(engine, pairs):
    questions = make_questions("exchange", "validation", 5, 0)
    context = ScoringContext(engine, SYSTEMS["exchange"], 0.5, CONFIG, loss=LOSS)
    given = pairs["exchange"][:4], questions
    found = ESTIMATORS["one_step"](context, *given, 3)
    alone = one_step_influence(engine, SYSTEMS["exchange"], *given, 0.5, CONFIG, 3, loss=LOSS)
    assert found.per_question.tolist() == alone.per_question.tolist()
    assert found.stderr.tolist() == alone.stderr.tolist()


@pytest.mark.parametrize("name", ["one_step", "policy_gradient", "racing"])
def test_two_draws_of_a_are_two_scorings_by_hand(engine, pairs, name):
    """Every other question under each A; tables of questions are put together in their order."""
    questions, some = make_questions("exchange", "validation", 5, 0), pairs["exchange"][:4]
    one = ScoringContext(engine, SYSTEMS["exchange"], 3.0, CONFIG.changed(policy_samples=3))
    found = ESTIMATORS[name](
        replace(one, settings=one.settings.changed(lora_draws=2)), some, questions, 3
    )
    own = derive_seed(3, "lora")
    parts = [
        ESTIMATORS[name].score(replace(one, lora_seed=seed), some, questions[start::2], 3)
        for start, seed in ((0, own), (1, derive_seed(own, "draw", 1)))
    ]
    weights = np.array([3 / 5, 2 / 5])
    assert found.value == pytest.approx(
        weights[0] * parts[0].value + weights[1] * parts[1].value, abs=1e-8
    )
    assert found.value == pytest.approx(found.per_question.mean(1), abs=1e-8)
    assert found.cost["gradients"] == 8
    if name == "racing":
        errors = [weight * own.stderr for weight, own in zip(weights, parts, strict=True)]
        assert found.stderr == pytest.approx(np.hypot(*errors))
        return
    assert found.per_question.shape[1] == 5
    for start, own in enumerate(parts):
        assert found.per_question[:, start::2].tolist() == own.per_question.tolist()
    assert found.stderr == pytest.approx(found.per_question.std(1, ddof=1) / np.sqrt(5))
    other = ESTIMATORS[name](one, some, questions, 3).per_question
    assert np.allclose(other[:, 0::2], found.per_question[:, 0::2], atol=1e-5)
    assert not np.allclose(other[:, 1::2], found.per_question[:, 1::2], atol=1e-3)


def test_parts_whose_columns_are_no_questions_are_averaged():
    """Weighted by their questions; errors of independent parts add up in squares."""
    values, errors, sizes = [np.array([1.0, 2.0]), np.array([4.0, -1.0])], [0.3, 0.4], [3, 1]
    parts = [
        Scores("x", v, np.full(2, e), {"gradients": 2, "left": v[0]}, np.zeros((2, 7)), ["a", "b"])
        for v, e in zip(values, errors, strict=True)
    ]
    found = Scores.joined(parts, sizes)
    assert found.value == pytest.approx(0.75 * values[0] + 0.25 * values[1])
    assert found.stderr == pytest.approx([np.hypot(0.75 * 0.3, 0.25 * 0.4)] * 2)
    assert found.per_question.mean(1) == pytest.approx(found.value) and found.pair_ids == ["a", "b"]
    assert found.cost == {"gradients": 4, "left": pytest.approx(0.75 * 1 + 0.25 * 4)}
    # Over many repetitions the error is that of the average.
    rng = np.random.default_rng(0)
    means = (rng.normal(0, 0.3, 20000), rng.normal(0, 0.4, 20000))
    assert np.std(0.75 * means[0] + 0.25 * means[1]) == pytest.approx(found.stderr[0], rel=0.03)
    tables = [np.arange(6.0).reshape(2, 3), np.arange(4.0).reshape(2, 2)]
    parts = [Scores("x", t.mean(1), np.full(2, 0.5), {}, t, []) for t in tables]
    whole = Scores.joined(parts, [3, 2])
    assert whole.per_question.tolist() == [[0, 0, 1, 1, 2], [3, 2, 4, 3, 5]]
    assert whole.stderr == pytest.approx(whole.per_question.std(1, ddof=1) / np.sqrt(5))
    own = Scores.joined(parts, [3, 2], own_stderr=True)
    assert own.stderr == pytest.approx([0.5 * np.hypot(0.6, 0.4)] * 2)


def test_noise_floors_of_parts_are_one_root_mean_square():
    controls = np.array([0.1, -0.2, 0.3, 0.05, 0.0])
    costs = [
        {"controls": len(part), "noise_floor": float(np.sqrt((part**2).mean()))}
        for part in (controls[:2], controls[2:])
    ]
    found = joined_cost(costs, np.array([0.5, 0.5]))
    assert found["controls"] == 5
    assert found["noise_floor"] == pytest.approx(np.sqrt((controls**2).mean()))


def test_a_fixed_a_serves_every_scoring(engine, pairs):
    fixed = ScoringContext(engine, SYSTEMS["exchange"], 0.5, CONFIG.changed(lora_seed=5))
    assert {fixed.lora(seed) for seed in range(9)} == {5} and replace(fixed, lora_seed=7).lora(
        0
    ) == 7
    free = replace(fixed, settings=CONFIG)
    assert len({free.lora(seed) for seed in range(9)}) == 9
    # The classic influence takes it too, and each draw above one is another A.
    same, other = (
        dpo_loss_influence(engine, pairs["exchange"][:2], pairs["exchange"][2:4], 0.1, c, 3, a)
        for c, a in ((CONFIG.changed(lora_seed=5), None), (CONFIG, 5))
    )
    assert same.value.tolist() == other.value.tolist()
    seeds = []
    over_draws(lambda a, part: seeds.append(a) or Scores("x", *NOTHING), [1, 2, 3], 3, 5)
    assert seeds[0] == 5 and len(set(seeds)) == 3


NOTHING = (np.zeros(2), np.zeros(2), {}, np.zeros((2, 1)), [])


def test_more_draws_than_questions_are_refused(engine, pairs):
    context = ScoringContext(engine, SYSTEMS["exchange"], 0.5, CONFIG.changed(lora_draws=3))
    with pytest.raises(ScoreError, match="lora_draws is 3, but there are 2 validation questions"):
        ESTIMATORS["one_step"](
            context, pairs["exchange"][:4], make_questions("exchange", "validation", 2, 0), 0
        )


@pytest.mark.parametrize("nll_weight", [0.0, 0.5])
def test_a_group_of_pairs_takes_one_step_and_shares_its_score(engine, pairs, nll_weight):
    """Against the gradient of the mean loss of the batch, merged into one adapter."""
    questions, some = make_questions("exchange", "validation", 8, 0), pairs["exchange"][:7]
    loss = DPOLoss(0.3, nll_weight)
    config = CONFIG.changed(options={"one_step": {"group": 3}}, gradient_block=4)
    context = ScoringContext(engine, SYSTEMS["exchange"], 1.0, config, lora_seed=5, loss=loss)
    found = ESTIMATORS["one_step"](context, some, questions, 0)
    owners = groups_of(7, 3, 0)
    assert sorted(np.bincount(owners)) == [1, 3, 3] and owners.tolist() != [0, 0, 0, 1, 1, 1, 2]
    play = ValidationPlay(engine, SYSTEMS["exchange"], questions, CONFIG, 0)
    for group in range(3):
        own = [some[i] for i in np.flatnonzero(owners == group)]
        stack = fresh_stack(engine, 1, 4, 2.0, 5)
        leaves = [b.requires_grad_() for _, b in stack.weights.values()]
        index = torch.zeros(len(own), dtype=torch.long)
        batch = mean_lengths(own, index)
        value = dpo_losses(engine, own, stack, loss, index, fresh=True, lengths=batch).mean()
        gradient = torch.autograd.grad(value, leaves)
        moved = LoRAStack(
            {n: (a, -g) for (n, (a, _)), g in zip(stack.weights.items(), gradient, strict=True)},
            2.0,
        )
        shared = found.per_question[owners == group]
        assert (shared == shared[0]).all() and shared[0] == pytest.approx(play.changes(moved)[0])
    assert np.abs(found.value).max() > 0 and found.cost["gradients"] == 7
    assert groups_of(5, 1, 0).tolist() == list(range(5))


@pytest.mark.parametrize("exact", [True, False])
def test_the_effort_counts_what_a_validation_play_plays(engine, noisy, pairs, exact):
    """Steps of zero too, where the engine needs them."""
    speaks, count, questions = engine if exact else noisy, 7, 3
    config = CONFIG.changed(candidates=3, samples=2)
    asked = make_questions("exchange", "validation", questions, 0)
    played = []
    play = ValidationPlay(speaks, SYSTEMS["exchange"], asked, config, 0)
    measured = play._metric
    play._metric = lambda stack: played.append(len(stack) if stack else 1) or measured(stack)
    play.changes(step(dpo_gradients(engine, pairs["exchange"][:count], **OPTIONS), 0.1))
    amount = Amount(count, questions, 1, 1, config, exact)
    effort = ESTIMATORS["one_step"].takes(amount)
    assert effort.dialogues + effort.stepped_dialogues == sum(played) * questions * 2
    assert effort.dialogues == (questions * 2 if exact else 0)
    twice = ESTIMATORS["one_step"].takes(replace(amount, settings=config.changed(lora_draws=2)))
    assert twice.gradient_rows == 2 * effort.gradient_rows
    assert twice.stepped_dialogues == pytest.approx(effort.stepped_dialogues)


def test_samples_are_averaged_within_a_question(engine, pairs):
    config = InfluenceSettings(samples=3, candidates=3)
    questions = make_questions("exchange", "validation", 5, 0)
    scores = one_step_influence(
        engine, SYSTEMS["exchange"], pairs["exchange"][:4], questions, 0.5, config, 1
    )
    played = evaluate_adapters(engine, SYSTEMS["exchange"], questions, None, 1, config, 1)[0]
    assert scores.per_question.shape == (4, 5) and len(played) == 15
    by_hand = [np.mean([d.metric for d in played if d.question_id == q.id]) for q in questions]
    assert metric_table([played], 3)[0] == pytest.approx(by_hand)


def test_an_empty_step_has_influence_zero(engine, pairs):
    scores = one_step_influence(
        engine,
        SYSTEMS["debate"],
        pairs["debate"][:6],
        make_questions("debate", "validation", 6, 0),
        0.0,
        CONFIG,
        3,
    )
    assert scores.value.tolist() == [0.0] * 6 and scores.tie_share == 1.0


def test_step_response_grows_and_the_choice_is_nearest_to_the_target(engine, pairs):
    rows = step_response(
        engine,
        SYSTEMS["exchange"],
        pairs["exchange"][:6],
        make_questions("exchange", "development", 8, 0),
        [1e-4, 0.3, 10.0],
        CONFIG,
        0,
        LOSS,
    )
    assert rows[0]["changed"] < rows[1]["changed"] < rows[2]["changed"]
    assert (
        choose_step_size(rows, rows[1]["changed"] + 0.01) == 0.3
        and choose_step_size(rows, 0.99) == 10.0
    )


class Noisy(TransformersEngine):
    """As vLLM in 16 bits: what is said depends on the batch, in a share of the requests."""

    share, calls = 0.06, 0

    def generate(self, requests, adapters=None):
        self.calls += 1
        rng = np.random.default_rng(self.calls)
        moved = rng.random(len(requests)) < self.share
        return super().generate(
            [
                replace(request, seed=request.seed + 1) if other else request
                for request, other in zip(requests, moved, strict=True)
            ],
            adapters,
        )


@pytest.fixture
def noisy(engine):
    found = Noisy(engine.model, engine.tokenizer)
    found.exact = False
    return found


def test_the_step_is_chosen_on_what_it_changes_beyond_noise(engine, noisy, pairs):
    asked = make_questions("exchange", "development", 16, 0)
    given = SYSTEMS["exchange"], pairs["exchange"][:6], asked, [1e-6, 0.3], CONFIG, 0, LOSS
    rows, exact = step_response(noisy, *given), step_response(engine, *given)
    assert all(row["floor"] == 0.0 for row in exact) and exact[0]["changed"] == 0.0
    # A step of almost nothing changes what noise changes, and no more.
    assert rows[0]["floor"] > 0.15
    assert rows[0]["changed"] == pytest.approx(rows[0]["floor"], abs=0.15)
    target = rows[1]["changed"] - rows[1]["floor"]
    assert choose_step_size(rows, target) == 0.3
    # Without the floor the empty step would have been nearest to a target of the noise's size.
    assert choose_step_size(rows, 0.0) == 1e-6


def test_a_target_beyond_the_grid_is_told():
    rows = [
        {"step_size": size, "changed": changed, "floor": 0.1}
        for size, changed in ((3.0, 0.4), (0.1, 0.11), (1.0, 0.2))
    ]
    assert beyond_grid(rows, 0.2) is None
    assert "step size 3 is at the edge" in beyond_grid(rows, 0.35)
    assert "try larger ones" in beyond_grid(rows, 0.35)
    assert "step size 0.1 is at the edge" in beyond_grid(rows, 0.005)
    assert "try smaller ones" in beyond_grid(rows, 0.005)


def test_zero_steps_beside_every_batch_measure_the_noise(engine, noisy, pairs):
    asked, config = make_questions("exchange", "validation", 12, 0), CONFIG.changed(candidates=4)
    stack = step(dpo_gradients(engine, pairs["exchange"][:10], **OPTIONS), 0.3)
    plays = [ValidationPlay(e, SYSTEMS["exchange"], asked, config, 0) for e in (engine, noisy)]
    found = [play.changes(stack) for play in plays]
    assert found[0].shape == found[1].shape == (10, 12)
    assert plays[0].noise() == {}
    # Ten candidates, four adapters a batch, of which one is the control.
    assert plays[1].noise()["controls"] == 4
    assert 0 < plays[1].noise()["noise_floor"] < 0.5
    noisy.share = 0.0  # the same numbers as an exact engine's, by way of zero steps
    quiet = ValidationPlay(noisy, SYSTEMS["exchange"], asked, config, 0)
    assert quiet.changes(stack).tolist() == found[0].tolist()
    assert quiet.noise() == {"controls": 4, "noise_floor": 0.0}


def test_mean_and_stderr():
    table = np.array([[0.0, 1.0, 2.0], [1.0, 1.0, 1.0]])
    mean, error = mean_and_stderr(table)
    assert mean.tolist() == [1.0, 1.0] and error == pytest.approx([1 / np.sqrt(3), 0.0])
    assert np.isnan(mean_and_stderr(table[:, :1])[1]).all()


def test_ties_and_json():
    scores = Scores(
        "x", np.array([0.0, 0.0, 1.0]), np.zeros(3), {"a": 1}, np.array([[0.0], [0.0], [1.0]])
    )
    assert scores.tie_share == pytest.approx(2 / 3)
    assert Scores.from_json(scores.to_json()).to_json() == scores.to_json()


def test_rank_correlation_and_reliability():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=200), rng.normal(size=200)
    noisy = x + y
    found = rank_correlation(x, noisy)
    assert (
        found["rho"] == pytest.approx(spearmanr(x, noisy).statistic)
        and found["low"] < found["rho"] < found["high"]
    )
    assert np.isnan(rank_correlation(x, np.zeros(200))["rho"])
    flat = [Scores("x", np.repeat([0.0, 1.0], [80, 20]), x), Scores("y", np.zeros(100), x)]
    # Ties alone agree no more than chance.
    assert reliability(*flat)["overlap"] == pytest.approx(0.5, abs=0.03)
    grouped = rank_correlation(
        np.repeat(x[:40], 5), np.repeat(noisy[:40], 5), groups=np.repeat(np.arange(40), 5)
    )
    alone = rank_correlation(np.repeat(x[:40], 5), np.repeat(noisy[:40], 5))
    # Five copies are not five observations.
    assert grouped["high"] - grouped["low"] > 1.5 * (alone["high"] - alone["low"])
    same = Scores("x", x, x)
    assert reliability(same, same)["overlap"] == 1.0
    # Intervals of unrelated scores cover zero about 95 times in 100.
    cover = [
        (r := rank_correlation(rng.normal(size=40), rng.normal(size=40), seed=i, resamples=200))[
            "low"
        ]
        < 0
        < r["high"]
        for i in range(100)
    ]
    assert 86 <= sum(cover) <= 100


def _response(*repeats: float) -> list[dict]:
    sizes = (0.1, 0.3, 1.0, 3.0)
    found = zip(sizes, (0.1, 0.2, 0.5, 0.9), repeats, strict=True)
    return [
        {"step_size": size, "changed": changed, "floor": 0.0, "repeatable": repeatable}
        for size, changed, repeatable in found
    ]


def test_the_step_can_be_chosen_by_what_repeats():
    nan = float("nan")
    cases = {  # scores repeat at, by step size: which is taken at a target of 0.5, and whether told
        (0.1, 0.6, 0.4, 0.9): (0.3, False),  # the smallest that reaches the target
        (0.5, 0.6, 0.4, 0.9): (0.1, False),
        (0.1, 0.2, 0.4, 0.3): (1.0, True),  # none reaches it: the one that repeats best
        (nan, -0.2, nan, -0.4): (0.3, True),  # scores that are all alike repeat worst
        (nan, 0.7, nan, nan): (0.3, False),
    }
    for repeats, (size, told) in cases.items():
        rows = _response(*repeats)
        assert choose_step_size(rows, 0.2, 0.5) == size
        assert (beyond_grid(rows, 0.2, 0.5) is not None) == told
        assert choose_step_size(rows, 0.2) == 0.3
    assert "1 repeats best, at 0.40" in beyond_grid(_response(0.1, 0.2, 0.4, 0.3), 0.2, 0.5)
