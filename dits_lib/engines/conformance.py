"""Whether an engine computes what its model computes: looked at once for each model, when it is
loaded.

A probe chat is rendered; what the engine samples from, what it scores, what takes gradients, and
what a trainer reads (a padded batch) are held against the model's own forward pass on one row. So
an architecture that the engine would get wrong, by a scaled output layer or a window of attention,
is refused before a wrong number comes out of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..agents import ChatTemplateError, message_ids
from .base import Engine, LoRAStack, Request, Rows
from .files import ModelError
from .lora import fresh_a
from .seeds import derive_seed

if TYPE_CHECKING:
    from .transformers import TransformersEngine

_REPLY = 6
"""Tokens of a probe reply."""
_LONGEST = 600
"""Tokens of a probe prompt, at most: windows of attention up to this are looked beyond."""
_TOLERANCE = {torch.float32: 2e-3, torch.float64: 2e-3}
"""In nats, by the precision of the weights."""
_COARSE = 0.5
"""In nats, for 16-bit weights: their log probabilities differ by up to 0.4 nats with the shapes of
the products alone."""
_GRADIENT_TOLERANCE, _COARSE_GRADIENT = 0.01, 0.3
"""Relative difference of a gradient, for 32-bit and 16-bit weights."""
_CONFORMING: set[tuple] = set()


def conform_once(engine: TransformersEngine, name: str) -> None:
    """`check_conformance`, once in a process for each configuration and precision.

    Raises:
        ModelError: as `check_conformance`.
    """
    model = engine.model
    # A model trained whole has another path, and computes as its root does.
    config = model.config.to_dict() | {"_name_or_path": None}
    key = (str(config), str(model.dtype), str(model.device), str(engine.tokenizer.chat_template))
    if key not in _CONFORMING:
        check_conformance(engine, name)
        _CONFORMING.add(key)


def check_conformance(engine: TransformersEngine, name: str) -> None:
    """Hold what an engine computes against its model's own forward pass.

    Args:
        name: of the model, for the message.

    Raises:
        ModelError: telling what differs, and by how much.
    """
    rows = _played(engine, name)
    with torch.inference_mode():
        expected = [_own_logprobs(engine, *row).tolist() for row in rows]
    tolerance = _TOLERANCE.get(engine.model.dtype, _COARSE)
    usage = engine.snapshot()
    for what, found in (
        ("what it samples from", _sampled(engine, rows)),
        ("what it scores", engine.logprobs(rows)),
        ("what a trainer reads", _padded(engine, rows)),
    ):
        worst = _difference(expected, found)
        if not worst <= tolerance:  # NaN is no agreement either
            raise ModelError(
                f"{name}: {type(engine.model).__name__} is not supported: {what} differs from the "
                f"model's own forward pass by {worst:.2g} nats (allowed: {tolerance:g})"
            )
    worst, allowed = _gradient_difference(engine, rows[0]), _GRADIENT_TOLERANCE
    if engine.model.dtype not in _TOLERANCE:
        allowed = _COARSE_GRADIENT
    if not worst <= allowed:
        raise ModelError(
            f"{name}: {type(engine.model).__name__} is not supported: the gradients of its "
            f"adapters differ from the model's own by {worst:.0%} (allowed: {allowed:.0%})"
        )
    engine.usage.__dict__.update(vars(usage))  # a check is not charged to the run
    engine.prefixes.clear(None)


def check_agreement(name: str, spoken: list[list[float]], learned: list[list[float]]) -> None:
    """Hold the log probabilities of an engine that speaks against those of the one that learns.

    Args:
        spoken, learned: log probabilities of the same tokens, in nats.

    Raises:
        ModelError: when they differ by more than 16-bit weights explain.
    """
    apart = [_difference([a], [b]) for a, b in zip(spoken, learned, strict=True)]
    if not all(difference <= 2 * _COARSE for difference in apart):  # NaN is no agreement either
        worst = float(torch.tensor(apart).max())
        raise ModelError(
            f"{name}: vLLM differs by {worst:.2g} nats from what it scores itself, or from what "
            f"transformers computes (allowed: {2 * _COARSE:g}); this model is not supported with "
            "model.engine vllm"
        )


def probe_rows(engine: Engine, name: str) -> list[tuple[tuple[int, ...], int]]:
    """Prompts of a short and a long probe chat, and how many of their first tokens they share.

    Raises:
        ModelError: when the chat template refuses them.
    """
    try:
        short = message_ids(engine.tokenizer, "a b c")
        long = message_ids(engine.tokenizer, " ".join("a b c d e f g h".split() * 80))
    except ChatTemplateError as error:
        raise ModelError(f"{name}: {error}") from None
    room = min(_LONGEST, (engine.max_length or 2 * _LONGEST) - _REPLY - 2)
    shared = next((i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), 1)
    return [(short[:room], min(shared, room - 1)), (long[:room], min(shared, room - 1))]


def _played(engine: TransformersEngine, name: str) -> Rows:
    """The probe prompts with replies that any tokens may make: those that the model would hardly
    say tell it apart from another as well."""
    vocabulary = engine.model.get_output_embeddings().weight.shape[0]
    known = min(len(engine.tokenizer), vocabulary)
    prompts = [prompt for prompt, _ in probe_rows(engine, name)]
    unknown = sorted({token for prompt in prompts for token in prompt if token >= vocabulary})
    if unknown:
        raise ModelError(
            f"{name}: its tokenizer writes {engine.tokenizer.decode(unknown[:1])!r}, token "
            f"{unknown[0]}, which the model does not know; allowed: tokens below {vocabulary}"
        )
    return [
        (prompt, tuple(derive_seed("probe", row, i) % known for i in range(_REPLY)))
        for row, prompt in enumerate(prompts)
    ]


def _own_logprobs(engine: TransformersEngine, prompt, reply) -> torch.Tensor:
    """Log probabilities of a reply, [tokens], by the model's own forward pass on this row alone."""
    ids = torch.tensor([[*prompt, *reply]], device=engine.device)
    logits = engine.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    return logits.log_softmax(1).gather(1, ids[0, len(prompt) :, None])[:, 0]


@torch.inference_mode()
def _sampled(engine: TransformersEngine, rows: Rows) -> list[list[float]]:
    """Log probabilities that the engine samples from, step by step, of the replies as they are."""
    requests = [
        Request(prompt, 0, _REPLY, prefix=shared)
        for (prompt, _), (_, shared) in zip(rows, probe_rows(engine, ""), strict=True)
    ]
    return engine.forced([r for _, r in rows], requests)


@torch.inference_mode()
def _padded(engine: TransformersEngine, rows: Rows) -> list[list[float]]:
    """Log probabilities by a batch that is padded on the right, as trainers make it."""
    width = max(len(prompt) + len(reply) for prompt, reply in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long, device=engine.device)
    mask = torch.zeros_like(ids)
    for i, (prompt, reply) in enumerate(rows):
        length = len(prompt) + len(reply)
        ids[i, :length] = torch.tensor([*prompt, *reply], device=engine.device)
        mask[i, :length] = 1
    logits = engine.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    found = []
    for i, (prompt, reply) in enumerate(rows):
        start, stop = len(prompt), len(prompt) + len(reply)
        own = logits[i, start - 1 : stop - 1].float().log_softmax(1)
        found.append(own.gather(1, ids[i, start:stop, None])[:, 0].tolist())
    return found


def _difference(expected: list[list[float]], found: list[list[float]]) -> float:
    """The largest difference; NaN if any number is NaN."""
    return float((torch.tensor(expected) - torch.tensor(found)).abs().max())


def _gradient_difference(engine: TransformersEngine, row) -> float:
    """Relative difference between an adapter's gradient at B = 0, `scaling * G A^T`, and that which
    follows from the gradient G of the weight by the model's own forward pass."""
    name, module = next(iter(engine.lora.modules.items()))
    a = fresh_a(engine.model, {name: module}, 4, 0)[name]
    b = torch.zeros(1, module.out_features, 4, device=engine.device, requires_grad=True)
    index = torch.zeros(1, dtype=torch.long, device=engine.device)
    score = engine.teacher_forced([row], LoRAStack({name: (a, b)}, 1.0), index).sum()
    (found,) = torch.autograd.grad(score, [b])
    held = module.weight.requires_grad
    module.weight.requires_grad_(True)
    (weight,) = torch.autograd.grad(_own_logprobs(engine, *row).sum(), [module.weight])
    module.weight.requires_grad_(held)
    wanted = weight.float() @ a.T
    return float((found[0] - wanted).norm() / wanted.norm().clamp(min=1e-12))
