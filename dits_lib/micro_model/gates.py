"""The gates that a micro base model must pass before it is released."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..agents import System, make_system, prompt_ids, reply_ids, web_system
from ..engines import Request, TransformersEngine
from ..pairs import Pair, extract_pairs
from ..report.stats import paired_interval
from ..rollout import sample_dialogues
from ..search import SearchSettings, tree_search
from ..tasks import (
    FAMILIES,
    WEB_FAMILIES,
    Question,
    make_questions,
    make_web,
    web_questions,
    write_site,
)
from ..tools import Cached, LocalSite
from ..training import DPOSettings, train_dpo
from .scripted import SCRIPTED, scripted_dialogue

TEST_QUESTIONS = 1000
TRAIN_QUESTIONS = 100
SEARCHED = DPOSettings(steps=30, batch=8, learning_rate=3e-4, beta=0.1, nll_weight=0.0)
ORACLE = DPOSettings(steps=60, batch=16, learning_rate=2e-4, beta=0.1, nll_weight=1.0)
GATES = {
    "lookup": (0.98, 1.0),
    "metric": (0.40, 0.75),
    "family_spread": (0.03, 1.0),
    "oracle_gain": (0.15, 1.0),
    "searched_gain": (0.05, 1.0),
    "searched_gain_low": (1e-9, 1.0),
}
"""Allowed range of each gate, [low, high]; `searched_gain_low` is the lower end of a 95 %
interval."""


@dataclass(frozen=True)
class Trial:
    """A task that a base model is measured on: its system, its questions by split and number, their
    families in turn."""

    system: System
    ask: Callable[[str, int], list[Question]]
    families: tuple[str, ...]


def micro_trials() -> dict[str, Trial]:
    """Exchange and debate."""

    def trial(task: str) -> Trial:
        ask = lambda split, count: make_questions(task, split, count, 1)  # noqa: E731
        return Trial(make_system(task), ask, FAMILIES[task])

    return {task: trial(task) for task in FAMILIES}


def web_trials(folder: Path) -> dict[str, Trial]:
    """Deep search, on a site written below `folder`."""
    web = make_web(1)
    write_site(web, folder / "site")
    system = web_system("micro", source=Cached(LocalSite(folder / "site", top=2), folder / "pages"))
    return {
        "deep_search": Trial(
            system, lambda split, count: web_questions(web, split, count, 1), WEB_FAMILIES
        )
    }


def lookup_accuracy(engine: TransformersEngine, count: int = 1000) -> float:
    """Share of test facts whose two-word value the model completes greedily from relation and
    subject."""
    system, rng = make_system("exchange"), np.random.default_rng(0)
    requests, values = [], []
    for question in make_questions("exchange", "test", count, 1):
        facts = [fact for fact in question.meta["facts"]["alice"] if " " in fact[2]]
        if not facts:
            continue
        relation, subject, value = facts[rng.integers(len(facts))]
        start = engine.tokenizer(f"{relation} {subject}", add_special_tokens=False)["input_ids"]
        prompt = (*prompt_ids(engine.tokenizer, system, question, (), "alice"), *start)
        requests.append(Request(prompt, 0, 2, temperature=0.0))
        values.append(value)
    return float(
        np.mean([c.text == v for c, v in zip(engine.generate(requests), values, strict=True)])
    )


def test_metric(folder: Path, trial: Trial) -> np.ndarray:
    """Metric [questions] of a model folder at T = 1 on the test split; the noise is the same for
    every model."""
    engine = TransformersEngine.load(folder, max_rows=256)
    return np.array(
        [
            dialogue.metric
            for dialogue in sample_dialogues(
                engine, trial.system, trial.ask("test", TEST_QUESTIONS), "gate"
            )
        ]
    )


def oracle_pairs(engine: TransformersEngine, trial: Trial, count: int) -> list[Pair]:
    """Scripted good reply over scripted bad habit, at states of scripted dialogues on training
    questions."""
    system, script, rng, pairs = (
        trial.system,
        SCRIPTED[trial.system.name],
        np.random.default_rng(0),
        [],
    )
    for question in trial.ask("train", count):
        turns = scripted_dialogue(system, question, rng)
        replies = [index for index, turn in enumerate(turns) if turn.trainable]
        index = replies[int(rng.integers(len(replies)))]
        state, agent = turns[:index], turns[index].agent
        good, bad = script.good(question, state, agent), script.flawed(question, state, agent, rng)
        if good != bad:
            prompt = prompt_ids(engine.tokenizer, system, question, state, agent)
            ids = reply_ids(engine.tokenizer, good), reply_ids(engine.tokenizer, bad)
            pairs.append(Pair(question.id, question.id, index, prompt, *ids, good, bad, 1.0, 0.0))
    return pairs


def measure(folder: Path, work: Path, trials: dict[str, Trial], lookup: bool) -> dict:
    """All gate numbers of a model folder."""
    engine = TransformersEngine.load(folder, max_rows=256)
    numbers = {"lookup": lookup_accuracy(engine)} if lookup else {}
    numbers["parameters"] = sum(p.numel() for p in engine.model.parameters())
    for task, trial in trials.items():
        base = test_metric(folder, trial)
        families = {
            f: float(base[i :: len(trial.families)].mean()) for i, f in enumerate(trial.families)
        }
        trees = tree_search(
            engine, trial.system, trial.ask("train", TRAIN_QUESTIONS), SearchSettings(), "gate"
        )
        pairs = extract_pairs(engine.tokenizer, trial.system, trees, 0.4, 0.2)
        train_dpo(folder, oracle_pairs(engine, trial, 1200), ORACLE, 0, work / f"{task}-oracle")
        train_dpo(folder, pairs, SEARCHED, 0, work / f"{task}-searched")
        searched = paired_interval(test_metric(work / f"{task}-searched", trial), base)
        numbers[task] = {
            "metric": float(base.mean()),
            "families": families,
            "family_spread": max(families.values()) - min(families.values()),
            "oracle_gain": float(test_metric(work / f"{task}-oracle", trial).mean() - base.mean()),
            "searched_gain": searched["mean"],
            "searched_gain_low": searched["low"],
            "searched_gain_high": searched["high"],
        }
    return numbers


def missed_gates(numbers: dict) -> list[str]:
    """One line a missed gate."""
    rows = [("lookup", "lookup", numbers["lookup"])] if "lookup" in numbers else []
    rows += [
        (f"{task} {gate}", gate, own[gate])
        for task, own in numbers.items()
        if isinstance(own, dict)
        for gate in GATES
        if gate != "lookup"
    ]
    return [
        f"{name} = {value:.3f}, allowed {GATES[gate]}"
        for name, gate, value in rows
        if not GATES[gate][0] <= value <= GATES[gate][1]
    ]
