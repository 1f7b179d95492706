"""Gradients of the loss of the training, one for each pair, for hundreds of pairs at once.

Every pair gets its own LoRA B matrices as leaves; the losses are summed and one backward pass gives
all gradients. With a fresh adapter (B = 0) the gradient of A is zero, so a step moves B alone, and
the policy equals its reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..engines import LoRAStack, ModelError
from ..pairs import Pair
from .base import DPOLoss, InfluenceSettings, ScoringContext

if TYPE_CHECKING:
    import torch

    from ..engines import TransformersEngine


def fresh_stack(
    engine: TransformersEngine, count: int, rank: int, scaling: float, seed: int
) -> LoRAStack:
    """`count` fresh adapters that share A [rank, in]; B [count, out, rank] is zero."""
    import torch

    from ..engines.lora import fresh_a

    a = fresh_a(engine.model, engine.lora.modules, rank, seed)
    weights = {
        name: (a[name], torch.zeros(count, module.out_features, rank, device=engine.device))
        for name, module in engine.lora.modules.items()
    }
    return LoRAStack(weights, scaling)


def dpo_losses(
    engine: TransformersEngine,
    pairs: list[Pair],
    stack: LoRAStack,
    loss: DPOLoss,
    owners: torch.Tensor | None = None,
    fresh: bool = False,
    lengths: torch.Tensor | None = None,
) -> torch.Tensor:
    """Loss [n], in nats, of pair i under adapter `owners[i]` (by default i); the reference is the
    model without adapters, or what `loss` names.

    Args:
        fresh: all B are zero, so that policy and reference are one and a second pass is spared.
        lengths: [n], what the NLL of each chosen reply is divided by; by default its tokens. TRL
            divides by the tokens of a whole batch: the mean of a batch's losses is TRL's where
            these are the mean number of chosen tokens of the batch (`mean_lengths`).

    Raises:
        KeyError: for a pair that the loss's reference does not hold.
    """
    import torch

    rows = [(p.prompt_ids, p.chosen_ids) for p in pairs] + [
        (p.prompt_ids, p.rejected_ids) for p in pairs
    ]
    owners = torch.arange(len(pairs)) if owners is None else owners
    index = owners.to(engine.device).repeat(2)
    policy = engine.teacher_forced(rows, stack, index).sum(1)
    with torch.no_grad():
        if loss.reference is not None:
            known = [loss.reference[p.id] for p in pairs]
            reference = torch.tensor([*zip(*known, strict=True)], device=engine.device).flatten()
        else:
            reference = policy.detach() if fresh else engine.teacher_forced(rows).sum(1)
    engine.usage.prompt_tokens += sum(len(prompt) + len(reply) for prompt, reply in rows)
    chosen, rejected = (policy - reference).chunk(2)
    found = -torch.nn.functional.logsigmoid(loss.beta * (chosen - rejected))
    if not loss.nll_weight:
        return found
    if lengths is None:
        lengths = torch.tensor([len(p.chosen_ids) for p in pairs])
    return found - loss.nll_weight * policy[: len(pairs)] / lengths.to(policy)


def mean_lengths(pairs: list[Pair], owners: torch.Tensor) -> torch.Tensor:
    """[n] mean number of chosen tokens over the pairs of the same owner [n]: see `dpo_losses`."""
    import torch

    tokens = torch.tensor([float(len(pair.chosen_ids)) for pair in pairs])
    total = torch.zeros(int(owners.max()) + 1).index_add_(0, owners, tokens)
    return (total / owners.bincount().clamp(min=1))[owners]


def dpo_gradients(
    engine: TransformersEngine,
    pairs: list[Pair],
    *,
    loss: DPOLoss,
    rank: int,
    scaling: float,
    seed: int,
    rows: int = 64,
    tokens: int | None = None,
    checkpointing: bool = False,
    lengths: torch.Tensor | None = None,
) -> LoRAStack:
    """Gradient of each pair's loss with respect to B at B = 0, as a stack: B_i holds grad
    L_DPO(z_i).

    Args:
        rows, tokens: pairs that share a forward and backward pass, and their tokens; see `passes`.
        checkpointing: see `checkpointed`.
        lengths: as in `dpo_losses`.
    """
    import torch

    stack = fresh_stack(engine, len(pairs), rank, scaling, seed)
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i].prompt_ids))
    texts = [[(p.prompt_ids, p.chosen_ids), (p.prompt_ids, p.rejected_ids)] for p in pairs]
    for chunk in passes(texts, order, rows, tokens):
        part = fresh_stack(engine, len(chunk), rank, scaling, seed)
        some, own = [pairs[i] for i in chunk], None if lengths is None else lengths[chunk]
        given = engine, some, part, loss
        found = gradient_by_b(
            lambda given=given, own=own: dpo_losses(*given, fresh=True, lengths=own).sum(),
            engine,
            part,
            torch.arange(len(chunk)).repeat(2),
            checkpointing,
        )
        for name, gradient in found.items():
            stack.weights[name][1][chunk] = gradient
    return stack


def gradient_by_b(
    value: Callable[[], torch.Tensor],
    engine: TransformersEngine,
    stack: LoRAStack,
    rows: torch.Tensor,
    checkpointing: bool,
) -> dict[str, torch.Tensor]:
    """Gradient of a value, which one forward pass of the engine gives, with respect to all B of a
    stack: {linear layer: gradient of the shape of its B}.

    Args:
        rows: the adapter of each text in that pass.
        checkpointing: see `checkpointed`.
    """
    import torch

    leaves = [b.requires_grad_() for _, b in stack.weights.values()]
    with checkpointed(engine.model, checkpointing):
        found = value()
        if checkpointing:  # layers are computed again, with the adapters that they had
            engine.lora.use(stack, rows.to(engine.device))
        gradients = torch.autograd.grad(found, leaves)
    engine.lora.use(None)
    return dict(zip(stack.weights, gradients, strict=True))


@contextmanager
def checkpointed(model, on: bool = True) -> Iterator[None]:
    """Meanwhile the model's layers keep their inputs alone and are computed again on the way back
    (gradient checkpointing, Chen et al., 2016): a fraction of the memory, a third more work, the
    same gradient.

    Raises:
        ModelError: for a model whose classes in transformers have no checkpointing.
    """
    if not on:
        yield
        return
    from functools import partial

    from torch.utils.checkpoint import checkpoint
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ModelError(
            f"{model.config.model_type}: its layers cannot be checkpointed; set "
            "influence.gradient_checkpointing to false"
        )
    # The layers alone: modules in them, such as dropout, stay as they are; and transformers' own
    # switch leaves a hook on the embeddings behind.
    for layer in layers:
        layer.training = layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.training = layer.gradient_checkpointing = False


def passes(
    items: Sequence[Sequence[tuple[Sequence[int], Sequence[int]]]],
    order: list[int],
    rows: int,
    tokens: int | None = None,
) -> Iterator[list[int]]:
    """Items, by number and in this order, that are read together: at most `rows` of them; with
    `tokens`, no more than keep their texts within so many tokens, padding included (prompts and
    replies are padded apart), but one at least.

    Args:
        items: the texts of each, (prompt ids, reply ids).
    """
    chunk: list[int] = []
    prompt = reply = texts = 0
    for index in order:
        longest = [max(len(part) for part in side) for side in zip(*items[index], strict=True)]
        wider = max(prompt, longest[0]), max(reply, longest[1])
        padded = (texts + len(items[index])) * sum(wider)
        if chunk and (len(chunk) == rows or (tokens is not None and padded > tokens)):
            yield chunk
            chunk, texts, wider = [], 0, tuple(longest)
        chunk.append(index)
        texts, (prompt, reply) = texts + len(items[index]), wider
    if chunk:
        yield chunk


def flatten(stack: LoRAStack) -> torch.Tensor:
    """All B matrices of each adapter as one row: [n, parameters]."""
    import torch

    return torch.cat([b.flatten(1) for _, b in stack.weights.values()], dim=1)


def step(stack: LoRAStack, step_size: float) -> LoRAStack:
    """Adapters after one plain gradient step from zero: B = -step_size * gradient (DITS, section
    3.2)."""
    return LoRAStack(
        {name: (a, -step_size * b) for name, (a, b) in stack.weights.items()}, stack.scaling
    )


def sum_by(stack: LoRAStack, owners: torch.Tensor, count: int) -> LoRAStack:
    """Adapters of a stack added up by owner: `count` adapters, owners [n] in range(count)."""

    def summed(b: torch.Tensor) -> torch.Tensor:
        return b.new_zeros(count, *b.shape[1:]).index_add_(0, owners.to(b.device), b)

    return LoRAStack(
        {name: (a, summed(b)) for name, (a, b) in stack.weights.items()}, stack.scaling
    )


def mean_by(stack: LoRAStack, owners: torch.Tensor) -> LoRAStack:
    """The mean of the adapters of each owner [n], numbered from 0 on."""
    counts = owners.bincount()
    total = sum_by(stack, owners, len(counts))
    return LoRAStack(
        {
            name: (a, b / counts.to(b.device)[:, None, None])
            for name, (a, b) in total.weights.items()
        },
        stack.scaling,
    )


def take(stack: LoRAStack, indices) -> LoRAStack:
    """The adapters of these indices."""
    import torch

    chosen = torch.as_tensor(indices)
    return LoRAStack(
        {name: (a, b[chosen.to(b.device)]) for name, (a, b) in stack.weights.items()}, stack.scaling
    )


def part(stack: LoRAStack, start: int, stop: int) -> LoRAStack:
    """Adapters start..stop-1 of a stack."""
    return LoRAStack(
        {name: (a, b[start:stop]) for name, (a, b) in stack.weights.items()}, stack.scaling
    )


def zero_steps(stack: LoRAStack, count: int) -> LoRAStack:
    """`count` adapters of a stack's shape that change nothing."""
    return step(take(stack, [0] * count), 0.0)


def with_zero_step(stack: LoRAStack) -> LoRAStack:
    """A stack with one more adapter, last, that changes nothing."""
    import torch

    zero, weights = zero_steps(stack, 1).weights, {}
    for name, (a, b) in stack.weights.items():
        own = a if a.dim() == 2 else torch.cat([a, a[:1]])
        weights[name] = (own, torch.cat([b, zero[name][1]]))
    return LoRAStack(weights, stack.scaling)


def gradients_of(
    context: ScoringContext, pairs: list[Pair], lora_seed: int, lengths: torch.Tensor | None = None
) -> LoRAStack:
    """The pairs' gradients, where the engine takes adapters; `lengths` as in `dpo_losses`."""
    engine, options = context.engine, gradient_options(context.settings, context.loss)
    with engine.learning() as learner:
        gradients = dpo_gradients(learner, pairs, seed=lora_seed, lengths=lengths, **options)
        return gradients.to(engine.stack_device)


def gradient_options(settings: InfluenceSettings, loss: DPOLoss) -> dict:
    """What `dpo_gradients` takes beside pairs and seed."""
    return {
        "loss": loss,
        "rank": settings.rank,
        "scaling": settings.scaling,
        "rows": settings.gradient_rows,
        "tokens": settings.gradient_tokens,
        "checkpointing": settings.gradient_checkpointing,
    }
