"""Pack what a run has computed, without the weights of its models: what another machine needs to
make every table and figure again, and to go on with what does not start from those models.

    python -m dits_lib.commands.pack --profile qwen --dataset arc_challenge --out qwen.tar.xz

Unpack it at the other machine's repository (`tar xf qwen.tar.xz`), with the same code, parameters
and base model; `make reproduce` then finds every finished stage. A stage that would have to be
trained on from a model whose weights were left out ends with that model's name: delete its folder
below `runs/`, and it is made anew.
"""

from __future__ import annotations

import argparse
import io
import sys
import tarfile
from pathlib import Path

from ..settings.places import OUTPUT
from ..suite.params import add_profile_options, profile_of
from ..suite.store import LEFT_OUT, is_weights
from .running import command

NOTE = b"Weights that lay here were left out by dits_lib.commands.pack.\n"


def pack(folder: Path, out: Path) -> tuple[int, int]:
    """Write the finished stages of `runs/<profile>` to a tar file (compressed as its name ends),
    below `runs/`. Returns how many stages it holds, and how many bytes of weights it does not."""
    stages, left = sorted(p for p in folder.glob("[a-z]*-*") if p.is_dir()), 0
    with tarfile.open(out, _mode(out)) as archive:
        for file in (f for stage in stages for f in sorted(stage.rglob("*")) if f.is_file()):
            name = f"runs/{folder.name}/{file.relative_to(folder)}"
            if not is_weights(file):
                archive.add(file, name)
                continue
            left += file.stat().st_size
            note = tarfile.TarInfo(str(Path(name).with_name(LEFT_OUT)))
            note.size = len(NOTE)
            archive.addfile(note, io.BytesIO(NOTE))
    return len(stages), left


def _mode(out: Path) -> str:
    endings = {".xz": "w:xz", ".gz": "w:gz", ".bz2": "w:bz2"}
    return endings.get(out.suffix, "w")


@command("run again")
def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 2 bad input, or nothing to pack (one line on stderr)."""
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    add_profile_options(parser)
    parser.add_argument("--out", type=Path, help="file to write; default: <profile>.tar.xz")
    options = parser.parse_args(arguments)
    params = profile_of(options)
    folder, out = OUTPUT / "runs" / params.profile, options.out or Path(f"{params.profile}.tar.xz")
    if not any(folder.glob("[a-z]*-*")):
        print(f"{folder}: no finished stage to pack; run `make reproduce` first", file=sys.stderr)
        return 2
    count, left = pack(folder, out)
    print(f"{out}: {count} stages; {left / 1e9:.2f} GB of weights were left out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
