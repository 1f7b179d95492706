"""LoRA adapters on disk, in PEFT's format: reading, writing, and adding several of them up.

A model trained with LoRA is stored as its adapter alone; `adapter_config.json` names the model that
it changes, which may be an adapter folder itself. So a policy is a root model and a chain of
adapters, and its weights are root + sum of scaling * B A.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

_PREFIX = "base_model.model."

Deltas = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""{module: (A [r, in], B [out, r])}; the weight of the module grows by B A."""


def base_of(folder: str | Path) -> str | None:
    """The model that an adapter folder changes; None for a folder that is no adapter (or a hub
    id)."""
    config = Path(folder) / "adapter_config.json"
    return (
        json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"]
        if config.is_file()
        else None
    )


def chain_of(folder: str | Path) -> tuple[str, list[Path]]:
    """The root model of a folder and its adapter folders, the first trained first."""
    chain: list[Path] = []
    while (base := base_of(folder)) is not None:
        chain.insert(0, Path(folder))
        folder = base
    return str(folder), chain


def read_deltas(folder: Path) -> Deltas:
    """An adapter's matrices; its scaling is multiplied into B."""
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    scaling = config["lora_alpha"] / config["r"]
    tensors = load_file(folder / "adapter_model.safetensors")
    modules = sorted({name.rsplit(".lora_", 1)[0] for name in tensors})
    return {
        module.removeprefix(_PREFIX): (
            tensors[f"{module}.lora_A.weight"].float(),
            scaling * tensors[f"{module}.lora_B.weight"].float(),
        )
        for module in modules
    }


def add(*parts: Deltas) -> Deltas:
    """The sum of several adapters as one, whose rank is the sum of theirs: B A + B' A' = [B B'] [A;
    A']."""
    names = dict.fromkeys(name for part in parts for name in part)
    held = {name: [part[name] for part in parts if name in part] for name in names}
    return {
        name: (torch.cat([a for a, _ in own]), torch.cat([b for _, b in own], dim=1))
        for name, own in held.items()
    }


def rank_of(deltas: Deltas) -> int:
    return max((a.shape[0] for a, _ in deltas.values()), default=0)


def write_deltas(folder: Path, deltas: Deltas, base: str) -> None:
    """Write an adapter of scaling 1 in PEFT's format; modules of smaller rank are padded with
    zeros."""
    rank = rank_of(deltas)
    tensors = {}
    for name, (a, b) in deltas.items():
        extra = rank - a.shape[0]
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = torch.nn.functional.pad(
            a, (0, 0, 0, extra)
        ).contiguous()
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = torch.nn.functional.pad(
            b, (0, extra)
        ).contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": rank,
        "bias": "none",
        "target_modules": sorted({name.rsplit(".", 1)[-1] for name in deltas}),
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")


def attach(model: torch.nn.Module, deltas: Deltas) -> None:
    """Let the linear layers of a model speak with an adapter beside their weights, which stay as
    they are."""
    for name, (a, b) in deltas.items():
        module = model.get_submodule(name)
        module.register_forward_hook(
            _beside(a.to(module.weight.device), b.to(module.weight.device))
        )


def _beside(a: torch.Tensor, b: torch.Tensor):
    def hook(_module, inputs, output):
        return output + (inputs[0].to(a.dtype) @ a.T @ b.T).to(output.dtype)

    return hook


@torch.no_grad()
def merge(model: torch.nn.Module, deltas: Deltas) -> None:
    """Add an adapter to the weights of a model."""
    for name, (a, b) in deltas.items():
        weight = model.get_submodule(name).weight
        weight += (b.to(weight.device) @ a.to(weight.device)).to(weight.dtype)
