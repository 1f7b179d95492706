"""The stages of the method as artifacts: search, step response, scores, SFT, DPO, evaluation.

Each method of `Pipeline` that makes something returns an artifact of the store, making it if it is
not there. The specification of an artifact holds the keys of its inputs, so a changed parameter
remakes just what depends on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..agents import TASKS, rendered_turns
from ..engines import Engine, derive_seed, model_files
from ..influence import (
    ESTIMATORS,
    DPOLoss,
    ScoreError,
    Scores,
    ScoringContext,
    Training,
    choose_step_size,
    step_response,
)
from ..influence.base import HOW_GRADIENTS_FIT, check_scores, over_draws
from ..influence.estimators.dpo_loss import dpo_loss_influence
from ..influence.guide import InfluenceGuide
from ..pairs import Pair, best_dialogues, extract_pairs
from ..rollout import sample_dialogues
from ..search import Tree, tree_search
from ..settings import OUTPUT, ROOT
from ..tasks import DataError, Question
from ..tasks.judge import compared
from ..training import Place, train_dpo, train_sft
from .deep_search import deep_search_system, pages_key
from .notebooks import questions_needed
from .params import Params
from .question_checks import own_questions, unknown_words
from .store import (
    Artifact,
    Store,
    StoreError,
    checksum,
    read_rows,
    write_json,
    write_jsonl,
)


@dataclass(frozen=True)
class ModelRef:
    """A model: where it lies, and a key that changes with its weights."""

    path: str
    key: str


class Pipeline:
    """One profile's stages for one task.

    Args:
        params: of the profile.
        task: a name in `TASKS`.
        store: where artifacts go; `runs/<profile>` of the repository by default.
    """

    def __init__(self, params: Params, task: str, store: Store | None = None):
        self.params, self.task = params, task
        self.loss = DPOLoss(params.dpo.beta, params.dpo.nll_weight)
        self.training = Training.of(params.dpo)
        self.store = store or Store(OUTPUT / "runs" / params.profile)
        record = TASKS[task]
        if record.on_pages:
            self.system = deep_search_system(params, self.store.root)
        else:
            self.system = record.system(params.agents.prompts, params.agents.limits(task))

    # Questions and models

    def questions(self, split: str, count: int, seed: int, skip: int = 0) -> list[Question]:
        """`count` questions of a split, after the first `skip`; each seed gives another sample.

        Raises:
            DataError: when the data hold fewer.
        """
        own, data = self.params.world.questions, self.params.data.splits(self.task)
        if own is None and data is None:
            world = self.params.drawn_world()
            return TASKS[self.task].questions(split, skip + count, seed, world)[skip:]
        if data is not None:
            where, rows = data[split].source, list(data[split].questions)
        else:
            where = str(ROOT / own)
            rows = [
                question
                for question in own_questions(where, self.task)
                if question.meta["split"] == split
            ]
        if len(rows) < skip + count:
            raise DataError(
                f"{where}: {len(rows)} questions of split '{split}', but {skip + count} are "
                "asked for"
            )
        order = np.random.default_rng([seed, len(split)]).permutation(len(rows))
        return [rows[i] for i in order[skip : skip + count]]

    def _check_words(self, tokenizer, questions: list[Question]) -> None:
        """Raises DataError when the questions are data of whose words the model knows too few: also
        in a notebook that is opened by hand, where nothing was checked before."""
        source = self.params.world.questions or getattr(self.params.data, self.task)
        made_up = source == "micro"
        fault = None if made_up else unknown_words(self.params, self.task, tokenizer, questions)
        if fault:
            raise DataError(f"{source}: {fault}")

    def base_model(self) -> ModelRef:
        """The profile's base model, before any training."""
        path, p = self.params.model_path(self.task), self.params.model
        # What speaks, and how precisely, decides the replies too.
        engine = f"{p.engine} {p.device} {p.dtype}"
        engine += f" {p.max_length} {p.numerics}" if p.engine == "vllm" else ""
        return ModelRef(path, f"{_weights_key(path)} {engine}")

    def engine(self, model: ModelRef) -> Engine:
        """The engine of the parameters, with a model loaded."""
        from ..engines import TransformersEngine, VLLMEngine

        p = self.params.model
        if p.engine == "transformers":
            return TransformersEngine.load(model.path, p.device, p.dtype, max_rows=p.max_rows)
        return VLLMEngine(model.path, **p.model_dump(exclude={"path", "engine", "max_rows"}))

    # Stages

    def start_model(self, seed: int) -> ModelRef:
        """The model that is searched first: the base model, or with `sft.warm_start` the base model
        after SFT on gold dialogues of training questions that no search uses."""
        p = self.params.sft
        base = self.base_model()
        if p.warm_start == "none":
            return base
        count, skip = p.warm_questions, questions_needed(self.params)["train"] - p.warm_questions
        settings = p.changed(steps=p.warm_steps)
        spec = {
            "model": base.key,
            "questions": ["train", count, seed, skip, self._data_key()],
            **self._training_spec(settings, seed),
        }

        def make(folder: Path) -> dict:
            rows = self._gold_rows(base, self.questions("train", count, seed, skip), seed)
            longest = self.system.max_new_tokens  # a reply that cannot be said in full is no lesson
            short = [row for row in rows if len(row["reply_ids"]) <= longest]
            if 2 * len(short) < len(rows):
                raise DataError(
                    f"{self.task}: {len(rows) - len(short)} of {len(rows)} scripted replies of the "
                    f"warm start are longer than the {longest} tokens of a reply; raise "
                    f"agents.{self.task}.max_new_tokens"
                )
            log = train_sft(base.path, short, settings, seed, folder / "model", self._place())
            left_out = len(rows) - len(short)
            return {"trained_tokens": int(log[-1]["num_tokens"]), "replies_too_long": left_out}

        return self._trained("sft", spec, make)

    def _gold_rows(self, base: ModelRef, questions: list[Question], seed: int) -> list[dict]:
        """SFT rows of scripted dialogues that end in the gold answer."""
        from ..engines import load_tokenizer

        rng, rows, tokenizer = np.random.default_rng([seed, 3]), [], load_tokenizer(base.path)
        for question in questions:
            turns = tuple(TASKS[self.task].warm_start(question, rng))
            rendered = rendered_turns(tokenizer, self.system, question, turns)
            rows += [
                {"prompt_ids": prompt, "reply_ids": reply}
                for (prompt, reply), turn in zip(rendered, turns, strict=True)
                if turn.trainable
            ]
        return rows

    def _place(self) -> Place:
        """Where and in what precision to train."""
        return Place(self.params.model.device, self.params.model.dtype)

    def _training_spec(self, settings, seed: int) -> dict:
        """What decides a training run beside its model and rows."""
        kept = {"min_reward", "warm_start", "warm_questions", "warm_steps"}  # decide rows alone
        config = settings.model_dump(exclude=kept) | asdict(self._place())
        return {"config": config, "seed": seed}

    def _trained(self, stage: str, spec: dict, make: Callable[[Path], dict]) -> ModelRef:
        """A trained model as an artifact; vLLM lends its memory to the training."""

        def with_room(folder: Path) -> dict:
            from ..engines import asleep

            with asleep():
                return make(folder)

        artifact = self.store.get(stage, spec, with_room)
        return ModelRef(str(artifact.path / "model"), artifact.key)

    def search(
        self,
        model: ModelRef,
        split: str,
        count: int,
        seed: int,
        skip: int = 0,
        step_size: float | None = None,
    ) -> Artifact:
        """Trees, preference pairs and SFT rows of `count` questions.

        Args:
            step_size: of the influence that guides the search; without such a guide it decides
                nothing. None is the middle of `influence.step_sizes`: before the first search there
                are no pairs to choose it by (`step_size`).

        Raises:
            ScoreError: when the guide's scores tell no pairs apart.
        """
        p, base = self.params, self.base_model()
        spec = {
            "model": model.key,
            "questions": [self.task, split, count, seed, skip, self._data_key()],
            "search": p.search.model_dump(),
            "pairs": p.pairs.model_dump(),
            "min_reward": p.sft.min_reward,
        }
        fluent, guided = p.search.fluency_weight != 0, p.search.guide != "q"
        if fluent:
            spec["initial"] = base.key
        if guided and step_size is None:
            step_size = p.influence.step_sizes[len(p.influence.step_sizes) // 2]
        if guided:
            spec |= self._guide_spec(step_size)

        def make(folder: Path) -> dict:
            engine, questions = self.engine(model), self.questions(split, count, seed, skip)
            self._check_words(engine.tokenizer, questions)
            initial = (engine if model.key == base.key else self.engine(base)) if fluent else None
            guide = self._node_scorer(engine, initial, seed, step_size) if guided else None
            trees = tree_search(engine, self.system, questions, p.search, seed, guide, initial)
            if guide:
                self._check_guide(guide, seed)
            limits = p.pairs.min_value, p.pairs.min_gap, p.pairs.upper_half
            pairs = extract_pairs(engine.tokenizer, self.system, trees, *limits)
            write_jsonl(folder / "trees.jsonl", (tree.to_json() for tree in trees))
            write_jsonl(folder / "pairs.jsonl", (pair.to_json() for pair in pairs))
            write_jsonl(folder / "sft.jsonl", best_dialogues(trees, p.sft.min_reward))
            return _usage_of(engine, initial)

        code = (f"influence/estimators/{p.influence.estimator}.py", "influence/guide.py")
        return self.store.get("search", spec, make, code if guided else ())

    def _guide_spec(self, step_size: float) -> dict:
        """What decides the scores of a search's guide."""
        p, record = self.params, ESTIMATORS[self.params.influence.estimator]
        count = p.influence.validation_questions
        return {
            "estimator": record.name,
            "step": step_size,
            "settings": record.key(p.influence, self.loss),
            "guided_by": [count, self._guide_skip()],
        }

    def _guide_skip(self) -> int:
        """The last validation questions guide; they serve nothing else."""
        return questions_needed(self.params)["validation"] - (
            self.params.influence.validation_questions
        )

    def _node_scorer(
        self, engine: Engine, initial: Engine | None, seed: int, step_size: float
    ) -> InfluenceGuide:
        """Influence of every state's current pair by the estimator of the parameters, for the
        guided search. The validation questions are others than those that score the pairs
        afterwards; the policy takes no warm-up, since there are no pairs yet."""
        p, record = self.params, ESTIMATORS[self.params.influence.estimator]
        count = p.influence.validation_questions
        questions = self.questions("validation", count, seed, self._guide_skip())
        context = ScoringContext(
            engine,
            self.system,
            step_size,
            p.influence,
            None,
            p.search.changed(guide="q"),
            p.pairs,
            p.selection.alpha,
            self.loss,
            initial,
        )
        return InfluenceGuide(context, record, questions, seed)

    def _check_guide(self, guide: InfluenceGuide, seed: int) -> None:
        """Raises ScoreError, naming task and seed, for a guide whose scores are all alike."""
        try:
            guide.check()
        except ScoreError as error:
            raise ScoreError(f"{self.task}, seed {seed}: search.guide: {error}") from None

    def warmed(self, model: ModelRef, searched: Artifact, seed: int) -> ModelRef:
        """The policy whose steps score the pairs of a search: a model after
        `influence.warmup_steps` DPO steps on all of them, with the settings of `dpo` and a seed of
        its own; the model itself without such steps."""
        steps, count = self.params.influence.warmup_steps, len(read_pairs(searched))
        if not steps:
            return model
        return self.dpo(model, searched, np.arange(count), derive_seed("warm-up", seed), steps)

    def _loss_after(self, model: ModelRef, warmed: ModelRef, searched: Artifact) -> DPOLoss:
        """The loss of the training at the warmed policy: its reference stays the model that the
        warm-up began with, as in the training itself."""
        if warmed == model:
            return self.loss
        known = self.reply_logprobs(model, searched).tolist()
        ids = [pair.id for pair in read_pairs(searched)]
        return replace(self.loss, reference=dict(zip(ids, map(tuple, known), strict=True)))

    def step_size(self, model: ModelRef, searched: Artifact, seed: int) -> tuple[float, list[dict]]:
        """The influence step chosen by response on development questions, and the table behind
        it."""
        p, warmed = self.params.influence, self.warmed(model, searched, seed)
        loss = self._loss_after(model, warmed, searched)
        spec = {
            "model": warmed.key,
            "pairs": searched.key,
            "seed": seed,
            "influence": p.model_dump(exclude={"options", "estimator", *HOW_GRADIENTS_FIT}),
            "loss": self.loss.key(),
            "data": self._data_key(),
        }

        def make(folder: Path) -> dict:
            engine, pairs = self.engine(warmed), self.pairs(searched)
            chosen = pairs[:: max(1, len(pairs) // p.step_pairs)][: p.step_pairs]
            questions = self.questions("development", p.step_questions, seed)
            noise = derive_seed("response", seed)
            given = chosen, questions, p.step_sizes, p, noise, loss
            rows = step_response(engine, self.system, *given)
            size = choose_step_size(rows, p.target_changed, p.target_repeatable)
            write_json(folder / "response.json", {"rows": rows, "chosen": size})
            return vars(engine.usage)

        table = self.store.get("response", spec, make).json("response.json")
        return table["chosen"], table["rows"]

    def score(
        self,
        model: ModelRef,
        searched: Artifact,
        step_size: float,
        count: int,
        seed: int,
        skip: int = 0,
        limit: int | None = None,
        estimator: str | None = None,
        lora_seed: int | None = None,
        may_tie: bool = False,
    ) -> Artifact:
        """Influence of the pairs of a search by an estimator, on the warmed model.

        Args:
            count, skip: validation questions, after the first `skip`.
            limit: of the pairs, the first so many.
            estimator: a name in `ESTIMATORS`; None: that of the parameters.
            lora_seed: fixes the LoRA's A; else that of the parameters, or one of the scoring's own
                (`own_lora_seed`).
            may_tie: for studies of few questions, which draw among equal scores and tell how many
                they drew: let scores pass that are all equal.

        Raises:
            ScoreError: when the scores tell no pairs apart, and may not tie.
        """
        p, name = self.params, estimator or self.params.influence.estimator
        record, warmed = ESTIMATORS[name], self.warmed(model, searched, seed)
        loss = self._loss_after(model, warmed, searched)
        # Validation questions are searched as the policy speaks, whatever guides other searches.
        grown = p.search.changed(guide="q")
        spec = {
            "estimator": name,
            "model": warmed.key,
            "pairs": searched.key,
            "step": step_size,
            "limit": limit,
            "questions": [count, seed, skip, self._data_key()],
            "settings": record.key(p.influence, self.loss),
            "lora_seed": lora_seed,
        }
        if record.uses_alpha:
            spec["alpha"] = p.selection.alpha
        if record.uses_training:
            spec["training"] = asdict(self.training)
        if record.grows_trees:
            spec["trees"] = [grown.model_dump(), p.pairs.model_dump()]
        base = self.base_model()
        fluent = record.grows_trees and grown.fluency_weight != 0
        if fluent:
            spec["initial"] = base.key

        def make(folder: Path) -> dict:
            engine = self.engine(warmed)
            initial = (engine if warmed.key == base.key else self.engine(base)) if fluent else None
            context = ScoringContext(
                engine,
                self.system,
                step_size,
                p.influence,
                lora_seed,
                grown,
                p.pairs,
                p.selection.alpha,
                loss,
                initial,
                self.training,
            )
            questions = self.questions("validation", count, seed, skip)
            noise = derive_seed(name, seed, skip)
            # Kept as they come, and checked when they are read: what was played is not lost.
            scores = record.score(context, self.pairs(searched)[:limit], questions, noise)
            write_json(folder / "scores.json", scores.to_json())
            return _usage_of(engine, initial)

        scored = self.store.get("score", spec, make, (f"influence/estimators/{name}.py",))
        self._check_scores(scored, searched, seed, record.columns_are_questions, may_tie)
        return scored

    def own_lora_seed(self, seed: int, skip: int = 0, estimator: str | None = None) -> int:
        """The seed of A that a scoring takes where none is given."""
        name, fixed = estimator or self.params.influence.estimator, self.params.influence.lora_seed
        return derive_seed(derive_seed(name, seed, skip), "lora") if fixed is None else fixed

    def _check_scores(
        self,
        scored: Artifact,
        searched: Artifact,
        seed: int,
        every_question: bool = True,
        may_tie: bool = False,
    ) -> None:
        """Raises ScoreError, naming task and seed, for scores that tell no pairs apart."""
        scores = read_scores(scored, searched)
        try:
            check_scores(scores, read_pairs(searched)[: len(scores.value)], every_question, may_tie)
        except ScoreError as error:
            raise ScoreError(f"{self.task}, seed {seed}: {error}") from None

    def score_by_loss(
        self,
        model: ModelRef,
        searched: Artifact,
        validation: Artifact,
        step_size: float,
        seed: int,
    ) -> Artifact:
        """Classic influence on the DPO loss of the pairs of a search on validation questions, on
        the warmed model. Of several draws of A each serves its share of the validation pairs."""
        p, warmed = self.params.influence, self.warmed(model, searched, seed)
        loss = self._loss_after(model, warmed, searched)
        spec = {
            "estimator": "dpo_loss",
            "model": warmed.key,
            "pairs": searched.key,
            "validation": validation.key,
            "step": step_size,
            "seed": seed,
            "influence": [p.rank, p.scaling, p.lora_draws, p.lora_seed],
            "loss": self.loss.key(),
        }

        def make(folder: Path) -> dict:
            engine, pairs, held = self.engine(warmed), self.pairs(searched), self.pairs(validation)
            context = ScoringContext(engine, self.system, step_size, p, loss=loss)

            def scored(lora_seed: int, part: list[Pair]) -> Scores:
                given = part, step_size, p, seed, lora_seed, loss
                return dpo_loss_influence(engine, pairs, *given)

            scores = over_draws(scored, held, min(p.lora_draws, len(held)), context.lora(seed))
            write_json(folder / "scores.json", scores.to_json())
            return vars(engine.usage)

        scored = self.store.get("score", spec, make, ("influence/estimators/dpo_loss.py",))
        self._check_scores(scored, searched, seed)
        return scored

    def sft(self, model: ModelRef, searched: list[Artifact], seed: int) -> ModelRef:
        """SFT on the best dialogues of one search or several; `model` itself if they gave none."""
        if not any(artifact.rows("sft.jsonl") for artifact in searched):
            return model
        settings, rows = self.params.sft, [artifact.key for artifact in searched]
        spec = {"model": model.key, "rows": rows, **self._training_spec(settings, seed)}

        def make(folder: Path) -> dict:
            learned = [row for artifact in searched for row in artifact.rows("sft.jsonl")]
            log = train_sft(model.path, learned, settings, seed, folder / "model", self._place())
            return {"trained_tokens": int(log[-1]["num_tokens"])}

        return self._trained("sft", spec, make)

    def dpo(
        self,
        model: ModelRef,
        searched: Artifact,
        kept: np.ndarray,
        seed: int,
        steps: int | None = None,
    ) -> ModelRef:
        """DPO from `model` on the pairs with these indices; `model` itself if there are none.

        Args:
            seed: of the order of the pairs.
            steps: optimiser steps; None: those of the parameters.
        """
        if not len(kept):
            return model
        settings = self.params.dpo.changed(**({} if steps is None else {"steps": steps}))
        spec = {
            "model": model.key,
            "pairs": searched.key,
            "kept": kept.tolist(),
            **self._training_spec(settings, seed),
        }

        def make(folder: Path) -> dict:
            pairs = self.pairs(searched)
            chosen = [pairs[i] for i in kept]
            log = train_dpo(model.path, chosen, settings, seed, folder / "model", self._place())
            write_json(folder / "drift.json", log)
            return {"trained_tokens": int(log[-1]["num_tokens"])}

        return self._trained("dpo", spec, make)

    def reply_logprobs(self, model: ModelRef, searched: Artifact) -> np.ndarray:
        """Log probability, in nats, of the chosen and the rejected reply of every pair of a search
        under a model, [n_pairs, 2]."""
        spec = {"model": model.key, "pairs": searched.key}

        def make(folder: Path) -> dict:
            engine, pairs = self.engine(model), self.pairs(searched)
            rows = [(p.prompt_ids, ids) for p in pairs for ids in (p.chosen_ids, p.rejected_ids)]
            sums = [float(np.sum(scores)) for scores in engine.logprobs(rows)]
            write_json(folder / "logprobs.json", np.reshape(sums, (-1, 2)).tolist())
            return vars(engine.usage)

        return np.array(self.store.get("logprobs", spec, make).json("logprobs.json"))

    def validation_losses(
        self, model: ModelRef, reference: ModelRef, searched: Artifact
    ) -> np.ndarray:
        """DPO loss (Rafailov et al., 2023, eq. 7) of a model on each pair of a search, [n_pairs],
        against the reference that it was trained from."""
        ratio = self.reply_logprobs(model, searched) - self.reply_logprobs(reference, searched)
        margin = self.params.dpo.beta * (ratio[:, 0] - ratio[:, 1])
        return np.logaddexp(0.0, -margin)

    def evaluate(self, model: ModelRef, seed: int, temperature: float | None = None) -> np.ndarray:
        """Metric of each test question, [test_questions]; equal seeds ask the same questions under
        the same noise.

        Args:
            temperature: of the dialogues; None: the first of `testing.temperatures`.
        """
        return np.array(self.evaluation(model, seed, temperature).json("metric.json")["metric"])

    def endings(
        self, model: ModelRef, seed: int, temperature: float | None = None
    ) -> dict[str, float]:
        """Share of the test dialogues that ended in each way; what could not be parsed is counted,
        not dropped."""
        return self.evaluation(model, seed, temperature).json("metric.json")["endings"]

    def judged(self, model: ModelRef, seed: int) -> dict[str, float]:
        """The test answers of a model: their mean score by the system's judge, by exact match and
        by F1, how often the first two agree, and the share of the answers given on which the
        judge's reply was no verdict."""
        found, sizes = self.evaluation(model, seed).json("metric.json"), self.params.sizes
        questions = self.questions("test", sizes.test_questions, seed)
        samples = len(found["scores"]) // len(questions)
        golds = [question.answers for question in questions for _ in range(samples)]
        row = compared(found["scores"], found["answers"], golds)
        return row | {"no verdict": sum(found["unclear"]) / max(1, row["answers"])}

    def evaluation(self, model: ModelRef, seed: int, temperature: float | None = None) -> Artifact:
        """The artifact behind `evaluate`, `endings` and `judged`. Greedy dialogues of a question
        are all alike, so one is played of each."""
        sizes, testing = self.params.sizes, self.params.testing
        temperature = testing.temperatures[0] if temperature is None else temperature
        count, samples = sizes.test_questions, sizes.test_samples if temperature > 0 else 1
        spec = {
            "model": model.key,
            "questions": [self.task, "test", count, seed, self._data_key()],
            "samples": samples,
            "temperature": temperature,
            "top_p": testing.top_p,
        }

        def make(folder: Path) -> dict:
            engine, questions = self.engine(model), self.questions("test", count, seed)
            noise = derive_seed("evaluate", seed)
            how = samples, temperature, testing.top_p
            played = sample_dialogues(engine, self.system, questions, noise, *how)
            scores = np.array([dialogue.metric for dialogue in played])
            asked = [question for question in questions for _ in range(samples)]
            answers = [dialogue.answer for dialogue in played]
            found = {
                "metric": scores.reshape(count, samples).mean(axis=1).tolist(),
                "endings": {
                    name: float(np.mean([dialogue.ended == name for dialogue in played]))
                    for name in self.system.endings
                },
                "answers": answers,
                "scores": scores.tolist(),
                "unclear": [
                    self.system.unclear(question, answer)
                    for question, answer in zip(asked, answers, strict=True)
                ],
            }
            write_json(folder / "metric.json", found)
            return vars(engine.usage)

        return self.store.get("evaluate", spec, make)

    def pairs(self, searched: Artifact) -> list[Pair]:
        """The pairs of a search.

        Raises:
            DataError: when it found none.
        """
        found = read_pairs(searched)
        if not found:
            raise DataError(
                f"{self.task}: a search gave no preference pairs; lower pairs.min_value or "
                "pairs.min_gap, or search more questions"
            )
        return found

    def _data_key(self) -> list:
        """What decides the questions and how they are asked, but for split, count and seed."""
        world, data = self.params.world, self.params.data.splits(self.task)
        own = None
        if world.questions and (ROOT / world.questions).is_file():
            own = checksum(ROOT / world.questions)
        if data is not None:
            own = [part.digest for part in data.values()]
        on_pages = TASKS[self.task].on_pages
        system = pages_key(self.params) if on_pages else asdict(self.system)
        return [system, asdict(self.params.drawn_world()), own]


def _usage_of(engine: Engine, other: Engine | None) -> dict[str, int]:
    """What an engine has read and written, and another one, if there is one."""
    total = dict(vars(engine.usage))
    if other is not None and other is not engine:
        total = {name: value + getattr(other.usage, name) for name, value in total.items()}
    return total


def read_pairs(searched: Artifact) -> list[Pair]:
    """The pairs of a search, built once in a process."""
    return list(_pairs_in(searched.file("pairs.jsonl")))


@lru_cache(maxsize=16)
def _pairs_in(file: Path) -> tuple[Pair, ...]:
    return tuple(Pair.from_json(row) for row in read_rows(file))


def read_trees(searched: Artifact) -> list[Tree]:
    """The trees of a search."""
    return [Tree.from_json(row) for row in searched.rows("trees.jsonl")]


def read_scores(scored: Artifact, searched: Artifact) -> Scores:
    """The scores of the pairs of a search.

    Raises:
        StoreError: when they are scores of other pairs.
    """
    scores = Scores.from_json(scored.json("scores.json"))
    ids = [pair.id for pair in read_pairs(searched)[: len(scores.pair_ids)]]
    if scores.pair_ids != ids or len(ids) != len(scores.value):
        raise StoreError(
            f"{scored.path}: its scores are not those of the pairs in {searched.path}; delete it "
            "and run again to make it anew"
        )
    return scores


@lru_cache(maxsize=32)
def _weights_key(path: str) -> str:
    files = model_files(path)
    if not files:
        return path
    return hashlib.sha256("".join(map(checksum, files)).encode()).hexdigest()[:20]
