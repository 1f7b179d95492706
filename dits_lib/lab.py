"""The stages of the method as artifacts: search, step response, scores, SFT, DPO, evaluation.

Each method of `Lab` returns an artifact of the store, making it if it is not there. The specification of an artifact
holds the keys of its inputs, so a changed parameter remakes just what depends on it.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from .agents import endings_of, readers_of, rendered_turns
from .agents.warm_start import gold_dialogue
from .engines import Engine, TransformersEngine, VLLMEngine, asleep, derive_seed, load_tokenizer, model_files
from .influence import ESTIMATORS, TREE_ESTIMATORS, Scores, Setting, choose_step_size, dpo_loss_influence, one_step_influence, step_response
from .pairs import Pair, best_dialogues, extract_pairs
from .params import OUTPUT, ROOT, Params
from .rollout import sample_dialogues
from .search import Tree, search
from .store import Artifact, Store, checksum, code_version, write_json, write_jsonl
from .tasks import DataError, Question, make_questions, read_questions, web_questions
from .tasks.judge import ExactMatch, compared
from .training import train_dpo, train_sft
from .web_task import deep_search_system, micro_web, task_key


@dataclass(frozen=True)
class ModelRef:
    """A model: where it lies, and a key that changes with its weights."""

    path: str
    key: str


class Lab:
    """One profile's stages for one task.

    Args:
        params: of the profile.
        task: `exchange`, `debate` or `deep_search`.
        store: where artifacts go; `runs/<profile>` of the repository by default.
    """

    def __init__(self, params: Params, task: str, store: Store | None = None):
        self.params, self.task, self.store = params, task, store or Store(OUTPUT / "runs" / params.profile)
        self.system = deep_search_system(params, self.store.root) if task == "deep_search" else params.agents.system(task)

    # Questions and models

    def questions(self, split: str, count: int, seed: int, skip: int = 0) -> list[Question]:
        """`count` questions of a split, after the first `skip`; each seed gives another sample.

        Raises:
            DataError: when the data hold fewer.
        """
        world, data = self.params.world, self.params.data.splits(self.task)
        if world.questions is None and data is None:
            if self.task == "deep_search":
                return web_questions(micro_web(self.params), split, skip + count, seed)[skip:]
            harmful = world.harmful.model_dump() if world.harmful.share > 0 else None
            return make_questions(self.task, split, skip + count, seed, world.facts_per_view, harmful)[skip:]
        if data is not None:
            where, own = data[split].source, list(data[split].questions)
        else:
            where = str(ROOT / world.questions)
            own = [q for q in read_questions(where, readers_of(self.task)) if q.meta["split"] == split]
        if len(own) < skip + count:
            raise DataError(f"{where}: {len(own)} questions of split '{split}', but {skip + count} are asked for")
        order = np.random.default_rng([seed, len(split)]).permutation(len(own))
        return [own[i] for i in order[skip : skip + count]]

    def base_model(self) -> ModelRef:
        """The profile's base model, before any training."""
        path, p = self.params.model_path(self.task), self.params.model
        speech = f"{p.engine} {p.device} {p.dtype}" + (f" {p.max_length}" if p.engine == "vllm" else "")
        return ModelRef(path, f"{_weights_key(path)} {speech}")  # what speaks, and how precisely, decides the replies too

    def engine(self, model: ModelRef) -> Engine:
        p = self.params.model
        if p.engine == "transformers":
            return TransformersEngine.load(model.path, p.device, p.dtype, max_rows=p.max_rows)
        options = p.model_dump(include={"device", "max_adapters", "max_rank", "memory", "cache_gb", "max_length", "dtype", "eager", "compile"})
        return VLLMEngine(model.path, **options)

    # Stages

    def start_model(self, seed: int) -> ModelRef:
        """The model that is searched first: the base model, or with `sft.warm_start` the base model after SFT on gold dialogues
        of training questions that no search uses."""
        p = self.params.sft
        base = self.base_model()
        if p.warm_start == "none":
            return base
        count, skip = p.warm_questions, self.params.questions_needed()["train"] - p.warm_questions
        config = p.config(steps=p.warm_steps, **self._place())
        spec = {"model": base.key, "questions": ["train", count, seed, skip, self._data_key()], "config": asdict(config), "seed": seed}

        def make(folder: Path) -> dict:
            rng, rows, tokenizer = np.random.default_rng([seed, 3]), [], load_tokenizer(base.path)
            for question in self.questions("train", count, seed, skip):
                turns = gold_dialogue(self.system, question, rng)
                rendered = rendered_turns(tokenizer, self.system, question, turns)
                rows += [{"prompt_ids": p, "reply_ids": r} for (p, r), turn in zip(rendered, turns, strict=True) if turn.trainable]
            longest = self.system.max_new_tokens  # a reply that cannot be said in full is no lesson
            short = [row for row in rows if len(row["reply_ids"]) <= longest]
            if 2 * len(short) < len(rows):
                raise DataError(
                    f"{self.task}: {len(rows) - len(short)} of {len(rows)} scripted replies of the warm start are longer than the {longest} tokens "
                    f"of a reply; raise agents.{self.task}.max_new_tokens"
                )
            log = train_sft(base.path, short, config, seed, folder / "model")
            return {"trained_tokens": int(log[-1]["num_tokens"]), "replies_too_long": len(rows) - len(short)}

        return self._trained("sft", spec, make)

    def _place(self) -> dict:
        """Where and in what precision to train."""
        return {"device": self.params.model.device, "dtype": self.params.model.dtype}

    def _trained(self, stage: str, spec: dict, make) -> ModelRef:
        """A trained model as an artifact; vLLM lends its memory to the training."""

        def with_room(folder: Path) -> dict:
            with asleep():
                return make(folder)

        artifact = self.store.get(stage, spec, with_room)
        return ModelRef(str(artifact.path / "model"), artifact.key)

    def search(self, model: ModelRef, split: str, count: int, seed: int, skip: int = 0) -> Artifact:
        """Trees, preference pairs and SFT rows of `count` questions."""
        p = self.params
        spec = {
            "model": model.key, "questions": [self.task, split, count, seed, skip, self._data_key()],
            "search": asdict(p.search.config()), "pairs": p.pairs.model_dump(), "min_reward": p.sft.min_reward,
        } | ({"influence": p.influence.model_dump(), "code": code_version("score")} if p.search.guide != "q" else {})

        def make(folder: Path) -> dict:
            engine, questions = self.engine(model), self.questions(split, count, seed, skip)
            scorer = self._node_scorer(engine, seed) if p.search.guide != "q" else None
            trees = search(engine, self.system, questions, p.search.config(), seed, scorer)
            pairs = extract_pairs(engine.tokenizer, self.system, trees, p.pairs.min_value, p.pairs.min_gap)
            write_jsonl(folder / "trees.jsonl", (tree.to_json() for tree in trees))
            write_jsonl(folder / "pairs.jsonl", (pair.to_json() for pair in pairs))
            write_jsonl(folder / "sft.jsonl", best_dialogues(trees, p.sft.min_reward))
            return vars(engine.usage)

        return self.store.get("search", spec, make)

    def _node_scorer(self, engine: Engine, seed: int):
        """Influence of every state's current pair, for the guided search; each pair is scored once.

        The step size is the middle of `step_sizes`: no pairs exist yet to choose it by. The validation questions are
        others than those that score the pairs afterwards.
        """
        influence, known = self.params.influence, {}
        skip = self.params.questions_needed()["validation"] - influence.validation_questions  # the last ones serve nothing else
        questions = self.questions("validation", influence.validation_questions, seed, skip)
        size = influence.step_sizes[len(influence.step_sizes) // 2]

        def score(trees: list[Tree]) -> list[dict[int, float]]:
            pairs = extract_pairs(engine.tokenizer, self.system, trees, float("-inf"), 0.0)
            new = {(p.id, p.chosen_ids, p.rejected_ids): p for p in pairs if (p.id, p.chosen_ids, p.rejected_ids) not in known}
            if new:
                scores = one_step_influence(engine, self.system, list(new.values()), questions, size, influence.config(), seed)
                known.update(zip(new, scores.value.tolist(), strict=True))
            of_node = {p.id: known[p.id, p.chosen_ids, p.rejected_ids] for p in pairs}
            return [
                {i: of_node[f"{t.question.id}/{i}"] for i in range(len(t.nodes)) if f"{t.question.id}/{i}" in of_node} for t in trees
            ]

        return score

    def step_size(self, model: ModelRef, searched: Artifact, seed: int) -> tuple[float, list[dict]]:
        """The influence step chosen by response on development questions, and the table behind it."""
        p = self.params.influence
        spec = {"model": model.key, "pairs": searched.key, "seed": seed, "influence": p.model_dump(), "data": self._data_key()}

        def make(folder: Path) -> dict:
            engine, pairs = self.engine(model), self.pairs(searched)
            chosen = pairs[:: max(1, len(pairs) // p.step_pairs)][: p.step_pairs]
            questions = self.questions("development", p.step_questions, seed)
            rows = step_response(engine, self.system, chosen, questions, p.step_sizes, p.config(), derive_seed("response", seed))
            write_json(folder / "response.json", {"rows": rows, "chosen": choose_step_size(rows, p.target_changed)})
            return vars(engine.usage)

        table = self.store.get("response", spec, make).json("response.json")
        return table["chosen"], table["rows"]

    def score(
        self, model: ModelRef, searched: Artifact, step_size: float, count: int, seed: int, skip: int = 0, limit: int | None = None,
        estimator: str | None = None, lora_seed: int | None = None,
    ) -> Artifact:
        """Influence of the pairs (the first `limit`) on `count` validation questions after the first `skip`, by an estimator (that of
        the parameters). `lora_seed` fixes the LoRA's A; else each scoring draws its own."""
        p = self.params.influence
        name = estimator or p.estimator
        others = {"policy_samples": ("one_step", "one_step_question", "racing", "learned", "group_design", "dpo_loss")}
        own = {"race_": "racing", "learned_": "learned", "control_": "one_step_controlled", "group_": "group_design"}
        unused = ("step_", "target", "validation", "estimator", *(key for key, names in others.items() if name in names))
        unused += tuple(prefix for prefix, owner in own.items() if name != owner)
        used = {key: value for key, value in p.model_dump().items() if not key.startswith(unused)}
        spec = {
            "estimator": name, "model": model.key, "pairs": searched.key, "step": step_size, "limit": limit,
            "questions": [count, seed, skip, self._data_key()], "influence": used, "lora_seed": lora_seed,
        }
        grown, kept = self.params.search.config(guide="q"), (self.params.pairs.min_value, self.params.pairs.min_gap)
        if name == "racing":
            spec["alpha"] = self.params.selection.alpha
        if name in TREE_ESTIMATORS:
            spec["trees"] = [asdict(grown), kept]

        def make(folder: Path) -> dict:
            setting = Setting(self.engine(model), self.system, step_size, p.config(), lora_seed, grown, *kept, self.params.selection.alpha)
            questions, pairs = self.questions("validation", count, seed, skip), self.pairs(searched)[:limit]
            scores = ESTIMATORS[name](setting, pairs, questions, derive_seed(name, seed, skip))
            write_json(folder / "scores.json", scores.to_json())
            return vars(setting.engine.usage)

        return self.store.get("score", spec, make)

    def dpo_loss(self, model: ModelRef, searched: Artifact, validation: Artifact, step_size: float, seed: int) -> Artifact:
        """Classic influence on the DPO loss of the pairs of a search on validation questions."""
        p = self.params.influence
        spec = {
            "estimator": "dpo_loss", "model": model.key, "pairs": searched.key, "validation": validation.key, "step": step_size,
            "seed": seed, "influence": [p.beta, p.rank, p.scaling],
        }

        def make(folder: Path) -> dict:
            engine = self.engine(model)
            scores = dpo_loss_influence(engine, self.pairs(searched), self.pairs(validation), step_size, p.config(), seed)
            write_json(folder / "scores.json", scores.to_json())
            return vars(engine.usage)

        return self.store.get("score", spec, make)

    def sft(self, model: ModelRef, searched: list[Artifact], seed: int) -> ModelRef:
        """SFT on the best dialogues of one search or several; `model` itself if they gave none."""
        if not any(artifact.rows("sft.jsonl") for artifact in searched):
            return model
        config = self.params.sft.config(**self._place())
        spec = {"model": model.key, "rows": [artifact.key for artifact in searched], "config": asdict(config), "seed": seed}

        def make(folder: Path) -> dict:
            rows = [row for artifact in searched for row in artifact.rows("sft.jsonl")]
            log = train_sft(model.path, rows, config, seed, folder / "model")
            return {"trained_tokens": int(log[-1]["num_tokens"])}

        return self._trained("sft", spec, make)

    def dpo(self, model: ModelRef, searched: Artifact, kept: np.ndarray, seed: int) -> ModelRef:
        """DPO from `model` on the pairs with these indices; `model` itself if there are none."""
        if not len(kept):
            return model
        config = self.params.dpo.config(**self._place())
        spec = {"model": model.key, "pairs": searched.key, "kept": kept.tolist(), "config": asdict(config), "seed": seed}

        def make(folder: Path) -> dict:
            pairs = self.pairs(searched)
            log = train_dpo(model.path, [pairs[i] for i in kept], config, seed, folder / "model")
            write_json(folder / "drift.json", log)
            return {"trained_tokens": int(log[-1]["num_tokens"])}

        return self._trained("dpo", spec, make)

    def evaluate(self, model: ModelRef, seed: int) -> np.ndarray:
        """Metric of each test question, [test_questions], sampled as in the search; equal seeds ask the same questions under the same
        noise."""
        return np.array(self._evaluated(model, seed)["metric"])

    def endings(self, model: ModelRef, seed: int) -> dict[str, float]:
        """Share of the test dialogues that ended in each way; what could not be parsed is counted, not dropped."""
        return self._evaluated(model, seed)["endings"]

    def judged(self, model: ModelRef, seed: int) -> dict[str, float]:
        """The test answers of a model: their mean score by the system's judge, by exact match and by F1, how often the first two agree,
        and the share of the answers given on which the judge's reply was no verdict."""
        found, count, samples = self._evaluated(model, seed), self.params.sizes.test_questions, self.params.sizes.test_samples
        golds = [question.answers for question in self.questions("test", count, seed) for _ in range(samples)]
        told = compared(found["scores"], found["answers"], golds)
        return told | {"no verdict": sum(found["unclear"]) / max(1, told["answers"])}

    def _evaluated(self, model: ModelRef, seed: int) -> dict:
        count, samples, heat = self.params.sizes.test_questions, self.params.sizes.test_samples, self.params.search.temperature
        spec = {"model": model.key, "questions": [self.task, "test", count, seed, self._data_key()], "samples": samples, "temperature": heat}

        def make(folder: Path) -> dict:
            engine, questions = self.engine(model), self.questions("test", count, seed)
            dialogues = sample_dialogues(engine, self.system, questions, derive_seed("evaluate", seed), samples, heat)
            metric = np.array([dialogue.metric for dialogue in dialogues]).reshape(count, samples).mean(axis=1)
            endings = {name: float(np.mean([dialogue.ended == name for dialogue in dialogues])) for name in endings_of(self.system)}
            answers = [dialogue.answer for dialogue in dialogues]
            scores, judge = [dialogue.metric for dialogue in dialogues], getattr(self.system, "judge", ExactMatch())
            asked = [question for question in questions for _ in range(samples)]
            unclear = [judge.unclear(question, answer) for question, answer in zip(asked, answers, strict=True)]
            found = {"metric": metric.tolist(), "endings": endings, "answers": answers, "scores": scores, "unclear": unclear}
            write_json(folder / "metric.json", found)
            return vars(engine.usage)

        return self.store.get("evaluate", spec, make).json("metric.json")

    def pairs(self, searched: Artifact) -> list[Pair]:
        """The pairs of a search.

        Raises:
            DataError: when it found none.
        """
        found = read_pairs(searched)
        if not found:
            raise DataError(f"{self.task}: a search gave no preference pairs; lower pairs.min_value or pairs.min_gap, or search more questions")
        return found

    def _data_key(self) -> list:
        """What decides the questions and how they are asked, but for split, count and seed."""
        world, data = self.params.world, self.params.data.splits(self.task)
        own = checksum(ROOT / world.questions) if world.questions and (ROOT / world.questions).is_file() else None
        if data is not None:
            own = [part.digest for part in data.values()]
        system = task_key(self.params) if self.task == "deep_search" else asdict(self.system)
        return [system, world.facts_per_view, world.harmful.model_dump(), own]


def read_pairs(searched: Artifact) -> list[Pair]:
    return [Pair.from_json(row) for row in searched.rows("pairs.jsonl")]


def read_trees(searched: Artifact) -> list[Tree]:
    return [Tree.from_json(row) for row in searched.rows("trees.jsonl")]


def read_scores(scored: Artifact) -> Scores:
    return Scores.from_json(scored.json("scores.json"))


@lru_cache(maxsize=32)
def _weights_key(path: str) -> str:
    files = model_files(path)
    return hashlib.sha256("".join(map(checksum, files)).encode()).hexdigest()[:20] if files else path
