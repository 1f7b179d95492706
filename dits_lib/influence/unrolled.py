"""DPO training as one differentiable computation, and the way back through its steps.

What a training ends with depends on the weight that each pair has in the loss. The derivative of a
function of the trained weights with respect to all these weights follows from one sweep backwards
through the steps (reverse-mode differentiation of the training; Engstrom et al., 2025, REPLAY and
metagradients; Ilyas and Engstrom, 2025, MAGIC). The steps are those of `training.train_dpo`: mean
loss of a batch, gradients clipped to a norm of 1, AdamW without decay, a linear schedule after a
warm-up of a tenth of the steps, the same order of the pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..engines import LoRAStack
from ..pairs import Pair
from .base import DPOLoss, ScoreError, Training
from .gradients import dpo_losses, fresh_stack, mean_lengths, passes

if TYPE_CHECKING:
    import torch

    from ..engines import TransformersEngine

FIRST_DECAY, SECOND_DECAY, EPSILON = 0.9, 0.999, 1e-8
"""Of AdamW, as TRL's trainers set it."""
WARM_UP = 0.1
"""Share of the steps in which the learning rate rises, as in `training.train_dpo`."""
LARGEST_NORM = 1.0
"""To which the norm of all gradients is clipped."""
LORA_SCALING = 2.0
"""Alpha by rank of the adapters that are trained."""


@dataclass(frozen=True)
class TrainingState:
    """What a step begins with: weights, and AdamW's running means of gradients and their squares,
    by name."""

    weights: dict[str, torch.Tensor]
    first: dict[str, torch.Tensor]
    second: dict[str, torch.Tensor]

    def tensors(self) -> list[torch.Tensor]:
        """All of them, in one order."""
        return [*self.weights.values(), *self.first.values(), *self.second.values()]

    def detached(self, leaves: bool = False) -> TrainingState:
        """The same numbers without their history, as leaves of a new one if asked for."""
        parts = (self.weights, self.first, self.second)
        return TrainingState(
            *({name: t.detach().requires_grad_(leaves) for name, t in p.items()} for p in parts)
        )


def batches_of(count: int, batch: int, steps: int, seed: int) -> list[np.ndarray]:
    """The pairs of each step, in the order in which TRL's trainers draw them: every epoch a
    permutation of its own, whose last batch may be small."""
    import torch

    drawn: list[np.ndarray] = []
    epoch = 0
    while len(drawn) < steps:
        generator = torch.Generator().manual_seed(seed + epoch)
        order = torch.randperm(count, generator=generator).numpy()
        drawn += [order[start : start + batch] for start in range(0, count, batch)]
        epoch += 1
    return drawn[:steps]


def guests_of(guests: np.ndarray, passes: int, steps: int, seed: int) -> list[np.ndarray]:
    """The pairs beside the batch of each step: in every pass over the pairs that are trained on,
    which takes `passes` steps, each guest once, in an order drawn anew."""
    drawn: list[np.ndarray] = []
    rng = np.random.default_rng([seed, 1])
    while len(drawn) < steps:
        drawn += np.array_split(rng.permutation(guests), passes)
    return drawn[:steps]


def rates_of(steps: int, peak: float, warm_up: float = WARM_UP) -> list[float]:
    """The learning rate of each step; `warm_up`: share of the steps in which it rises."""
    warm = max(1, int(steps * warm_up))
    rising = [peak * step / warm for step in range(min(warm, steps))]
    return rising + [peak * (steps - step) / max(1, steps - warm) for step in range(warm, steps)]


def divisors(
    second: dict[str, torch.Tensor], steps: int, epsilon: float = EPSILON
) -> dict[str, torch.Tensor]:
    """What AdamW divides the mean gradients by after so many steps, from the running means of their
    squares, by name."""
    correction = math.sqrt(1 - SECOND_DECAY**steps)
    return {name: _root(square) / correction + epsilon for name, square in second.items()}


class UnrolledDPO:
    """A DPO training of an engine's model on pairs that have weights in the loss.

    The engine's own weights are not changed, but for the time within `speaking`.

    Where some of the pairs alone are trained on (`kept`), the batches are those of a training on
    these, and the rest are its guests: as often as a kept pair is in a batch, a guest is beside
    one, its loss added with its weight and divided as the others' are, by the number of kept pairs
    in the batch. At weight 0 a guest changes nothing, yet it has a derivative; but it tells of
    weights below 1e-6 or so alone, since what a guest does to a weight of the model that the others
    hardly move is divided by next to nothing, epsilon. (Batches of all pairs, some with weight 0,
    would be another training: the mean of a batch would count those of weight 0, and each kept pair
    would be seen as seldom as when all are trained on.)

    Attributes:
        batches, guests: of each step, indices of `pairs`.
        rows, tokens: pairs that share a pass, and their tokens (`gradients.passes`).
        rates: the learning rate of each step.
        epsilon: of AdamW.

    Raises:
        ScoreError: where all weights would be trained in 16 bits, whose steps are mostly rounding.
    """

    def __init__(
        self,
        learner: TransformersEngine,
        pairs: list[Pair],
        loss: DPOLoss,
        training: Training,
        seed: int,
        kept: np.ndarray | None = None,
        rows: int = 64,
        tokens: int | None = None,
    ):
        """
        Args:
            loss: its reference is by default the model that training starts from.
            seed: of the order of the pairs, and of a LoRA's A.
            kept: indices of the pairs that are trained on, ascending; None: all.
            rows, tokens: pairs that share a pass, and their tokens; see `gradients.passes`.
        """
        if not training.lora_rank and not learner.exact:
            raise ScoreError(
                f"a training of all weights can be followed in float32 alone, and the model is "
                f"{learner.model.dtype}; set model.dtype to float32, or dpo.lora_rank above 0"
            )
        self.learner, self.pairs, self.training, self.seed = learner, pairs, training, seed
        self.rows, self.tokens = rows, tokens
        self.loss = loss if loss.reference is not None else self._with_reference(loss)
        kept = np.arange(len(pairs)) if kept is None else kept
        others, passes = np.setdiff1d(np.arange(len(pairs)), kept), -(-len(kept) // training.batch)
        drawn = batches_of(len(kept), training.batch, training.steps, seed)
        self.batches = [kept[own] for own in drawn]
        self.guests = guests_of(others, passes, training.steps, seed)
        self.rates = rates_of(training.steps, training.learning_rate)
        self.epsilon = EPSILON

    def _with_reference(self, loss: DPOLoss) -> DPOLoss:
        replies = [
            (p.prompt_ids, ids) for p in self.pairs for ids in (p.chosen_ids, p.rejected_ids)
        ]
        sums = [sum(row) for row in self.learner.logprobs(replies)]
        known = zip(sums[::2], sums[1::2], strict=True)
        reference = dict(zip((p.id for p in self.pairs), known, strict=True))
        return replace(loss, reference=reference)

    def start(self) -> TrainingState:
        """The state before the first step."""
        import torch

        if self.training.lora_rank:
            rank = self.training.lora_rank
            fresh = fresh_stack(self.learner, 1, rank, LORA_SCALING, self.seed).weights
            weights = {f"{name} A": a.clone() for name, (a, _) in fresh.items()}
            weights |= {f"{name} B": b.clone() for name, (_, b) in fresh.items()}
        else:
            named = self.learner.model.named_parameters()
            weights = {name: weight.detach().clone() for name, weight in named}
        nothing = [{name: torch.zeros_like(w) for name, w in weights.items()} for _ in range(2)]
        return TrainingState(weights, *nothing)

    def train(self, weights: torch.Tensor) -> list[TrainingState]:
        """Train from the start. Returns about 2 * sqrt(steps) states: those at every `stride`-th
        step, from the first on, and the last."""
        state, kept = self.start(), []
        for number in range(self.training.steps):
            if number % self.stride == 0:
                kept.append(state)
            state = self.step(state.detached(leaves=True), number, weights).detached()
        return [*kept, state]

    @property
    def stride(self) -> int:
        """Steps between two states that are kept; those between are computed again."""
        return max(1, math.isqrt(self.training.steps))

    def step(
        self, state: TrainingState, number: int, weights: torch.Tensor, follow: bool = False
    ) -> TrainingState:
        """One step of the training.

        Args:
            state: its weights must require gradients.
            weights: [n_pairs] of the pairs in the mean loss of their batch.
            follow: whether derivatives of the result with respect to state and weights are wanted.
                Without them guests of weight 0 are not read.
        """
        members = self._members(number, None if follow else weights)
        gradients = self._gradients(state, number, members, weights, follow)
        return self._moved(state, number, gradients)

    def _members(self, number: int, weights: torch.Tensor | None) -> np.ndarray:
        """The pairs that a step reads, the batch first; guests unless all their weights are 0."""
        import torch

        members, guests = self.batches[number], self.guests[number]
        if weights is None or bool(weights[torch.as_tensor(guests)].any()):
            members = np.concatenate([members, guests])
        return members

    def _parts(self, members: np.ndarray, follow: bool) -> list[np.ndarray]:
        """Those that share a pass. The gradient of a gradient (`follow`) holds about four times as
        much as a gradient, so that its passes have a quarter of the tokens."""
        some = [self.pairs[i] for i in members]
        texts = [[(p.prompt_ids, p.chosen_ids), (p.prompt_ids, p.rejected_ids)] for p in some]
        tokens = self.tokens
        if tokens is not None and follow:
            tokens = max(1, tokens // 4)
        places = passes(texts, [*range(len(some))], self.rows, tokens)
        return [members[np.array(place)] for place in places]

    def _gradients(
        self,
        state: TrainingState,
        number: int,
        members: np.ndarray,
        weights: torch.Tensor,
        follow: bool = False,
    ) -> list[torch.Tensor]:
        """Gradient of the weighted mean loss of these members of a step, in the order of the
        model's weights; without `follow` it has no history."""
        total: list[torch.Tensor] = []
        for part in self._parts(members, follow):
            found = self._gradients_of(state, number, part, weights, follow)
            total = [a + b for a, b in zip(total, found, strict=True)] if total else found
        return total

    def _gradients_of(
        self,
        state: TrainingState,
        number: int,
        part: np.ndarray,
        weights: torch.Tensor,
        follow: bool,
    ) -> list[torch.Tensor]:
        """What some members of a step, in one pass, add to its gradient."""
        import torch

        batch = self.batches[number]
        losses = self._losses(state.weights, part, batch)
        mean = (weights[torch.as_tensor(part)].to(losses) * losses).sum() / len(batch)
        options = {"create_graph": follow, "allow_unused": True, "materialize_grads": True}
        return list(torch.autograd.grad(mean, list(state.weights.values()), **options))

    def _moved(
        self, state: TrainingState, number: int, gradients: list[torch.Tensor]
    ) -> TrainingState:
        """What clipping and AdamW make of the gradients of a step."""
        norm = _root(sum((g**2).sum() for g in gradients))
        clip = (LARGEST_NORM / (norm + 1e-6)).clamp(max=1.0)
        first, second = {}, {}
        for name, gradient in zip(state.weights, gradients, strict=True):
            g = clip * gradient
            first[name] = FIRST_DECAY * state.first[name] + (1 - FIRST_DECAY) * g
            second[name] = SECOND_DECAY * state.second[name] + (1 - SECOND_DECAY) * g**2
        rate = self.rates[number] / (1 - FIRST_DECAY ** (number + 1))
        scales = divisors(second, number + 1, self.epsilon)
        moved = {n: w - rate * first[n] / scales[n] for n, w in state.weights.items()}
        return TrainingState(moved, first, second)

    def back(
        self, kept: list[TrainingState], weights: torch.Tensor, wanted: list[dict]
    ) -> np.ndarray:
        """Derivatives of several functions of the trained weights with respect to the weights of
        the pairs, [n_pairs, functions], by one sweep backwards.

        Args:
            kept: of `train` with the same weights.
            wanted: for each function its gradient at the trained weights, by name.
        """
        import torch

        last = kept[-1]
        back = [
            [*(g[name] for name in last.weights), *map(torch.zeros_like, last.tensors()[len(g) :])]
            for g in wanted
        ]
        found = torch.zeros(len(weights), len(wanted), dtype=torch.float64)
        for segment in reversed(range(len(kept) - 1)):
            numbers = range(
                segment * self.stride, min((segment + 1) * self.stride, self.training.steps)
            )
            states = [kept[segment]]
            for number in numbers[:-1]:
                states.append(
                    self.step(states[-1].detached(leaves=True), number, weights).detached()
                )
            for number, state in zip(reversed(numbers), reversed(states), strict=True):
                back, of_weights = self._step_back(state, number, weights, back)
                found += of_weights
        return found.numpy()

    def _step_back(
        self,
        state: TrainingState,
        number: int,
        weights: torch.Tensor,
        back: list[list[torch.Tensor]],
    ) -> tuple[list[list[torch.Tensor]], torch.Tensor]:
        """From derivatives of functions with respect to the state after a step to those with
        respect to the state before it (in the order of `TrainingState.tensors`) and to the weights
        of the pairs, [n_pairs, functions].

        First through clipping and AdamW, to the gradient of the step. That is a sum over pairs, so
        what it depends on follows one pass after another, as the derivative of its product with
        what came back: no more than a pass need be held, however large the batch.
        """
        import torch

        leaves = state.detached(leaves=True)
        given = weights.detach().clone().requires_grad_()
        members = self._members(number, None)
        parts = self._parts(members, follow=True)
        alone = len(parts) == 1
        gradients = self._gradients(leaves, number, members, given, follow=alone)
        cut = [g.detach().requires_grad_() for g in gradients]
        done = self._moved(leaves, number, cut).tensors()
        before, pulled = [], []
        for which, own in enumerate(back):
            into = [*leaves.tensors(), *cut]
            options = {"allow_unused": True, "materialize_grads": True}
            options["retain_graph"] = which + 1 < len(back)
            passed = [*torch.autograd.grad(done, into, own, **options)]
            before.append(passed[: -len(cut)])
            pulled.append(passed[-len(cut) :])
        found = torch.zeros(len(weights), len(back), dtype=torch.float64)
        for part in parts:
            if not alone:
                gradients = self._gradients_of(leaves, number, part, given, follow=True)
            for which, towards in enumerate(pulled):
                product = sum((g * t).sum() for g, t in zip(gradients, towards, strict=True))
                *of_state, of_weights = torch.autograd.grad(
                    product,
                    [*leaves.weights.values(), given],
                    retain_graph=which + 1 < len(back),
                    allow_unused=True,
                    materialize_grads=True,
                )
                for place, change in enumerate(of_state):
                    before[which][place] = before[which][place] + change
                found[:, which] += of_weights.double().cpu()
        return before, found

    def losses(self, state: TrainingState, batch: int) -> np.ndarray:
        """[n_pairs] losses at the weights of a state, in nats; `batch`: pairs of a pass."""
        import torch

        found = []
        with torch.no_grad():
            for start in range(0, len(self.pairs), batch):
                chunk = np.arange(start, min(start + batch, len(self.pairs)))
                found.append(self._losses(state.weights, chunk).double().cpu().numpy())
        return np.concatenate(found)

    def slopes(
        self, state: TrainingState, directions: list[dict[str, torch.Tensor]], batch: int
    ) -> np.ndarray:
        """Derivative of every pair's loss along directions at the weights of a state,
        [n_pairs, directions], by forward-mode differentiation: no pair needs a gradient of its own.

        Args:
            directions: by name, as the weights.
            batch: pairs of a pass.
        """
        import torch

        count = len(self.pairs)
        found = np.zeros((count, len(directions)))
        order = sorted(range(count), key=lambda i: len(self.pairs[i].prompt_ids))
        for start in range(0, count, batch):
            chunk = np.array(order[start : start + batch])
            for which, direction in enumerate(directions):
                _, slope = torch.func.jvp(
                    lambda weights, chunk=chunk: self._losses(weights, chunk),
                    (state.weights,),
                    (direction,),
                )
                found[chunk, which] = slope.detach().double().cpu().numpy()
        return found

    def gradient(
        self, state: TrainingState, rows: list, factors: list[float], temperature: float, batch: int
    ) -> dict[str, torch.Tensor]:
        """Gradient of `sum_i factors_i * log pi(reply_i | prompt_i)` at the weights of a state, by
        name.

        Args:
            rows: (prompt ids, reply ids).
            temperature: of log pi.
            batch: rows of a pass, with no more tokens than `tokens`.
        """
        import torch

        leaves = state.detached(leaves=True).weights
        total = {name: torch.zeros_like(weight) for name, weight in leaves.items()}
        used = sorted(
            (i for i in range(len(rows)) if factors[i]), key=lambda i: len(rows[i][0] + rows[i][1])
        )
        for chunk in passes([[row] for row in rows], used, batch, self.tokens):
            with self._under(leaves) as adapters:
                said = self.learner.teacher_forced(
                    [rows[i] for i in chunk],
                    adapters,
                    torch.zeros(len(chunk), dtype=torch.long, device=self.learner.device),
                    temperature,
                ).sum(1)
            value = (torch.tensor([factors[i] for i in chunk]).to(said) * said).sum()
            for name, gradient in zip(
                leaves,
                torch.autograd.grad(
                    value, list(leaves.values()), allow_unused=True, materialize_grads=True
                ),
                strict=True,
            ):
                total[name] += gradient
        self.learner.usage.prompt_tokens += sum(len(rows[i][0]) + len(rows[i][1]) for i in used)
        return total

    @contextmanager
    def speaking(self, state: TrainingState) -> Iterator[LoRAStack | None]:
        """The engine speaks with the weights of a state: its own are changed meanwhile, or the
        adapter is handed over, as adapter 0 of a stack."""
        import torch

        if self.training.lora_rank:
            yield self._stack(state.weights)
            return
        parameters = dict(self.learner.model.named_parameters())
        own = {name: weight.detach().clone() for name, weight in parameters.items()}

        def put(weights: dict[str, torch.Tensor]) -> None:
            with torch.no_grad():
                for name, weight in weights.items():
                    parameters[name].copy_(weight)
            self.learner.prefixes.clear(None)  # they were computed with other weights

        try:
            put(state.weights)
            yield None
        finally:
            put(own)

    def _losses(
        self, weights: dict[str, torch.Tensor], members: np.ndarray, batch: np.ndarray | None = None
    ) -> torch.Tensor:
        """[members] losses; the mean over a batch (by default that of the members) is the
        training's."""
        import torch

        some, whole = [self.pairs[i] for i in members], members if batch is None else batch
        together = torch.zeros(len(some), dtype=torch.long)
        shared = [self.pairs[i] for i in whole]
        length = mean_lengths(shared, torch.zeros(len(shared), dtype=torch.long))[:1]
        with self._under(weights) as adapters:
            return dpo_losses(
                self.learner,
                some,
                adapters,
                self.loss,
                owners=together,
                lengths=length.expand(len(some)),
            )

    @contextmanager
    def _under(self, weights: dict[str, torch.Tensor]) -> Iterator[LoRAStack | None]:
        """The engine reads with these weights, and gradients of gradients reach them: of the kinds
        of attention only the plain one has them."""
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        if self.training.lora_rank:
            with sdpa_kernel(SDPBackend.MATH):
                yield self._stack(weights)
            return
        model = self.learner.model
        self.learner.model = lambda **inputs: torch.func.functional_call(model, weights, (), inputs)
        try:
            with sdpa_kernel(SDPBackend.MATH):
                yield None
        finally:
            self.learner.model = model

    def _stack(self, weights: dict[str, torch.Tensor]) -> LoRAStack:
        names = [name.removesuffix(" A") for name in weights if name.endswith(" A")]
        pairs = {name: (weights[f"{name} A"], weights[f"{name} B"]) for name in names}
        return LoRAStack(pairs, LORA_SCALING)


def _root(value: torch.Tensor) -> torch.Tensor:
    """Square root whose derivative at 0 is 0: a weight that no gradient has reached does not move,
    whatever the pairs weigh."""
    import torch

    above = value > 0
    return torch.where(above, torch.where(above, value, 1.0).sqrt(), 0.0)
