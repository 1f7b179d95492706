"""Learned scores: one-step influence of a part of the pairs, and a regression (scikit-learn) that
predicts it for all.

Features of a pair: the model's last hidden states, chosen minus rejected, averaged over the reply;
Q-values; lengths; log probabilities. A scored pair's own value never enters its prediction: it is
predicted by cross-validation, whole questions left out together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
import scipy
from pydantic import Field

from ...engines import derive_seed
from ...pairs import Pair
from ...tasks import Question
from ..base import Amount, Effort, Estimator, Options, ScoreError, Scores, ScoringContext
from .one_step import one_step

if TYPE_CHECKING:
    from ...engines import TransformersEngine


class LearnedOptions(Options):
    """`share`: of the pairs, that are scored; the rest is predicted."""

    share: Annotated[float, Field(gt=0, lt=1)] = 0.5


def learned(
    context: ScoringContext,
    pairs: list[Pair],
    questions: list[Question],
    seed: object,
    options: LearnedOptions,
) -> Scores:
    """Predictions for all pairs, with the regression's standard error; `cost` tells the
    cross-validated rank correlation with the scores that were measured.

    Raises:
        ScoreError: with fewer than 10 pairs to learn from, or from one question only.
    """
    from sklearn.model_selection import GroupKFold

    before = context.engine.snapshot()
    rng = np.random.default_rng(derive_seed(seed, "learned") % 2**32)
    known = np.sort(
        rng.choice(len(pairs), max(1, round(options.share * len(pairs))), replace=False)
    )
    groups = np.array([pair.question_id for pair in pairs])
    if len(known) < 10 or len(set(groups[known])) < 2:
        raise ScoreError(
            f"learned: share leaves {len(known)} pairs of {len(set(groups[known]))} questions to "
            "learn from; it takes 10 of 2"
        )
    measured = one_step(context, [pairs[i] for i in known], questions, seed)
    with context.engine.learning() as learner:
        table = features(learner, pairs)
    predicted, spread = np.zeros((len(pairs), measured.per_question.shape[1])), np.zeros(len(pairs))
    folds = GroupKFold(min(5, len(set(groups[known])))).split(known, groups=groups[known])
    parts = [(known[train], known[held]) for train, held in folds] + [
        (known, np.setdiff1d(np.arange(len(pairs)), known))
    ]
    row_of = {pair: row for row, pair in enumerate(known)}
    for train, asked in parts:
        if len(asked):
            predicted[asked], spread[asked] = fit_and_predict(
                table[train], measured.per_question[[row_of[i] for i in train]], table[asked]
            )
    value = predicted.mean(1)
    varied = value[known].std() > 0 and measured.value.std() > 0
    cost = {
        "gradients": len(known),
        "learned_from": len(known),
        "cross_validated_rho": float(scipy.stats.spearmanr(value[known], measured.value).statistic)
        if varied
        else 0.0,
    }
    return Scores.of_table(
        "learned", pairs, predicted, context.engine.usage.minus(before) | cost, spread
    )


def fit_and_predict(
    x: np.ndarray, y: np.ndarray, asked: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regression of y [n, V] on the leading components of x; its strength is the one that
    Bayesian ridge finds for y's mean.

    Returns predictions [asked, V] and the standard error of their means [asked].
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import BayesianRidge, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    reduce = make_pipeline(StandardScaler(), PCA(min(16, len(x) // 2, x.shape[1]), random_state=0))
    z, target = reduce.fit_transform(x), y.mean(1)
    if target.std() == 0:
        return np.tile(y.mean(0), (len(asked), 1)), np.zeros(len(asked))
    unit = target.std()  # the priors of BayesianRidge suit targets of unit size
    bayes = BayesianRidge().fit(z, target / unit)
    ridge = Ridge(alpha=bayes.lambda_ / bayes.alpha_).fit(z, y)
    there = reduce.transform(asked)
    return ridge.predict(there), unit * bayes.predict(there, return_std=True)[1]


def features(learner: TransformersEngine, pairs: list[Pair]) -> np.ndarray:
    """[pairs, features], see the module's text."""
    import torch

    rows = [(p.prompt_ids, ids) for p in pairs for ids in (p.chosen_ids, p.rejected_ids)]
    states = np.zeros((len(rows), learner.model.config.hidden_size))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
    for start in range(0, len(order), learner.max_rows):
        chunk = order[start : start + learner.max_rows]
        with torch.inference_mode():
            states[chunk] = _mean_states(learner, [rows[i] for i in chunk])
    # The states' own passes.
    learner.usage.prompt_tokens += sum(len(prompt) + len(reply) for prompt, reply in rows)
    likely = np.array([sum(row) for row in learner.logprobs(rows)]).reshape(-1, 2)
    lengths = np.array([[len(p.chosen_ids), len(p.rejected_ids), len(p.prompt_ids)] for p in pairs])
    q = np.array([[p.q_chosen, p.q_rejected, p.q_chosen - p.q_rejected] for p in pairs])
    return np.hstack(
        [states[::2] - states[1::2], q, lengths, likely, likely[:, :1] - likely[:, 1:]]
    )


def _mean_states(learner: TransformersEngine, rows) -> np.ndarray:
    import torch

    width = max(len(prompt) + len(reply) for prompt, reply in rows)
    ids = torch.tensor(
        [[*p, *r] + [0] * (width - len(p) - len(r)) for p, r in rows], device=learner.device
    )
    mask = torch.tensor(
        [[1] * (len(p) + len(r)) + [0] * (width - len(p) - len(r)) for p, r in rows],
        device=learner.device,
    )
    reply = torch.tensor(
        [[0] * len(p) + [1] * len(r) + [0] * (width - len(p) - len(r)) for p, r in rows],
        device=learner.device,
    )
    learner.lora.use(None)
    hidden = learner.model.base_model(
        input_ids=ids, attention_mask=mask, use_cache=False
    ).last_hidden_state.float()
    return (
        ((hidden * reply[:, :, None]).sum(1) / reply.sum(1, keepdim=True).clamp(min=1))
        .cpu()
        .numpy()
    )


def effort(amount: Amount) -> Effort:
    """One-step for a share of the pairs; hidden states of all."""
    some = ESTIMATOR.options_of(amount.settings).share * amount.pairs
    measured = amount.played_under(some) + Effort(gradient_rows=2 * some)
    return measured + Effort(gradient_rows=2 * amount.pairs)


ESTIMATOR = Estimator(
    "learned",
    learned,
    effort,
    options=LearnedOptions,
    scores_alone=False,
    own_stderr=True,
)
