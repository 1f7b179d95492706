"""Where is DPO smooth in the weights of its pairs? One run: `python -m benchmarks.metasmoothness`.

Trains the micro model on PAIRS pairs of each task and development seed, at the suite's settings and
with one of them changed, at three points along two directions of the pairs' weights: a random one,
a little way, and the one from all pairs to a random half. Reports the empirical metasmoothness
(Engstrom et al., 2025, definition 2) and the loss that the training ends with, since a training
that does nothing is smooth. `--steps`: of each training. Writes benchmarks/metasmoothness.md; takes
a few minutes on one core.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks.run import engine, processor  # noqa: E402
from dits_lib.agents import make_system  # noqa: E402
from dits_lib.engines import TransformersEngine  # noqa: E402
from dits_lib.influence import DPOLoss, Training  # noqa: E402
from dits_lib.influence.metasmoothness import metasmoothness  # noqa: E402
from dits_lib.influence.unrolled import UnrolledDPO, rates_of  # noqa: E402
from dits_lib.pairs import Pair, extract_pairs  # noqa: E402
from dits_lib.search import SearchSettings, tree_search  # noqa: E402
from dits_lib.tasks import make_questions  # noqa: E402

TASKS, SEEDS = ("exchange", "debate"), (0, 1)
QUESTIONS, PAIRS = 20, 48
SMALL, TO_HALF = 0.1, 0.5
"""h along a random direction, of variance 1, and along the one that takes half of the pairs away:
two steps of it take a weight from 1 to 0."""


@dataclass(frozen=True)
class Setting:
    """Of a training, as in params/micro.yaml; `warm_up`: share of the steps."""

    learning_rate: float = 3e-4
    warm_up: float = 0.1
    epsilon: float = 1e-8
    batch: int = 8


SETTINGS = {
    "as in params/micro.yaml": Setting(),
    "learning rate 1e-3": Setting(learning_rate=1e-3),
    "warm-up 0.5": Setting(warm_up=0.5),
    "epsilon 1e-4": Setting(epsilon=1e-4),
    "batch 16": Setting(batch=16),
}


def pairs_of(model_engine: TransformersEngine, task: str, seed: int) -> list[Pair]:
    """Pairs of a small search."""
    system, questions = make_system(task), make_questions(task, "train", QUESTIONS, seed)
    trees = tree_search(model_engine, system, questions, SearchSettings(repetitions=6), seed)
    return extract_pairs(model_engine.tokenizer, system, trees, 0.4, 0.2)[:PAIRS]


def directions_of(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A random direction of the weights, and the one that takes a random half of them away."""
    rng = np.random.default_rng([seed, 3])
    away = torch.zeros(count)
    away[torch.as_tensor(rng.permutation(count)[: count // 2])] = -1.0
    return torch.as_tensor(rng.standard_normal(count), dtype=torch.float32), away


def measured(
    model_engine: TransformersEngine,
    pairs: list[Pair],
    loss: DPOLoss,
    setting: Setting,
    steps: int,
    seed: int,
) -> dict[str, float]:
    """Metasmoothness along both directions, and the mean loss after training on all pairs."""
    training = Training(steps, setting.batch, setting.learning_rate, 0)
    run = UnrolledDPO(model_engine, pairs, loss, training, seed)
    run.rates = rates_of(steps, setting.learning_rate, setting.warm_up)
    run.epsilon = setting.epsilon
    ends: dict[tuple, dict[str, torch.Tensor]] = {}

    def train(weights: torch.Tensor) -> dict[str, torch.Tensor]:
        key = tuple(weights.tolist())
        if key not in ends:
            ends[key] = run.train(weights)[-1]
        return ends[key].weights

    ones = torch.ones(len(pairs))
    random, away = directions_of(len(pairs), seed)
    small = metasmoothness(train, ones, [random], SMALL)[0]
    half = metasmoothness(train, ones, [away], TO_HALF)[0]
    return {
        "small": small,
        "half": half,
        "loss": float(run.losses(ends[(1.0,) * len(pairs)], 32).mean()),
    }


def rows(steps: int) -> Iterator[tuple[str, str, list[dict[str, float]]]]:
    """For every task and setting what was measured with each seed."""
    model_engine = engine()
    for task in TASKS:
        given = []
        for seed in SEEDS:
            pairs = pairs_of(model_engine, task, seed)
            first = UnrolledDPO(model_engine, pairs, DPOLoss(), Training(), seed)
            given.append((pairs, first.loss, seed))  # the reference is read once
        for name, setting in SETTINGS.items():
            yield (
                task,
                name,
                [
                    measured(model_engine, pairs, loss, setting, steps, seed)
                    for pairs, loss, seed in given
                ],
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20, help="of each training, >= 1")
    steps = parser.parse_args().steps
    if steps < 1:
        parser.error(f"--steps is {steps}; allowed: 1 or more")
    torch.set_num_threads(1)
    start, table = time.perf_counter(), []
    for task, name, found in rows(steps):
        cells = [", ".join(f"{one[key]:.3f}" for one in found) for key in ("small", "half", "loss")]
        table.append(f"| {task} | {name} | {cells[0]} | {cells[1]} | {cells[2]} |")
        print(table[-1], flush=True)
    lines = [
        "# Where DPO is smooth in the weights of its pairs",
        "",
        f"Written by `python -m benchmarks.metasmoothness --steps {steps}`; one process, one "
        f"thread, one run of {time.perf_counter() - start:.0f} s.",
        "",
        f"Machine: {platform.machine()}, {processor()}, {os.cpu_count()} cores; torch "
        f"{torch.__version__}. The micro base model, at most {PAIRS} pairs, {steps} steps, all "
        "weights; every cell: development seeds " + " and ".join(map(str, SEEDS)) + ". Empirical "
        "metasmoothness (Engstrom et al., 2025, arXiv 2503.13751, definition 2): 1 where every "
        "trained weight goes on in a second step of the pairs' weights as in the first, 0 for "
        f"chance, -1 where all turn. Small: weights 1, then {SMALL} along a random direction, "
        "twice. To a half: a random half of the pairs from weight 1 to 0.5 to 0. Loss: the pairs' "
        f"mean at the end, {np.log(2):.3f} before.",
        "",
        "| task | setting | small | to a half | loss |",
        "|---|---|---|---|---|",
        *table,
    ]
    (Path(__file__).parent / "metasmoothness.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
