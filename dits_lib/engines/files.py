"""Model folders, looked at without loading them."""

from __future__ import annotations

from pathlib import Path

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class ModelError(ValueError):
    """A model folder that cannot be used. The message names the folder and what is missing."""


def check_model_folder(folder: str | Path) -> None:
    """Look whether a folder holds what a model needs, without loading it (a hub id passes).

    Raises:
        ModelError: naming the folder and what it lacks.
    """
    path = Path(folder)
    if path.is_dir():
        for name, patterns in {
            "config.json": ("config.json",),
            "weights": ("*.safetensors", "*.bin"),
            "a tokenizer": ("tokenizer.json", "tokenizer.model", "vocab.json"),
        }.items():
            if not any(any(path.glob(pattern)) for pattern in patterns):
                raise ModelError(f"{path}: no {name}; a model folder holds {' or '.join(patterns)}")
    elif str(folder).count("/") != 1 or str(folder).startswith((".", "/")):
        raise ModelError(
            f"{folder}: no such model folder; give a folder of transformers files, or a hub id "
            "owner/name"
        )


def model_files(path: str) -> list[Path]:
    """The files of a model folder that decide what it says: weights, config, tokenizer; none for a
    hub id."""
    kinds = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")
    return (
        sorted(p for p in Path(path).glob("*") if p.suffix in kinds and p.name != "gates.json")
        if Path(path).is_dir()
        else []
    )
