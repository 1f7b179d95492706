"""What a profile would cost, before the money is spent: `python -m dits_lib.plan --profile llama3-8b` (or `make plan`).

Checks the model folder, the data and the disk, counts the tokens that each notebook would read, write and train on, and turns them
into hours and peak memory with the rates below. No GPU is needed. Tokens are counted from the parameters with the assumptions
that are printed; hours are an estimate within a factor of two or three, not a promise.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import pandas as pd

from .engines import LORA_TARGETS, ModelError
from .influence import TREE_ESTIMATORS
from .params import OUTPUT, ROOT, Params, ParamsError, add_profile_options, profile_of
from .report.book import markdown_table
from .reproduce import InputError, check_models, check_questions
from .selection import ARMS
from .tasks import DataError
from .web_task import web_limits


@dataclass(frozen=True)
class Machine:
    """What the estimate assumes of a machine.

    Attributes:
        memory: bytes. flops: peak a second, in bfloat16 (CPU: float32). bandwidth: bytes a second.
        decode_cap: tokens a second that no batch exceeds, for vLLM and for transformers.
        step: seconds that a decoding step takes beside reading the weights.
        start: seconds to start vLLM. setup: seconds to load and save a model around its training.
    """

    memory: float
    flops: float
    bandwidth: float
    decode_cap: dict[str, float]
    step: float
    start: float
    setup: float


MACHINES = {
    # Data sheets; caps, step and start were measured on an H100 and an H200 (searches of 512 questions with SmolLM2-135M and of 256 with an
    # 8B model, docs/log.md), the A100's are guessed from them.
    "h100": Machine(80e9, 989e12, 3.35e12, {"vllm": 13e3, "transformers": 1e3}, 0.004, 90, 15),
    "h200": Machine(141e9, 989e12, 4.8e12, {"vllm": 13e3, "transformers": 1e3}, 0.004, 90, 15),
    "a100": Machine(80e9, 312e12, 2.0e12, {"vllm": 7e3, "transformers": 0.5e3}, 0.005, 90, 15),
    "cpu": Machine(16e9, 0.1e12, 2e10, {"vllm": 500, "transformers": 6e3}, 0.002, 40, 2),
}
PAIRS_A_QUESTION = 5
FILL = 0.5
TOKENS_A_WORD = 1.4
INSTRUCTION = 150
CALLED = 0.5
CHARACTERS_A_TOKEN = 4
MICRO_PAGE = 25
BATCH = {"vllm": 512, "transformers": 64}
EFFICIENCY = {"prefill": 0.4, "train": 0.35}
LORA_SPEED = 0.4
ASSUMED = (
    f"{PAIRS_A_QUESTION} pairs a searched question; replies {FILL:.0%} of their limit; dialogues as long as allowed, "
    f"in deep search {CALLED:.0%} of the calls allowed, half of them pages of {CHARACTERS_A_TOKEN} characters a token; {TOKENS_A_WORD} tokens a word; "
    f"{INSTRUCTION} tokens of instruction; as many replies at once as a search of the training questions asks for, {BATCH['vllm']} at most (transformers: {BATCH['transformers']}); no prompt served from the prefix cache; {EFFICIENCY['prefill']:.0%} of the peak "
    f"when reading, {EFFICIENCY['train']:.0%} when training; adapters slow decoding to {LORA_SPEED:.0%}."
)


@dataclass
class Work:
    """Tokens of one stage: read and written when sampling (with or without adapters), read when training or taking gradients."""

    read: float = 0.0
    written: float = 0.0
    written_with_adapters: float = 0.0
    trained: float = 0.0
    models: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Work)))

    def times(self, count: int) -> Work:
        return Work(*(getattr(self, f.name) * count for f in fields(Work)))


def count_work(params: Params) -> pd.DataFrame:
    """Tokens by notebook and stage, over all tasks: columns `notebook`, `stage` and the fields of `Work`. Stages that two notebooks
    share (the first seed's) are counted once."""
    total: dict[tuple[str, str], Work] = {}
    for part in params.parts():
        for task in part.tasks:
            counted = _notebooks(part, task)
            for name in part.notebooks:
                for stage, work in counted[name].items():
                    total[name, stage] = total.get((name, stage), Work()) + work
    return pd.DataFrame([{"notebook": name, "stage": stage, **vars(work)} for (name, stage), work in total.items()])


@dataclass(frozen=True)
class Lengths:
    """Tokens of a dialogue: `written`; `read` as prompts; of a `row`, one prompt with its reply, in training; of its `longest` prompt."""

    written: float
    read: float
    row: float
    longest: float


def lengths(params: Params, task: str) -> Lengths:
    """Tokens of a task's dialogues, as assumed in `ASSUMED`."""
    context = params.data.context_words if task == "exchange" else 80
    first = INSTRUCTION + TOKENS_A_WORD * context if params.agents.prompts == "chat" else 60
    told = 0.0
    if task == "deep_search":
        system = web_limits(params)
        turns = round(CALLED * system.limits.calls) + 1  # and the answer
        page = system.page_characters / CHARACTERS_A_TOKEN
        told = (page + params.web.results * TOKENS_A_WORD * (system.snippet_words + 5)) / 2  # half of the calls open a page, half search
        told = min(told, MICRO_PAGE) if params.web.site == "micro" else told
    else:
        system = params.agents.system(task)
        turns = system.max_turns
    reply = FILL * system.max_new_tokens
    row = first + turns / 2 * (reply + told) + reply
    read = sum(first + turn * (reply + told) for turn in range(turns))
    return Lengths(turns * reply, read, row, row + turns * (system.max_new_tokens + told) / 2)


def _notebooks(params: Params, task: str) -> dict[str, dict[str, Work]]:
    p, length = params, lengths(params, task)
    row = length.row
    s, v, i = p.sizes, p.influence, p.iterations

    def played(count: float, adapters: bool = False) -> Work:
        written = count * length.written
        return Work(count * length.read, 0 if adapters else written, written if adapters else 0)

    def search(questions: int) -> Work:
        return played(questions * p.search.repetitions * p.search.rollouts)

    def gradients(pairs: float) -> Work:
        return Work(trained=pairs * 2 * row)

    def scored(pairs: float, questions: int) -> Work:
        return played(pairs * questions * v.samples, adapters=True) + gradients(pairs)

    sft = Work(trained=p.sft.steps * p.sft.batch * row, models=1)
    warm = Work(trained=p.sft.warm_steps * p.sft.batch * row, models=1) if p.sft.warm_start != "none" else Work()
    dpo = Work(trained=p.dpo.steps * p.dpo.batch * 2 * row * 4 / 3, models=1)  # and the reference's forward pass
    evaluation = played(s.test_questions * s.test_samples)
    start = {"search": search(s.sft_questions) + search(s.train_questions), "sft": sft + warm}
    pairs, arms = PAIRS_A_QUESTION * s.train_questions, len(ARMS) + 1
    rounds = 2 * i.seeds * i.rounds
    f, t = p.fidelity, p.sensitivity
    budgets = (len(p.budget.q_questions) + len(p.budget.validation) + len(p.budget.estimators)) * p.budget.seeds
    retrained = (f.subsets + 5 if f.subsets else 0) + (2 * len(f.use) + 4) * f.use_seeds  # and about five families of questions
    changes = t.seeds * (1 + sum(len(getattr(t, name)) for name in ("gamma", "validation", "alpha", "step", "min_value", "min_gap")))

    def estimates(count: float, by_name: dict[str, int]) -> Work:
        return _estimates(params, count, by_name, played, scored, gradients, row)

    response = scored(v.step_pairs, v.step_questions * len(v.step_sizes))

    def ablation(seeds: int, searched: int) -> dict[str, Work]:
        """All arms, for `seeds` seeds, of which `searched` need search and SFT."""
        return {
            "search": (start["search"] + search(s.loss_questions)).times(searched), "sft": start["sft"].times(searched),
            "score": (scored(pairs, v.validation_questions) + gradients(pairs)).times(seeds),
            "dpo": dpo.times(arms * seeds), "evaluate": evaluation.times((arms + 2) * seeds),
        }

    return {
        "01_rollout": start,
        "02_scoring": {
            "response": response,
            "score": scored(min(p.scoring.pairs, pairs), 2 * p.scoring.retest_questions) + gradients(pairs),
            "search": search(s.loss_questions),
        },
        "03_selection_ablation": ablation(p.ablation.seeds, p.ablation.seeds - 1),
        "04_budget_scaling": {
            "search": search(sum(p.budget.q_questions) + p.budget.dits_questions).times(p.budget.seeds),
            "score": (scored(PAIRS_A_QUESTION * p.budget.dits_questions, sum(p.budget.validation)) + estimates(PAIRS_A_QUESTION * p.budget.dits_questions, p.budget.estimators)).times(p.budget.seeds),
            "dpo": dpo.times(budgets), "evaluate": evaluation.times(budgets),
        },
        "05_iterations": {
            "search": search(i.questions).times(rounds), "sft": sft.times(rounds), "dpo": dpo.times(rounds),
            "score": scored(PAIRS_A_QUESTION * i.questions, v.validation_questions).times(rounds // 2),
            "evaluate": evaluation.times(rounds),
        },
        "06_influence_fidelity": {
            "search": search(s.sft_questions + f.questions) + start["search"].times(f.use_seeds), "sft": (sft + warm).times(1 + f.use_seeds),
            "score": estimates(f.pairs, f.validation).times(2) + scored(f.race_pairs, f.race_questions) + estimates(pairs, f.use).times(f.use_seeds),
            "dpo": dpo.times(retrained), "evaluate": evaluation.times(retrained + f.use_seeds),
        },
        "07_sensitivity": {
            "search": start["search"].times(t.seeds), "sft": start["sft"].times(t.seeds),
            "score": (scored(pairs, max([*t.validation, v.validation_questions])) + scored(pairs, v.validation_questions).times(len(t.step))).times(t.seeds),
            "dpo": dpo.times(changes), "evaluate": evaluation.times(changes),
        },
        "08_deep_search": {"response": response} | ablation(p.ablation.seeds, p.ablation.seeds),
    }


def _estimates(params: Params, pairs: float, by_name: dict[str, int], played, scored, gradients, row: float) -> Work:
    """Scores of the pairs by each estimator, on the validation questions that are named for it."""
    v, total = params.influence, Work()
    for name, count in by_name.items():
        sampled = played(count * v.policy_samples) + gradients(pairs) + Work(trained=count * v.policy_samples * row)
        if name in ("one_step", "racing"):  # a race plays all questions at most
            total += scored(pairs, count)
        elif name == "one_step_question":
            total += scored(pairs / PAIRS_A_QUESTION, count) + gradients(pairs)
        elif name == "learned":
            total += scored(v.learned_share * pairs, count) + gradients(pairs)
        elif name == "one_step_controlled":
            total += scored(pairs, round(v.control_share * count)) + sampled
        elif name == "group_design":
            total += scored(v.group_count, count) + gradients(pairs + v.group_count * v.group_steps * v.group_batch)
        elif name == "importance":
            total += played(count * v.policy_samples) + Work(trained=pairs * count * v.policy_samples * row / 3)  # forward passes alone
        elif name in TREE_ESTIMATORS:
            rollouts = params.search.repetitions * params.search.rollouts
            total += played(count * rollouts) + gradients(pairs) + Work(trained=count * rollouts * row)
        else:
            total += sampled
    return total


@dataclass(frozen=True)
class ModelSize:
    """`parameters`; `layers`, `hidden`, `vocabulary`; `lora`: parameters of a LoRA of rank 1 on all targets."""

    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    lora: int


def model_size(path: str) -> ModelSize:
    """Sizes from the configuration alone; no weights are read.

    Raises:
        InputError: when the configuration cannot be had.
    """
    from transformers import AutoConfig

    try:
        return size_of(AutoConfig.from_pretrained(path))
    except Exception as error:  # a hub that cannot be reached, a gated model: one line
        raise InputError(f"{path}: no configuration to be had: {str(error).splitlines()[0]}") from None


def size_of(config) -> ModelSize:
    """Sizes of a model of this configuration (transformers)."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    lora = sum(m.in_features + m.out_features for n, m in model.named_modules() if n.rsplit(".", 1)[-1] in LORA_TARGETS)
    return ModelSize(sum(p.numel() for p in model.parameters()), config.num_hidden_layers, config.hidden_size, config.vocab_size, lora)


def hours(params: Params, work: pd.DataFrame, size: ModelSize, machine: Machine) -> pd.Series:
    """Process hours of each row of `count_work`; loading and saving models included."""
    width = 2 if params.model.dtype == "bfloat16" else 4
    step = machine.step + width * size.parameters / (0.6 * machine.bandwidth)
    asked = max(part.sizes.train_questions for part in params.parts()) * params.search.rollouts
    decode = min(machine.decode_cap[params.model.engine], min(BATCH[params.model.engine], asked) / step)
    reading = 2 * size.parameters / (EFFICIENCY["prefill"] * machine.flops)
    training = 6 * size.parameters / (EFFICIENCY["train"] * machine.flops)
    seconds = work["read"] * reading + work["written"] / decode + work["written_with_adapters"] / (LORA_SPEED * decode) + work["trained"] * training
    return (seconds + work["models"] * machine.setup) / 3600


def peak_memory(params: Params, size: ModelSize, machine: Machine, judge: int = 0) -> float:
    """Bytes at the peak: vLLM's share, or weights, adapters' states and activations of training or of the gradients; and beside it the
    model that judges, of `judge` parameters."""
    width = 2 if params.model.dtype == "bfloat16" else 4
    row = max(lengths(part, task).row for part in params.parts() for task in part.tasks)
    rows = max(2 * params.dpo.batch, params.sft.batch, 2 * params.influence.gradient_rows)
    kept = 2 if params.dpo.gradient_checkpointing else 34  # bytes a token, layer and hidden unit (Korthikanti et al., 2022)
    if params.sft.lora_rank and not params.dpo.lora_rank:
        width = 4  # adapters are merged into float32 weights where all of them are trained
    activations = rows * row * (size.layers * size.hidden * kept + 3 * 4 * size.vocabulary)
    rank = max(params.dpo.lora_rank, params.sft.lora_rank)
    states = 16 * (rank * size.lora if rank else size.parameters)
    scored = max(max(part.scoring.pairs, PAIRS_A_QUESTION * part.sizes.train_questions) for part in params.parts())
    block = scored if params.influence.estimator in ("racing", "group_design", "likelihood_adam") else params.influence.gradient_block
    held = 0 if params.model.engine == "vllm" else 4 * block * params.influence.rank * size.lora
    learning = width * (size.parameters + judge) + states + activations + min(held, 4 * scored * params.influence.rank * size.lora)
    m = params.model
    speaking = (m.memory * machine.memory if m.engine == "vllm" else 2 * width * size.parameters) + width * judge
    if m.engine == "vllm" and m.cache_gb is not None:
        speaking = m.cache_gb * 1e9 + 2 * size.parameters + 2 * m.max_adapters * m.max_rank * size.lora + 2e9  # and CUDA's own
        return (learning + speaking) * (params.workers if m.device == "cuda" else 1)  # vLLM stays awake beside the training
    return max(learning, speaking) * (params.workers if m.device == "cuda" else 1)


def disk_needed(params: Params, work: pd.DataFrame, size: ModelSize) -> float:
    """Bytes of the trained models and of the dialogues."""
    rank = max(params.dpo.lora_rank, params.sft.lora_rank)
    model = 4 * (rank * size.lora if rank else size.parameters)
    return work["models"].sum() * model + 40 * (work["written"] + work["written_with_adapters"]).sum()


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 it fits, 2 it cannot run as it is (one line a reason on stderr)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_profile_options(parser)
    parser.add_argument("--gpu", choices=[name for name in MACHINES if name != "cpu"], default="h100", help="what model.device cuda would be")
    options = parser.parse_args(arguments)
    try:
        params = profile_of(options)
        check_models(params)
        for part in params.parts():
            check_questions(part)
        size = model_size(params.model_path(params.parts()[0].tasks[0]))
        judge = model_size(params.judge_path()).parameters if params.judge_path() else 0
    except (ParamsError, DataError, ModelError, InputError) as error:
        print(error, file=sys.stderr)
        return 2
    name = options.gpu if params.model.device == "cuda" else "cpu"
    return report(params, size, name, judge)


def report(params: Params, size: ModelSize, name: str, judge: int = 0) -> int:
    """Print the plan; tells whether it fits, as an exit status. `judge`: parameters of the model that judges in this process."""
    machine, work = MACHINES[name], count_work(params)
    work["hours"] = hours(params, work, size, machine)
    if params.model.engine == "vllm":
        # One set of processes a part (`compute_ahead`); notebook 06 starts its own, up to four.
        pools = sum(part.notebooks != ["06_influence_fidelity"] for part in params.parts()) + 4 * ("06_influence_fidelity" in params.notebooks)
        starts = pools * (params.workers if params.model.device == "cuda" else 1)
        work.loc[len(work)] = {"notebook": "all", "stage": "starting vLLM", **dict.fromkeys(work.columns[2:], 0), "hours": starts * machine.start / 3600}
    shown = pd.concat([work, pd.DataFrame([{"notebook": "total", "stage": "", **work.drop(columns=["notebook", "stage"]).sum()}])])
    for column in ("read", "written", "written_with_adapters", "trained"):
        shown[column] = (shown[column] / 1e6).map("{:.2f}".format)
    shown["hours"] = shown["hours"].map("{:.3f}".format)
    path = params.model_path(params.parts()[0].tasks[0])
    print(f"profile {params.profile}: {Path(path).relative_to(ROOT) if Path(path).is_relative_to(ROOT) else path}, {size.parameters / 1e6:.0f} M parameters, engine {params.model.engine}, on one {name}\n")
    print(markdown_table(shown.rename(columns={c: f"{c} (M tokens)" for c in ("read", "written", "written_with_adapters", "trained")}).astype({"models": int})))
    workers, total = params.workers, work["hours"].sum()
    if workers > 1:
        print(f"\nHours are those of processes, which share the machine: {total:.2f} hours of {workers} processes are {total / workers:.2f} hours by the clock at best.")
    print(f"\nAssumed: {ASSUMED}")
    peak, need = peak_memory(params, size, machine, judge), disk_needed(params, work, size)
    folder = Path(OUTPUT)
    free = shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free
    print(f"\npeak memory: {peak / 1e9:.1f} GB of {machine.memory / 1e9:.0f} GB; disk: {need / 1e9:.2f} GB of {free / 1e9:.0f} GB free in {folder}")
    reasons = []
    if peak > 0.95 * machine.memory:
        reasons.append("memory: lower influence.gradient_rows, dpo.batch or sft.batch, set gradient_checkpointing, or use LoRA and bfloat16")
    longest = max(lengths(part, task).longest for part in params.parts() for task in part.tasks)
    if params.model.engine == "vllm" and longest > params.model.max_length:
        reasons.append(f"model.max_length of {params.model.max_length} tokens (the longest prompts take about {longest:.0f}): raise it, or lower data.context_words")
    if need > 0.9 * free:
        reasons.append("disk: free some, or point DITS_OUTPUT elsewhere; LoRA models (lora_rank above 0) take far less")
    for reason in reasons:
        print(f"{params.profile}: does not fit the {reason}", file=sys.stderr)
    return 2 if reasons else 0


if __name__ == "__main__":
    sys.exit(main())
