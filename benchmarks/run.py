"""Speed as ratios measured in one run, one thread: `make bench`. Writes benchmarks/results.md."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402

from dits_lib.agents import make_system  # noqa: E402
from dits_lib.engines import TransformersEngine, derive_seed  # noqa: E402
from dits_lib.influence import (  # noqa: E402
    DPOLoss,
    InfluenceSettings,
    dpo_gradients,
    evaluate_adapters,
    step,
)
from dits_lib.influence.estimators.one_step import one_step_influence  # noqa: E402
from dits_lib.pairs import extract_pairs  # noqa: E402
from dits_lib.search import SearchSettings, tree_search  # noqa: E402
from dits_lib.settings import ROOT  # noqa: E402
from dits_lib.suite.memory import peak_memory_mb  # noqa: E402
from dits_lib.tasks import make_questions  # noqa: E402

PAIRS, V, ONE_BY_ONE, QUESTIONS, REPEATS = 256, 20, 24, 96, 3
STEP_SIZE = 0.1


def engine() -> TransformersEngine:
    return TransformersEngine.load(ROOT / "models" / "micro", max_rows=128)


def bench_search(task: str):
    """Generated tokens/s of a search, against the same requests as one plain batch: medians of
    REPEATS turns about."""
    system, questions = make_system(task), make_questions(task, "train", QUESTIONS, 0)
    speeds: dict[str, list[float]] = {"search": [], "plain": []}
    for _ in range(REPEATS + 1):
        model_engine, requests = engine(), []
        generate = model_engine.generate

        def recorded(batch, adapters=None, generate=generate, requests=requests):
            requests.extend(batch)
            return generate(batch, adapters)

        model_engine.generate = recorded
        start = time.perf_counter()
        trees = tree_search(model_engine, system, questions, SearchSettings(), 0)
        speeds["search"].append(model_engine.usage.generated_tokens / (time.perf_counter() - start))
        plain = engine()
        start = time.perf_counter()
        plain.generate(requests)
        speeds["plain"].append(plain.usage.generated_tokens / (time.perf_counter() - start))
    # The first turn warms up.
    searching, batch = (median(speeds[name][1:]) for name in ("search", "plain"))
    return trees, {
        "search tokens/s": searching,
        "plain batch tokens/s": batch,
        "ratio": searching / batch,
    }


def bench_scoring(task: str, trees) -> dict:
    """Seconds to score pairs at V side by side, against one adapter after another through the same
    engine."""
    system, model_engine, config = make_system(task), engine(), InfluenceSettings()
    pairs = extract_pairs(model_engine.tokenizer, system, trees, 0.4, 0.2)[:PAIRS]
    questions = make_questions(task, "validation", V, 0)
    start = time.perf_counter()
    one_step_influence(model_engine, system, pairs, questions, STEP_SIZE, config, 0)
    together = time.perf_counter() - start
    model_engine = engine()
    start = time.perf_counter()
    options = {
        "loss": DPOLoss(),
        "rank": config.rank,
        "scaling": config.scaling,
        "seed": derive_seed(0, "lora"),
    }
    for pair in pairs[:ONE_BY_ONE]:
        evaluate_adapters(
            model_engine,
            system,
            questions,
            step(dpo_gradients(model_engine, [pair], **options), STEP_SIZE),
            1,
            config,
            0,
        )
    alone = (time.perf_counter() - start) / ONE_BY_ONE * len(pairs)
    reading = (
        _reading_once(model_engine, system, pairs[:ONE_BY_ONE], questions, config)
        / ONE_BY_ONE
        * len(pairs)
    )
    return {
        "pairs": len(pairs),
        "side by side s": together,
        "one after another s": alone,
        "ratio": alone / together,
        "reading each dialogue once under each adapter s": reading,
        "ratio if that were all": alone / reading,
    }


def _reading_once(model_engine, system, pairs, questions, config) -> float:
    """Seconds to read, not sample, the base model's dialogues once under each pair's adapter: what
    no method saves that runs every candidate's own LoRA over every dialogue. An agent's last prompt
    holds all its earlier turns, so it is read alone."""
    options = {
        "loss": DPOLoss(),
        "rank": config.rank,
        "scaling": config.scaling,
        "seed": derive_seed(0, "lora"),
    }
    stack = step(dpo_gradients(model_engine, pairs, **options), STEP_SIZE)
    rows = []
    for dialogue in evaluate_adapters(model_engine, system, questions, None, 1, config, 0)[0]:
        last = {turn.agent: turn for turn in dialogue.turns}
        rows += [(turn.prompt_ids, turn.token_ids) for turn in last.values()]
    rows = sorted(rows, key=lambda row: len(row[0]) + len(row[1]))
    start = time.perf_counter()
    with torch.inference_mode():
        for begin in range(0, len(rows), 4):  # passes of about a hundred rows of one length
            part = rows[begin : begin + 4]
            model_engine.teacher_forced(
                part * len(pairs), stack, torch.arange(len(pairs)).repeat_interleave(len(part))
            )
    return time.perf_counter() - start


def main() -> None:
    torch.set_num_threads(1)
    lines = ["# Benchmarks", "", "Written by `make bench`; one process, one thread, one run.", ""]
    lines += [
        f"Machine: {platform.machine()}, {processor()}, {os.cpu_count()} cores; torch "
        f"{torch.__version__}.",
        "",
    ]
    lines += ["| task | what | measured | ratio | goal |", "|---|---|---|---|---|"]
    for task in ("exchange", "debate"):
        trees, found = bench_search(task)
        lines.append(
            _row(task, "search against a plain batch of the same requests", found, "at least 0.7")
        )
        found = bench_scoring(task, trees)
        what = (
            f"scoring {found['pairs']} pairs at V = {V}: side by side against one after another "
            f"(timed on {ONE_BY_ONE})"
        )
        lines.append(_row(task, what, found, "at least 20"))
        print(json.dumps(found), flush=True)
    lines += ["", f"Peak memory of this process: {peak_memory_mb()} MiB."]
    (Path(__file__).parent / "results.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _row(task: str, what: str, found: dict, goal: str) -> str:
    numbers = ", ".join(
        f"{name} {value:.1f}" for name, value in found.items() if name not in ("ratio", "pairs")
    )
    return f"| {task} | {what} | {numbers} | {found['ratio']:.2f} | {goal} |"


def processor() -> str:
    """The name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        "unknown CPU",
    )


if __name__ == "__main__":
    main()
