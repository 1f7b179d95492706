"""What every influence estimator takes, gives, and says of itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from ..agents import System
from ..engines import Engine, derive_seed
from ..pairs import Pair, PairSettings
from ..search import SearchSettings
from ..settings import Count, Positive, Settings, defaults
from ..settings.kinds import AtLeastTwo, CountOrZero
from ..tasks import Question


class ScoreError(RuntimeError):
    """Scores that cannot tell pairs apart; in one line, with the reason."""


class InfluenceSettings(Settings):
    """Settings that several estimators share.

    Attributes:
        rank, scaling: of the LoRA adapters.
        lora_draws: random A matrices of a scoring; each n-th of the validation questions is scored
            under its own.
        lora_seed: of A, for every scoring; None: each scoring draws its own.
        warmup_steps: of DPO on all pairs, before they are scored (`Pipeline.warmed`).
        samples: dialogues of each validation question.
        temperature: of those dialogues; 0 is greedy.
        candidates: adapters whose dialogues share a batch.
        gradient_rows: pairs that share a forward and backward pass, at most.
        gradient_tokens: of their prompts and replies in that pass, padding included, at most (one
            pair is always read); None: any number.
        gradient_checkpointing: compute activations again on the way back instead of keeping them.
        gradient_block: pairs whose gradients are held at once (some estimators hold all).
        policy_samples: dialogues of each validation question, for the estimators that do not play
            under each candidate.
        options: {estimator: {setting: value}}, where other than in the estimator's own file.
    """

    section: ClassVar = "influence"

    samples: Count
    temperature: Annotated[float, Field(ge=0, le=5)]
    rank: Annotated[int, Field(ge=1, le=256)]
    scaling: Positive
    lora_draws: Annotated[int, Field(ge=1, le=1000)]
    lora_seed: Annotated[int, Field(ge=0, lt=2**31)] | None
    warmup_steps: CountOrZero
    candidates: Count
    gradient_rows: Count
    gradient_tokens: Count | None
    gradient_checkpointing: bool
    gradient_block: Count
    policy_samples: AtLeastTwo
    options: dict[str, dict[str, object]]


@dataclass(frozen=True)
class DPOLoss:
    """The loss whose gradient is the influence step: that of the training (section `dpo`), so that
    what scores a pair is what a step of the training on it would do.

    `loss = -log sigmoid(beta * (log pi/ref (chosen) - log pi/ref (rejected))) - nll_weight *
    mean over the chosen tokens of log pi` (Rafailov et al., 2023, eq. 7; the second term as TRL
    weighs its loss types `sigmoid` and `sft`).

    Attributes:
        beta: strength of the tie to the reference.
        nll_weight: of the second term; 0 leaves it out.
        reference: {`Pair.id`: (log ref(chosen), log ref(rejected))} in nats, where the reference is
            another model than the policy before its step; None: it is that policy.
    """

    beta: float = field(default_factory=lambda: defaults("dpo")["beta"])
    nll_weight: float = field(default_factory=lambda: defaults("dpo")["nll_weight"])
    reference: Mapping[str, tuple[float, float]] | None = None

    def key(self) -> dict:
        """What decides it, but for the reference, which follows from the models."""
        return {"beta": self.beta, "nll_weight": self.nll_weight}


@dataclass(frozen=True)
class Training:
    """What decides a DPO training beside its loss (section `dpo`), for the estimators that follow
    one from its start to its end.

    Attributes:
        steps, batch: optimiser steps, and pairs of a step.
        learning_rate: peak.
        lora_rank: of the adapter that is trained; 0: all weights are.
    """

    steps: int = field(default_factory=lambda: defaults("dpo")["steps"])
    batch: int = field(default_factory=lambda: defaults("dpo")["batch"])
    learning_rate: float = field(default_factory=lambda: defaults("dpo")["learning_rate"])
    lora_rank: int = field(default_factory=lambda: defaults("dpo")["lora_rank"])

    @classmethod
    def of(cls, settings) -> Training:
        """From settings that have the same names, such as `DPOSettings`."""
        return cls(**{f.name: getattr(settings, f.name) for f in fields(cls)})


@dataclass(frozen=True)
class ScoringContext:
    """What every estimator is given beside pairs and questions.

    Attributes:
        engine, system: the policy and the agents.
        step_size: eta of the step.
        settings: shared by estimators.
        lora_seed: of the LoRA's A; None: that of the settings, or one of each scoring's own. Scores
            under one A can be compared without the noise of projection.
        search, pairs: how trees and pairs of validation questions are made, by the estimators that
            need them.
        alpha: share of the pairs that will be kept: estimators that spend their questions around
            the cut need it.
        loss: whose gradient is the step; by default that of params/micro.yaml.
        initial: the model before any training, for the reward of those trees where
            `search.fluency_weight` is not 0.
        training: that the pairs are for; by default that of params/micro.yaml.
    """

    engine: Engine
    system: System
    step_size: float
    settings: InfluenceSettings
    lora_seed: int | None = None
    search: SearchSettings = field(default_factory=SearchSettings)
    pairs: PairSettings = field(default_factory=PairSettings)
    alpha: float = field(default_factory=lambda: defaults("selection")["alpha"])
    loss: DPOLoss = field(default_factory=DPOLoss)
    initial: Engine | None = None
    training: Training = field(default_factory=Training)

    def lora(self, seed: object) -> int:
        """The seed of A for a scoring of this seed."""
        given = self.settings.lora_seed if self.lora_seed is None else self.lora_seed
        return derive_seed(seed, "lora") if given is None else given


@dataclass
class Scores:
    """Influence of each pair on the validation metric: positive is helpful.

    Attributes:
        estimator: its name.
        value: [n_pairs].
        stderr: [n_pairs], standard error over the validation questions (or pairs).
        cost: tokens, and whatever else the estimator spends.
        per_question: [n_pairs, V], the terms whose mean is `value`, NaN where a pair did not play a
            question; None if there are none.
        pair_ids: [n_pairs], `Pair.id` of each.
    """

    estimator: str
    value: np.ndarray
    stderr: np.ndarray
    cost: dict = field(default_factory=dict)
    per_question: np.ndarray | None = None
    pair_ids: list[str] = field(default_factory=list)

    @property
    def tie_share(self) -> float:
        """Share of the pairs whose value another pair has too."""
        _, counts = np.unique(self.value, return_counts=True)
        return float(counts[counts > 1].sum() / max(1, len(self.value)))

    @staticmethod
    def of_table(
        estimator: str, pairs: list[Pair], table: np.ndarray, cost: dict, stderr=None
    ) -> Scores:
        """Scores of pairs from their table [n_pairs, V].

        Args:
            stderr: [n_pairs], where it is not that of the table's rows.
        """
        value, error = mean_and_stderr(table)
        ids = [pair.id for pair in pairs]
        return Scores(estimator, value, error if stderr is None else stderr, cost, table, ids)

    @staticmethod
    def joined(
        parts: list[Scores], sizes: list[int], by_question: bool = True, own_stderr: bool = False
    ) -> Scores:
        """One scoring from several of the same pairs, part d on each n-th validation question from
        the d-th on.

        Tables with one column for each question are put together in the questions' order. Of others
        the values are averaged, weighted by the questions; their table then has one column for each
        part, whose mean is that average.

        Args:
            sizes: validation questions of each part.
            by_question: whether tables that have as many columns as questions have one for each.
            own_stderr: whether the parts' standard errors are other than those of their tables'
                rows.
        """
        first, count = parts[0], len(parts)
        weights = np.array(sizes) / sum(sizes)
        tables = [part.per_question for part in parts]
        own = own_stderr
        if by_question and [table.shape[1] for table in tables] == sizes:
            whole = np.empty((len(first.value), sum(sizes)))
            for start, table in enumerate(tables):
                whole[:, start::count] = table
        else:
            whole = np.stack([count * w * p.value for w, p in zip(weights, parts, strict=True)], 1)
            own = True
        stderr = mean_and_stderr(whole)[1]
        if own:
            # The parts share no question and no A, so that their errors are independent.
            errors = np.stack([w * p.stderr for w, p in zip(weights, parts, strict=True)])
            stderr = np.sqrt((errors**2).sum(axis=0))
        value, cost = mean_and_stderr(whole)[0], joined_cost([part.cost for part in parts], weights)
        return Scores(first.estimator, value, stderr, cost, whole, first.pair_ids)

    def to_json(self) -> dict:
        table = None if self.per_question is None else np.round(self.per_question, 9).tolist()
        return {
            "estimator": self.estimator,
            "pair_ids": self.pair_ids,
            "value": self.value.tolist(),
            "stderr": self.stderr.tolist(),
            "cost": self.cost,
            "per_question": table,
        }

    @staticmethod
    def from_json(row: dict) -> Scores:
        table = None if row["per_question"] is None else np.array(row["per_question"])
        value, stderr = np.array(row["value"]), np.array(row["stderr"])
        return Scores(row["estimator"], value, stderr, row["cost"], table, row["pair_ids"])


def joined_cost(costs: list[dict], weights: np.ndarray) -> dict:
    """What several parts of a scoring cost together: counts are added up, shares and the like
    averaged by the parts' weights."""
    total: dict = {}
    for name in dict.fromkeys(name for cost in costs for name in cost):
        found = [cost.get(name, 0) for cost in costs]
        if name == "noise_floor":
            many = [cost.get("controls", 0) for cost in costs]
            total[name] = float(np.sqrt(np.average(np.square(found), weights=many)))
        elif name == "effective_samples_least":
            total[name] = min(found)
        elif all(isinstance(value, int) for value in found):
            total[name] = sum(found)
        else:
            total[name] = float(np.dot(weights, found))
    return total


def check_scores(
    scores: Scores, pairs: list[Pair], every_question: bool = True, may_tie: bool = False
) -> None:
    """See that scores tell their pairs apart.

    Args:
        every_question: whether each question must have a number; a race that is settled early plays
            the last ones for no pair.
        may_tie: let scores pass that are all equal.

    Raises:
        ScoreError: for scores that are not finite, a question that no pair has a number for, or
            scores that are all equal though the pairs differ.
    """
    name, table = scores.estimator, scores.per_question
    bad = np.flatnonzero(~np.isfinite(scores.value))
    if len(bad):
        raise ScoreError(
            f"{name}: {len(bad)} of {len(pairs)} scores are not finite (the first of pair "
            f"{pairs[bad[0]].id}); {_REASONS}"
        )
    if every_question and table is not None and np.isnan(table).all(axis=0).any():
        count = int(np.isnan(table).all(axis=0).sum())
        raise ScoreError(
            f"{name}: {count} of {table.shape[1]} validation questions gave no number for any "
            f"pair; {_REASONS}"
        )
    different = len({(p.prompt_ids, p.chosen_ids, p.rejected_ids) for p in pairs}) > 1
    if different and not may_tie and len(np.unique(scores.value)) == 1:
        raise ScoreError(
            f"{name}: all {len(pairs)} scores are {scores.value[0]:g}, which cannot tell the pairs "
            f"apart; {_REASONS}"
        )


_REASONS = (
    "try larger influence.step_sizes, more validation questions or samples, or an "
    "influence.temperature above 0, and see that the model gives answers at all"
)


def mean_and_stderr(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and its standard error over the last axis, NaN left out; the error is NaN for one
    column.

    Means are rounded to 9 digits, so that equal scores are equal numbers whatever order they were
    added in.
    """
    count = (~np.isnan(table)).sum(axis=-1)
    if table.shape[-1] > 1:
        spread = np.nanstd(table, axis=-1, ddof=1) / np.sqrt(count)
    else:
        spread = np.full(table.shape[:-1], np.nan)
    return np.nanmean(table, axis=-1).round(9), spread


@dataclass(frozen=True)
class Effort:
    """What a scoring takes, before it is run; `make plan` turns it into tokens and hours.

    Attributes:
        dialogues: played by the policy itself.
        stepped_dialogues: played under the adapters of candidates.
        gradient_rows: prompts with a reply that are read with a backward pass (a pair has two).
        forward_rows: those that are read without one.
    """

    dialogues: float = 0.0
    stepped_dialogues: float = 0.0
    gradient_rows: float = 0.0
    forward_rows: float = 0.0

    def __add__(self, other: Effort) -> Effort:
        return Effort(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Effort)))

    def times(self, count: float) -> Effort:
        return Effort(*(getattr(self, f.name) * count for f in fields(Effort)))


@dataclass(frozen=True)
class Amount:
    """How much is to be scored.

    Attributes:
        pairs, questions: candidates, and validation questions V.
        searched: questions that the pairs come from.
        rollouts: dialogues of the search of one question.
        settings: shared by estimators.
        exact: whether the engine's numbers do not depend on the batch: see `ValidationPlay`.
        training: that the pairs are for.
        alpha: share of the pairs that will be kept.
    """

    pairs: float
    questions: float
    searched: float
    rollouts: float
    settings: InfluenceSettings
    exact: bool = True
    training: Training = field(default_factory=Training)
    alpha: float = field(default_factory=lambda: defaults("selection")["alpha"])

    def played_under(self, candidates: float) -> Effort:
        """A `ValidationPlay` of so many candidates: their dialogues, and those of the base policy;
        for an engine that is not exact the base is a step of zero, and one more goes beside every
        batch."""
        each = self.questions * self.settings.samples
        if self.exact:
            return Effort(dialogues=each, stepped_dialogues=candidates * each)
        batches = math.ceil(candidates / max(1, self.settings.candidates - 1))
        return Effort(stepped_dialogues=(candidates + 1 + batches) * each)


def over_draws(
    scored: Callable[[int, list], Scores],
    items: list,
    draws: int,
    lora_seed: int,
    **columns: bool,
) -> Scores:
    """A scoring under several draws of A, `Scores.joined`: draw d takes each `draws`-th validation
    question from the d-th on. One draw is that of `lora_seed`.

    Args:
        scored: (seed of A, questions) -> scores.
        items: validation questions, or whatever stands for them.
        columns: what `Scores.joined` must know of the tables.

    Raises:
        ScoreError: for more draws than questions, before anything is computed.
    """
    if draws > len(items):
        raise ScoreError(
            f"influence.lora_draws is {draws}, but there are {len(items)} validation questions to "
            "share among them; allowed: as many as questions at most"
        )
    parts = [items[start::draws] for start in range(draws)]
    seeds = [lora_seed, *(derive_seed(lora_seed, "draw", draw) for draw in range(1, draws))]
    found = [scored(seed, part) for seed, part in zip(seeds, parts, strict=True)]
    if draws == 1:
        return found[0]
    return Scores.joined(found, [len(part) for part in parts], **columns)


class Options(Settings):
    """Settings of a single estimator; their defaults stand in its file."""


PLAYS = ("samples", "temperature", "candidates")
"""Shared settings that decide the scores of an estimator which plays under each candidate."""

SAMPLES_POLICY = ("policy_samples", "temperature")
"""Shared settings that decide the scores of one that samples the policy's own dialogues."""

_ALWAYS = ("rank", "scaling", "lora_draws", "lora_seed")

HOW_GRADIENTS_FIT = (
    "gradient_rows",
    "gradient_tokens",
    "gradient_checkpointing",
    "gradient_block",
)
"""Shared settings that decide no score: what is read or held at once, as `model.max_rows` is."""


@dataclass(frozen=True)
class Estimator:
    """An estimator of influence, and all that the rest of the suite must know of it.

    Attributes:
        name: in parameters, tables and artifacts.
        function: (context, pairs, validation questions, seed[, options]) -> scores; the options are
            handed over if `options` has fields.
        effort: what a scoring takes, under one draw of A (`takes` counts them all).
        options: its own settings.
        uses: shared settings that decide its scores, beside those of the gradients. They, and its
            own options, are what its cached scores are found by.
        uses_alpha: whether `ScoringContext.alpha` decides its scores too.
        grows_trees: whether it searches the validation questions, so that the search's settings
            decide its scores too.
        uses_training: whether `ScoringContext.training` decides its scores too.
        needs_spread: whether it compares sampled dialogues of one question, so that a temperature
            of 0 tells it nothing.
        holds_all_gradients: whether it keeps the gradients of all pairs at once (memory).
        columns_are_questions: whether a part of its table's columns is a scoring on fewer
            questions.
        scores_alone: whether a pair's score is the same whichever pairs are scored with it. The
            guide of a search needs that.
        own_stderr: whether its standard errors are other than those of its table's rows.
        unit: of its values: a `change` (of the metric, of a likelihood, of a loss) that the step
            makes, or its `derivative`, the change divided by the step size.
    """

    name: str
    function: Callable[..., Scores]
    effort: Callable[[Amount], Effort]
    options: type[Options] = Options
    uses: tuple[str, ...] = PLAYS
    uses_alpha: bool = False
    grows_trees: bool = False
    uses_training: bool = False
    needs_spread: bool = False
    holds_all_gradients: bool = False
    columns_are_questions: bool = True
    scores_alone: bool = True
    own_stderr: bool = False
    unit: Literal["change", "derivative"] = "change"

    def divisor(self, step_size: float) -> float:
        """What its values are divided by to be derivatives: I / eps of the paper's H(z)."""
        return step_size if self.unit == "change" else 1.0

    def takes(self, amount: Amount) -> Effort:
        """What a scoring takes, under all draws of A."""
        draws = amount.settings.lora_draws
        return self.effort(replace(amount, questions=amount.questions / draws)).times(draws)

    def options_of(self, settings: InfluenceSettings) -> Options:
        """Its own settings, those of the parameters over those of its file."""
        return self.options(**settings.options.get(self.name, {}))

    def key(self, settings: InfluenceSettings, loss: DPOLoss) -> dict:
        """The settings that decide its scores."""
        shared = {name: getattr(settings, name) for name in (*_ALWAYS, *self.uses)}
        options = self.options_of(settings).model_dump()
        return {"shared": shared, "loss": loss.key(), "options": options}

    def __call__(
        self, context: ScoringContext, pairs: list[Pair], questions: list[Question], seed: object
    ) -> Scores:
        """Score pairs on validation questions.

        Raises:
            ScoreError: when the scores do not tell the pairs apart.
        """
        return self.checked(self.score(context, pairs, questions, seed), pairs)

    def score(
        self, context: ScoringContext, pairs: list[Pair], questions: list[Question], seed: object
    ) -> Scores:
        """Scores as they come, for a caller that keeps them before they are checked.

        Raises:
            ScoreError: when they could not tell pairs apart, before anything is computed.
        """
        if self.needs_spread and context.settings.temperature == 0:
            raise ScoreError(
                f"{self.name} compares sampled dialogues of a question, which are all alike at "
                "influence.temperature 0; set it above 0"
            )
        draws, options = context.settings.lora_draws, []
        if self.options.model_fields:
            options = [self.options_of(context.settings)]

        def scored(lora_seed: int, part: list[Question]) -> Scores:
            own = replace(context, lora_seed=lora_seed)
            return self.function(own, pairs, part, seed, *options)

        columns = {"by_question": self.columns_are_questions, "own_stderr": self.own_stderr}
        return over_draws(scored, questions, draws, context.lora(seed), **columns)

    def checked(self, scores: Scores, pairs: list[Pair]) -> Scores:
        """Scores of this estimator that tell their pairs apart.

        Raises:
            ScoreError: when they do not.
        """
        check_scores(scores, pairs, self.columns_are_questions)
        return scores
