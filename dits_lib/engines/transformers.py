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
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from ..agents import ChatTemplateError, check_chat_template, end_of_turn, stop_ids
from .adapters import add, attach, chain_of, merge, read_deltas
from .architecture import (
    check_architecture,
    check_config,
    check_finite,
    longest_of,
    sees_all_earlier,
)
from .base import Completion, Engine, LoRAStack, Request, Rows, Usage, check_length
from .cache import PreallocatedCache, PrefixStates
from .conformance import conform_once
from .files import LORA_TARGETS, ModelError, check_model_folder
from .lora import RowLoRA
from .noise import gumbel, nucleus

MOST_LOGITS = 2**28
"""That `logprobs` computes at once, a number of the vocabulary for each position of each reply: 1
GiB in float32, of which three copies are held. With a vocabulary of 152,000, 512 replies of 128
tokens would hold 120 GB."""


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
        self.stops = torch.tensor(stop_ids(tokenizer, model.generation_config), device=self.device)
        self.max_length = longest_of(model.config)
        # In 16 bits the rounding of a batch's products is large enough to change words.
        self.exact = model.dtype in (torch.float32, torch.float64)
        self._plain_mask = sees_all_earlier(model.config)

    @classmethod
    def load(
        cls, folder: str | Path, device: str = "cpu", dtype: str = "float32", **options
    ) -> TransformersEngine:
        """Load a model folder (or hub id), or the folder of a LoRA adapter, which is merged into
        its model.

        Raises:
            ModelError: when the folder lacks a part, or holds a model or a chat template that
                cannot be used, in one line.
        """
        model, tokenizer = load_model(folder, dtype, device)
        engine = cls(model, tokenizer, **options)
        conform_once(engine, str(folder))
        return engine

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
        for request in requests:
            check_length(self.model.name_or_path, request, self.max_length)
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

    def forced(
        self, replies: list[tuple[int, ...]], requests: list[Request]
    ) -> list[tuple[float, ...]]:
        """Log probabilities, in nats, that `generate` would sample the tokens of these replies
        from, all of one length, as if it had drawn them."""
        said = torch.tensor(replies, device=self.device)
        return [reply.logprobs for reply in self._generate_chunk(requests, None, said)]

    def _generate_chunk(
        self,
        requests: list[Request],
        adapters: LoRAStack | None,
        said: torch.Tensor | None = None,
    ) -> list[Completion]:
        """Replies that share their passes; `said` [requests, tokens] are put in place of what would
        be sampled."""
        limits = torch.tensor([request.max_new_tokens for request in requests], device=self.device)
        seeds, seed_of = torch.unique(
            torch.tensor([r.seed for r in requests], device=self.device), return_inverse=True
        )
        temperature = torch.tensor(
            [request.temperature for request in requests], device=self.device
        )[:, None]
        top_p = torch.tensor([request.top_p for request in requests], device=self.device)[:, None]
        some_cut = any(request.top_p < 1 for request in requests)
        adapter = self._adapter_rows([r.adapter for r in requests], adapters)
        steps = int(limits.max())
        tokens = torch.full((len(requests), steps), -1, device=self.device)
        logprobs = torch.zeros(len(requests), steps, device=self.device)
        cache, logits, mask, positions = self._prefill(requests, adapters, adapter, steps)
        rows = torch.arange(len(requests), device=self.device)
        alive = torch.ones(len(requests), dtype=torch.bool, device=self.device)
        for step in range(steps):
            noise = gumbel(seeds, step, logits.shape[1])[seed_of[rows]]
            scaled = logits / temperature[rows].clamp(min=1e-6)
            if some_cut:
                scaled = nucleus(scaled, top_p[rows])
            chosen = (scaled + torch.where(temperature[rows] > 0, noise, 0)).argmax(1)
            if said is not None:
                chosen = said[rows, step]
            scores = logits.gather(1, chosen[:, None])[:, 0] - logits.logsumexp(1)
            tokens[rows, step] = torch.where(alive, chosen, -1)
            logprobs[rows, step] = scores
            alive = alive & (step + 1 < limits[rows])
            if said is None:
                alive = alive & ~torch.isin(chosen, self.stops)
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
        if not bool(torch.isfinite(logprobs).all()):
            raise ModelError(
                f"{self.model.name_or_path}: gives log probabilities that are not finite; its "
                "weights, or an adapter's, are damaged or too large"
            )
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
        return (
            self.model(
                input_ids=ids,
                attention_mask=self._bias(mask, ids.shape[1]) if self._plain_mask else mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            .logits[:, -1]
            .float()
        )

    def _bias(self, mask: torch.Tensor, new: int) -> torch.Tensor:
        """The attention mask of the last `new` positions, [rows, 1, new or 1, all], for models in
        which every layer sees all earlier tokens. Others make their own, layer by layer."""
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
        return attention

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
        if not self._plain_mask:  # a stored prefix leaves a gap, which a window would count
            cut = [0] * len(requests)
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
        # Any id serves, since the mask hides it; a tokenizer's own may be unknown to the model.
        ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=self.device)
        mask = torch.tensor(
            [[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.device
        )
        return ids, mask

    @torch.inference_mode()
    def logprobs(self, rows: Rows) -> list[list[float]]:
        """Log probability, in nats, of every token of each (prompt ids, reply ids), by teacher
        forcing."""
        order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
        longest = max((len(reply) for _, reply in rows), default=1)
        most = MOST_LOGITS // (longest * self.model.config.get_text_config().vocab_size)
        size = max(1, min(self.max_rows, most))
        result: list[list[float]] = [[] for _ in rows]
        for start in range(0, len(order), size):
            chunk = order[start : start + size]
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
        before = max(len(prompt) for prompt, _ in rows)
        longest = max(len(reply) for _, reply in rows)
        # All replies begin at one position, so that the model's own forward need give the logits of
        # the last `longest` positions alone: the vocabulary may be large.
        filled = [
            ([0] * (before - len(p)) + [*p, *r] + [0] * (longest - len(r)))[:-1] for p, r in rows
        ]
        stands = [
            ([0] * (before - len(p)) + [1] * (len(p) + len(r)) + [0] * (longest - len(r)))[:-1]
            for p, r in rows
        ]
        ids = torch.tensor(filled, device=self.device)
        mask = torch.tensor(stands, device=self.device)
        lengths = torch.tensor([len(reply) for _, reply in rows], device=self.device)
        valid = torch.arange(longest, device=self.device)[None, :] < lengths[:, None]
        self.lora.use(adapters, adapter_rows)
        logits = (
            self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=(mask.cumsum(1) - 1).clamp(min=0),
                use_cache=False,
                logits_to_keep=longest,
            ).logits.float()
            / temperature
        )
        self.lora.use(None)
        replies = [[*reply] + [0] * (longest - len(reply)) for _, reply in rows]
        targets = torch.tensor(replies, device=self.device)
        scores = logits.gather(2, targets[:, :, None])[:, :, 0] - logits.logsumexp(2)
        return torch.where(valid, scores, 0.0)


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
    config = load_config(root)
    tokenizer = load_tokenizer(root)
    # On a CPU plain products beat the fused attention at the sizes of the micro model; on a GPU
    # they would not fit. The fused one leaves out a soft cap of the scores (Gemma-2).
    capped = getattr(config, "attn_logit_softcapping", None)
    attention = "eager" if device == "cpu" or capped else "sdpa"
    model = _loading(
        root,
        "it",
        lambda: AutoModelForCausalLM.from_pretrained(
            root,
            attn_implementation=attention,
            dtype=getattr(torch, dtype),
            trust_remote_code=False,
        ),
    )
    check_architecture(model, root)
    _pad_with_known(tokenizer, model)
    model = model.to(device)
    check_finite(model, root)
    if chain:
        put = merge if dtype == "float32" else attach
        put(model, add(*map(read_deltas, chain)))
    return model, tokenizer


def _pad_with_known(tokenizer, model) -> None:
    """Let trainers pad with a token that the model has an embedding of. Some tokenizers bring a
    token for padding that their model was never given; what is padded is masked in any case."""
    known = model.get_input_embeddings().num_embeddings
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= known:
        tokenizer.pad_token_id = end_of_turn(tokenizer)


def load_tokenizer(folder: str | Path):
    """The tokenizer of a model folder or hub id, padding on the left.

    Raises:
        ModelError: when it cannot be loaded, or its chat template cannot be used.
    """
    tokenizer = _loading(
        folder,
        "its tokenizer",
        lambda: AutoTokenizer.from_pretrained(folder, padding_side="left", trust_remote_code=False),
    )
    try:
        check_chat_template(tokenizer)
    except ChatTemplateError as error:
        raise ModelError(f"{folder}: {error}") from None
    return tokenizer


def load_config(folder: str | Path):
    """The configuration of a model folder or hub id.

    Raises:
        ModelError: when it cannot be loaded, or is of a kind that is not supported.
    """
    config = _loading(
        folder,
        "its config",
        lambda: AutoConfig.from_pretrained(folder, trust_remote_code=False),
    )
    check_config(config, folder)
    return config


def generation_config_of(folder: str | Path) -> GenerationConfig | None:
    """The generation config of a model folder or hub id, None where it has none."""
    try:
        return GenerationConfig.from_pretrained(folder)
    except OSError:
        return None


def _loading(folder: str | Path, what: str, load):
    """What `load` gives; transformers raises many kinds of errors, and the user needs one line."""
    try:
        return load()
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{folder}: transformers cannot load {what}: {reason[:300]}") from error
