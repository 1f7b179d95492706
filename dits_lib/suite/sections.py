"""The sections of a parameter file: their keys, and what each may be. Defaults stand in
`params/micro.yaml` alone."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, ClassVar, Literal

from pydantic import Field, create_model, model_validator

from ..agents import TASKS, Task
from ..influence import ESTIMATORS, InfluenceSettings
from ..selection import SCALES
from ..settings import ROOT, Count, Positive, Settings, Share
from ..settings.kinds import (
    MOST,
    AtLeastTwo,
    Bounded,
    CountOrZero,
    Different,
    NotNegative,
    PartOf,
    PathText,
    Rising,
    Seeds,
    Text,
)
from ..tasks import HARM_KINDS
from ..tasks.public import PUBLIC, Slice, load_splits
from ..training import SFTSettings

EstimatorName = Literal[tuple(ESTIMATORS)]
ByEstimator = dict[EstimatorName, AtLeastTwo]
"""Validation questions by estimator."""


class Model(Settings):
    """The model and the engine that it speaks through; see `TransformersEngine` and
    `VLLMEngine`."""

    section: ClassVar = "model"

    path: PathText
    engine: Literal["transformers", "vllm"]
    device: Literal["cpu", "cuda"]
    dtype: Literal["float32", "bfloat16"]
    max_rows: Count
    max_adapters: Count
    max_rank: Annotated[int, Field(ge=1, le=512)]
    memory: Annotated[float, Field(gt=0, lt=1)]
    cache_gb: Positive | None
    max_length: Annotated[int, Field(ge=64, le=MOST)]
    eager: bool
    compile: bool
    numerics: Literal["fast", "float32_logits", "batch_invariant"]


class Ray(Settings):
    """What each worker asks a Ray cluster for: `cpus`, and `gpus` or a share of one. A job whose
    worker is lost is done again, `retries` times at most."""

    section: ClassVar = "ray"

    cpus: Annotated[int, Field(ge=1, le=1024)]
    gpus: Annotated[float, Field(ge=0, le=1)]
    retries: Annotated[int, Field(ge=0, le=1000)]


def _limits_of(task: Task) -> type[Settings]:
    """What parameters may limit of a task's dialogues; what is left out is the style's."""
    ranges = {
        name: (Annotated[int, Field(ge=least, le=most)] | None, None)
        for name, (least, most) in task.limits.items()
    }
    name = f"{task.name.title().replace('_', '')}Limits"
    kind = create_model(name, __base__=Settings, __module__=__name__, **ranges)
    globals()[name] = kind  # where pickle looks for it: parameters go to other processes
    return kind


class _Agents(Settings):
    section: ClassVar = "agents"

    prompts: Literal[tuple(dict.fromkeys(s for task in TASKS.values() for s in task.styles))]

    def limits(self, task: str) -> dict[str, int]:
        """The limits of a task's dialogues that are other than the style's."""
        given = getattr(self, task) if TASKS[task].limits else None
        return {} if given is None else given.model_dump(exclude_none=True)


class _Data(Settings):
    section: ClassVar = "data"

    data_dir: PathText | None
    context_words: Annotated[int, Field(ge=10, le=100_000)]
    max_rows: Annotated[int, Field(ge=10, le=MOST)]

    def splits(self, task: str) -> dict[str, Slice] | None:
        """The questions of a task's public data set by split; None for the made-up world.

        Raises:
            DataError: for a row that cannot be used, or splits that overlap.
        """
        name = getattr(self, task)
        if name == "micro":
            return None
        return _load_splits(name, self.data_dir, self.context_words, self.max_rows)


# One key for each task, so that a new task needs no change here.
Agents = create_model(
    "Agents",
    __base__=_Agents,
    __module__=__name__,
    __doc__="""`prompts`: the style of what agents are told; limits of each task, null for those of
    the style.""",
    **{name: (_limits_of(task) | None, None) for name, task in TASKS.items() if task.limits},
)
Data = create_model(
    "Data",
    __base__=_Data,
    __module__=__name__,
    __doc__="""The data set of each task. `data_dir`: folder of local JSONL instead of the hub, or
    null. `context_words`: words of context an agent reads at most. `max_rows`: rows of a hub split
    used at most.""",
    **{name: (Literal["micro", *task.data_sets], "micro") for name, task in TASKS.items()},
)


@lru_cache(maxsize=8)
def _load_splits(name: str, data_dir: str | None, words: int, max_rows: int) -> dict[str, Slice]:
    folder = None if data_dir is None else ROOT / data_dir
    return load_splits(PUBLIC[name], folder, words, max_rows)


class Harmful(Settings):
    """`share` of the training questions, and `kind` of harm, that are planted on purpose."""

    section: ClassVar = "world.harmful"

    share: Share
    kind: Literal[HARM_KINDS]


class WorldSettings(Settings):
    """`facts_per_view`: facts an agent reads (2 to 8). `questions`: own JSONL file instead of the
    made-up world, or null."""

    section: ClassVar = "world"

    facts_per_view: Annotated[int, Field(ge=2, le=8)]
    questions: PathText | None
    harmful: Harmful


class Influence(InfluenceSettings):
    """The influence step and its validation questions: `validation_questions`, V; `estimator`,
    that of notebooks 03 to 05 and 08; `step_sizes` that are tried on `step_questions` with
    `step_pairs`, of which the one is taken that changes a share of dialogues nearest to
    `target_changed`, or the smallest that repeats at `target_repeatable`, where that is given. A
    single step size is taken as it is."""

    validation_questions: AtLeastTwo
    estimator: EstimatorName
    step_sizes: Rising[Positive]
    target_changed: Annotated[float, Field(gt=0, lt=1)]
    target_repeatable: Annotated[float, Field(gt=0, lt=1)] | None
    step_questions: AtLeastTwo
    step_pairs: Annotated[int, Field(ge=3, le=MOST)]


class Selection(Settings):
    """`alpha`: share of the pairs that is kept. `small_alpha`: a smaller share, to see whether
    less hurts. `scale`: units in which influence and Q are added; see `combined_score`."""

    section: ClassVar = "selection"

    alpha: PartOf
    small_alpha: PartOf
    scale: Literal[SCALES]


class SFT(SFTSettings):
    """Dialogues above `min_reward` are learned; `warm_start` `scripted` first trains the base
    model on `warm_questions` gold dialogues for `warm_steps`."""

    min_reward: Bounded
    warm_start: Literal["none", "scripted"]
    warm_questions: Count
    warm_steps: Count


class Sizes(Settings):
    """Numbers of questions: for the SFT search, the training search, the validation pairs, and
    each reported number (`test_samples` dialogues of each)."""

    section: ClassVar = "sizes"

    sft_questions: Count
    train_questions: Count
    loss_questions: Count
    test_questions: Count
    test_samples: Count


class WebSizes(Sizes):
    """The same for notebook 08."""

    section: ClassVar = "web.sizes"


class Testing(Settings):
    """How a model speaks when it is tested: `temperatures`, of which the first is that of every
    reported number and claim, and the others are shown beside it; `top_p` as in `Request`."""

    section: ClassVar = "testing"

    temperatures: Different[Annotated[float, Field(ge=0, le=5)]]
    top_p: PartOf


class Ablation(Settings):
    """Notebook 03: `seeds` (SFT seed included); of each, `random_halves` that are drawn and trained
    on, and `dpo_seeds`, orders of the pairs that every arm is trained in."""

    section: ClassVar = "ablation"

    seeds: Seeds
    random_halves: Annotated[int, Field(ge=1, le=100)]
    dpo_seeds: Annotated[int, Field(ge=1, le=100)]


class Scoring(Settings):
    """`pairs`: scored in notebook 02, at most; `retest_questions`: questions of each of two
    disjoint validation sets; `noise`: estimators whose noise is shown beside that of `one_step`,
    and the validation questions of each in either set."""

    section: ClassVar = "scoring"

    pairs: Annotated[int, Field(ge=4, le=MOST)]
    retest_questions: AtLeastTwo
    noise: ByEstimator


class Budget(Settings):
    """Notebook 04: `questions` searched, the same for all budgets; `rollouts`, d, played from each
    selected node, of which DITS plays the fewest and scores their pairs with `validation`
    questions; `estimators`, others of influence beside it, with the validation questions of
    each."""

    section: ClassVar = "budget"

    seeds: Seeds
    questions: Count
    rollouts: Annotated[Rising[Annotated[int, Field(ge=1, le=1000)]], Field(min_length=2)]
    validation: Rising[AtLeastTwo]
    estimators: ByEstimator


class Iterations(Settings):
    """Notebook 05: `rounds` of search, score, select, SFT and DPO; `questions` searched in each,
    for the pairs by `search_with`: the last round's `policy` (the paper's text), or the round's
    SFT model, from which DPO will `start` (the authors' code). DPO takes `epochs` over the kept
    pairs, whatever their number."""

    section: ClassVar = "iterations"

    seeds: Seeds
    rounds: Annotated[int, Field(ge=1, le=20)]
    questions: Count
    search_with: Literal["policy", "start"]
    epochs: Annotated[float, Field(gt=0, le=1000)]
    gamma: NotNegative


class Fidelity(Settings):
    """Notebook 06: `pairs` of `questions` searched; `validation`, questions of each of two
    disjoint sets, by estimator; `subsets` to retrain on; `race_pairs` and `race_questions` of the
    full table that races are run on; `use_seeds` of the comparison after DPO, from
    `first_use_seed` on, and, by estimator, its validation questions (`use`). 0 leaves a study
    out."""

    section: ClassVar = "fidelity"

    pairs: Annotated[int, Field(ge=4, le=MOST)]
    questions: Count
    validation: Annotated[ByEstimator, Field(min_length=1)]
    subsets: CountOrZero
    race_pairs: CountOrZero
    race_questions: Annotated[int, Field(ge=4, le=MOST)]
    use_seeds: Annotated[int, Field(ge=0, le=1000)]
    first_use_seed: Annotated[int, Field(ge=0, lt=2**31)]
    use: Annotated[ByEstimator, Field(min_length=1)]


class Sensitivity(Settings):
    """Notebook 07: values of each setting, tried one at a time; `step`, multiples of the chosen
    step size; `guide`, what steers the search for the pairs."""

    section: ClassVar = "sensitivity"

    seeds: Seeds
    gamma: Rising[NotNegative]
    validation: Rising[AtLeastTwo]
    alpha: Rising[PartOf]
    step: Rising[Positive]
    min_value: Rising[Bounded]
    min_gap: Rising[NotNegative]
    guide: Different[Literal["q", "influence", "both"]]


class Web(Settings):
    """Deep search (notebook 08): `model`, its base model, or null for `model.path`. `site`:
    `micro`, `live`, or a folder of HTML. `replay`: answer from the cache alone. `results` of a
    search. `calls`, `nesting`, `tokens`: limits of a dialogue; with `max_new_tokens` of a reply,
    `page_characters` and `snippet_words`, null for those of the style. `search_engine`: address of
    a SearXNG server for the live web, or null: then agents can open pages, not search. `judge_url`
    and `judge_model`: of a server, or a model folder. `seeds` and `sizes` of notebook 08."""

    section: ClassVar = "web"

    model: PathText | None
    site: PathText
    cache: PathText | None
    replay: bool
    results: Annotated[int, Field(ge=1, le=50)]
    search_engine: Annotated[str, Field(pattern=r"^https?://\S+$", max_length=2000)] | None
    seconds: Annotated[float, Field(gt=0, le=3600)]
    calls: Count | None
    nesting: Count | None
    tokens: Count | None
    max_new_tokens: Annotated[int, Field(ge=1, le=32768)] | None
    page_characters: Annotated[int, Field(ge=100, le=20_000)] | None
    snippet_words: Annotated[int, Field(ge=0, le=1000)] | None
    judge: Literal["exact_match", "model", "server"]
    judge_url: Text | None
    judge_model: PathText | None
    seeds: Seeds
    sizes: WebSizes

    @model_validator(mode="after")
    def _judged(self):
        if self.judge != "exact_match" and not self.judge_model:
            raise ValueError(f"judge is {self.judge}: name its judge_model")
        address = self.judge_url or ""
        if self.judge == "server" and not address.startswith(("http://", "https://")):
            raise ValueError("judge is server: judge_url must be its address, http://...")
        return self
