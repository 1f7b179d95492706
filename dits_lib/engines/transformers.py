"""The transformers engine: any causal LM of the library, batched sampling with left padding and
per-row LoRA.

The noise of a reply depends on its request alone. Its logits depend on the batch only by the
rounding of matrix products (about 1e-6), so a reply is the same in another batch unless two tokens
tie within that rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from .adapters import add, attach, chain_of, merge, read_deltas
from .base import Completion, Engine, LoRAStack, Request, Rows, Usage
from .cache import PreallocatedCache, PrefixStates
from .files import LORA_TARGETS, ModelError, check_model_folder
from .lora import RowLoRA
from .noise import gumbel


class TransformersEngine(Engine):
    """Speaks with a transformers causal LM."""

    def __init__(
        self,
        model,
        tokenizer,
        *,
        max_rows: int = 512,
        prefill_rows: int = 64,
        prefix_tokens: int = 100_000,
        lora_targets: tuple[str, ...] = LORA_TARGETS,
    ):
        """
        Args:
            model: a causal LM in evaluation mode.
            tokenizer: with an end-of-sequence token and a chat template.
            max_rows: replies that are sampled together at most; more requests go in several passes.
            prefill_rows: prefixes that are read together at most (on a CPU, a pass that fits the
                cache is faster).
            prefix_tokens: positions that the prefix store holds at most.
            lora_targets: names of the linear layers that adapters may change.
        """
        self.model, self.tokenizer, self.max_rows = model.eval(), tokenizer, max_rows
        self.prefill_rows = prefill_rows
        self.device = self.stack_device = next(model.parameters()).device
        self.lora = RowLoRA(model, lora_targets)
        self.prefixes = PrefixStates(prefix_tokens)
        self.usage = Usage()
        # A chat model may end its turns with another token than its tokenizer's end of sequence
        # (Gemma, Phi-3).
        ends = {tokenizer.eos_token_id, *_listed(model.generation_config.eos_token_id)} - {None}
        self.stops = torch.tensor(sorted(ends), device=self.device)

    @classmethod
    def load(
        cls, folder: str | Path, device: str = "cpu", dtype: str = "float32", **options
    ) -> TransformersEngine:
        """Load a model folder (or hub id), or the folder of a LoRA adapter, which is merged into
        its model.

        Raises:
            ModelError: when the folder lacks a part or the tokenizer lacks a chat template.
        """
        model, tokenizer = load_model(folder, dtype, device)
        return cls(model, tokenizer, **options)

    def release(self) -> None:
        """Give up the weights and all cached states; the engine cannot be used afterwards."""
        self.prefixes.clear(None)
        self.model.to("meta")

    @contextmanager
    def learning(self) -> Iterator[TransformersEngine]:
        """The engine that takes gradients: this one."""
        yield self

    @torch.inference_mode()
    def generate(
        self, requests: list[Request], adapters: LoRAStack | None = None
    ) -> list[Completion]:
        """Sample all replies, in the order of the requests; requests of similar length share a
        forward pass."""
        order = sorted(range(len(requests)), key=lambda i: (len(requests[i].prompt_ids), i))
        completions: list[Completion | None] = [None] * len(requests)
        for chunk in self._chunks(order):
            for index, completion in zip(
                chunk, self._generate_chunk([requests[i] for i in chunk], adapters), strict=True
            ):
                completions[index] = completion
        self.usage.requests += len(requests)
        self.usage.prompt_tokens += sum(len(request.prompt_ids) for request in requests)
        self.usage.generated_tokens += sum(len(completion.token_ids) for completion in completions)
        return completions

    def _chunks(self, order: list[int]) -> list[list[int]]:
        """Parts of at most `max_rows`, as equal as can be: a full pass and a remnant would cost
        more than two halves."""
        count = -(-len(order) // self.max_rows)
        edges = [len(order) * part // count for part in range(count + 1)] if count else []
        return [order[start:stop] for start, stop in zip(edges, edges[1:], strict=False)]

    def _generate_chunk(
        self, requests: list[Request], adapters: LoRAStack | None
    ) -> list[Completion]:
        limits = torch.tensor([request.max_new_tokens for request in requests], device=self.device)
        seeds, seed_of = torch.unique(
            torch.tensor([r.seed for r in requests], device=self.device), return_inverse=True
        )
        temperature = torch.tensor(
            [request.temperature for request in requests], device=self.device
        )[:, None]
        adapter = self._adapter_rows([r.adapter for r in requests], adapters)
        steps = int(limits.max())
        tokens = torch.full((len(requests), steps), -1, device=self.device)
        logprobs = torch.zeros(len(requests), steps, device=self.device)
        cache, logits, mask, positions = self._prefill(requests, adapters, adapter, steps)
        rows = torch.arange(len(requests), device=self.device)
        alive = torch.ones(len(requests), dtype=torch.bool, device=self.device)
        for step in range(steps):
            noise = gumbel(seeds, step, logits.shape[1])[seed_of[rows]]
            chosen = (
                logits / temperature[rows].clamp(min=1e-6)
                + torch.where(temperature[rows] > 0, noise, 0)
            ).argmax(1)
            scores = logits.gather(1, chosen[:, None])[:, 0] - logits.logsumexp(1)
            tokens[rows, step] = torch.where(alive, chosen, -1)
            logprobs[rows, step] = scores
            alive = alive & ~torch.isin(chosen, self.stops) & (step + 1 < limits[rows])
            count = int(alive.sum())
            if count == 0:
                break
            # Dropping finished rows copies the cache, so it must be worth it.
            if count < 0.6 * len(rows):
                kept = alive.nonzero()[:, 0]
                rows, chosen, positions, mask, alive = (
                    rows[kept],
                    chosen[kept],
                    positions[kept],
                    mask[kept],
                    alive[kept],
                )
                cache.keep(kept)
                self.lora.use(adapters, None if adapter is None else adapter[rows])
            positions = positions + 1
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            logits = self._forward(chosen[:, None], mask, positions[:, None], cache)
        self.lora.use(None)
        return self._completions(tokens.tolist(), logprobs.tolist())

    def _adapter_rows(
        self, indices: list[int | None], adapters: LoRAStack | None
    ) -> torch.Tensor | None:
        if adapters is None:
            return None
        return torch.tensor(
            [-1 if index is None else index for index in indices], device=self.device
        )

    def _forward(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        cache: PreallocatedCache,
    ) -> torch.Tensor:
        """Logits [rows, vocabulary] of the last position; `mask` [rows, all positions so far] is 1
        where a token stands."""
        new = ids.shape[1]
        lowest = torch.finfo(self.model.dtype).min
        bias = torch.zeros(mask.shape, dtype=self.model.dtype, device=self.device).masked_fill(
            mask == 0, lowest
        )
        attention = bias[:, None, None, :]
        if new > 1:
            later = torch.ones(new, mask.shape[1], dtype=torch.bool, device=self.device).triu(
                mask.shape[1] - new + 1
            )
            attention = attention.masked_fill(later, lowest)
        return (
            self.model(
                input_ids=ids,
                attention_mask=attention,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            .logits[:, -1]
            .float()
        )

    def _prefill(
        self,
        requests: list[Request],
        adapters: LoRAStack | None,
        adapter: torch.Tensor | None,
        steps: int,
    ):
        """Read the prompts. Returns the cache, the next token's logits, the mask and the last
        positions."""
        cut = [min(request.prefix, len(request.prompt_ids) - 1) for request in requests]
        suffix, suffix_mask = self._left_pad(
            [r.prompt_ids[c:] for r, c in zip(requests, cut, strict=True)]
        )
        prefix_rows = None
        if min(cut) > 0:
            keys = [(r.adapter, r.prompt_ids[:c]) for r, c in zip(requests, cut, strict=True)]
            prefix_rows = self._prefix_rows(keys, adapters)
        elif max(cut) > 0:  # mixed batch: read all prompts whole
            suffix, suffix_mask = self._left_pad([r.prompt_ids for r in requests])
            cut = [0] * len(requests)
        width = self.prefixes.width if prefix_rows is not None else 0
        cache = PreallocatedCache(
            self.model.config.num_hidden_layers, width + suffix.shape[1] + steps
        )
        mask = suffix_mask
        lengths = torch.tensor(cut, device=self.device)
        if prefix_rows is not None:
            cache.start_from(self.prefixes.states, prefix_rows)
            stands = torch.arange(width, device=self.device)[None, :] >= width - lengths[:, None]
            mask = torch.cat([stands.long(), suffix_mask], dim=1)
        positions = (suffix_mask.cumsum(1) - 1).clamp(min=0) + lengths[:, None]
        self.lora.use(adapters, adapter)
        return cache, self._forward(suffix, mask, positions, cache), mask, positions[:, -1]

    def _prefix_rows(self, keys: list[tuple], adapters: LoRAStack | None) -> torch.Tensor:
        """Rows of the prefix store for these keys, computing what is missing in passes of
        `prefill_rows`."""
        missing = sorted(self.prefixes.missing(keys, adapters), key=lambda key: len(key[1]))
        for start in range(0, len(missing), self.prefill_rows):
            chunk = missing[start : start + self.prefill_rows]
            ids, mask = self._left_pad([key[1] for key in chunk])
            cache = PreallocatedCache(self.model.config.num_hidden_layers, ids.shape[1])
            self.lora.use(adapters, self._adapter_rows([key[0] for key in chunk], adapters))
            self._forward(ids, mask, (mask.cumsum(1) - 1).clamp(min=0), cache)
            self.prefixes.add(chunk, [(layer.keys, layer.values) for layer in cache.layers])
        return torch.tensor([self.prefixes.row_of[key] for key in keys], device=self.device)

    def _completions(
        self, tokens: list[list[int]], logprobs: list[list[float]]
    ) -> list[Completion]:
        lengths = [row.index(-1) if -1 in row else len(row) for row in tokens]
        ids = [tuple(row[:length]) for row, length in zip(tokens, lengths, strict=True)]
        texts = self.decode(ids)
        return [
            Completion(row, text, tuple(scores[: len(row)]))
            for row, text, scores in zip(ids, texts, logprobs, strict=True)
        ]

    def decode(self, rows: list[tuple[int, ...]]) -> list[str]:
        """Texts of token rows, special tokens dropped; equal rows are decoded once."""
        unique = {row: "" for row in rows}
        texts = self.tokenizer.batch_decode([list(row) for row in unique], skip_special_tokens=True)
        unique.update({row: text.strip() for row, text in zip(unique, texts, strict=True)})
        return [unique[row] for row in rows]

    def _left_pad(self, prompts: list[tuple[int, ...]]) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(map(len, prompts))
        pad = (
            self.tokenizer.pad_token_id
            if self.tokenizer.pad_token_id is not None
            else self.tokenizer.eos_token_id
        )
        ids = torch.tensor(
            [[pad] * (width - len(p)) + list(p) for p in prompts], device=self.device
        )
        mask = torch.tensor(
            [[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.device
        )
        return ids, mask

    @torch.inference_mode()
    def logprobs(self, rows: Rows) -> list[list[float]]:
        """Log probability, in nats, of every token of each (prompt ids, reply ids), by teacher
        forcing."""
        order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
        result: list[list[float]] = [[] for _ in rows]
        for start in range(0, len(order), self.max_rows):
            chunk = order[start : start + self.max_rows]
            scores = self.teacher_forced([rows[i] for i in chunk])
            for row, index in enumerate(chunk):
                result[index] = scores[row, : len(rows[index][1])].tolist()
        self.usage.prompt_tokens += sum(len(prompt) + len(reply) for prompt, reply in rows)
        return result

    def teacher_forced(
        self,
        rows,
        adapters: LoRAStack | None = None,
        adapter_rows: torch.Tensor | None = None,
        temperature: float = 1.0,
    ) -> torch.Tensor:
        """Log probabilities [rows, longest reply] of the replies at this temperature, zero after
        each reply's end; differentiable."""
        width = max(len(prompt) + len(reply) for prompt, reply in rows)
        longest = max(len(reply) for _, reply in rows)
        ids = torch.tensor(
            [[*p, *r] + [0] * (width - len(p) - len(r)) for p, r in rows], device=self.device
        )
        mask = torch.tensor(
            [[1] * (len(p) + len(r)) + [0] * (width - len(p) - len(r)) for p, r in rows],
            device=self.device,
        )
        starts = torch.tensor([len(prompt) - 1 for prompt, _ in rows], device=self.device)
        lengths = torch.tensor([len(reply) for _, reply in rows], device=self.device)
        offsets = torch.arange(longest, device=self.device)
        valid = offsets[None, :] < lengths[:, None]
        where = torch.where(valid, starts[:, None] + offsets, 0)
        self.lora.use(adapters, adapter_rows)
        # Only the positions that predict a reply's tokens go through the output layer: the
        # vocabulary may be large.
        hidden = self.model.model(
            input_ids=ids, attention_mask=mask, use_cache=False
        ).last_hidden_state
        picked = hidden.gather(1, where[:, :, None].expand(-1, -1, hidden.shape[-1]))
        logits = self.model.lm_head(picked).float() / temperature
        self.lora.use(None)
        targets = torch.where(valid, ids.gather(1, torch.where(valid, where + 1, 0)), 0)
        scores = logits.gather(2, targets[:, :, None])[:, :, 0] - logits.logsumexp(2)
        return scores * valid


def _listed(value) -> list:
    return value if isinstance(value, list) else [value]


def load_model(
    folder: str | Path, dtype: str = "float32", device: str = "cpu", whole: bool = False
):
    """A causal LM and its tokenizer, from a folder or hub id; a LoRA adapter is merged into the
    model that it names.

    A small update merged into bfloat16 weights is mostly rounded away. So there the adapters stay
    beside the weights, in float32; with `whole` (all weights are to be trained) the weights become
    float32 instead, and the adapters are merged.

    Raises:
        ModelError: naming the folder and what it lacks.
    """
    transformers_logging.disable_progress_bar()
    root, chain = chain_of(folder)
    dtype = "float32" if chain and whole else dtype
    check_model_folder(root)
    tokenizer = load_tokenizer(root)
    try:
        # On a CPU plain products beat the fused attention at the sizes of the micro model; on a GPU
        # they would not fit.
        attention = "eager" if device == "cpu" else "sdpa"
        model = AutoModelForCausalLM.from_pretrained(
            root, attn_implementation=attention, dtype=getattr(torch, dtype)
        )
    except Exception as error:  # transformers raises many kinds; the user needs one line
        raise ModelError(
            f"{root}: transformers cannot load it: {str(error).splitlines()[0]}"
        ) from error
    model = model.to(device)
    if chain:
        put = merge if dtype == "float32" else attach
        put(model, add(*map(read_deltas, chain)))
    return model, tokenizer


def load_tokenizer(folder: str | Path):
    """The tokenizer of a model folder or hub id, padding on the left.

    Raises:
        ModelError: when it cannot be loaded or has no chat template.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    except Exception as error:
        raise ModelError(
            f"{folder}: transformers cannot load its tokenizer: {str(error).splitlines()[0]}"
        ) from error
    if tokenizer.chat_template is None:
        raise ModelError(
            f"{folder}: the tokenizer has no chat template, which renders the agents' prompts"
        )
    return tokenizer
