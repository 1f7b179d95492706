"""What a profile would cost, counted from its parameters.

Tokens that each notebook would read, write and train on, turned into hours and peak memory with the
rates below. Hours are an estimate within a factor of two or three, not a promise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from ..agents import TASKS
from ..agents.calls import CALLS_USED
from ..engines import LORA_TARGETS
from ..influence import ESTIMATORS, Training
from ..influence.base import Amount, Effort
from ..influence.step_size import response_effort
from ..selection import ARMS
from .checks import InputError
from .deep_search import system_without_pages
from .fitting import on_one_card
from .params import Params
from .studies.selection_ablation import BOTH_WAYS
from .studies.temperatures import SHOWN

if TYPE_CHECKING:
    import pandas as pd


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
    # Data sheets; caps, step and start were measured on an H100 and an H200 (searches of 512
    # questions with SmolLM2-135M and of 256 with an 8B model, docs/log.md), the A100's are guessed
    # from them.
    "h100": Machine(80e9, 989e12, 3.35e12, {"vllm": 13e3, "transformers": 1e3}, 0.004, 90, 15),
    "h200": Machine(141e9, 989e12, 4.8e12, {"vllm": 13e3, "transformers": 1e3}, 0.004, 90, 15),
    "a100": Machine(80e9, 312e12, 2.0e12, {"vllm": 7e3, "transformers": 0.5e3}, 0.005, 90, 15),
    "cpu": Machine(16e9, 0.1e12, 2e10, {"vllm": 500, "transformers": 6e3}, 0.002, 40, 2),
}
PAIRS_A_QUESTION = 5
FILL = 0.5
ALOUD = 512
TOKENS_A_WORD = 1.4
INSTRUCTION = 150
CHARACTERS_A_TOKEN = 4
MICRO_PAGE = 25
BATCH = {"vllm": 512, "transformers": 64}
EFFICIENCY = {"prefill": 0.4, "train": 0.35}
LORA_SPEED = 0.4
ASSUMED = (
    f"{PAIRS_A_QUESTION} pairs a searched question, or the upper half of them; "
    f"replies {FILL:.0%} of their limit; dialogues "
    f"as long as allowed; of a reply {ALOUD} tokens at most are said aloud, which later prompts "
    "show, the rest is thought; "
    f"in deep search {CALLS_USED:.0%} of the calls allowed, half of them pages of "
    f"{CHARACTERS_A_TOKEN} characters a token; {TOKENS_A_WORD} tokens a word; "
    f"{INSTRUCTION} tokens of instruction; as many replies at once as a search of the training "
    f"questions asks for, {BATCH['vllm']} at most (transformers: {BATCH['transformers']}); no "
    f"prompt served from the prefix cache; {EFFICIENCY['prefill']:.0%} of the peak "
    f"when reading, {EFFICIENCY['train']:.0%} when training; adapters slow decoding to "
    f"{LORA_SPEED:.0%}."
)


@dataclass
class Work:
    """Tokens of one stage: read and written when sampling (with or without adapters), read when
    training or taking gradients."""

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
    """Tokens by notebook and stage, over all tasks: columns `notebook`, `stage` and the fields of
    `Work`. Stages that two notebooks share (the first seed's) are counted once."""
    import pandas as pd

    total: dict[tuple[str, str], Work] = {}
    for part in params.parts():
        for task in part.tasks:
            counted = _notebooks(part, task)
            for name in part.notebooks:
                for stage, work in counted[name].items():
                    total[name, stage] = total.get((name, stage), Work()) + work
    return pd.DataFrame(
        [{"notebook": name, "stage": stage, **vars(work)} for (name, stage), work in total.items()]
    )


@dataclass(frozen=True)
class Lengths:
    """Tokens of a dialogue: `written`; `read` as prompts; of a `row`, one prompt with its `reply`,
    in training; of its `longest` prompt."""

    written: float
    read: float
    row: float
    reply: float
    longest: float


def lengths(params: Params, task: str) -> Lengths:
    """Tokens of a task's dialogues, as assumed in `ASSUMED`."""
    record, chat = TASKS[task], params.agents.prompts != "micro"
    context = params.data.context_words if record.readers and not record.choice else 80
    first = INSTRUCTION + TOKENS_A_WORD * context if chat else 60
    shown = 0.0  # tokens of a page or of a search's results, in the mean of the turns
    if record.on_pages:
        system = system_without_pages(params)
        page = system.page_characters / CHARACTERS_A_TOKEN
        results = params.web.results * TOKENS_A_WORD * (system.snippet_words + 5)
        shown = (page + results) / 2  # half of the calls open a page, half search
        shown = min(shown, MICRO_PAGE) if params.web.site == "micro" else shown
    else:
        system = record.system(params.agents.prompts, params.agents.limits(task))
    turns = system.expected_turns()
    reply, most = FILL * system.max_new_tokens, min(ALOUD, system.max_new_tokens)
    aloud = min(reply, most)
    row = first + turns / 2 * (aloud + shown) + reply
    read = sum(first + turn * (aloud + shown) for turn in range(turns))
    return Lengths(turns * reply, read, row, reply, row + turns * (most + shown) / 2)


def _notebooks(params: Params, task: str) -> dict[str, dict[str, Work]]:
    p, length = params, lengths(params, task)
    row = length.row
    s, v, i = p.sizes, p.influence, p.iterations

    def played(count: float, adapters: bool = False) -> Work:
        written = count * length.written
        return Work(count * length.read, 0 if adapters else written, written if adapters else 0)

    def search(
        questions: int, rollouts: int = p.search.rollouts, guide: str = p.search.guide
    ) -> Work:
        """Dialogues; what the initial model reads for the fluency of each reply (alone, so without
        its prompt); and what a guide scores: before each repetition but the first a pair a
        question (on the micro world 6 to 7 in all, of eight repetitions)."""
        spoken = played(questions * p.search.repetitions * rollouts)
        fluency = Work(read=spoken.written if p.search.fluency_weight else 0)
        again = p.search.repetitions - 1 if guide != "q" else 0
        steered = estimates(questions, {v.estimator: v.validation_questions}).times(again)
        return spoken + fluency + steered

    def gradients(pairs: float) -> Work:
        return Work(trained=pairs * 2 * row)

    def worked(effort: Effort) -> Work:
        rows = effort.gradient_rows + effort.forward_rows / 3  # a forward pass is a third
        own = played(effort.dialogues) + played(effort.stepped_dialogues, adapters=True)
        return own + Work(trained=rows * row)

    def pairs_trained(count: float, models: int) -> Work:
        """DPO on so many pairs, repeats counted; the reference takes a forward pass too."""
        return Work(trained=count * 2 * row * 4 / 3, models=models)

    warmed = pairs_trained(v.warmup_steps * p.dpo.batch, 1) if v.warmup_steps else Work()

    def estimates(count: float, by_name: dict[str, int]) -> Work:
        return worked(_estimates(p, count, by_name))

    def scored(pairs: float, questions: int) -> Work:
        return estimates(pairs, {"one_step": questions}) + warmed

    sft = Work(trained=p.sft.steps * p.sft.batch * row, models=1)
    warm = (
        Work(trained=p.sft.warm_steps * p.sft.batch * row, models=1)
        if p.sft.warm_start != "none"
        else Work()
    )

    dpo = pairs_trained(p.dpo.steps * p.dpo.batch, 1)
    evaluation = played(s.test_questions * (s.test_samples if p.testing.temperatures[0] else 1))
    start = {"search": search(s.sft_questions) + search(s.train_questions), "sft": sft + warm}
    each, halves = pairs_a_question(p), p.ablation.random_halves
    pairs = each * s.train_questions
    all_pairs = PAIRS_A_QUESTION * s.train_questions
    # Every arm for equal steps, some for equal epochs too; `random` is several halves.
    arms = (len(ARMS) + halves + len(BOTH_WAYS)) * p.ablation.dpo_seeds
    rounds = i.seeds * i.rounds
    f, t, b = p.fidelity, p.sensitivity, p.budget
    budgets = (3 * len(b.rollouts) + 2 * (len(b.validation) + len(b.estimators))) * b.seeds
    i_pairs = each * i.questions
    i_searches = 2 if i.search_with == "start" else 1
    # All pairs, and twice a half.
    i_dpo = pairs_trained(i.epochs * i_pairs * (1 + 2 * p.selection.alpha), 3)
    # The five are families of questions, as many as there are about.
    retrained = (f.subsets + 5 if f.subsets else 0) + (2 * len(f.use) + 4) * f.use_seeds
    changes = t.seeds * (
        1
        + sum(
            len(getattr(t, name))
            for name in ("gamma", "validation", "alpha", "step", "min_value", "min_gap", "guide")
        )
    )

    tried = Amount(v.step_pairs, v.step_questions, 0, 0, v, _is_exact(p))
    response = worked(response_effort(tried, len(v.step_sizes)))

    def ablation(seeds: int, searched: int) -> dict[str, Work]:
        """All arms, for `seeds` seeds, of which `searched` need search and SFT."""
        return {
            "search": (start["search"] + search(s.loss_questions)).times(searched),
            "sft": start["sft"].times(searched),
            "score": (scored(pairs, v.validation_questions) + gradients(pairs)).times(seeds),
            "dpo": dpo.times(arms * seeds),
            "evaluate": evaluation.times((arms + 2) * seeds),
        }

    selection = ablation(p.ablation.seeds, p.ablation.seeds - 1)
    again = estimates(pairs, {"one_step": v.validation_questions})  # each seed's pairs once more
    selection["score"] += again.times(p.ablation.seeds)
    for temperature in p.testing.temperatures[1:]:  # greedy dialogues of a question are alike
        samples = s.test_samples if temperature > 0 else 1
        shown = len(SHOWN) * p.ablation.seeds
        selection["evaluate"] += played(s.test_questions * samples).times(shown)
    return {
        # Searches, SFT and one scoring of its own, three DPO runs and five models tested.
        "00_dits_in_one_page": start
        | {
            "response": response,
            "score": scored(pairs, v.validation_questions),
            "dpo": dpo.times(3),
            "evaluate": evaluation.times(5),
        },
        "01_rollout": start,
        "02_scoring": {
            "response": response,
            # Three scorings each: two sets of questions, and one of them under another A.
            "score": scored(min(p.scoring.pairs, pairs), 3 * p.scoring.retest_questions)
            + estimates(min(p.scoring.pairs, pairs), p.scoring.noise).times(3)
            + gradients(pairs),
            "search": search(s.loss_questions),
        },
        "03_selection_ablation": selection,
        "04_budget_scaling": {
            "search": search(b.questions, sum(b.rollouts)).times(b.seeds),
            "score": (
                scored(each * b.questions, sum(b.validation))
                + estimates(each * b.questions, b.estimators)
            ).times(b.seeds),
            "dpo": dpo.times(budgets),
            "evaluate": evaluation.times(budgets),
        },
        "05_iterations": {
            "search": search(i.questions).times(3 * rounds * i_searches),
            "sft": sft.times(3 * rounds),
            "dpo": i_dpo.times(rounds),
            "score": scored(i_pairs, v.validation_questions).times(rounds),
            "evaluate": evaluation.times(3 * rounds),
        },
        "06_influence_fidelity": {
            "search": search(s.sft_questions + f.questions) + start["search"].times(f.use_seeds),
            "sft": (sft + warm).times(1 + f.use_seeds),
            "score": estimates(f.pairs, f.validation).times(2)
            + scored(f.race_pairs, f.race_questions)
            + (estimates(pairs, f.use) + warmed).times(f.use_seeds),
            "dpo": dpo.times(retrained),
            "evaluate": evaluation.times(retrained + f.use_seeds),
        },
        "07_sensitivity": {
            "search": sum(
                (search(s.train_questions, guide=guide) for guide in t.guide), start["search"]
            ).times(t.seeds),
            "sft": start["sft"].times(t.seeds),
            # Of all pairs: the upper half is taken after each filter.
            "score": (
                scored(all_pairs, max([*t.validation, v.validation_questions]))
                + scored(all_pairs, v.validation_questions).times(len(t.step))
            ).times(t.seeds),
            "dpo": dpo.times(changes),
            "evaluate": evaluation.times(changes),
        },
        "08_deep_search": ({"response": response} if len(v.step_sizes) > 1 else {})
        | ablation(p.ablation.seeds, p.ablation.seeds),
    }


def pairs_a_question(params: Params) -> float:
    """Pairs that a searched question gives, as assumed in `ASSUMED`."""
    return PAIRS_A_QUESTION / 2 if params.pairs.upper_half else PAIRS_A_QUESTION


def _estimates(params: Params, pairs: float, by_name: dict[str, int]) -> Effort:
    """Scores of the pairs by each estimator, on the validation questions that are named for it."""
    rollouts, total = params.search.repetitions * params.search.rollouts, Effort()
    for name, count in by_name.items():
        searched = pairs / pairs_a_question(params)
        given = params.influence, _is_exact(params), Training.of(params.dpo), params.selection.alpha
        amount = Amount(pairs, count, searched, rollouts, *given)
        total += ESTIMATORS[name].takes(amount)
    return total


def _is_exact(params: Params) -> bool:
    """Whether the engine's numbers do not depend on the batch."""
    return params.model.engine == "transformers" and params.model.dtype == "float32"


@dataclass(frozen=True)
class ModelSize:
    """`parameters`; `layers`, `hidden`, `vocabulary`; `lora`: parameters of a LoRA of rank 1 on all
    targets."""

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
        raise InputError(
            f"{path}: no configuration to be had: {str(error).splitlines()[0]}"
        ) from None


def size_of(config) -> ModelSize:
    """Sizes of a model of this configuration (transformers)."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    lora = sum(
        m.in_features + m.out_features
        for n, m in model.named_modules()
        if n.rsplit(".", 1)[-1] in LORA_TARGETS
    )
    return ModelSize(
        sum(p.numel() for p in model.parameters()),
        config.num_hidden_layers,
        config.hidden_size,
        config.vocab_size,
        lora,
    )


def hours(params: Params, work: pd.DataFrame, size: ModelSize, machine: Machine) -> pd.Series:
    """Process hours of each row of `count_work`; loading and saving models included."""
    width = 2 if params.model.dtype == "bfloat16" else 4
    step = machine.step + width * size.parameters / (0.6 * machine.bandwidth)
    asked = max(part.sizes.train_questions for part in params.parts()) * params.search.rollouts
    decode = min(
        machine.decode_cap[params.model.engine], min(BATCH[params.model.engine], asked) / step
    )
    reading = 2 * size.parameters / (EFFICIENCY["prefill"] * machine.flops)
    training = 6 * size.parameters / (EFFICIENCY["train"] * machine.flops)
    seconds = (
        work["read"] * reading
        + work["written"] / decode
        + work["written_with_adapters"] / (LORA_SPEED * decode)
        + work["trained"] * training
    )
    return (seconds + work["models"] * machine.setup) / 3600


def peak_memory(params: Params, size: ModelSize, machine: Machine, judge: int = 0) -> float:
    """Bytes at the peak: vLLM's share, or weights, adapters' states and activations of training or
    of the gradients; and beside it the model that judges, of `judge` parameters."""
    width = 2 if params.model.dtype == "bfloat16" else 4
    given = [lengths(part, task) for part in params.parts() for task in part.tasks]
    longest = max(given, key=lambda own: own.row)
    together = _rows_of_a_pass(params, longest.row)
    activations = max(
        _kept(2 * params.dpo.batch * longest.row, size, params.dpo.gradient_checkpointing),
        _kept(params.sft.batch * longest.row, size, params.sft.gradient_checkpointing),
        _kept(
            together * longest.row,
            size,
            params.influence.gradient_checkpointing,
        )
        # Logits of the replies, their softmax and its gradient; TRL's trainers make none.
        + together * longest.reply * 3 * 4 * size.vocabulary,
    )
    if params.sft.lora_rank and not params.dpo.lora_rank:
        width = 4  # adapters are merged into float32 weights where all of them are trained
    rank = max(params.dpo.lora_rank, params.sft.lora_rank)
    states = 16 * (rank * size.lora if rank else size.parameters)
    scored = max(
        max(part.scoring.pairs, pairs_a_question(part) * part.sizes.train_questions)
        for part in params.parts()
    )
    record = ESTIMATORS[params.influence.estimator]
    block = scored if record.holds_all_gradients else params.influence.gradient_block
    held = 0 if params.model.engine == "vllm" else 4 * block * params.influence.rank * size.lora
    if record.uses_training:  # about 2 * sqrt(steps) states of weights and AdamW are kept
        trained = params.dpo.lora_rank * size.lora or size.parameters
        states += 2 * (math.isqrt(params.dpo.steps) + 1) * 12 * trained
    learning = (
        width * (size.parameters + judge)
        + states
        + activations
        + min(held, 4 * scored * params.influence.rank * size.lora)
    )
    m = params.model
    speaking = (
        m.memory * machine.memory if m.engine == "vllm" else 2 * width * size.parameters
    ) + width * judge
    if m.engine == "transformers" and params.search.fluency_weight:
        speaking += width * size.parameters  # the initial model, beside the policy
    if m.engine == "vllm" and m.cache_gb is not None:
        # The last 2 GB are CUDA's own.
        speaking = (
            m.cache_gb * 1e9
            + 2 * size.parameters
            + 2 * m.max_adapters * m.max_rank * size.lora
            + 2e9
        )
        # vLLM stays awake beside the training.
        return (learning + speaking) * on_one_card(params)
    return max(learning, speaking) * on_one_card(params)


def _rows_of_a_pass(params: Params, row: float) -> float:
    """Replies with their prompts, of so many tokens each, whose gradients share a pass: two for a
    pair, and both of one at least."""
    most, tokens = 2 * params.influence.gradient_rows, params.influence.gradient_tokens
    return most if tokens is None else max(2, min(most, tokens // row))


def _kept(tokens: float, size: ModelSize, checkpointing: bool = False) -> float:
    """Bytes of the activations that a backward pass over so many tokens needs: 34 a token, layer
    and hidden unit (Korthikanti et al., 2022); with checkpointing 2, and those of one layer."""
    layers = 2 * size.layers + 34 if checkpointing else 34 * size.layers
    return tokens * size.hidden * layers


def disk_needed(params: Params, work: pd.DataFrame, size: ModelSize) -> float:
    """Bytes of the trained models and of the dialogues."""
    rank = max(params.dpo.lora_rank, params.sft.lora_rank)
    model = 4 * (rank * size.lora if rank else size.parameters)
    return (
        work["models"].sum() * model + 40 * (work["written"] + work["written_with_adapters"]).sum()
    )
