"""The estimators by bergson: its gradients against ours, its preconditioners against closed forms;
and what is said where it is not installed."""

import logging

import numpy as np
import pytest
import torch

from dits_lib.engines import derive_seed
from dits_lib.influence import (
    ESTIMATORS,
    DPOLoss,
    InfluenceSettings,
    ScoreError,
    ScoringContext,
    dpo_gradients,
    flatten,
    peers,
)
from dits_lib.influence.estimators.bergson_ekfac import grouped, mean_length
from dits_lib.influence.estimators.bergson_trackstar import (
    TrackStarOptions,
    conditioned,
    processor_of,
)
from dits_lib.influence.estimators.policy_gradient import leave_one_out_rows
from dits_lib.influence.validation_gradients import logprob_gradients, play_samples
from dits_lib.suite.checks import InputError, check_inputs
from dits_lib.suite.params import load_params
from dits_lib.suite.pipeline import Pipeline, read_scores
from dits_lib.suite.store import Store
from dits_lib.tasks import make_questions

from .conftest import SYSTEMS, needs_bergson

NAMES = ("bergson_trackstar", "bergson_ekfac")
LORA = {"rank": 8, "scaling": 2.0, "seed": 1}


def as_lora(engine, gradients, stack):
    """What gradients {layer: [n, out * in]} by the weights are by a fresh adapter's B, in the order
    of `flatten`: scaling * G A^T."""
    parts = []
    for name, layer in engine.lora.modules.items():
        whole = gradients[name.removeprefix("model.")]
        whole = whole.view(-1, layer.out_features, layer.in_features)
        parts.append((stack.scaling * whole @ stack.weights[name][0].T).flatten(1))
    return torch.cat(parts, dim=1)


def check_alike(found, expected):
    """Rows of the same direction and length."""
    assert torch.cosine_similarity(found, expected).min() >= 0.999
    assert torch.allclose(found.norm(dim=1), expected.norm(dim=1), rtol=1e-3)


@needs_bergson
@pytest.mark.parametrize("task", ["exchange", "debate"])
@pytest.mark.parametrize("kind", ["policy", "reference", "nll"])
def test_gradients_of_pairs_are_ours(engine, pairs, task, kind):
    """Of all pairs of a file, without projection; their own forward pass, padding and loss."""
    some, loss = pairs[task], DPOLoss(0.3, 0.5 if kind == "nll" else 0.0)
    if kind == "reference":
        known = {pair.id: (-3.0 - n % 5, -4.0 + n % 3) for n, pair in enumerate(some)}
        loss = DPOLoss(0.3, 0.0, known)
    ours = dpo_gradients(engine, some, loss=loss, **LORA)
    wanting = [weight.requires_grad for weight in engine.model.parameters()]
    printing = logging.root.handlers[:], logging.root.level, logging.root.manager.disable
    given = peers.pair_rows(engine, some, loss)
    found = peers.summed_gradients(engine, given, len(some), batch=16)
    check_alike(as_lora(engine, found, ours), flatten(ours))
    assert wanting == [weight.requires_grad for weight in engine.model.parameters()]
    assert all(weight.grad is None for weight in engine.model.parameters())
    now = logging.root.handlers[:], logging.root.level, logging.root.manager.disable
    assert now == printing


@needs_bergson
def test_the_gradient_of_the_target_is_ours(engine):
    """Of dialogues sampled at a temperature other than 1."""
    questions = make_questions("debate", "validation", 4, 0)
    played = play_samples(engine, SYSTEMS["debate"], questions, 6, 0.7, 0)
    rows = leave_one_out_rows(played)
    ours = logprob_gradients(engine, *rows, 4, temperature=0.7, **LORA)
    found = peers.summed_gradients(engine, rows, 4, temperature=0.7)
    spread = flatten(ours).norm(dim=1) > 0
    assert spread.sum() >= 2
    check_alike(as_lora(engine, found, ours)[spread], flatten(ours)[spread])
    assert not as_lora(engine, found, ours)[~spread].any()


@needs_bergson
def test_the_inverse_root_is_that_of_the_second_moment(engine):
    """Of made-up gradients, fewer than their size: the damping decides the rest."""
    generator = torch.Generator().manual_seed(0)
    sizes = {"a": 9, "b": 4}
    steps, wanted = (
        {name: torch.randn(n, size, generator=generator) for name, size in sizes.items()}
        for n in (6, 3)
    )
    options = TrackStarOptions(damping=0.2)
    found = conditioned(steps, wanted, options)
    roots = {}
    for name, g in steps.items():
        values, vectors = np.linalg.eigh((g.T @ g / len(g)).double().numpy())
        scale = 1 / np.sqrt(values.clip(0) + 0.2 * values.clip(0).mean())
        roots[name] = vectors @ np.diag(scale) @ vectors.T
    expected = [
        np.concatenate([side[n].double().numpy() @ roots[n] for n in sizes], axis=1)
        for side in (steps, wanted)
    ]
    expected[0] /= np.linalg.norm(expected[0], axis=1, keepdims=True)
    for new, known, side in zip(found, expected, (steps, wanted), strict=True):
        length = torch.cat([*side.values()], dim=1).norm(dim=1).mean().item()
        known *= length / np.linalg.norm(known, axis=1).mean()
        assert np.allclose(new.numpy(), known, atol=1e-4)


@needs_bergson
def test_ekfac_turns_less_the_more_it_is_damped(engine, pairs):
    """F is symmetric and positive, so that no target is turned away; damping far beyond its largest
    eigenvalue leaves every layer's direction alone."""
    some = pairs["debate"][:6]
    given = peers.pair_rows(engine, some, DPOLoss())
    target = peers.summed_gradients(engine, given, len(some))
    angles = {}
    for damping in (0.01, 1e8):
        turned = peers.inverse_fisher(engine, target, given, damping=damping, seed=0)
        assert turned.keys() == target.keys()
        products = sum(turned[name] @ g.T for name, g in target.items())
        assert torch.allclose(products, products.T, rtol=1e-3, atol=1e-3 * products.abs().max())
        inner = [(turned[name] * g).sum(1) / g.norm(dim=1) for name, g in target.items()]
        angles[damping] = torch.stack(
            [part / turned[name].norm(dim=1) for part, name in zip(inner, target, strict=True)]
        )
    assert angles[0.01].min() > 0 and angles[0.01].min() < 0.9
    assert angles[1e8].min() > 0.999


@needs_bergson
def test_scored_rows_are_inner_products(engine, pairs):
    some = pairs["exchange"][:5]
    given = peers.pair_rows(engine, some, DPOLoss())
    steps = peers.summed_gradients(engine, given, len(some))
    target = {name: gradients[:2] for name, gradients in steps.items()}
    found = peers.scored_rows(engine, given, len(some), target, batch=3)
    expected = sum(steps[name] @ target[name].T for name in steps)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_groups_of_questions_are_means():
    rows, weights, owners = grouped((["a", "b", "c"], [1.0, 2.0, 3.0], [0, 1, 2]), 3, 2)
    assert rows == ["a", "b", "c"] and weights == [0.5, 2.0, 1.5] and owners == [0, 1, 0]
    lengths = {"x": torch.tensor([[3.0], [0.0]]), "y": torch.tensor([[4.0], [1.0]])}
    assert mean_length(lengths) == pytest.approx(3.0)


@needs_bergson
def test_projected_products_are_unbiased(engine, pairs):
    """Over projections their mean is the product of the whole gradients, within its error."""
    some = pairs["debate"][:4]
    given = peers.pair_rows(engine, some, DPOLoss())
    whole = torch.cat([*peers.summed_gradients(engine, given, 4).values()], dim=1)
    drawn = []
    for seed in range(40):
        processor = processor_of(TrackStarOptions(), seed)
        part = peers.summed_gradients(engine, given, 4, processor=processor)
        assert all(gradients.shape == (4, 16 * 16) for gradients in part.values())
        short = torch.cat([*part.values()], dim=1)
        drawn.append(short @ short.T)
    drawn = torch.stack(drawn)
    error = drawn.std(0) / len(drawn) ** 0.5
    assert ((drawn.mean(0) - whole @ whole.T).abs() < 4 * error).all()
    assert drawn.std(0).min() > 0


@needs_bergson
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_first_order_changes_of_the_metric(name, engine, pairs):
    """`-eta <g_z, grad E[F]>`: of projected gradients, where nothing else is done to them; or of
    whole ones, the target turned by F and brought back to its length, for groups of questions."""
    some, questions = pairs["debate"][:6], make_questions("debate", "validation", 5, 0)
    options = {
        "bergson_trackstar": {"preconditioned": False, "normalised": False},
        "bergson_ekfac": {"damping": 0.3, "groups": 2},
    }
    settings = InfluenceSettings(policy_samples=6, options=options)
    context = ScoringContext(engine, SYSTEMS["debate"], 0.5, settings, lora_seed=3)
    found = ESTIMATORS[name](context, some, questions, 7)
    noise = derive_seed(7, "policy")
    rows = leave_one_out_rows(play_samples(engine, SYSTEMS["debate"], questions, 6, 1.0, noise))
    given = peers.pair_rows(engine, some, context.loss)
    processor = processor_of(TrackStarOptions(), 3) if name == "bergson_trackstar" else None
    steps, wanted = (
        peers.summed_gradients(engine, part, count, processor=processor)
        for part, count in ((given, 6), (rows, 5))
    )
    expected = sum(-0.5 * steps[layer] @ wanted[layer].T for layer in steps).numpy()
    if name == "bergson_ekfac":
        drawn = derive_seed(7, "labels") % 2**31
        turned = peers.inverse_fisher(engine, wanted, given, damping=0.3, seed=drawn)
        plain, turned = (
            {n: torch.stack([g[::2].mean(0), g[1::2].mean(0)]) for n, g in side.items()}
            for side in (wanted, turned)
        )
        scale = -0.5 * mean_length(plain) / mean_length(turned)
        expected = sum(scale * steps[n] @ turned[n].T for n in steps).numpy()
    assert found.per_question.shape == expected.shape
    assert np.allclose(found.per_question, expected, rtol=1e-3, atol=1e-4 * abs(expected).max())


@needs_bergson
@pytest.mark.parametrize("name", NAMES)
def test_they_score_in_the_smoke_profile(name, tmp_path):
    """As a stage, named by SET as docs/guide.md says; the store finds the scores again."""
    change = ["tasks=[exchange]", f"influence.estimator={name}", "influence.policy_samples=4"]
    lab = Pipeline(load_params("smoke", change), "exchange", Store(tmp_path))
    base = lab.base_model()
    searched = lab.search(base, "train", 4, 0)
    scored = lab.score(base, searched, 3.0, 4, 0)
    scores = read_scores(scored, searched)
    assert scores.estimator == name and np.isfinite(scores.value).all()
    assert len(scores.value) == len(lab.pairs(searched)) and np.ptp(scores.value) > 0
    assert lab.score(base, searched, 3.0, 4, 0).key == scored.key


@pytest.fixture
def without_bergson(monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda name: None)


@pytest.mark.parametrize("name", NAMES)
def test_without_bergson_one_line_says_what_to_run(name, without_bergson):
    with pytest.raises(ScoreError, match=f"{name}, which needs .* run make setup PEERS=1"):
        ESTIMATORS[name](None, [], [], 0)
    keys = {
        f"fidelity.validation={{{name}: 4}}": ("fidelity.validation", "06_influence_fidelity"),
        f"influence.estimator={name}": ("influence.estimator", "03_selection_ablation"),
    }
    for change, (key, notebook) in keys.items():
        with pytest.raises(InputError) as error:
            check_inputs(load_params("smoke", [change]), [notebook])
        assert str(error.value) == (
            f"{key} names {name}, which needs the package bergson: run make setup PEERS=1, or "
            "leave it out"
        )


def test_profiles_need_no_peers(without_bergson):
    for profile in ("smoke", "micro", "fidelity"):
        check_inputs(load_params(profile), ["01_rollout"])
