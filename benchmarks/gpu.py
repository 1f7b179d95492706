"""vLLM against transformers, and the paper's scale, as ratios measured in one run.

Search and scoring through both engines; whether both give the same greedy text; one search batch,
64 pairs at V = 20 and DPO steps; a Llama-3-8B configuration with random weights; QwQ-32B's, one
search batch and one scoring batch of vLLM:

    python -m benchmarks.gpu engines --model models/smollm2
    python -m benchmarks.gpu greedy --dtype float32
    python -m benchmarks.gpu scale --model models/random-8b
    python -m benchmarks.gpu random --shape llama3-8b --like models/smollm2 --out models/random-8b
    python -m benchmarks.gpu speak --shape qwq-32b --like models/smollm2
    python -m benchmarks.gpu noise --model models/smollm2

    python -m benchmarks.gpu repeat --model models/smollm2

`repeat`: one SFT, with gradient checkpointing, again and again in two processes on one card:
whether equal rows and seeds give equal models.

`noise`: what vLLM says other than before under a step of zero, in each of its modes of numerics,
and what each mode costs. Greedy, so that every difference is one of the logits.

Writes benchmarks/gpu-<part>.md and .json. The questions are the micro world's as text, so no data
set is needed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from dits_lib.agents import TASKS, make_system, prompt_and_prefix, rendered_turns
from dits_lib.engines import (
    LORA_TARGETS,
    Engine,
    LoRAStack,
    Request,
    TransformersEngine,
    VLLMEngine,
    asleep,
    load_tokenizer,
    read_deltas,
)
from dits_lib.influence import (
    DPOLoss,
    InfluenceSettings,
    dpo_gradients,
    evaluate_adapters,
    part,
    step,
    step_response,
)
from dits_lib.influence.gradients import gradient_options
from dits_lib.influence.validation_play import changed_share
from dits_lib.pairs import Pair, extract_pairs
from dits_lib.search import SearchSettings, tree_search
from dits_lib.suite.hub import known_shape
from dits_lib.suite.memory import GPUMemoryWatch
from dits_lib.suite.planning import size_of
from dits_lib.tasks import make_questions
from dits_lib.training import DPOSettings, Place, SFTSettings, train_dpo, train_sft

MODELS = {
    "llama3-8b": "meta-llama/Meta-Llama-3-8B-Instruct",
    "qwq-32b": "Qwen/QwQ-32B",
}
"""The paper's models, whose shapes the suite knows (`suite/hub.py`)."""

PAPER = {"tokens": 2.0e7, "pairs": 8500, "gpu_hours": 106}
"""The paper's budget on 2WikiMultiHopQA (its cost table)."""


@dataclass
class Timed:
    seconds: float = 0.0


@contextmanager
def timed():
    found, start = Timed(), time.perf_counter()
    yield found
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    found.seconds = time.perf_counter() - start


@contextmanager
def timed_steps():
    """When each training step of a trainer begins, in seconds."""
    from transformers import Trainer

    starts, plain = [], Trainer.training_step

    def step(self, *args, **kwargs):
        starts.append(time.perf_counter())
        return plain(self, *args, **kwargs)

    Trainer.training_step = step
    try:
        yield starts
    finally:
        Trainer.training_step = plain


class Recorder:
    """An engine that keeps the requests it is asked."""

    def __init__(self, engine):
        self.engine, self.requests = engine, []
        own = type(engine).converse is not Engine.converse  # else it goes through `generate`
        self.name = "converse" if own else "generate"
        self.inner = getattr(engine, self.name)

    def __enter__(self):
        def generate(requests, adapters=None):
            self.requests += requests
            return self.inner(requests, adapters)

        def converse(first, reply, adapters=None):
            def told(said):
                following = reply(said)
                self.requests += following.values()
                return following

            self.requests += first.values()
            self.inner(first, told, adapters)

        setattr(self.engine, self.name, {"converse": converse, "generate": generate}[self.name])
        return self

    def __exit__(self, *_):
        setattr(self.engine, self.name, self.inner)


def speed(engine, work) -> tuple[float, float, object]:
    """Generated tokens a second of `work()`, its seconds, and what it returned."""
    before = engine.snapshot()
    with timed() as clock:
        result = work()
    return engine.usage.minus(before)["generated_tokens"] / clock.seconds, clock.seconds, result


def forget(engine) -> None:
    """Drop cached prefixes, so that what is timed next reads its prompts itself."""
    if isinstance(engine, VLLMEngine):
        engine._llm.reset_prefix_cache()


class Report(dict):
    """What was measured; each row is printed at once, so that a run cut short has told what it
    had."""

    def __setitem__(self, key: str, row: dict) -> None:
        super().__setitem__(key, row)
        print(_line(key, row), flush=True)


def _told(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def _line(key: str, row: dict) -> str:
    return f"| {key} | {', '.join(f'{k} {_told(v)}' for k, v in row.items())} |"


def searched(engine, system, questions, seed, compare: bool = True):
    """Tokens/s of a search, and with `compare` of the same requests in one plain batch."""
    config = SearchSettings(repetitions=8, rollouts=1)
    forget(engine)
    with Recorder(engine) as recorder:
        rate, seconds, trees = speed(
            engine, lambda: tree_search(engine, system, questions, config, seed)
        )
    found = {"tokens/s": rate, "seconds": seconds, "requests": len(recorder.requests)}
    if compare:
        plain = plain_rate(engine, recorder.requests)
        found |= {"plain tokens/s": plain, "search / plain": rate / plain}
    return found, trees


def plain_rate(engine, requests: list[Request]) -> float:
    """Tokens/s of the same requests, without adapters, in one batch."""
    fresh = [
        Request(r.prompt_ids, r.seed + 1, r.max_new_tokens, r.temperature, None, r.prefix)
        for r in requests
    ]
    forget(engine)
    return speed(engine, lambda: engine.generate(fresh))[0]


def made_pairs(engine, system, trees, count) -> list[Pair]:
    """`count` pairs of the trees, repeated if they hold fewer; any two replies to one state will do
    for timing."""
    found = extract_pairs(engine.tokenizer, system, trees, -10.0, -10.0)
    if not found:
        raise SystemExit("the search gave no state with two replies; ask for more dialogues")
    return (found * (count // len(found) + 1))[:count]


def scored(engine, system, pairs, questions, config, alone: int):
    """Scoring through adapters in one batch, and with `alone` > 0 one adapter after another (timed
    on that many) and plain generation of that size."""
    with timed() as gradient_clock, engine.learning() as learner:
        with timed() as own:
            stack = step(
                dpo_gradients(learner, pairs, seed=0, **gradient_options(config, DPOLoss())), 0.01
            ).to(engine.stack_device)
    # First adapters compile kernels.
    evaluate_adapters(engine, system, questions[:1], part(stack, 0, 2), 2, config, 9)
    with Recorder(engine) as recorder:
        together, seconds, _ = speed(
            engine,
            lambda: evaluate_adapters(engine, system, questions, stack, len(pairs), config, 0),
        )
    found = {
        "pairs": len(pairs),
        "V": len(questions),
        "gradient seconds": own.seconds,
        "gradients with loading": gradient_clock.seconds,
        "seconds": seconds,
        "tokens/s": together,
    }
    if alone:
        singles = [part(stack, i, i + 1) for i in range(alone)]
        _, one, _ = speed(
            engine,
            lambda: [
                evaluate_adapters(engine, system, questions, single, 1, config, 0)
                for single in singles
            ],
        )
        after, plain = one / alone * len(pairs), plain_rate(engine, recorder.requests)
        found |= {
            "one after another, seconds": after,
            "one after another / together": after / seconds,
            "plain tokens/s": plain,
            "scoring / plain": together / plain,
        }
    return found


def greedy_difference(first: list, second: list, engine, requests) -> dict:
    """Share of equal greedy replies, and how far apart (nats) the two tokens were, under `engine`,
    where others first part."""
    gaps = []
    for request, a, b in zip(requests, first, second, strict=True):
        if a.token_ids != b.token_ids:
            at = next(
                (
                    k
                    for k, (x, y) in enumerate(zip(a.token_ids, b.token_ids, strict=False))
                    if x != y
                ),
                None,
            )
            if at is not None:
                prompt = (*request.prompt_ids, *a.token_ids[:at])
                (one,), (other,) = engine.logprobs(
                    [(prompt, (a.token_ids[at],)), (prompt, (b.token_ids[at],))]
                )
                gaps.append(abs(one - other))
    equal = sum(a.token_ids == b.token_ids for a, b in zip(first, second, strict=True))
    return {
        "prompts": len(first),
        "equal": equal / len(first),
        "widest gap where they part, nats": max(gaps, default=0.0),
    }


def greedy_requests(engine, system, count: int, length: int) -> list[Request]:
    """First turns of `count` questions, greedy."""
    rendered = [
        prompt_and_prefix(engine.tokenizer, system, q, (), system.agents[0])
        for q in make_questions("exchange", "test", count, 0)
    ]
    return [Request(prompt, 0, length, 0.0, None, prefix) for prompt, prefix in rendered]


def greedy_part(options) -> dict:
    """Whether both engines give the same greedy text, and how near a tie they part."""
    system = make_system("exchange", "chat", max_turns=4, max_new_tokens=options.reply)
    plain = TransformersEngine.load(options.model, options.device, options.dtype)
    asked = greedy_requests(plain, system, 200, options.reply)
    served = vllm_engine(options).generate(asked)
    return {
        f"greedy text, {options.dtype}": greedy_difference(
            plain.generate(asked), served, plain, asked
        )
    }


def engines_part(options) -> dict:
    """Both engines on one model: search, scoring."""
    system = make_system("exchange", "chat", max_turns=4, max_new_tokens=options.reply)
    questions = make_questions("exchange", "train", max(1, options.dialogues // 8), 0)
    validation = make_questions("exchange", "validation", options.v, 0)
    config = InfluenceSettings(candidates=options.adapters, gradient_rows=16)
    found = Report()
    plain = TransformersEngine.load(options.model, options.device, options.dtype, max_rows=512)
    plain.generate([Request(tuple(range(5, 50)), 0, 4)] * 4)
    found["transformers search"], _ = searched(plain, system, questions, 0, compare=False)
    plain.release()
    if options.device == "cuda":
        torch.cuda.empty_cache()
    with timed() as clock:
        engine = vllm_engine(options)
    found["vllm start"] = {"seconds": clock.seconds}
    engine.generate([Request(tuple(range(5, 50)), 0, 4)] * 4)
    found["vllm search"], trees = searched(engine, system, questions, 0)
    if options.wide:
        many = make_questions("exchange", "train", options.wide, 1)
        found[f"vllm search of {options.wide} questions at once"], _ = searched(
            engine, system, many, 1
        )
    found["vllm / transformers in search"] = {
        "ratio": found["vllm search"]["tokens/s"] / found["transformers search"]["tokens/s"]
    }
    found["vllm scoring"] = scored(
        engine,
        system,
        made_pairs(engine, system, trees, options.pairs),
        validation,
        config,
        options.alone,
    )
    return found


def scale_part(options) -> dict:
    """The paper's scale: one search batch, pairs scored at V, LoRA DPO steps, and what its budget
    would take."""
    system = make_system("exchange", "chat", max_turns=4, max_new_tokens=options.reply)
    questions = make_questions("exchange", "train", max(1, options.dialogues // 8), 0)
    validation = make_questions("exchange", "validation", options.v, 0)
    config = InfluenceSettings(candidates=options.adapters, gradient_rows=options.gradient_rows)
    found = Report()
    if torch.cuda.is_available():
        torch.cuda.init()
    with GPUMemoryWatch() as memory:
        with timed() as clock:
            engine = vllm_engine(options)
        found["vllm start"] = {"seconds": clock.seconds}
        found["search"], trees = searched(engine, system, questions, 0, compare=False)
        pairs = made_pairs(engine, system, trees, options.pairs)
        found["scoring"] = scored(engine, system, pairs, validation, config, options.alone)
        train = DPOSettings(
            steps=options.steps,
            batch=8,
            learning_rate=1e-5,
            lora_rank=16,
            gradient_checkpointing=True,
            beta=0.1,
            nll_weight=0.0,
        )
        place = Place(options.device, options.dtype)
        with asleep(), timed_steps() as starts, timed() as clock:
            train_dpo(options.model, pairs, train, 0, Path(options.work) / "dpo", place)
        found["dpo"] = {
            "steps": options.steps,
            "seconds": clock.seconds,
            "seconds a step": float(np.median(np.diff(starts))),
        }
    found["memory"] = {"peak GB": memory.peak_mb * 2**20 / 1e9}
    rate = min(found["search"]["tokens/s"], found["scoring"]["tokens/s"])
    hours = {
        "sampling": PAPER["tokens"] / rate / 3600,
        "gradients": PAPER["pairs"] * found["scoring"]["gradient seconds"] / options.pairs / 3600,
        "DPO": 2 * PAPER["pairs"] / 8 * found["dpo"]["seconds a step"] / 3600,
    }
    found["the paper's 2WikiMultiHopQA budget"] = {
        **{f"{k}, hours": v for k, v in hours.items()},
        "GPU hours": sum(hours.values()),
        "paper's GPU hours": PAPER["gpu_hours"],
    }
    return found


def speak_part(options) -> dict:
    """A configuration with random weights that only vLLM holds: one search batch, one batch of
    candidates at V. The steps are random too."""
    system = make_system("exchange", "chat", max_turns=4, max_new_tokens=options.reply)
    questions = make_questions("exchange", "train", max(1, options.dialogues // 8), 0)
    config, found = InfluenceSettings(candidates=options.adapters), Report()
    root = Path(options.work) / (options.shape or "own")
    shape = shape_config(options)
    for part_of in (shape, AutoTokenizer.from_pretrained(options.like)):
        part_of.save_pretrained(root)
    with GPUMemoryWatch() as memory:
        with timed() as clock:
            engine = vllm_engine(options, root, dummy=True)
        found["vllm start"] = {"seconds": clock.seconds}
        found["search"], _ = searched(engine, system, questions, 0)
        stack = random_steps(shape, options.pairs, config.rank)
        evaluate_adapters(engine, system, questions[:1], part(stack, 0, 2), 2, config, 9)
        validation = make_questions("exchange", "validation", options.v, 0)
        forget(engine)
        with Recorder(engine) as recorder:
            rate, seconds, _ = speed(
                engine,
                lambda: evaluate_adapters(
                    engine, system, validation, stack, options.pairs, config, 0
                ),
            )
        plain = plain_rate(engine, recorder.requests)
    found["scoring"] = {
        "pairs": options.pairs,
        "V": options.v,
        "seconds": seconds,
        "tokens/s": rate,
        "plain tokens/s": plain,
        "scoring / plain": rate / plain,
    }
    found["memory"] = {
        "peak GB": memory.peak_mb * 2**20 / 1e9,
        "parameters": float(size_of(shape).parameters),
    }
    return found


def repeat_part(options) -> dict:
    """The same SFT `--repeats` times in each of two processes; how far the adapters lie apart."""
    command = [sys.executable, "-m", "benchmarks.gpu", "repeat", "--alone", "0"]
    given = {"model": options.model, "device": options.device, "dtype": options.dtype}
    given |= {"steps": options.steps, "repeats": options.repeats, "style": options.style}
    command += [str(part) for key, value in given.items() for part in (f"--{key}", value)]
    folders = [Path(options.work) / f"repeat-{number}" for number in range(2)]
    running = [
        subprocess.Popen([*command, "--work", str(folder)], stdout=subprocess.PIPE, text=True)
        for folder in folders
    ]
    told = [process.communicate()[0].splitlines() for process in running]
    runs = [
        (folder / str(number), row)
        for folder, lines in zip(folders, told, strict=True)
        for number, row in enumerate(json.loads(lines[-1]) if lines else [])
    ]
    if len(runs) < 2 * options.repeats:
        raise SystemExit("a training failed; its process said why")
    first, found = read_deltas(runs[0][0]), Report()
    size = sum(float((b @ a).norm() ** 2) for a, b in first.values()) ** 0.5
    for folder, row in runs:
        other = read_deltas(folder)
        apart = sum(
            float((b @ a - other[name][1] @ other[name][0]).norm() ** 2)
            for name, (a, b) in first.items()
        )
        found[f"process {folder.parent.name[-1]}, run {folder.name}"] = row | {
            "distance from the first / size of its update": apart**0.5 / size
        }
    return found


def repeats_of(options) -> list[dict]:
    """One process of `repeat_part`: its trainings one after another."""
    system, rng = make_system("debate", options.style), np.random.default_rng(0)
    tokenizer, rows = load_tokenizer(options.model), []
    for question in make_questions("debate", "train", 64, 0):
        turns = tuple(TASKS["debate"].warm_start(question, rng))
        for prompt, reply in rendered_turns(tokenizer, system, question, turns):
            rows.append({"prompt_ids": prompt, "reply_ids": reply})
    settings = SFTSettings(
        steps=options.steps,
        batch=8,
        learning_rate=2e-4,
        lora_rank=8,
        gradient_checkpointing=True,
    )
    logs = [
        train_sft(
            options.model,
            rows,
            settings,
            0,
            Path(options.work) / str(number),
            Place(options.device, options.dtype),
        )
        for number in range(options.repeats)
    ]
    return [{"first loss": log[0]["loss"], "last loss": log[-1]["loss"]} for log in logs]


NUMERICS = ("fast", "float32_logits", "batch_invariant")
NOISE_SIZES = [0.003, 0.01, 0.03, 0.1]


def noise_part(options) -> dict:
    """Every mode in a process of its own: vLLM reads its mode once."""
    found = Report()
    for mode in options.modes.split(","):
        command = [sys.executable, "-m", "benchmarks.gpu", "noise", "--numerics", mode]
        given = {"model": options.model, "device": options.device, "dtype": options.dtype}
        given |= {"pairs": options.pairs, "v": options.v, "adapters": options.adapters}
        given |= {
            "memory": options.memory,
            "max-length": options.max_length,
            "style": options.style,
        }
        given |= {"dialogues": options.dialogues, "reply": options.reply}
        command += [str(part) for key, value in given.items() for part in (f"--{key}", value)]
        command += ["--eager"] if options.eager else []
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = [line for line in ended.stdout.splitlines() if line.startswith("{")]
        if ended.returncode or not lines:
            reason = (ended.stderr.strip().splitlines() or ["no reason told"])[-1]
            found[mode] = {"failed": reason[:300]}
        else:
            for name, row in json.loads(lines[-1]).items():
                found[f"{mode}: {name}"] = row
    return found


def noise_of(options) -> dict:
    """One mode: the response to steps, with its floor; the base played twice; speed."""
    limits = {"max_new_tokens": options.reply} if options.style == "chat" else {}
    system = make_system("debate", options.style, **limits)
    searched_questions = make_questions("debate", "train", max(1, options.dialogues // 8), 0)
    asked = make_questions("debate", "development", options.v, 0)
    settings = InfluenceSettings(candidates=options.adapters, temperature=0.0, samples=1)
    with timed() as start:
        engine = vllm_engine(options)
    trees = tree_search(engine, system, searched_questions, SearchSettings(rollouts=1), 0)
    pairs = made_pairs(engine, system, trees, options.pairs)
    rows = step_response(engine, system, pairs, asked, NOISE_SIZES, settings, 0)
    bases = [evaluate_adapters(engine, system, asked, None, 1, settings, 0)[0] for _ in range(2)]
    with engine.learning() as learner:
        gradients = dpo_gradients(learner, pairs, seed=0, **gradient_options(settings, DPOLoss()))
        steps = step(gradients, NOISE_SIZES[0]).to(engine.stack_device)
    forget(engine)
    with Recorder(engine) as recorder:
        rate, seconds, _ = speed(
            engine,
            lambda: evaluate_adapters(engine, system, asked, steps, len(pairs), settings, 0),
        )
    found = {
        "speed": {
            "start seconds": start.seconds,
            "scoring seconds": seconds,
            "scoring tokens/s": rate,
            "plain tokens/s": plain_rate(engine, recorder.requests),
        },
        "noise": {
            "floor (steps of zero)": rows[0]["floor"],
            "base played again": changed_share([bases[1]], bases[0]),
            "dialogues": float(len(pairs) * len(asked)),
        },
    }
    for row in rows:
        found[f"step {row['step_size']:g}"] = {
            "changed": row["changed"],
            "beyond the floor": row["changed"] - row["floor"],
        }
    return found


def random_steps(shape, count: int, rank: int) -> LoRAStack:
    """Steps of the size of a small influence step, on every layer that a LoRA would change."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape)
    generator, weights = torch.Generator().manual_seed(0), {}
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] in LORA_TARGETS:
            a = torch.randn(rank, module.in_features, generator=generator) / module.in_features**0.5
            weights[name] = (
                a,
                1e-3 * torch.randn(count, module.out_features, rank, generator=generator),
            )
    return LoRAStack(weights, 1.0)


def shape_config(options):
    """The configuration named by `--shape`, with the special tokens of the tokenizer's model;
    without one, that model's own."""
    small = AutoConfig.from_pretrained(options.like)
    if options.shape is None:
        return small
    layers = {"num_hidden_layers": options.layers} if options.layers else {}
    return known_shape(
        MODELS[options.shape],
        **layers,
        bos_token_id=small.bos_token_id,
        eos_token_id=small.eos_token_id,
        pad_token_id=small.eos_token_id,
    )


def vllm_engine(options, root: Path | None = None, dummy: bool = False) -> VLLMEngine:
    return VLLMEngine(
        root or options.model,
        dummy=dummy,
        device=options.device,
        dtype=options.dtype,
        max_adapters=options.adapters,
        max_rank=8,
        memory=options.memory,
        max_length=options.max_length,
        numerics=options.numerics or "fast",
        eager=options.eager,
        compile=options.compile,
        cache_gb=options.cache_gb,
    )


def random_part(options) -> dict:
    """Write a configuration of `MODELS` with random weights and another model's tokenizer."""
    tokenizer, config = AutoTokenizer.from_pretrained(options.like), shape_config(options)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(options.device):
        model = AutoModelForCausalLM.from_config(config)
    torch.set_default_dtype(before)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    return {"model": {"parameters": float(sum(p.numel() for p in model.parameters()))}}


def write(name: str, found: dict, options) -> None:
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    vllm = (
        subprocess.run(
            [sys.executable, "-c", "import vllm; print(vllm.__version__)"],
            capture_output=True,
            text=True,
            check=False,
        )
        .stdout.strip()
        .splitlines()
    )
    lines = [
        f"# Benchmarks on {card}: {name}",
        "",
        f"Written by `python -m benchmarks.gpu {name}`, one run; torch {torch.__version__}, vLLM "
        f"{vllm[-1] if vllm else 'missing'}.",
        "",
    ]
    hidden = ("part", "work", "out", "like")
    told = [f"{key} {value}" for key, value in vars(options).items() if key not in hidden]
    lines += [f"Settings: {', '.join(told)}.", ""]
    lines += ["| what | measured |", "|---|---|"]
    lines += [_line(key, row) for key, row in found.items()]
    folder = Path(options.out or Path(__file__).parent)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"gpu-{name}.md").write_text("\n".join(lines) + "\n")
    (folder / f"gpu-{name}.json").write_text(json.dumps(found, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "part", choices=["engines", "greedy", "scale", "speak", "random", "noise", "repeat"]
    )
    parser.add_argument("--model", default="models/smollm2")
    parser.add_argument("--like", default="models/smollm2", help="random: whose tokenizer to take")
    parser.add_argument(
        "--shape",
        choices=list(MODELS),
        help="random, speak: the configuration; else that of --like",
    )
    parser.add_argument(
        "--layers",
        type=int,
        default=None,
        help="random, speak: layers, if fewer than the configuration's",
    )
    parser.add_argument("--out", default=None, help="folder to write to")
    parser.add_argument("--work", default="runs/benchmarks")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--dialogues", type=int, default=512)
    parser.add_argument(
        "--wide",
        type=int,
        default=512,
        help="engines: questions of a second, larger search; 0: none",
    )
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument(
        "--alone",
        type=int,
        default=4,
        help="adapters timed one after another; 0: that and plain generation are left out",
    )
    parser.add_argument("--v", type=int, default=20)
    parser.add_argument("--reply", type=int, default=48)
    parser.add_argument("--adapters", type=int, default=64)
    parser.add_argument("--gradient-rows", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--memory", type=float, default=0.5)
    parser.add_argument("--cache-gb", type=float, default=None)
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--repeats", type=int, default=4, help="repeat: trainings a process")
    parser.add_argument("--max-length", type=int, default=2048)
    parser.add_argument("--style", choices=["chat", "micro"], default="chat", help="noise: prompts")
    parser.add_argument("--modes", default=",".join(NUMERICS), help="noise: modes to compare")
    parser.add_argument("--numerics", choices=NUMERICS, default=None, help="noise: this one, here")
    options = parser.parse_args()
    if options.part == "random":
        print(random_part(options))
    elif options.part == "repeat" and not options.alone:
        print(json.dumps(repeats_of(options)))
    elif options.part == "noise" and options.numerics:
        print(json.dumps(noise_of(options)))
    else:
        write(
            options.part,
            {
                "engines": engines_part,
                "greedy": greedy_part,
                "scale": scale_part,
                "speak": speak_part,
                "noise": noise_part,
                "repeat": repeat_part,
            }[options.part](options),
            options,
        )


if __name__ == "__main__":
    main()
