"""Every estimator, by name: each file of `estimators/` that has an `ESTIMATOR`."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from ..agents import System
from ..engines import Engine
from ..pairs import Pair
from ..tasks import Question
from . import estimators
from .base import DPOLoss, Estimator, InfluenceSettings, Scores, ScoringContext, Training


def find_estimators() -> dict[str, Estimator]:
    """The estimators below `estimators/`, in the order of their names."""
    names = sorted(module.name for module in iter_modules(estimators.__path__))
    modules = [import_module(f"{estimators.__name__}.{name}") for name in names]
    found = [module.ESTIMATOR for module in modules]
    return {estimator.name: estimator for estimator in found}


ESTIMATORS = find_estimators()


def score_pairs(
    engine: Engine,
    system: System,
    pairs: list[Pair],
    questions: list[Question],
    step_size: float,
    seed: object,
    estimator: str = "one_step",
    settings: InfluenceSettings | None = None,
    loss: DPOLoss | None = None,
    training: Training | None = None,
) -> Scores:
    """Influence of pairs on the metric of validation questions, by an estimator.

    Args:
        step_size: eta of the gradient step; choose it with `step_response`.
        seed: of all randomness.
        estimator: a name in `ESTIMATORS`.
        settings: shared by estimators; None: those of `params/micro.yaml`.
        loss: whose gradient is the step; None: that of `params/micro.yaml`. Give it the beta and
            the NLL weight that the pairs are trained with.
        training: that the pairs are for, which `through_training` follows; None: that of
            `params/micro.yaml`.

    Raises:
        ValueError: for an unknown estimator.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator {estimator!r}; allowed: {', '.join(ESTIMATORS)}")
    settings, loss = settings or InfluenceSettings(), loss or DPOLoss()
    given = {"loss": loss, "training": training or Training()}
    context = ScoringContext(engine, system, step_size, settings, **given)
    return ESTIMATORS[estimator](context, pairs, questions, seed)
