"""Train a micro base model, hold it against its gates, and release it.

    python -m dits_lib.commands.release_micro_model [micro|micro-web]

A missed gate stops the release: the folder of the model stays as it was, and the numbers are
printed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..settings import ROOT
from .running import command

if TYPE_CHECKING:
    from ..micro_model.base_model import Recipe
    from ..micro_model.web_model import WebRecipe

_TEXTS = {
    "micro": (
        "The micro base model",
        "A Llama of {parameters:,} parameters, trained from scratch on the micro world by `make "
        "micro-model`: first to look facts up,\n"
        "then to speak like scripted agents, bad habits included. It is the model behind the "
        "default profile, and of no other use.",
    ),
    "micro-web": (
        "The base model of the micro web",
        "The micro base model with the words of the micro web ({parameters:,} parameters), "
        "trained further by `make micro-web-model`: to search, read\n"
        "and click like scripted agents, bad habits included. It is the model behind notebook 08 "
        "of the default profile, and of no other use.",
    ),
}
"""Title and first paragraph of each model's card."""


def model_card(name: str, numbers: dict, recipe: Recipe | WebRecipe, digest: str) -> str:
    """The card of a released model, from what was measured."""
    from ..micro_model.gates import TEST_QUESTIONS

    rows = []
    for task, n in numbers.items():
        if isinstance(n, dict):
            metric = "token F1" if task == "exchange" else "accuracy"
            families = ", ".join(f"{family} {value:.2f}" for family, value in n["families"].items())
            rows.append(
                f"| {task} ({metric}) | {n['metric']:.3f} | {families} | {n['oracle_gain']:+.3f} | "
                f"{n['searched_gain']:+.3f} [{n['searched_gain_low']:+.3f}, "
                f"{n['searched_gain_high']:+.3f}] |"
            )
    title, text = _TEXTS[name]
    lookup = (
        f" Look-up accuracy: {numbers['lookup']:.3f} (gate: 0.98)." if "lookup" in numbers else ""
    )
    return f"""---
license: apache-2.0
library_name: transformers
---

# {title}

{text.format(parameters=numbers["parameters"])}

`model.safetensors` SHA-256: `{digest}`

## Gates

Measured on {TEST_QUESTIONS} test questions a task, sampled at T = 1.{lookup}

| task | metric (gate: 0.40 to 0.75) | by family | DPO on oracle pairs (gate: +0.15) | DPO on all searched pairs (gate: +0.05, interval above 0) |
|---|---|---|---|---|
{chr(10).join(rows)}

The interval is over test questions, paired, for one training run.

## Recipe

`{json.dumps(asdict(recipe))}`
"""  # noqa: E501


@command("nothing was released")
def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", choices=list(_TEXTS), default="micro")
    parser.add_argument("--out", help="folder; models/<model> by default")
    parser.add_argument(
        "--check",
        action="store_true",
        help="measure the gates of the model that is there, train nothing",
    )
    options = parser.parse_args(arguments)
    # Torch and transformers take seconds to import, and --help answers without them.
    from ..micro_model.base_model import Recipe, save
    from ..micro_model.gates import measure, micro_trials, missed_gates, web_trials
    from ..micro_model.web_model import WebRecipe
    from ..suite.store import checksum

    out, start = Path(options.out or ROOT / "models" / options.model), time.monotonic()
    web = options.model == "micro-web"
    recipe = WebRecipe() if web else Recipe()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        folder = out if options.check else work / "model"
        if not options.check:
            save(*_trained(recipe), folder)
        trials = web_trials(work / "web") if web else micro_trials()
        numbers = measure(folder, work, trials, lookup=not web)
        missed = missed_gates(numbers)
        print(json.dumps(numbers, indent=1))
        if missed:
            print("not released; missed gates: " + "; ".join(missed), file=sys.stderr)
            return 1
        digest = checksum(folder / "model.safetensors")
        (folder / "gates.json").write_text(json.dumps(numbers, indent=1) + "\n")
        (folder / "README.md").write_text(model_card(options.model, numbers, recipe, digest))
        if not options.check:
            shutil.copytree(folder, out, dirs_exist_ok=True)
    print(f"released {out} in {time.monotonic() - start:.0f} s")
    return 0


def _trained(recipe: Recipe | WebRecipe):
    """Model and tokenizer."""
    from ..micro_model.base_model import make_tokenizer, train
    from ..micro_model.web_model import WebRecipe, train_web

    if isinstance(recipe, WebRecipe):
        return train_web(ROOT / "models" / "micro", recipe)
    tokenizer = make_tokenizer()
    return train(recipe, tokenizer), tokenizer


if __name__ == "__main__":
    sys.exit(main())
