"""Anybody's preference pairs, in TRL's format, scored by an estimator of influence without a search
of ours."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ..agents import message_ids, reply_ids
from ..agents.chat_template import render
from ..engines import derive_seed
from ..influence import (
    ESTIMATORS,
    Scores,
    ScoringContext,
    beyond_grid,
    choose_step_size,
    step_response,
)
from ..pairs import Pair
from ..tasks import DataError
from ..tasks.rows import Filled, json_lines
from .checks import InputError, check_folders, check_peers, check_sees_gpu
from .pipeline import Pipeline
from .question_checks import MOST_UNKNOWN


class Message(BaseModel):
    """One message of a chat."""

    model_config = ConfigDict(strict=True, extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: Filled


Said = Filled | list[Message]


class Preference(BaseModel):
    """A row: `prompt`, `chosen` and `rejected`, all of text or all of messages; of messages the
    prompt may be left out, and is then what both begin with (TRL's implicit prompt)."""

    model_config = ConfigDict(strict=True)

    prompt: Said | None = None
    chosen: Said
    rejected: Said


def read_preferences(
    path: Path, tokenizer, longest: int | None = None
) -> tuple[list[Pair], list[dict]]:
    """The pairs of a JSONL file, and its rows as they stand there.

    Args:
        longest: tokens of prompt and reply that the model reads; None: any number.

    Messages are rendered by the tokenizer's chat template, and a reply ends with the token that
    ends a turn there. Texts are read as they are, and a reply ends with the end of the sequence, as
    in TRL.

    Raises:
        DataError: naming the file, the line and what is wrong with it.
    """
    pairs, rows = [], []
    for number, (where, row) in enumerate(json_lines(Path(path))):
        try:
            if not isinstance(row, dict):
                raise ValueError("expected an object with chosen and rejected, and prompt")
            pair = _pair(tokenizer, str(number), Preference.model_validate(row))
            _check_readable(tokenizer, pair, longest)
            pairs.append(pair)
        except ValidationError as error:
            raise DataError(f"{where}: {_told(error)}") from None
        except ValueError as error:
            raise DataError(f"{where}: {error}") from None
        rows.append(row)
    return pairs, rows


def _told(error: ValidationError) -> str:
    """The field and its fault, of the form (text or messages) that the row comes nearest to."""
    nearest = max(error.errors(), key=lambda fault: len(fault["loc"]))
    field = ".".join(str(part) for part in nearest["loc"] if "[" not in str(part))
    either = nearest["loc"][1:] and "[" in str(nearest["loc"][-1])
    fault = "expected a text or a list of messages" if either else nearest["msg"]
    return f"field '{field}': {fault}"


def _pair(tokenizer, name: str, row: Preference) -> Pair:
    kinds = {type(part) for part in (row.prompt, row.chosen, row.rejected) if part is not None}
    if len(kinds) > 1:
        raise ValueError("prompt, chosen and rejected are texts or lists of messages, all alike")
    if kinds == {str}:
        if row.prompt is None:
            raise ValueError("field 'prompt' is missing; texts need one, lists of messages do not")
        prompt = tuple(tokenizer(row.prompt)["input_ids"])
        said = {"chosen": row.chosen, "rejected": row.rejected}
        ids = {name: _text_ids(tokenizer, text) for name, text in said.items()}
    else:
        before, said = _split(row)
        prompt = _chat_ids(tokenizer, before)
        ids = {name: reply_ids(tokenizer, text) for name, text in said.items()}
    if said["chosen"] == said["rejected"]:
        raise ValueError("chosen and rejected are the same")
    meta = {"family": "own pairs", "agent": "", "turn": 0, "harmful": False}
    both = ids["chosen"], ids["rejected"], said["chosen"], said["rejected"]
    return Pair(name, name, 0, prompt, *both, 0.0, 0.0, meta)


def _check_readable(tokenizer, pair: Pair, longest: int | None) -> None:
    """Raises ValueError for a pair that the model would read as something else."""
    ids = [*pair.prompt_ids, *pair.chosen_ids, *pair.rejected_ids]
    unknown = tokenizer.unk_token_id
    share = 0.0 if unknown is None else ids.count(unknown) / len(ids)
    if share > MOST_UNKNOWN:
        raise ValueError(
            f"the model's tokenizer does not know {share:.0%} of its tokens (at most "
            f"{MOST_UNKNOWN:.0%}): set model.path to a model that knows these words"
        )
    if pair.chosen_ids == pair.rejected_ids:
        raise ValueError("chosen and rejected are the same to the model's tokenizer")
    count = len(pair.prompt_ids) + max(len(pair.chosen_ids), len(pair.rejected_ids))
    if longest is not None and count > longest:
        raise ValueError(f"prompt and reply have {count} tokens, but the model reads {longest}")


def _split(row: Preference) -> tuple[list[Message], dict[str, str]]:
    """The messages before the replies, and the two replies, one of the assistant each."""
    before, chosen, rejected = row.prompt, row.chosen, row.rejected
    if before is None:
        shared = 0
        while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
            shared += 1
        before, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    if row.chosen == row.rejected:
        raise ValueError("chosen and rejected are the same")
    if not before:
        raise ValueError("there is no prompt: chosen and rejected begin with different messages")
    for name, said in (("chosen", chosen), ("rejected", rejected)):
        if [message.role for message in said] != ["assistant"]:
            raise ValueError(
                f"{name}: {len(said)} messages after the prompt; expected one, of the assistant"
            )
    return before, {"chosen": chosen[0].content, "rejected": rejected[0].content}


def _chat_ids(tokenizer, messages: list[Message]) -> tuple[int, ...]:
    if len(messages) == 1 and messages[0].role == "user":
        return message_ids(tokenizer, messages[0].content)
    text = render(tokenizer, [message.model_dump() for message in messages], True)
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _text_ids(tokenizer, text: str) -> tuple[int, ...]:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return (*ids, tokenizer.eos_token_id)


def score_own(
    pipeline: Pipeline, path: Path, seed: int, step_size: float | None = None
) -> tuple[list[dict], Scores, float]:
    """Score the pairs of a file by `influence.estimator`, on the model of the parameters.

    Args:
        seed: of the questions' order and all noise.
        step_size: of the influence step; None: chosen on development questions, as for pairs of our
            own.

    Returns:
        the rows with `influence` and `influence_stderr`; the scores; the step size.

    Raises:
        DataError: for a row that cannot be used, or too few questions.
        InputError: for an estimator that needs what such pairs do not have.
    """
    p, base = pipeline.params, pipeline.base_model()
    name = p.influence.estimator
    check_scoring(pipeline)
    tokenizer, longest = _reader(pipeline)
    pairs, rows = read_preferences(path, tokenizer, longest)
    if step_size is None and len(pairs) < FEWEST:
        raise InputError(
            f"{path}: {len(pairs)} pairs; a step size is chosen by {FEWEST} at least: give --step"
        )
    questions = pipeline.questions("validation", p.influence.validation_questions, seed)
    if step_size is None:
        pipeline.questions("development", p.influence.step_questions, seed)  # before the model
    engine = pipeline.engine(base)
    if step_size is None:
        step_size = _chosen_step(pipeline, engine, pairs, seed)
    context = ScoringContext(
        engine,
        pipeline.system,
        step_size,
        p.influence,
        search=p.search.changed(guide="q"),
        pairs=p.pairs,
        alpha=p.selection.alpha,
        loss=pipeline.loss,
        training=pipeline.training,
    )
    scores = ESTIMATORS[name].score(context, pairs, questions, derive_seed(name, seed, 0))
    told = [
        row | {"influence": float(value), "influence_stderr": float(error)}
        for row, value, error in zip(rows, scores.value, scores.stderr, strict=True)
    ]
    return told, scores, step_size


FEWEST = 3
"""Pairs by which a step size is chosen, at least (`influence.step_pairs`)."""


def check_scoring(pipeline: Pipeline) -> None:
    """See whether the machine and the parameters can do it, before a model is loaded.

    Raises:
        InputError, ModelError: in one line.
    """
    p = pipeline.params
    name = p.influence.estimator
    check_peers(p)
    check_folders(p)
    if p.model.device == "cuda":
        check_sees_gpu()
    if ESTIMATORS[name].grows_trees and p.search.fluency_weight:
        raise InputError(
            f"influence.estimator {name} with search.fluency_weight: not for own pairs"
        )


def _reader(pipeline: Pipeline):
    """The tokenizer of the model, and how many tokens it reads; None: any number."""
    from ..engines import load_config, load_tokenizer, longest_of
    from ..engines.adapters import chain_of

    root, _ = chain_of(pipeline.base_model().path)
    model = pipeline.params.model
    limits = [longest_of(load_config(root)), model.max_length if model.engine == "vllm" else None]
    return load_tokenizer(root), min((limit for limit in limits if limit), default=None)


def _chosen_step(pipeline: Pipeline, engine, pairs: list[Pair], seed: int) -> float:
    p = pipeline.params.influence
    if len(p.step_sizes) == 1:
        return p.step_sizes[0]
    some = pairs[:: max(1, len(pairs) // p.step_pairs)][: p.step_pairs]
    questions = pipeline.questions("development", p.step_questions, seed)
    given = some, questions, p.step_sizes, p, derive_seed("response", seed), pipeline.loss
    rows = step_response(engine, pipeline.system, *given)
    warning = beyond_grid(rows, p.target_changed, p.target_repeatable)
    if warning:
        warnings.warn(warning, stacklevel=2)
    return choose_step_size(rows, p.target_changed, p.target_repeatable)
