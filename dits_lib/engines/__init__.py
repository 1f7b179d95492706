"""Language models that speak."""

from .base import Completion, Engine, LoRAStack, Request, Usage
from .lora import RowLoRA, fresh_a
from .noise import derive_seed, gumbel
from .transformers import LORA_TARGETS, ModelError, TransformersEngine, load_model

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
    "derive_seed",
    "fresh_a",
    "gumbel",
    "load_model",
]
