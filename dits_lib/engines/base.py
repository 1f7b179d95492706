"""What a language-model engine promises. Callers hand over whole batches and never loop over single
prompts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .files import ModelError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Request:
    """One reply to sample.

    Attributes:
        prompt_ids: the prompt, as token ids.
        seed: 64-bit; noise depends on (seed, position, token) alone, so equal seeds are common
            random numbers.
        max_new_tokens: length limit of the reply.
        temperature: 0 is greedy.
        adapter: index into the LoRA stack given to `generate`; None is the base model.
        prefix: how many of the first prompt tokens other requests are likely to share (the system
            message); the engine may keep their keys and values. It changes speed, never results.
        top_p: nucleus sampling (Holtzman et al., 2020): of each step's tokens, the most likely ones
            whose probabilities at this temperature reach that sum; 1 leaves all.
    """

    prompt_ids: tuple[int, ...]
    seed: int
    max_new_tokens: int
    temperature: float = 1.0
    adapter: int | None = None
    prefix: int = 0
    top_p: float = 1.0


@dataclass(frozen=True)
class Completion:
    """A sampled reply: ids (end-of-turn token included when sampled), text without special tokens,
    and the log probability of each token at T = 1, in nats."""

    token_ids: tuple[int, ...]
    text: str
    logprobs: tuple[float, ...]


@dataclass
class Usage:
    """Running totals of one engine: what a run is charged for."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    requests: int = 0

    def minus(self, earlier: Usage) -> dict[str, int]:
        return {name: value - getattr(earlier, name) for name, value in vars(self).items()}


@dataclass
class LoRAStack:
    """Many LoRA adapters side by side: `weights[module] = (A, B)` with A [r, in] (shared) or [n, r,
    in], B [n, out, r].

    Row i of a batch with adapter j computes `x W^T + scaling * (x A_j^T) B_j^T` (Hu et al., 2021).
    """

    weights: dict[str, tuple[torch.Tensor, torch.Tensor]]
    scaling: float

    def __len__(self) -> int:
        return next(iter(self.weights.values()))[1].shape[0]

    def to(self, device) -> LoRAStack:
        return LoRAStack(
            {name: (a.to(device), b.to(device)) for name, (a, b) in self.weights.items()},
            self.scaling,
        )


Rows = list[tuple[tuple[int, ...], tuple[int, ...]]]
"""(prompt ids, reply ids) of each."""

Replies = Callable[[dict[int, Completion]], dict[int, Request]]
"""Told what has been said, by key; returns what to ask next, by key."""


def check_length(model: str, request: Request, longest: int | None) -> None:
    """Raises ModelError for a request of more tokens than the model reads (None: no limit)."""
    tokens = len(request.prompt_ids) + request.max_new_tokens
    if longest is not None and tokens > longest:
        raise ModelError(
            f"{model}: a prompt and its reply take {tokens} tokens, but the model reads {longest}; "
            "raise model.max_length if the model allows it, or lower data.context_words, "
            "max_new_tokens or the turns"
        )


class Engine:
    """A language model that speaks.

    Attributes:
        usage: what was read and generated so far.
        tokenizer: the model's.
        stack_device: where LoRA stacks for `generate` should lie.
        max_length: tokens of prompt and reply that it can hold; None where it sets no limit.
        exact: whether a reply is the same in any company, but for ties: its logits depend on the
            batch by no more than the rounding of 32-bit numbers.
    """

    usage: Usage
    tokenizer: object
    stack_device: object
    max_length: int | None = None
    exact: bool = True

    def snapshot(self) -> Usage:
        """A copy of the usage so far."""
        return copy.copy(self.usage)

    def learning(self) -> AbstractContextManager:
        """The transformers engine of the same policy that takes gradients; its usage counts
        here."""
        raise NotImplementedError

    def generate(
        self, requests: list[Request], adapters: LoRAStack | None = None
    ) -> list[Completion]:
        """Sample all replies, in the order of the requests."""
        raise NotImplementedError

    def logprobs(self, rows: Rows) -> list[list[float]]:
        """Log probability, in nats, of every token of each reply, by teacher forcing."""
        raise NotImplementedError

    def converse(
        self, first: dict[int, Request], reply: Replies, adapters: LoRAStack | None = None
    ) -> None:
        """Sample replies until `reply` asks for nothing more. An engine that takes requests while
        it speaks overrides this; here all requests of a round wait for each other."""
        self.in_rounds(first, reply, adapters)

    def in_rounds(
        self, first: dict[int, Request], reply: Replies, adapters: LoRAStack | None = None
    ) -> None:
        """`converse`, round by round."""
        requests = first
        while requests:
            completions = self.generate([*requests.values()], adapters)
            requests = reply(dict(zip(requests, completions, strict=True)))
