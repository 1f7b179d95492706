"""Train a micro base model, hold it against its gates, and release it: `python -m dits_lib.micro_release [micro|micro-web]`.

A missed gate stops the release: the folder of the model stays as it was, and the numbers are printed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from .agents import SCRIPTED, SYSTEMS, System, prompt_ids, reply_ids, scripted_dialogue, web_system
from .engines import Request, TransformersEngine
from .micro_model import Recipe, make_tokenizer, save, train
from .pairs import Pair, extract_pairs
from .params import ROOT
from .report.stats import paired_interval
from .rollout import sample_dialogues
from .search import SearchConfig, search
from .store import checksum
from .tasks import FAMILIES, WEB_FAMILIES, Question, make_questions, make_web, web_questions, write_site
from .tools import Cached, LocalSite
from .training import TrainConfig, train_dpo
from .web_model import WebRecipe, train_web

TEST_QUESTIONS = 1000
TRAIN_QUESTIONS = 100
SEARCHED = TrainConfig(steps=30, batch=8, learning_rate=3e-4, beta=0.1)
ORACLE = TrainConfig(steps=60, batch=16, learning_rate=2e-4, beta=0.1, nll_weight=1.0)
GATES = {
    "lookup": (0.98, 1.0), "metric": (0.40, 0.75), "family_spread": (0.03, 1.0), "oracle_gain": (0.15, 1.0),
    "searched_gain": (0.05, 1.0), "searched_gain_low": (1e-9, 1.0),
}
"""Allowed range of each gate, [low, high]; `searched_gain_low` is the lower end of a 95 % interval."""


@dataclass(frozen=True)
class Trial:
    """A task that a base model is measured on: its system, its questions by split and number, their families in turn."""

    system: System
    ask: Callable[[str, int], list[Question]]
    families: tuple[str, ...]


def micro_trials() -> dict[str, Trial]:
    """Exchange and debate."""
    return {task: Trial(system, lambda split, count, task=task: make_questions(task, split, count, 1), FAMILIES[task]) for task, system in SYSTEMS.items()}


def web_trials(folder: Path) -> dict[str, Trial]:
    """Deep search, on a site written below `folder`."""
    web = make_web(1)
    write_site(web, folder / "site")
    system = web_system("micro", Cached(LocalSite(folder / "site", top=2), folder / "pages"))
    return {"deep_search": Trial(system, lambda split, count: web_questions(web, split, count, 1), WEB_FAMILIES)}


def lookup_accuracy(engine: TransformersEngine, count: int = 1000) -> float:
    """Share of test facts whose two-word value the model completes greedily from relation and subject."""
    system, rng = SYSTEMS["exchange"], np.random.default_rng(0)
    requests, values = [], []
    for question in make_questions("exchange", "test", count, 1):
        told = [fact for fact in question.meta["facts"]["alice"] if " " in fact[2]]
        if not told:
            continue
        relation, subject, value = told[rng.integers(len(told))]
        start = engine.tokenizer(f"{relation} {subject}", add_special_tokens=False)["input_ids"]
        prompt = (*prompt_ids(engine.tokenizer, system, question, (), "alice"), *start)
        requests.append(Request(prompt, 0, 2, temperature=0.0))
        values.append(value)
    return float(np.mean([c.text == v for c, v in zip(engine.generate(requests), values, strict=True)]))


def test_metric(folder: Path, trial: Trial) -> np.ndarray:
    """Metric [questions] of a model folder at T = 1 on the test split; the noise is the same for every model."""
    engine = TransformersEngine.load(folder, max_rows=256)
    return np.array([dialogue.metric for dialogue in sample_dialogues(engine, trial.system, trial.ask("test", TEST_QUESTIONS), "gate")])


def oracle_pairs(engine: TransformersEngine, trial: Trial, count: int) -> list[Pair]:
    """Scripted good reply over scripted bad habit, at states of scripted dialogues on training questions."""
    system, script, rng, pairs = trial.system, SCRIPTED[trial.system.name], np.random.default_rng(0), []
    for question in trial.ask("train", count):
        turns = scripted_dialogue(system, question, rng)
        spoken = [index for index, turn in enumerate(turns) if turn.trainable]
        index = spoken[int(rng.integers(len(spoken)))]
        state, agent = turns[:index], turns[index].agent
        good, bad = script.good(question, state, agent), script.flawed(question, state, agent, rng)
        if good != bad:
            prompt = prompt_ids(engine.tokenizer, system, question, state, agent)
            ids = reply_ids(engine.tokenizer, good), reply_ids(engine.tokenizer, bad)
            pairs.append(Pair(question.id, question.id, prompt, *ids, good, bad, 1.0, 0.0))
    return pairs


def measure(folder: Path, work: Path, trials: dict[str, Trial], lookup: bool) -> dict:
    """All gate numbers of a model folder."""
    engine = TransformersEngine.load(folder, max_rows=256)
    numbers = {"lookup": lookup_accuracy(engine)} if lookup else {}
    numbers["parameters"] = sum(p.numel() for p in engine.model.parameters())
    for task, trial in trials.items():
        base = test_metric(folder, trial)
        families = {f: float(base[i :: len(trial.families)].mean()) for i, f in enumerate(trial.families)}
        trees = search(engine, trial.system, trial.ask("train", TRAIN_QUESTIONS), SearchConfig(), "gate")
        pairs = extract_pairs(engine.tokenizer, trial.system, trees, 0.4, 0.2)
        train_dpo(folder, oracle_pairs(engine, trial, 1200), ORACLE, 0, work / f"{task}-oracle")
        train_dpo(folder, pairs, SEARCHED, 0, work / f"{task}-searched")
        searched = paired_interval(test_metric(work / f"{task}-searched", trial), base)
        numbers[task] = {
            "metric": float(base.mean()), "families": families, "family_spread": max(families.values()) - min(families.values()),
            "oracle_gain": float(test_metric(work / f"{task}-oracle", trial).mean() - base.mean()),
            "searched_gain": searched["mean"], "searched_gain_low": searched["low"], "searched_gain_high": searched["high"],
        }
    return numbers


def missed_gates(numbers: dict) -> list[str]:
    """One line a missed gate."""
    rows = [("lookup", "lookup", numbers["lookup"])] if "lookup" in numbers else []
    rows += [(f"{task} {gate}", gate, own[gate]) for task, own in numbers.items() if isinstance(own, dict) for gate in GATES if gate != "lookup"]
    return [f"{name} = {value:.3f}, allowed {GATES[gate]}" for name, gate, value in rows if not GATES[gate][0] <= value <= GATES[gate][1]]


_TEXTS = {
    "micro": (
        "The micro base model",
        "A Llama of {parameters:,} parameters, trained from scratch on the micro world by `make micro-model`: first to look facts up,\n"
        "then to speak like scripted agents, bad habits included. It is the model behind the default profile, and of no other use.",
    ),
    "micro-web": (
        "The base model of the micro web",
        "The micro base model with the words of the micro web ({parameters:,} parameters), trained further by `make micro-web-model`: to search, read\n"
        "and click like scripted agents, bad habits included. It is the model behind notebook 08 of the default profile, and of no other use.",
    ),
}
"""Title and first paragraph of each model's card."""


def model_card(name: str, numbers: dict, recipe: Recipe | WebRecipe, digest: str) -> str:
    """The card of a released model, from what was measured."""
    rows = []
    for task, n in numbers.items():
        if isinstance(n, dict):
            metric = "token F1" if task == "exchange" else "accuracy"
            families = ", ".join(f"{family} {value:.2f}" for family, value in n["families"].items())
            rows.append(
                f"| {task} ({metric}) | {n['metric']:.3f} | {families} | {n['oracle_gain']:+.3f} | "
                f"{n['searched_gain']:+.3f} [{n['searched_gain_low']:+.3f}, {n['searched_gain_high']:+.3f}] |"
            )
    title, text = _TEXTS[name]
    lookup = f" Look-up accuracy: {numbers['lookup']:.3f} (gate: 0.98)." if "lookup" in numbers else ""
    return f"""---
license: apache-2.0
library_name: transformers
---

# {title}

{text.format(parameters=numbers["parameters"])}

`model.safetensors` SHA-256: `{digest}`

## Gates

Measured on {TEST_QUESTIONS} test questions a task, sampled at T = 1.{lookup}

| task | metric (gate: 0.40 to 0.75) | by family | DPO on oracle pairs (gate: +0.15) | DPO on all searched pairs (gate: +0.05, interval above 0) |
|---|---|---|---|---|
{chr(10).join(rows)}

The interval is over test questions, paired, for one training run.

## Recipe

`{json.dumps(asdict(recipe))}`
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", choices=list(_TEXTS), default="micro")
    parser.add_argument("--out", help="folder; models/<model> by default")
    parser.add_argument("--check", action="store_true", help="measure the gates of the model that is there, train nothing")
    options = parser.parse_args(arguments)
    out, start = Path(options.out or ROOT / "models" / options.model), time.monotonic()
    web = options.model == "micro-web"
    recipe = WebRecipe() if web else Recipe()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        folder = out if options.check else work / "model"
        if not options.check:
            save(*_trained(recipe), folder)
        numbers = measure(folder, work, web_trials(work / "web") if web else micro_trials(), lookup=not web)
        missed = missed_gates(numbers)
        print(json.dumps(numbers, indent=1))
        if missed:
            print("not released; missed gates: " + "; ".join(missed), file=sys.stderr)
            return 1
        digest = checksum(folder / "model.safetensors")
        (folder / "gates.json").write_text(json.dumps(numbers, indent=1) + "\n")
        (folder / "README.md").write_text(model_card(options.model, numbers, recipe, digest))
        if not options.check:
            shutil.copytree(folder, out, dirs_exist_ok=True)
    print(f"released {out} in {time.monotonic() - start:.0f} s")
    return 0


def _trained(recipe: Recipe | WebRecipe):
    """Model and tokenizer."""
    if isinstance(recipe, WebRecipe):
        return train_web(ROOT / "models" / "micro", recipe)
    tokenizer = make_tokenizer()
    return train(recipe, tokenizer), tokenizer


if __name__ == "__main__":
    sys.exit(main())
