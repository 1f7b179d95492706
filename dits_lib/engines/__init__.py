"""Language models that speak.

Torch and transformers take seconds to import, so what needs them is imported when it is first
used: parameters, `--help` and typos answer at once.
"""

import lazy_loader

from .base import Completion, Engine, LoRAStack, Replies, Request, Rows, Usage
from .files import LORA_TARGETS, ModelError, check_model_folder, model_files
from .seeds import derive_seed

_LATER = {
    "adapters": [
        "add",
        "attach",
        "base_of",
        "chain_of",
        "merge",
        "rank_of",
        "read_deltas",
        "write_deltas",
    ],
    "architecture": ["check_architecture", "check_config", "check_finite", "longest_of"],
    "conformance": ["check_conformance"],
    "lora": ["RowLoRA", "fresh_a"],
    "noise": ["gumbel"],
    "transformers": ["TransformersEngine", "load_config", "load_model", "load_tokenizer"],
    "vllm": ["VLLMEngine", "asleep"],
}
__getattr__, _, _ = lazy_loader.attach(__name__, submod_attrs=_LATER)

__all__ = [
    "LORA_TARGETS",
    "Completion",
    "Engine",
    "LoRAStack",
    "ModelError",
    "Replies",
    "Request",
    "RowLoRA",
    "Rows",
    "TransformersEngine",
    "Usage",
    "VLLMEngine",
    "add",
    "asleep",
    "attach",
    "base_of",
    "chain_of",
    "check_architecture",
    "check_config",
    "check_conformance",
    "check_finite",
    "check_model_folder",
    "derive_seed",
    "fresh_a",
    "gumbel",
    "load_config",
    "load_model",
    "load_tokenizer",
    "longest_of",
    "merge",
    "model_files",
    "rank_of",
    "read_deltas",
    "write_deltas",
]
