"""One-step influence on the metric itself (the paper's estimator, DITS eq. 4).

`I(z) = F(theta - eta * grad L_DPO(z, theta)) - F(theta)`, with F the mean metric over V validation questions. The released
formula divides by a constant epsilon; we report the change of the metric for the step, which ranks alike and can be read.
All candidates play the same questions under the same noise (common random numbers), side by side in one batch.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import spearmanr

from ..agents import Dialogue, System
from ..engines import Engine, LoRAStack, derive_seed
from ..pairs import Pair
from ..rollout import State, play
from ..tasks import Question
from .base import InfluenceConfig, Scores, Setting, mean_and_stderr
from .gradients import dpo_gradients, part, step, sum_by


def evaluate_adapters(
    engine: Engine, system: System, questions: list[Question], stack: LoRAStack | None, count: int,
    config: InfluenceConfig, seed: object,
) -> list[list[Dialogue]]:
    """Dialogues [count][questions * samples] of each adapter (stack None: of the base model, count 1)."""
    noise = [(q, derive_seed(seed, q.id, sample)) for q in questions for sample in range(config.samples)]
    states = [State(q, (), s, None if stack is None else index) for index in range(count) for q, s in noise]
    played = play(engine, system, states, config.temperature, stack)
    return [played[start : start + len(noise)] for start in range(0, len(played), len(noise))]


def metric_table(dialogues: list[list[Dialogue]], samples: int) -> np.ndarray:
    """Mean metric over the samples: [adapters, questions]."""
    flat = np.array([[dialogue.metric for dialogue in row] for row in dialogues])
    return flat.reshape(len(dialogues), -1, samples).mean(axis=2)


def one_step_influence(
    engine: Engine, system: System, pairs: list[Pair], questions: list[Question], step_size: float,
    config: InfluenceConfig, seed: object, lora_seed: int | None = None,
) -> Scores:
    """Change of the metric after one gradient step on each pair.

    Args:
        pairs: candidates.
        questions: the V validation questions.
        step_size: eta of the step; choose it with `step_response`.
        seed: of A and of the noise; equal seeds and questions give equal numbers.
        lora_seed: of A, if other than the seed's.
    """
    before = engine.snapshot()
    lora_seed = derive_seed(seed, "lora") if lora_seed is None else lora_seed
    base = metric_table(evaluate_adapters(engine, system, questions, None, 1, config, seed), config.samples)
    rows = []
    for block in range(0, len(pairs), config.gradient_block):
        gradients = gradients_of(engine, pairs[block : block + config.gradient_block], config, lora_seed)
        rows.append(metric_changes(engine, system, step(gradients, step_size), base, questions, config, seed))
    table = np.concatenate(rows)
    value, stderr = mean_and_stderr(table)
    return Scores("one_step", value, stderr, engine.usage.minus(before) | {"gradients": len(pairs)}, table)


def metric_changes(
    engine: Engine, system: System, stack: LoRAStack, base: np.ndarray, questions: list[Question], config: InfluenceConfig, seed: object
) -> np.ndarray:
    """Metric under each adapter of a stack minus the base policy's (`base` [1, V]), [adapters, V], `config.candidates` side by side."""
    rows = []
    for start in range(0, len(stack), config.candidates):
        stop = min(start + config.candidates, len(stack))
        played = evaluate_adapters(engine, system, questions, part(stack, start, stop), stop - start, config, seed)
        rows.append(metric_table(played, config.samples) - base)
    return np.concatenate(rows)


def one_step_question(setting: Setting, pairs: list[Pair], questions: list[Question], seed: object) -> Scores:
    """All pairs of a searched question in one step, `theta - eta * sum_z g_z`; each pair gets an equal part of the change."""
    engine, system, config = setting.engine, setting.system, setting.config
    before, lora_seed = engine.snapshot(), setting.lora(seed)
    base = metric_table(evaluate_adapters(engine, system, questions, None, 1, config, seed), config.samples)
    table = np.zeros((len(pairs), len(questions)))
    for block in _whole_groups(pairs, config.gradient_block):
        names = list(dict.fromkeys(pairs[i].question_id for i in block))
        owner = torch.tensor([names.index(pairs[i].question_id) for i in block])
        summed = sum_by(gradients_of(engine, [pairs[i] for i in block], config, lora_seed), owner, len(names))
        changes = metric_changes(engine, system, step(summed, setting.step_size), base, questions, config, seed)
        table[block] = (changes / owner.bincount()[:, None].numpy())[owner.numpy()]
    value, stderr = mean_and_stderr(table)
    return Scores("one_step_question", value, stderr, engine.usage.minus(before) | {"gradients": len(pairs)}, table)


def _whole_groups(pairs: list[Pair], size: int) -> list[list[int]]:
    """Indices of the pairs in blocks of about `size`, all pairs of a question in one block."""
    blocks: list[list[int]] = [[]]
    for name in dict.fromkeys(pair.question_id for pair in pairs):
        own = [i for i, pair in enumerate(pairs) if pair.question_id == name]
        if blocks[-1] and len(blocks[-1]) + len(own) > size:
            blocks.append([])
        blocks[-1] += own
    return blocks


def one_step(setting: Setting, pairs: list[Pair], questions: list[Question], seed: object) -> Scores:
    """`one_step_influence` as an estimator."""
    return one_step_influence(setting.engine, setting.system, pairs, questions, setting.step_size, setting.config, seed, setting.lora(seed))


def gradients_of(engine: Engine, pairs: list[Pair], config: InfluenceConfig, lora_seed: int) -> LoRAStack:
    """The pairs' DPO gradients, where the engine takes adapters."""
    with engine.learning() as learner:
        return dpo_gradients(learner, pairs, seed=lora_seed, **gradient_options(config)).to(engine.stack_device)


def gradient_options(config: InfluenceConfig) -> dict:
    """The settings that `dpo_gradients` takes."""
    return {"beta": config.beta, "rank": config.rank, "scaling": config.scaling, "rows": config.gradient_rows}


def step_response(
    engine: Engine, system: System, pairs: list[Pair], questions: list[Question], step_sizes: list[float],
    config: InfluenceConfig, seed: object,
) -> list[dict]:
    """How the policy answers to steps of each size, on questions that serve nothing else.

    Returns one row a step size: `changed`, share of dialogues that differ from the base model's; `mean_change` of the
    metric; `spread`, standard deviation of the candidates' scores; `repeatable`, rank correlation between the scores of
    the two halves of the questions (NaN without variation).
    """
    gradients = gradients_of(engine, pairs, config, derive_seed(seed, "lora"))
    base = evaluate_adapters(engine, system, questions, None, 1, config, seed)
    said = [[turn.token_ids for turn in dialogue.turns] for dialogue in base[0]]
    rows = []
    for size in step_sizes:
        played = evaluate_adapters(engine, system, questions, step(gradients, size), len(pairs), config, seed)
        changed = np.mean([[t.token_ids for t in d.turns] != s for row in played for d, s in zip(row, said, strict=True)])
        table = metric_table(played, config.samples) - metric_table(base, config.samples)
        halves = table[:, ::2].mean(1), table[:, 1::2].mean(1)
        varied = all(half.std() > 0 for half in halves)
        rows.append({
            "step_size": size, "changed": float(changed), "mean_change": float(table.mean()),
            "spread": float(table.mean(1).std()), "repeatable": float(spearmanr(*halves).statistic) if varied else float("nan"),
        })
    return rows


def choose_step_size(rows: list[dict], target_changed: float) -> float:
    """The step size whose share of changed dialogues is nearest to the target: smaller changes no token, larger breaks
    the model."""
    return min(rows, key=lambda row: abs(row["changed"] - target_changed))["step_size"]
