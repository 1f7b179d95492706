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

from .files import LORA_TARGETS, ModelError

_CONFIG, _PREFIX = "adapter_config.json", "base_model.model."

Deltas = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""{module: (A [r, in], B [out, r])}; the weight of the module grows by B A."""


def base_of(folder: str | Path) -> str | None:
    """The model that an adapter folder changes; None for a folder that is no adapter (or a hub
    id).

    Raises:
        ModelError: for an adapter folder that does not name it.
    """
    if not (Path(folder) / _CONFIG).is_file():
        return None
    base = _config(Path(folder)).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelError(
            f"{Path(folder) / _CONFIG}: key 'base_model_name_or_path' names no model; allowed: the "
            "folder or hub id that the adapter changes"
        )
    return base


def _config(folder: Path) -> dict:
    file = folder / _CONFIG
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{file}: cannot be read as JSON ({error})") from None
    if not isinstance(found, dict):
        raise ModelError(f"{file}: a {type(found).__name__}; expected an object of PEFT's settings")
    return found


def chain_of(folder: str | Path) -> tuple[str, list[Path]]:
    """The root model of a folder and its adapter folders, the first trained first.

    Raises:
        ModelError: for adapters that name each other in a ring.
    """
    chain: list[Path] = []
    while (base := base_of(folder)) is not None:
        if Path(folder) in chain:
            raise ModelError(f"{folder}: an adapter of itself, by base_model_name_or_path")
        chain.insert(0, Path(folder))
        folder = base
    return str(folder), chain


def read_deltas(folder: Path) -> Deltas:
    """An adapter's matrices, each module's scaling multiplied into its B.

    Raises:
        ModelError: for an adapter that is more than plain LoRA matrices of linear layers, or whose
            numbers are not finite.
    """
    config = _config(folder)
    _check_plain(folder, config)
    tensors = _tensors(folder)
    modules = sorted({name.rsplit(".lora_", 1)[0] for name in tensors})
    deltas = {}
    for module in modules:
        ends = ("lora_A.weight", "lora_B.weight")
        a, b = (tensors.pop(f"{module}.{end}", None) for end in ends)
        if a is None or b is None or a.dim() != 2 or b.dim() != 2 or a.shape[0] != b.shape[1]:
            raise ModelError(f"{folder}: {module} has no pair of LoRA matrices A and B that fit")
        name = module.removeprefix(_PREFIX)
        deltas[name] = (a.float(), _scaling(config, name, a.shape[0]) * b.float())
    if tensors:
        raise ModelError(
            f"{folder}: holds {next(iter(tensors))} beside LoRA matrices; allowed: lora_A and "
            "lora_B of linear layers"
        )
    return deltas


_READ = {
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "peft_version",
    "r",
    "rank_pattern",
    "revision",
    "target_modules",
    "task_type",
    "use_rslora",
}
"""Settings of PEFT that `read_deltas` follows, or that do not change what an adapter says."""

_OWN_BASE = ("pissa", "olora", "corda", "loftq")
"""Ways of starting an adapter that change the weights of its base model too."""


def _check_plain(folder: Path, config: dict) -> None:
    """Raises ModelError for a setting that makes an adapter more than `scaling * B A`."""
    from peft import LoraConfig

    usual = LoraConfig().to_dict()
    for name, value in config.items():
        # A setting that this PEFT does not know counts when it is switched on.
        if name not in _READ and value != usual.get(name) and (name in usual or value):
            raise ModelError(
                f"{folder}: an adapter with {name} {value!r} is not supported; allowed: plain LoRA "
                "(also rank-stabilised, or with rank and alpha patterns)"
            )
    start = str(config.get("init_lora_weights", True)).lower()
    if start.startswith(_OWN_BASE):
        raise ModelError(
            f"{folder}: an adapter with init_lora_weights {start!r} belongs to a changed base "
            "model; convert it to plain LoRA with PEFT first"
        )


def _tensors(folder: Path) -> Deltas:
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        raise ModelError(f"{file}: no such file; an adapter folder holds its matrices there")
    tensors = load_file(file)
    bad = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if bad:
        raise ModelError(
            f"{file}: {bad[0]} holds numbers that are not finite; the adapter is damaged: train it "
            "again"
        )
    return tensors


def _scaling(config: dict, module: str, rank: int) -> float:
    """As PEFT scales a module: alpha / r, or alpha / sqrt(r) where it is rank-stabilised; alpha may
    differ by module."""
    from peft.utils.other import get_pattern_key

    patterns, usual = config.get("alpha_pattern") or {}, config.get("lora_alpha", 8)
    alpha = patterns.get(get_pattern_key(patterns.keys(), module), usual)
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


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
    (folder / _CONFIG).write_text(json.dumps(config), encoding="utf-8")


def attach(model: torch.nn.Module, deltas: Deltas) -> None:
    """Let the linear layers of a model speak with an adapter beside their weights, which stay as
    they are.

    Raises:
        ModelError: for an adapter of other layers than the model has.
    """
    for name, (a, b) in deltas.items():
        module = _layer(model, name, a, b)
        module.register_forward_hook(
            _beside(a.to(module.weight.device), b.to(module.weight.device))
        )


def _beside(a: torch.Tensor, b: torch.Tensor):
    def hook(_module, inputs, output):
        return output + (inputs[0].to(a.dtype) @ a.T @ b.T).to(output.dtype)

    return hook


@torch.no_grad()
def merge(model: torch.nn.Module, deltas: Deltas) -> None:
    """Add an adapter to the weights of a model.

    Raises:
        ModelError: for an adapter of other layers than the model has.
    """
    for name, (a, b) in deltas.items():
        weight = _layer(model, name, a, b).weight
        weight += (b.to(weight.device) @ a.to(weight.device)).to(weight.dtype)


def _layer(model: torch.nn.Module, name: str, a: torch.Tensor, b: torch.Tensor) -> torch.nn.Linear:
    """The linear layer that an adapter changes."""
    found = dict(model.named_modules()).get(name)
    if not isinstance(found, torch.nn.Linear) or name.rsplit(".", 1)[-1] not in LORA_TARGETS:
        raise ModelError(
            f"{model.name_or_path}: an adapter changes {name}; allowed: the model's layers of "
            f"{', '.join(LORA_TARGETS)}"
        )
    if found.weight.shape != (b.shape[0], a.shape[1]):
        raise ModelError(
            f"{model.name_or_path}: an adapter of {name} is for a layer of {b.shape[0]} x "
            f"{a.shape[1]}, but the model's has {' x '.join(map(str, found.weight.shape))}"
        )
    return found
