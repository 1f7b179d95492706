"""Playing the validation questions under the steps of many candidates, side by side in one
batch."""

from __future__ import annotations

import numpy as np

from ..agents import Dialogue, System
from ..engines import Engine, LoRAStack, derive_seed
from ..rollout import State, play
from ..tasks import Question
from .base import InfluenceSettings
from .gradients import part, with_zero_step, zero_steps


def evaluate_adapters(
    engine: Engine,
    system: System,
    questions: list[Question],
    stack: LoRAStack | None,
    count: int,
    settings: InfluenceSettings,
    seed: object,
) -> list[list[Dialogue]]:
    """Dialogues [count][questions * samples] of each adapter (stack None: of the base model, count
    1)."""
    noise = [
        (q, derive_seed(seed, q.id, sample))
        for q in questions
        for sample in range(settings.samples)
    ]
    states = [
        State(q, (), s, None if stack is None else index)
        for index in range(count)
        for q, s in noise
    ]
    played = play(engine, system, states, settings.temperature, stack)
    return [played[start : start + len(noise)] for start in range(0, len(played), len(noise))]


def metric_table(dialogues: list[list[Dialogue]], samples: int) -> np.ndarray:
    """Mean metric over the samples: [adapters, questions]."""
    flat = np.array([[dialogue.metric for dialogue in row] for row in dialogues])
    return flat.reshape(len(dialogues), -1, samples).mean(axis=2)


class ValidationPlay:
    """The metric under adapters, against that of the base policy on the same questions.

    An engine whose numbers depend on the batch (vLLM) says other words under a step of zero, too.
    So there the base is played as a zero step itself, and beside every batch of candidates one more
    zero step is played: what it changes is noise.

    Args:
        seed: of the noise of the dialogues; equal seeds share it.

    Attributes:
        controls: change of the metric under each zero step, averaged over the questions; empty for
            an exact engine, where it would be zero.
    """

    def __init__(
        self,
        engine: Engine,
        system: System,
        questions: list[Question],
        settings: InfluenceSettings,
        seed: object,
    ):
        self.engine, self.system, self.questions = engine, system, questions
        self.settings, self.seed = settings, seed
        self.controls: list[float] = []
        self._base: np.ndarray | None = None

    def changes(self, stack: LoRAStack) -> np.ndarray:
        """Metric under each adapter of a stack minus the base policy's, [adapters, V],
        `settings.candidates` side by side."""
        base, rows, size = self._base_metric(stack), [], self.settings.candidates
        if not self.engine.exact:
            size = max(1, size - 1)  # the zero step takes a place of the batch
        for start in range(0, len(stack), size):
            stop = min(start + size, len(stack))
            batch = part(stack, start, stop)
            if self.engine.exact:
                rows.append(self._metric(batch) - base)
            else:
                found = self._metric(with_zero_step(batch)) - base
                rows.append(found[:-1])
                self.controls.append(float(found[-1].mean()))
        return np.concatenate(rows)

    def noise(self) -> dict[str, float]:
        """What the zero steps tell, for a scoring's costs: how many there were, and the root mean
        square of their scores; nothing for an exact engine."""
        if not self.controls:
            return {}
        floor = float(np.sqrt(np.mean(np.square(self.controls))))
        return {"controls": len(self.controls), "noise_floor": floor}

    def _base_metric(self, stack: LoRAStack) -> np.ndarray:
        if self._base is None:
            self._base = self._metric(None if self.engine.exact else zero_steps(stack, 1))
        return self._base

    def _metric(self, stack: LoRAStack | None) -> np.ndarray:
        count = 1 if stack is None else len(stack)
        played = evaluate_adapters(
            self.engine, self.system, self.questions, stack, count, self.settings, self.seed
        )
        return metric_table(played, self.settings.samples)


def changed_share(played: list[list[Dialogue]], base: list[Dialogue]) -> float:
    """Share of the dialogues, [adapters][dialogues], in which other tokens were said than in the
    base's."""
    said = [[turn.token_ids for turn in dialogue.turns] for dialogue in base]
    differ = [
        [
            [turn.token_ids for turn in dialogue.turns] != own
            for dialogue, own in zip(row, said, strict=True)
        ]
        for row in played
    ]
    return float(np.mean(differ))
