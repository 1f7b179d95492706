"""Speed as ratios measured in one run, one thread: `make bench`. Writes benchmarks/results.md."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402

from dits_lib.agents import SYSTEMS  # noqa: E402
from dits_lib.engines import TransformersEngine, derive_seed  # noqa: E402
from dits_lib.influence import InfluenceConfig, dpo_gradients, evaluate_adapters, one_step_influence, step  # noqa: E402
from dits_lib.pairs import extract_pairs  # noqa: E402
from dits_lib.params import ROOT  # noqa: E402
from dits_lib.search import SearchConfig, search  # noqa: E402
from dits_lib.store import peak_memory_mb  # noqa: E402
from dits_lib.tasks import make_questions  # noqa: E402

PAIRS, V, ONE_BY_ONE, QUESTIONS = 256, 20, 24, 96
STEP_SIZE = 0.1


def engine() -> TransformersEngine:
    return TransformersEngine.load(ROOT / "models" / "micro", max_rows=256)


def bench_search(task: str):
    """Generated tokens/s of a search, against the same requests as one plain batch."""
    system, speaker, requests = SYSTEMS[task], engine(), []
    generate = speaker.generate

    def recorded(batch, adapters=None):
        requests.extend(batch)
        return generate(batch, adapters)

    speaker.generate = recorded
    start = time.perf_counter()
    trees = search(speaker, system, make_questions(task, "train", QUESTIONS, 0), SearchConfig(), 0)
    searching = speaker.usage.generated_tokens / (time.perf_counter() - start)
    plain = engine()
    start = time.perf_counter()
    plain.generate(requests)
    batch = plain.usage.generated_tokens / (time.perf_counter() - start)
    return trees, {"search tokens/s": searching, "plain batch tokens/s": batch, "ratio": searching / batch}


def bench_scoring(task: str, trees) -> dict:
    """Seconds to score pairs at V side by side, against one adapter after another through the same engine."""
    system, speaker, config = SYSTEMS[task], engine(), InfluenceConfig()
    pairs = extract_pairs(speaker.tokenizer, system, trees, 0.4, 0.2)[:PAIRS]
    questions = make_questions(task, "validation", V, 0)
    start = time.perf_counter()
    one_step_influence(speaker, system, pairs, questions, STEP_SIZE, config, 0)
    together = time.perf_counter() - start
    speaker = engine()
    start = time.perf_counter()
    options = {"beta": config.beta, "rank": config.rank, "scaling": config.scaling, "seed": derive_seed(0, "lora")}
    for pair in pairs[:ONE_BY_ONE]:
        evaluate_adapters(speaker, system, questions, step(dpo_gradients(speaker, [pair], **options), STEP_SIZE), 1, config, 0)
    alone = (time.perf_counter() - start) / ONE_BY_ONE * len(pairs)
    return {"pairs": len(pairs), "side by side s": together, "one after another s": alone, "ratio": alone / together}


def main() -> None:
    torch.set_num_threads(1)
    lines = ["# Benchmarks", "", "Written by `make bench`; one process, one thread, one run.", ""]
    lines += [f"Machine: {platform.machine()}, {_cpu()}, {os.cpu_count()} cores; torch {torch.__version__}.", ""]
    lines += ["| task | what | measured | ratio | goal |", "|---|---|---|---|---|"]
    for task in SYSTEMS:
        trees, found = bench_search(task)
        lines.append(_row(task, "search against a plain batch of the same requests", found, "at least 0.7"))
        found = bench_scoring(task, trees)
        what = f"scoring {found['pairs']} pairs at V = {V}: side by side against one after another (timed on {ONE_BY_ONE})"
        lines.append(_row(task, what, found, "at least 20"))
        print(json.dumps(found), flush=True)
    lines += ["", f"Peak memory of this process: {peak_memory_mb()} MiB."]
    (Path(__file__).parent / "results.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _row(task: str, what: str, found: dict, goal: str) -> str:
    numbers = ", ".join(f"{name} {value:.1f}" for name, value in found.items() if name not in ("ratio", "pairs"))
    return f"| {task} | {what} | {numbers} | {found['ratio']:.2f} | {goal} |"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")


if __name__ == "__main__":
    main()
