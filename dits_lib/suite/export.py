"""What a run has made, to take away: a trained model, and the pairs that it was chosen from.

The model is one PEFT adapter (the chain of SFT and DPO added up) or a folder with merged weights;
the pairs are a data set in TRL's preference format, of messages, with the scores behind the choice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ..agents import System
from ..agents.chat_template import control_text, knows_system
from ..pairs import Pair
from ..report.names import plain
from ..search import Tree
from ..selection import combined_score
from ..settings.files import make_folder, write_file
from ..tasks import DataError
from .params import Params, local_path
from .pipeline import ModelRef, Pipeline, read_pairs, read_scores, read_trees
from .results import UNCOUNTED
from .store import Artifact
from .studies.common import pair_stage, scale_of, sft_stage, step_size_of
from .studies.selection_ablation import (
    SCORED,
    SELECTIONS,
    STEPS,
    Run,
    arms_of,
    selection_stage,
    trained_runs,
    validation_search,
)

MODEL, PAIRS = "model", "pairs"
"""Folders of an export."""
RECORD = "export.json"
"""File of an export that says what it is of; it is not sent anywhere."""
NO_SCORES = "none"
"""Stands for the estimator of an arm that goes by no influence."""


@dataclass(frozen=True)
class PairScores:
    """What the pairs of a search were chosen by, [n_pairs] each, NaN where an arm knows no such
    score.

    Attributes:
        influence, stderr: of the estimator `name`, in its own units.
        h: what pairs are ranked by, as `combined_score` adds it up.
        selected: whether the arm keeps the pair.
    """

    name: str
    influence: np.ndarray
    stderr: np.ndarray
    h: np.ndarray
    selected: np.ndarray


def export(params: Params, task: str, arm: str, seed: int, out: Path, merged: bool = False) -> dict:
    """Write a model of notebook 03 and its pairs to a folder. Stages that are not there yet are
    computed.

    Args:
        arm: a name in `arms_of(params)` but `base`; trained for equal steps, of several random
            halves the first.
        out: gets `model` and `pairs` with a README.md each, and `export.json`, which `exported`
            reads.
        merged: whole weights instead of an adapter; so it is anyway where all weights were trained.

    Returns:
        `pairs`, how many; `selected`, how many of them trained the model; `exact`, how many TRL
        reads token for token as they were sampled; `adapter`, whether the model is one.

    Raises:
        DataError: for an arm that has no model for this seed.
        StoreError: for a model whose weights were left out when its stages were packed.
    """
    pipeline = Pipeline(params, task)
    runs = [run for run in trained_runs(pipeline, seed, (arm,)) if run.equal == STEPS]
    if not runs:
        raise DataError(f"{task}, seed {seed}: no model of arm '{arm}', which had no scores")
    sft, _ = sft_stage(pipeline, seed)
    searched = pair_stage(pipeline, sft, seed)
    # What takes long comes before anything is written, and the folder appears when it is whole.
    scores = scores_of(pipeline, sft, searched, seed, arm)
    metric = pipeline.evaluate(runs[0].model, seed)
    make_folder(out.parent)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as folder:
        new = Path(folder) / out.name
        base = params.model.path
        adapter = write_model(runs[0].model, new / MODEL, params.model.dtype, base, merged)
        tokenizer = _tokenizer(new / MODEL, params.model_path(task))
        rows, exact = preference_rows(tokenizer, pipeline.system, searched, scores)
        write_pairs(new / PAIRS, rows)
        told = {
            "pairs": len(rows),
            "selected": int(scores.selected.sum()),
            "exact": exact,
            "adapter": adapter,
        }
        write_cards(new, pipeline, runs[0], seed, metric, scores, told)
        record = {"of": _choices(params, task, arm, seed, merged), "told": told}
        write_file(new / RECORD, json.dumps(record, indent=1) + "\n")
        if out.is_dir():
            out.rmdir()  # empty, as `commands.export` sees to
        new.rename(out)
    return told


def exported(
    params: Params, task: str, arm: str, seed: int, folder: Path, merged: bool = False
) -> dict | None:
    """What `export` told of the export of these very choices that lies in a folder; None where
    there is anything else."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        same = record["of"] == _choices(params, task, arm, seed, merged)
        return record["told"] if same else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _choices(params: Params, task: str, arm: str, seed: int, merged: bool) -> dict:
    """What an export is of. All parameters that decide a number count, also those that `--set`
    changed; as a digest, since they may name folders of the user."""
    settings = json.dumps(params.model_dump(mode="json", exclude=set(UNCOUNTED)), sort_keys=True)
    return {
        "profile": params.profile,
        "task": task,
        "arm": arm,
        "seed": seed,
        "merged": merged,
        "settings": hashlib.sha256(settings.encode()).hexdigest()[:16],
    }


def write_model(model: ModelRef, out: Path, dtype: str, base: str, merged: bool) -> bool:
    """Write a model of the store with its tokenizer; tells whether it is an adapter.

    Args:
        dtype: of merged weights: float32 or bfloat16.
        base: what an adapter names as the model that it changes.
    """
    import torch

    from ..engines import load_model
    from ..engines.adapters import add, chain_of, read_deltas, write_deltas
    from ..engines.transformers import load_tokenizer

    root, chain = chain_of(model.path)
    if chain and not merged:
        write_deltas(out, add(*map(read_deltas, chain)), base)
        load_tokenizer(root).save_pretrained(out)
        return True
    loaded, tokenizer = load_model(model.path, "float32", "cpu", whole=True)
    loaded.to(getattr(torch, dtype)).save_pretrained(out)
    tokenizer.save_pretrained(out)
    return False


def _tokenizer(folder: Path, root: str):
    from ..engines.transformers import load_tokenizer

    return load_tokenizer(folder if (folder / "tokenizer_config.json").is_file() else root)


def scores_of(
    pipeline: Pipeline, sft: ModelRef, searched: Artifact, seed: int, arm: str
) -> PairScores:
    """The scores by which an arm chose among the pairs of a search, and what it kept."""
    pairs, p = read_pairs(searched), pipeline.params
    empty, selected = np.full(len(pairs), np.nan), np.zeros(len(pairs), dtype=bool)
    if arm not in SELECTIONS or not pairs:
        return PairScores(NO_SCORES, empty, empty, empty, selected)
    _, _, kept = selection_stage(pipeline, seed, (arm,))
    selected[kept[arm][0]] = True
    q_value = np.array([pair.q_chosen for pair in pairs])
    if arm not in SCORED:
        h = q_value if arm == "q_value" else empty
        return PairScores(NO_SCORES, empty, empty, h, selected)
    size = step_size_of(pipeline)
    if arm == "dpo_loss":
        validation = validation_search(pipeline, sft, seed)
        scored, name = pipeline.score_by_loss(sft, searched, validation, size, seed), "dpo_loss"
    else:
        count, name = p.influence.validation_questions, p.influence.estimator
        scored = pipeline.score(sft, searched, size, count, seed)
    found = read_scores(scored, searched)
    value, stderr = (np.asarray(part, dtype=float) for part in (found.value, found.stderr))
    if arm in ("dpo_loss", "reversed"):  # ranked by the score itself
        return PairScores(name, value, stderr, -value if arm == "reversed" else value, selected)
    gamma = 1.0 if arm == "gamma_1" else 0.0
    h = combined_score(value, q_value, gamma, **scale_of(p, size))
    return PairScores(name, value, stderr, h, selected)


def preference_rows(
    tokenizer, system: System, searched: Artifact, scores: PairScores
) -> tuple[list[dict], int]:
    """A row for each pair of a search, in TRL's conversational preference format, and how many of
    them the tokenizer's chat template renders token for token as they were sampled.

    Returns:
        rows with `prompt` (messages), `chosen` and `rejected` (one message of the assistant each),
        `q_chosen`, `q_rejected`, `influence`, `influence_stderr`, `h` (None where there is none),
        `selected`, `agent`, `family`, `question_id`, `id`.
    """
    trees = {tree.question.id: tree for tree in read_trees(searched)}
    rows, exact = [], 0
    for number, pair in enumerate(read_pairs(searched)):
        row = _messages_of(tokenizer, system, trees[pair.question_id], pair)
        exact += _same_tokens(tokenizer, row, pair)
        row |= {"q_chosen": pair.q_chosen, "q_rejected": pair.q_rejected}
        row |= {
            name: _number(values[number])
            for name, values in (
                ("influence", scores.influence),
                ("influence_stderr", scores.stderr),
                ("h", scores.h),
            )
        }
        row |= {"selected": bool(scores.selected[number]), "agent": pair.meta["agent"]}
        rows.append(
            row | {"family": pair.meta["family"], "question_id": pair.question_id, "id": pair.id}
        )
    return rows, exact


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _messages_of(tokenizer, system: System, tree: Tree, pair: Pair) -> dict:
    """The messages that the agent was shown, and its two replies."""
    shown = system.messages(tree.question, tree.turns(pair.node), pair.meta["agent"])
    control = control_text(tokenizer)
    prompt = [{"role": m["role"], "content": control.sub(" ", m["content"])} for m in shown]
    if prompt[0]["role"] == "system" and not knows_system(tokenizer):
        prompt = _without_system(prompt)
    replies = {"chosen": pair.chosen, "rejected": pair.rejected}
    said = {name: [{"role": "assistant", "content": text}] for name, text in replies.items()}
    return {"prompt": prompt, **said}


def _without_system(prompt: list[dict]) -> list[dict]:
    """The system message as the user's, as the suite renders it for a template that knows none."""
    told, *rest = (message["content"] for message in prompt[:2])
    joined = "\n\n".join([told, *rest] if prompt[1:2] and prompt[1]["role"] == "user" else [told])
    return [{"role": "user", "content": joined}, *prompt[2 if joined != told else 1 :]]


def _same_tokens(tokenizer, row: dict, pair: Pair) -> bool:
    """Whether TRL, which renders the messages by the chat template, reads what was sampled."""
    options = {"tokenize": True, "return_dict": False}
    prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, **options)
    if tuple(prompt) != pair.prompt_ids:
        return False
    for name, ids in (("chosen", pair.chosen_ids), ("rejected", pair.rejected_ids)):
        whole = tokenizer.apply_chat_template([*row["prompt"], *row[name]], **options)
        if tuple(whole[: len(prompt) + len(ids)]) != (*prompt, *ids):
            return False
    return True


def write_pairs(folder: Path, rows: Sequence[dict]) -> None:
    """Write `train.jsonl`, which `datasets.load_dataset(folder)` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_file(folder / "train.jsonl", text)


def write_cards(
    out: Path,
    pipeline: Pipeline,
    run: Run,
    seed: int,
    metric: np.ndarray,
    scores: PairScores,
    told: dict,
) -> None:
    """Write the cards of model and pairs, with the numbers of this very model.

    Args:
        metric: of each test question, [test_questions].
    """
    p, trained = pipeline.params, run.arm in SELECTIONS
    error = float(np.std(metric, ddof=1) / len(metric) ** 0.5)
    facts = [
        f"profile `{p.profile}`, task `{pipeline.task}`, arm `{run.arm}` ({plain(run.arm)}), seed "
        f"{seed}",
        f"{run.pairs} pairs, {run.steps} DPO steps ({run.epochs:.1f} epochs) of {p.dpo.batch} at "
        f"{p.dpo.learning_rate:g}, beta {p.dpo.beta:g}, NLL weight {p.dpo.nll_weight:g}"
        if trained
        else "trained before any DPO, on dialogues alone",
        f"test: {pipeline.system.metric_name} {metric.mean():.3f} (standard error over questions "
        f"{error:.3f}), {len(metric)} questions, dialogues sampled at temperature "
        f"{p.testing.temperatures[0]:g}. One seed: results/{p.profile} has the intervals over "
        "seeds, which decide",
    ]
    parts, base = "SFT and DPO together" if trained else "SFT", p.model.path
    facts_of_model = [*facts, f"one PEFT adapter, of {parts}" if told["adapter"] else "all weights"]
    head = {"library_name": "peft" if told["adapter"] else "transformers"}
    if Path(local_path(base)).exists():  # the hub refuses a card whose base model it cannot link
        facts_of_model.append(f"base model: the folder `{base}`, where this was trained")
    else:
        head = {"base_model": base} | head
    _card(out / MODEL, head, f"A policy of the DITS suite: {plain(run.arm)}", facts_of_model)
    chosen = [
        f"{told['pairs']} pairs, of which `selected` names the {told['selected']} that trained the "
        "model"
        if trained
        else f"{told['pairs']} pairs that were found with this model; none of them trained it"
    ]
    if scores.name != NO_SCORES:
        chosen.append(
            f"`influence`: by `{scores.name}`, with its standard error over validation questions "
            "(or pairs); `h`: what pairs are ranked by"
        )
    _card(
        out / PAIRS,
        {"task_categories": ["reinforcement-learning"]},
        "Preference pairs from tree search over agents' dialogues",
        [
            *facts,
            *chosen,
            "`q_chosen`, `q_rejected`: mean rewards of the replies in the search",
            f"{told['exact']} of {told['pairs']} pairs are rendered by the chat template token for "
            "token as they were sampled",
        ],
    )


def _card(folder: Path, head: dict, title: str, facts: Sequence[str]) -> None:
    from ..settings import write_yaml

    listed = "".join(f"- {fact}\n" for fact in facts)
    write_file(folder / "README.md", f"---\n{write_yaml(head)}---\n\n# {title}\n\n{listed}")


def exported_arms(params: Params) -> tuple[str, ...]:
    """Arms that have a model to take away."""
    return tuple(arm for arm in arms_of(params) if arm != "base")
