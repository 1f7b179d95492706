"""The estimators against exact references: autograd through merged weights, and a system whose
expected metric can be enumerated."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from dits_lib.agents import System, Turn
from dits_lib.engines import Request, derive_seed
from dits_lib.influence import (
    ESTIMATORS,
    DPOLoss,
    InfluenceSettings,
    ScoreError,
    Scores,
    ScoringContext,
    Training,
    by_group,
    dpo_gradients,
    flatten,
    fresh_stack,
    mean_and_stderr,
    step,
)
from dits_lib.influence.base import check_scores
from dits_lib.influence.estimators.likelihood_adam import preconditioned
from dits_lib.influence.estimators.policy_gradient import leave_one_out_rows
from dits_lib.influence.estimators.tree_policy_gradient import tree_rows
from dits_lib.influence.unrolled import UnrolledDPO
from dits_lib.influence.validation_gradients import logprob_gradients, play_samples
from dits_lib.pairs import Pair
from dits_lib.search import SearchSettings, tree_search
from dits_lib.suite.studies.influence_fidelity import (
    cheapest_rows,
    fidelity_harm_rows,
    fidelity_rows,
)
from dits_lib.tasks import make_questions

from .conftest import ESTIMATOR_NAMES, SYSTEMS

CONFIG = InfluenceSettings(rank=4, policy_samples=4)


@dataclass(frozen=True)
class OneToken(System):
    """One agent says one token; its metric is a fixed number of that token, so the expected metric
    is a sum over the vocabulary."""

    max_new_tokens: int = 1
    name: str = "one_token"
    agents: tuple[str, ...] = ("solo",)
    metric_name: str = "score"

    def next_agent(self, question, turns):
        return None if turns else "solo"

    def messages(self, question, turns, agent):
        return [
            {"role": "system", "content": f"alice : {question.views['alice']} ask {question.text}"}
        ]

    def answer(self, question, turns):
        return turns[0].text

    def score(self, question, answer):
        return value_of(answer)


def value_of(text):
    return (sum(map(ord, text)) * 37 % 101) / 100


@pytest.fixture(scope="module")
def questions():
    return make_questions("exchange", "validation", 6, 0)


def prompts_of(engine, questions):
    from dits_lib.agents import prompt_ids

    return [prompt_ids(engine.tokenizer, OneToken(), q, (), "solo") for q in questions]


def expected_metric(engine, prompts, stack=None, index=0):
    """Exact: sum over the vocabulary of probability times metric, [questions]; differentiable."""
    texts = engine.decode([(token,) for token in range(engine.model.config.vocab_size)])
    values = torch.tensor([value_of(text) for text in texts])
    found = []
    for prompt in prompts:
        engine.lora.use(stack, None if stack is None else torch.tensor([index]))
        logits = engine.model(input_ids=torch.tensor([prompt])).logits[0, -1]
        engine.lora.use(None)
        found.append((logits.softmax(-1) * values).sum())
    return torch.stack(found)


@pytest.fixture(scope="module")
def token_pairs(engine, questions):
    """Pairs of one-token replies to the validation prompts themselves, so that a step on them
    matters."""
    rng = np.random.default_rng(0)
    pairs = []
    for n, prompt in enumerate(prompts_of(engine, questions) * 2):
        a, b = (int(t) for t in rng.choice(engine.model.config.vocab_size, 2, replace=False))
        pairs.append(
            Pair(f"p{n}", f"q{n % 6}", prompt, (a,), (b,), "", "", 1.0, 0.0, {"family": "own"})
        )
    return pairs


def exact_change(engine, questions, pairs, size, seed):
    prompts = prompts_of(engine, questions)
    steps = step(
        dpo_gradients(
            engine,
            pairs,
            loss=DPOLoss(),
            rank=CONFIG.rank,
            scaling=CONFIG.scaling,
            seed=derive_seed(seed, "lora"),
        ),
        size,
    )
    with torch.no_grad():
        base = expected_metric(engine, prompts)
        return np.array(
            [
                (expected_metric(engine, prompts, steps, i) - base).mean().item()
                for i in range(len(pairs))
            ]
        )


def test_log_probability_gradients_equal_autograd(engine, questions):
    played = play_samples(engine, OneToken(), questions[:3], 2, 1.0, 0)
    rows = [(d.turns[0].prompt_ids, d.turns[0].token_ids) for part in played for d in part]
    weights, owners = [0.5, -1.0, 0.0, 2.0, 1.0, 1.0], [0, 0, 1, 1, 2, 2]
    found = logprob_gradients(
        engine, rows, weights, owners, 3, rank=4, scaling=2.0, seed=1, batch=4
    )
    for owner in range(3):
        stack = fresh_stack(engine, 1, 4, 2.0, 1)
        leaves = [b.requires_grad_() for _, b in stack.weights.values()]
        total = sum(
            w * engine.teacher_forced([row], stack, torch.zeros(1, dtype=torch.long)).sum()
            for row, w, o in zip(rows, weights, owners, strict=False)
            if o == owner
        )
        for (_, b), expected in zip(
            found.weights.values(), torch.autograd.grad(total, leaves), strict=False
        ):
            assert torch.allclose(b[owner], expected[0], atol=1e-5)


def test_the_policy_gradient_tends_to_the_gradient_of_the_expected_metric(engine, questions):
    stack = fresh_stack(engine, 1, 4, 2.0, 3)
    leaves = [b.requires_grad_() for _, b in stack.weights.values()]
    exact = torch.cat(
        [
            g.flatten()
            for g in torch.autograd.grad(
                expected_metric(engine, prompts_of(engine, questions), stack).mean(), leaves
            )
        ]
    )
    cosines = []
    for samples in (8, 400):
        rows = leave_one_out_rows(
            play_samples(engine, OneToken(), questions, samples, 1.0, samples)
        )
        found = flatten(
            logprob_gradients(engine, *rows, len(questions), rank=4, scaling=2.0, seed=3)
        ).mean(0)
        cosines.append(torch.nn.functional.cosine_similarity(found, exact, dim=0).item())
    assert cosines[1] > 0.95 and cosines[1] > cosines[0]


def test_policy_gradient_and_importance_are_on_the_scale_of_the_step(
    engine, questions, token_pairs
):
    """Against the exact change of the expected metric; the size is small enough for first order."""
    for name, samples in (("policy_gradient", 250), ("importance", 50)):
        setting = ScoringContext(engine, OneToken(), 0.02, CONFIG.changed(policy_samples=samples))
        scores = ESTIMATORS[name](setting, token_pairs, questions, 5)
        exact = exact_change(engine, questions, token_pairs, 0.02, 5)
        assert spearmanr(scores.value, exact).statistic > 0.8
        assert np.polyfit(exact, scores.value, 1)[0] == pytest.approx(1, abs=0.3)
        assert scores.stderr.shape == (len(token_pairs),) and scores.per_question.shape == (
            len(token_pairs),
            len(questions),
        )


@pytest.mark.parametrize("rank", [0, 4])
def test_through_training_is_what_a_weight_does_to_the_metric_at_the_end(
    engine, questions, token_pairs, rank
):
    """Against the exact expected metric after whole trainings with one weight changed."""
    training = Training(steps=5, batch=4, learning_rate=3e-3 if rank else 3e-4, lora_rank=rank)
    config = CONFIG.changed(
        policy_samples=250, options={"through_training": {"orders": 1, "groups": 3}}
    )
    context = ScoringContext(engine, OneToken(), 1.0, config, training=training)
    scores = ESTIMATORS["through_training"](context, token_pairs, questions, 5)
    drawn = derive_seed(5, "order", 0) % 2**31
    run = UnrolledDPO(engine, token_pairs, context.loss, training, drawn)
    prompts, exact = prompts_of(engine, questions), []

    def at_end(weights):
        with run.speaking(run.train(weights)[-1]) as adapter, torch.no_grad():
            return float(expected_metric(engine, prompts, adapter).mean())

    for pair in range(len(token_pairs)):
        change = torch.zeros(len(token_pairs))
        change[pair] = 0.3
        exact.append((at_end(1 + change) - at_end(1 - change)) / 0.6)
    assert spearmanr(scores.value, exact).statistic > 0.8
    assert np.polyfit(exact, scores.value, 1)[0] == pytest.approx(1, abs=0.3)
    assert scores.per_question.shape == (len(token_pairs), 3)
    along = ESTIMATORS["along_training"](context, token_pairs, questions, 5)
    if not rank:  # an adapter starts at B = 0, where later steps change most of what a pair does
        assert spearmanr(along.value, exact).statistic > 0.6
    assert along.per_question.shape == (len(token_pairs), 4)


def test_dialogues_of_a_trained_model_are_said_where_the_speaker_takes_adapters(
    engine, questions, token_pairs, monkeypatch
):
    """vLLM reads adapters from files, while its learner trains on the GPU."""
    from types import SimpleNamespace

    from dits_lib.influence.estimators import through_training as module

    training = Training(steps=1, batch=4, learning_rate=3e-3, lora_rank=4)
    context = ScoringContext(engine, OneToken(), 1.0, CONFIG, training=training)
    run = UnrolledDPO(engine, token_pairs, context.loss, training, 0)
    places = []

    def played(speaker, system, part, samples, temperature, noise, adapter):
        places.extend({w.device.type for ab in adapter.weights.values() for w in ab})
        return []

    monkeypatch.setattr(module, "play_samples", played)
    speaker = SimpleNamespace(stack_device=torch.device("meta"))
    module.ends_said(context, run, speaker, run.start(), [questions], 0)
    assert places == ["meta"]


def test_leave_one_out_advantages_by_hand():
    from dits_lib.agents import Dialogue

    def spoken(metric):
        return Dialogue(
            "q",
            (Turn("solo", "x", (1,), (2,)), Turn("tool", "y", (3,), (4,), trainable=False)),
            "x",
            metric,
        )

    rows, weights, owners = leave_one_out_rows([[spoken(1.0), spoken(0.0), spoken(0.5)]])
    assert rows == [((2,), (1,))] * 3 and owners == [0, 0, 0]
    assert weights == pytest.approx([(1 - 0.25) / 3, (0 - 0.75) / 3, (0.5 - 0.5) / 3])


def test_tree_advantages_by_hand(engine):
    tree = tree_search(
        engine,
        OneToken(),
        make_questions("exchange", "validation", 1, 0),
        SearchSettings(repetitions=2, rollouts=3, merge_distance=0.0),
        0,
    )[0]
    rows, weights, owners = tree_rows([tree])
    root = tree.nodes[0]
    assert len(rows) == len(tree.nodes) - 1 and set(owners) == {0}
    for node, weight in zip(tree.nodes[1:], weights, strict=False):
        assert weight == pytest.approx((node.q - root.q) * node.visits / root.visits)
    assert sum(weights) == pytest.approx(0, abs=1e-9)  # a depth of one: the advantages average out


def test_preconditioning_keeps_lengths_and_evens_coordinates_out():
    gradients = torch.randn(50, 20, generator=torch.Generator().manual_seed(0)) * torch.logspace(
        -2, 2, 20
    )
    found = preconditioned(gradients)
    assert torch.allclose(found.norm(dim=1), gradients.norm(dim=1), rtol=1e-4)
    directions = found / found.norm(dim=1, keepdim=True)
    spread = directions.square().mean(0).sqrt()
    assert (
        spread.max() / spread.min()
        < 3
        < (gradients.square().mean(0).sqrt().max() / gradients.square().mean(0).sqrt().min())
    )


def test_groups_add_their_pairs_up(engine, questions, token_pairs):
    """A step on all pairs of a group moves the exact metric by the sum of the pairs' effects, to
    first order."""
    table = np.arange(12.0).reshape(4, 3)
    scores = by_group(Scores("x", table.mean(1), np.zeros(4), {}, table), ["a", "b", "a", "b"])
    assert scores.value.tolist() == [table[[0, 2]].sum(0).mean(), table[[1, 3]].sum(0).mean()]
    assert scores.per_question.tolist() == [
        (table[0] + table[2]).tolist(),
        (table[1] + table[3]).tolist(),
    ]


@pytest.mark.parametrize("name", ESTIMATOR_NAMES)
@pytest.mark.parametrize("task", ["exchange", "debate"])
def test_every_estimator_keeps_the_contract(name, task, engine, pairs):
    questions = make_questions(task, "validation", 10, 0)
    setting = ScoringContext(
        engine,
        SYSTEMS[task],
        10.0,
        CONFIG.changed(options={"group_design": {"count": 6, "steps": 4, "batch": 2}}),
        search=SearchSettings(repetitions=4),
    )
    some = pairs[task][: 24 if name == "learned" else 4]
    scores = ESTIMATORS[name](setting, some, questions, 0)
    assert scores.estimator == name and scores.value.shape == scores.stderr.shape == (len(some),)
    assert (
        np.isfinite(scores.value).all()
        and scores.value.std() >= 0
        and scores.per_question.shape[0] == len(some)
    )
    assert scores.cost["prompt_tokens"] > 0 and scores.cost["gradients"] >= (
        12 if name == "learned" else 4
    )
    assert scores.pair_ids == [pair.id for pair in some]
    again = ESTIMATORS[name](setting, some, questions, 0)
    assert again.value.tolist() == pytest.approx(scores.value.tolist(), abs=1e-6)
    assert Scores.from_json(scores.to_json()).value.tolist() == scores.value.tolist()


@pytest.mark.parametrize("name", ESTIMATOR_NAMES)
def test_an_empty_step_scores_zero_which_is_no_ranking(name, engine, pairs):
    if ESTIMATORS[name].uses_training:
        return  # it takes the steps of the training, whatever the size of this one
    setting = ScoringContext(
        engine, SYSTEMS["exchange"], 0.0, CONFIG, search=SearchSettings(repetitions=4)
    )
    questions = make_questions("exchange", "validation", 4, 0)
    some = pairs["exchange"][: 24 if name == "learned" else 4]
    with pytest.raises(ScoreError, match=f"{name}: all {len(some)} scores are -?0, which"):
        ESTIMATORS[name](setting, some, questions, 0)


@pytest.mark.parametrize("name", ESTIMATOR_NAMES)
def test_estimators_that_compare_samples_refuse_greedy_ones(name, engine, pairs):
    if not ESTIMATORS[name].needs_spread:
        return
    setting = ScoringContext(engine, SYSTEMS["exchange"], 0.3, CONFIG.changed(temperature=0.0))
    with pytest.raises(ScoreError, match="all alike at influence.temperature 0"):
        ESTIMATORS[name](setting, pairs["exchange"][:4], [], 0)


def test_a_race_that_is_settled_early_is_no_fault(pairs):
    """Its last questions are played by nobody."""
    some = pairs["exchange"][:2]
    table = np.array([[1.0, 1.0, np.nan], [-1.0, -0.5, np.nan]])
    scores = Scores.of_table("racing", some, table, {})
    assert ESTIMATORS["racing"].checked(scores, some) is scores
    with pytest.raises(ScoreError, match="1 of 3 validation questions gave no number"):
        ESTIMATORS["one_step"].checked(scores, some)


def test_scores_that_are_no_numbers_are_refused(pairs):
    some, table = pairs["exchange"][:3], np.arange(6.0).reshape(3, 2)

    def scores(**changed):
        fields = {"value": table.mean(1), "per_question": table} | changed
        return Scores("x", fields["value"], np.zeros(3), {}, fields["per_question"])

    check_scores(scores(), some)
    check_scores(scores(value=np.ones(3)), [some[0]] * 3)  # one pair three times is no fault
    for changed, message in (
        ({"value": np.array([1.0, np.nan, 2.0])}, f"1 of 3 .* not finite .*{some[1].id}"),
        ({"value": np.array([np.inf, 0.0, 2.0])}, "1 of 3 scores are not finite"),
        ({"per_question": np.array([[1, np.nan]] * 3)}, "1 of 2 validation questions gave no"),
        ({"value": np.full(3, 0.25)}, "all 3 scores are 0.25, which cannot tell"),
    ):
        with pytest.raises(ScoreError, match=message):
            check_scores(scores(**changed), some)


def test_one_sample_has_no_baseline():
    """The leave-one-out baseline needs another sample of the question."""
    with pytest.raises(
        ValueError, match="policy_samples\n  Input should be greater than or equal to 2"
    ):
        CONFIG.changed(policy_samples=1)


def test_requests_of_the_toy_system(engine, questions):
    """The enumerated distribution is the one that the engine samples."""
    prompt = prompts_of(engine, questions)[0]
    drawn = engine.generate([Request(prompt, seed, 1) for seed in range(2000)])
    mean = np.mean([value_of(c.text) for c in drawn])
    assert mean == pytest.approx(expected_metric(engine, [prompt])[0].item(), abs=0.03)


# The study of notebook 06


def noisy_jobs(spread, noise, count=400, width=64, seed=0):
    """Two scorings of pairs whose true scores have this spread, each question adding independent
    noise; one pair a question."""
    rng = np.random.default_rng(seed)
    true = spread * rng.normal(size=count)
    return [
        {
            "task": "exchange",
            "estimator": "one_step",
            "side": side,
            "V": width,
            "seconds": 40.0,
            "question": [f"q{i}" for i in range(count)],
            "table": (true[:, None] + noise * rng.normal(size=(count, width))).tolist(),
        }
        for side in (0, 1)
    ]


def test_reliability_follows_the_closed_form():
    """Test-retest correlation of means over V is var / (var + noise^2 / V) (Spearman-Brown)."""
    runs = [
        [row for row in fidelity_rows(noisy_jobs(1.0, 4.0, seed=seed)) if row["unit"] == "pair"]
        for seed in range(4)
    ]
    assert [row["V"] for row in runs[0]] == [8, 16, 32, 64] and all(
        row["low"] < row["mean"] < row["high"] for row in runs[0]
    )
    # Four runs of 400 pairs: the mean has a standard error of 0.025.
    for rows in zip(*runs, strict=False):
        pearson = 1 / (1 + 16 / rows[0]["V"])
        assert np.mean([row["mean"] for row in rows]) == pytest.approx(
            6 / np.pi * np.arcsin(pearson / 2), abs=0.05
        )
    assert [row["seconds"] for row in runs[0]] == pytest.approx([5, 10, 20, 40])


def test_groups_of_pairs_are_more_repeatable():
    jobs = noisy_jobs(1.0, 8.0)
    for job in jobs:
        job["question"] = [f"q{i // 8}" for i in range(400)]
    table = np.array(jobs[0]["table"])
    assert [row["n"] for row in fidelity_rows(jobs)][:3] == [400, 50, 50]
    assert by_group(
        Scores("x", *mean_and_stderr(table), per_question=table), jobs[0]["question"]
    ).per_question.shape == (50, 64)


def test_an_offset_repeats_by_the_number_of_pairs_and_centring_shows_it():
    """Scores of pure noise around an offset; the questions have 1 to 15 pairs."""
    rng, jobs = np.random.default_rng(0), noisy_jobs(0.0, 1.0)
    groups = [f"q{i}" for i in range(50) for _ in range(1 + int(rng.integers(15)))][:400]
    for job in jobs:
        job["question"], job["table"] = (
            groups,
            (np.array(job["table"])[: len(groups)] + 1.0).tolist(),
        )
    found = {row["unit"]: row["mean"] for row in fidelity_rows(jobs, (1.0,))}
    assert (
        found["question"] > 0.9
        and abs(found["pair"]) < 0.2
        and abs(found["question, centred"]) < 0.3
    )


def test_the_cheapest_estimator_is_the_brute_force_one():
    rows = [
        {"task": "t", "unit": "pair", "estimator": name, "V": 1, "mean": mean, "seconds": seconds}
        for name, mean, seconds in (("a", 0.75, 9.0), ("b", 0.72, 3.0), ("c", 0.4, 1.0))
    ]
    found = {row["reliability"]: row["estimator"] for row in cheapest_rows(rows)}
    assert found == {0.3: "c", 0.5: "b", 0.7: "b", 0.8: "none here"}


def test_auc_and_harm_rows_by_brute_force():
    rng = np.random.default_rng(0)
    jobs = noisy_jobs(1.0, 1.0, count=60, width=4)
    harmful = np.repeat(rng.random(20) < 0.4, 3)
    for job in jobs:
        job |= {
            "question": [f"q{i // 3}" for i in range(60)],
            "harmful": harmful.tolist(),
            "q": rng.random(60).tolist(),
        }
    value = np.concatenate([np.array(job["table"]) for job in jobs], axis=1).mean(1)
    brute = np.mean([(s > b) + 0.5 * (s == b) for s in value[~harmful] for b in value[harmful]])
    rows = {(row["score"], row["unit"]): row for row in fidelity_harm_rows(jobs, 50)}
    assert rows["one_step", "pair"]["AUC"] == pytest.approx(brute) and set(rows) == {
        (s, u) for s in ("one_step", "q_value") for u in ("pair", "question")
    }
    assert (
        rows["one_step", "question"]["n"] == 20
        and rows["one_step", "question"]["harmful"] == harmful.sum() / 3
    )
    assert rows["one_step", "pair"]["low"] < brute < rows["one_step", "pair"]["high"]


def test_a_temperature_other_than_one_is_that_of_the_gradient(engine, questions):
    """E[F] under sampling at T = 0.5, enumerated; the samples' log probabilities must be at that
    temperature too."""
    stack = fresh_stack(engine, 1, 4, 2.0, 3)
    leaves = [b.requires_grad_() for _, b in stack.weights.values()]
    texts = engine.decode([(token,) for token in range(engine.model.config.vocab_size)])
    values, total = torch.tensor([value_of(text) for text in texts]), 0.0
    for prompt in prompts_of(engine, questions):
        engine.lora.use(stack, torch.tensor([0]))
        total = total + (
            (engine.model(input_ids=torch.tensor([prompt])).logits[0, -1] / 0.5).softmax(-1)
            * values
        ).sum() / len(questions)
        engine.lora.use(None)
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(total, leaves)])
    rows = leave_one_out_rows(play_samples(engine, OneToken(), questions, 250, 0.5, 1))
    found = flatten(
        logprob_gradients(
            engine, *rows, len(questions), rank=4, scaling=2.0, seed=3, temperature=0.5
        )
    ).mean(0)
    assert torch.nn.functional.cosine_similarity(found, exact, dim=0) > 0.9
    assert float(found.norm() / exact.norm()) == pytest.approx(1, abs=0.25)


def test_blocks_of_gradients_change_nothing(engine, pairs):

    questions = make_questions("exchange", "validation", 4, 0)
    for name in ("one_step", "policy_gradient", "importance", "dpo_loss"):
        values = [
            ESTIMATORS[name](
                ScoringContext(
                    engine,
                    SYSTEMS["exchange"],
                    0.3,
                    CONFIG.changed(gradient_block=block),
                    7,
                    SearchSettings(repetitions=4),
                ),
                pairs["exchange"][:5],
                questions,
                0,
            ).value
            for block in (2, 1024)
        ]
        assert values[0].tolist() == pytest.approx(values[1].tolist(), abs=1e-5), name
