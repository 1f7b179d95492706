"""Language models that speak."""

from .adapters import add, attach, base_of, chain_of, merge, rank_of, read_deltas, write_deltas
from .base import Completion, Engine, LoRAStack, Request, Usage
from .lora import RowLoRA, fresh_a
from .noise import derive_seed, gumbel
from .transformers import LORA_TARGETS, ModelError, TransformersEngine, check_model_folder, load_model, load_tokenizer, model_files
from .vllm import VLLMEngine, asleep

__all__ = [
    "LORA_TARGETS",
    "Completion",
    "Engine",
    "LoRAStack",
    "ModelError",
    "Request",
    "RowLoRA",
    "TransformersEngine",
    "Usage",
    "VLLMEngine",
    "add",
    "asleep",
    "attach",
    "base_of",
    "chain_of",
    "check_model_folder",
    "derive_seed",
    "fresh_a",
    "gumbel",
    "load_model",
    "load_tokenizer",
    "merge",
    "model_files",
    "rank_of",
    "read_deltas",
    "write_deltas",
]
