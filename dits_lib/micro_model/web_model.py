"""The base model of the micro web: the micro base model, taught to search, read and click by
scripted agents.

Run it with `make micro-web-model`. It starts from `models/micro`, which can look facts up, gets the
words of the site's addresses and calls, and learns dialogues of scripted agents, bad habits
included, on sites of other seeds than any experiment's, about keys of the split `base` alone. A
share of the look-ups is kept.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import LlamaForCausalLM

from ..agents import prompt_ids, reply_ids, web_system
from ..tasks import make_web, vocabulary, web_questions, web_vocabulary, write_site
from ..tools import Cached, LocalSite
from .base_model import collate, fact_batch, make_optimizer, make_tokenizer, run_steps
from .scripted import scripted_dialogue


@dataclass(frozen=True)
class WebRecipe:
    """Sizes and schedule; the defaults take about eight minutes on two cores."""

    sites: int = 60
    questions: int = 240
    steps: int = 1600
    rows: int = 64
    fact_rows: int = 32
    lookup_share: float = 0.15
    learning_rate: float = 1e-3
    seed: int = 0


def dialogue_rows(tokenizer, recipe: WebRecipe) -> list[tuple[list[int], list[int]]]:
    """Scripted turns as (prompt ids, reply ids): one of each dialogue, on `sites` sites of their
    own."""
    rows = []
    for site in tqdm(range(recipe.sites), desc="scripted dialogues", mininterval=5):
        web, rng = (
            make_web(1_000_000 + recipe.seed * 10_000 + site),
            np.random.default_rng([recipe.seed, site]),
        )
        with tempfile.TemporaryDirectory() as folder:
            write_site(web, Path(folder) / "site")
            system = web_system(
                "micro",
                source=Cached(LocalSite(Path(folder) / "site", top=2), Path(folder) / "pages"),
            )
            for question in web_questions(web, "base", recipe.questions, recipe.seed):
                turns = scripted_dialogue(system, question, rng)
                replies = [index for index, turn in enumerate(turns) if turn.trainable]
                index = replies[rng.integers(len(replies))]
                prompt = prompt_ids(tokenizer, system, question, turns[:index], turns[index].agent)
                rows.append((list(prompt), list(reply_ids(tokenizer, turns[index].text))))
    return rows


def train_web(base: Path, recipe: WebRecipe, device: str = "cpu"):
    """The model and its tokenizer, from the micro base model in `base`; deterministic for one
    recipe, machine and thread count."""
    tokenizer = make_tokenizer((*vocabulary(), *web_vocabulary()))
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM.from_pretrained(base, attn_implementation="eager").to(device).train()
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.max_position_embeddings = 512
    optimizer = make_optimizer(model, recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.05
    )
    rng, rows, ids = (
        np.random.default_rng(recipe.seed + 1),
        dialogue_rows(tokenizer, recipe),
        tokenizer.get_vocab(),
    )

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        if rng.random() < recipe.lookup_share:
            return fact_batch(rng, ids, recipe.fact_rows)
        return collate([rows[i] for i in rng.integers(len(rows), size=recipe.rows)])

    return run_steps(model, optimizer, schedule, recipe.steps, batch, "micro web model"), tokenizer
