"""Playing the validation questions under the steps of many candidates, side by side in one
batch."""

from __future__ import annotations

import numpy as np

from ..agents import Dialogue, System
from ..engines import Engine, LoRAStack, derive_seed
from ..rollout import State, play
from ..tasks import Question
from .base import InfluenceSettings
from .gradients import part


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


def metric_changes(
    engine: Engine,
    system: System,
    stack: LoRAStack,
    base: np.ndarray,
    questions: list[Question],
    settings: InfluenceSettings,
    seed: object,
) -> np.ndarray:
    """Metric under each adapter of a stack minus the base policy's (`base` [1, V]), [adapters, V],
    `settings.candidates` side by side."""
    rows = []
    for start in range(0, len(stack), settings.candidates):
        stop = min(start + settings.candidates, len(stack))
        played = evaluate_adapters(
            engine, system, questions, part(stack, start, stop), stop - start, settings, seed
        )
        rows.append(metric_table(played, settings.samples) - base)
    return np.concatenate(rows)
