"""Which architectures can be used: what a model's configuration and its layers say, before it
speaks."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from .files import LORA_TARGETS, ModelError

_LAYER_TYPES = ("full_attention", "sliding_attention")


def check_config(config, folder: str | Path) -> None:
    """Refuse kinds of models that would be used wrongly.

    Raises:
        ModelError: for what is no decoder of text alone, for quantised weights, and for layers
            other than full or sliding-window attention.
    """
    refused = _refused(config)
    if refused:
        raise ModelError(f"{folder}: {refused}")


def _refused(config) -> str | None:
    if getattr(config, "is_encoder_decoder", False):
        return "an encoder-decoder; allowed: decoders of text (causal language models)"
    if config.get_text_config() is not config or hasattr(config, "vision_config"):
        return (
            f"{type(config).__name__} reads more than text; allowed: causal language models of "
            "text alone"
        )
    if getattr(config, "quantization_config", None):
        return "its weights are quantised; allowed: float32 or bfloat16 weights"
    kinds = sorted(set(getattr(config, "layer_types", None) or ()) - set(_LAYER_TYPES))
    if kinds or getattr(config, "attention_chunk_size", None):
        kind = kinds[0] if kinds else "chunked_attention"
        return f"it has layers of {kind}; allowed: {' and '.join(_LAYER_TYPES)}"
    return None


def longest_of(config) -> int | None:
    """Tokens that a model reads at most, None where its configuration does not say. A scaled RoPE
    reads more than it was first trained for."""
    longest = getattr(config, "max_position_embeddings", None)
    if longest is None:
        return None
    scaling = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    scaling = scaling if isinstance(scaling, dict) else {}
    first = scaling.get("original_max_position_embeddings") or longest
    factor = scaling.get("factor") or 1.0
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind in ("linear", "dynamic"):
        return int(max(longest, longest * factor))
    return int(max(longest, first * factor)) if kind == "yarn" else int(longest)


def sees_all_earlier(config) -> bool:
    """Whether every layer attends to all earlier tokens (no sliding window)."""
    types = getattr(config, "layer_types", None)
    if types:
        return set(types) == {"full_attention"}
    return not getattr(config, "sliding_window", None)


def check_architecture(model: nn.Module, folder: str | Path) -> None:
    """See that LoRA adapters reach all that the layers of a model compute: else training and
    influence would be of a part of it.

    Raises:
        ModelError: naming the weights that are not reached.
    """
    layers = getattr(model.base_model, "layers", None)
    if layers is None:
        raise ModelError(
            f"{folder}: {type(model).__name__} keeps its layers elsewhere than decoders like Llama "
            "do; allowed: models whose layers hold " + ", ".join(LORA_TARGETS)
        )
    reached = {
        f"{name}.weight"
        for name, module in layers.named_modules()
        if type(module) is nn.Linear and name.rsplit(".", 1)[-1] in LORA_TARGETS
    }
    others = [name for name, p in layers.named_parameters() if p.dim() > 1 and name not in reached]
    if others:
        names = ", ".join(dict.fromkeys(name.split(".", 1)[-1] for name in others[:20]))
        raise ModelError(
            f"{folder}: {type(model).__name__} has weights that LoRA adapters do not reach "
            f"({names}); allowed: layers of {', '.join(LORA_TARGETS)}"
        )


@torch.no_grad()
def check_finite(model: nn.Module, folder: str | Path) -> None:
    """Raises ModelError for a weight that is not finite, naming it."""
    named = [(name, p) for name, p in model.named_parameters() if p.device.type != "meta"]
    if not named:
        return
    # One look at the device for all weights.
    finite = torch.stack([p.isfinite().all() for _, p in named]).tolist()
    if not all(finite):
        raise ModelError(
            f"{folder}: weight {named[finite.index(False)][0]} holds numbers that are not finite; "
            "the model is damaged: download it again, or train it again"
        )
