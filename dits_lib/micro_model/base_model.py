"""The micro base model: a small Llama trained from scratch, in two stages, and its tokenizer.

Run it with `make micro-model`. Stage 1 teaches looking facts up, on dense blocks of facts that come
again in another order (loss on the values). Stage 2 teaches the dialogues of scripted agents, bad
habits included, with a share of the look-ups kept. Only keys of the split `base` are asked for. Why
these stages: docs/log.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ..agents import make_system, rendered_turns
from ..tasks import make_questions, vocabulary
from ..tasks.micro import ADJECTIVES, ATTRIBUTES, LINKS, NOUNS, PEOPLE
from .scripted import scripted_dialogue

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "<s> {% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }} "
    "{% if m['role'] != 'system' %}</s> {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)


@dataclass(frozen=True)
class Recipe:
    """Sizes and schedule; the defaults make the released model on two cores in under 15 minutes."""

    hidden: int = 128
    layers: int = 3
    heads: int = 4
    intermediate: int = 384
    lookup_steps: int = 700
    dialogue_steps: int = 2200
    pair_rows: int = 64
    fact_rows: int = 32
    dialogue_rows: int = 96
    lookup_share: float = 0.25
    questions: int = 24_000
    learning_rate: float = 2e-3
    seed: int = 0


def make_tokenizer(known: Sequence[str] | None = None) -> PreTrainedTokenizerFast:
    """A word-level tokenizer over these words (the micro world's by default), with a chat
    template."""
    words = {
        word: index
        for index, word in enumerate((*SPECIAL, *(vocabulary() if known is None else known)))
    }
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=list(SPECIAL[4:]),
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_model(recipe: Recipe, vocab_size: int) -> LlamaForCausalLM:
    """A Llama with tied embeddings, randomly initialised from `recipe.seed`."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config)


def _repeat(block: np.ndarray, repeats: int, rng: np.random.Generator) -> np.ndarray:
    """[batch, n, width] facts, `repeats` times over, each time in another order: [batch, repeats *
    n * width]."""
    batch, n, _ = block.shape
    orders = [rng.random((batch, n)).argsort(1)[:, :, None] for _ in range(repeats)]
    return np.concatenate(
        [np.take_along_axis(block, order, 1).reshape(batch, -1) for order in orders], axis=1
    )


def _with_labels(
    body: np.ndarray, first: int, is_value: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prefix `<s>` (id 1); loss on the values from position `first` of the body on."""
    rows = np.concatenate([np.ones((len(body), 1), dtype=np.int64), body], axis=1)
    counted = np.concatenate([[False], is_value & (np.arange(body.shape[1]) >= first)])
    return torch.from_numpy(rows), torch.from_numpy(np.where(counted[None, :], rows, -100))


def pair_batch(
    rng: np.random.Generator, words: np.ndarray, batch: int, pairs: int = 16, repeats: int = 4
):
    """Random token pairs (key, value), four times over, each time in another order; loss on every
    repeated value.

    Returns ids and labels [batch, 1 + 2 * pairs * repeats] (-100: no loss). The dense repeats are
    what makes the induction circuit form early (docs/log.md).
    """
    drawn = words[rng.random((batch, len(words))).argsort(1)[:, : 2 * pairs]].reshape(
        batch, pairs, 2
    )
    body = _repeat(drawn, repeats, rng)
    return _with_labels(body, 2 * pairs, np.arange(body.shape[1]) % 2 == 1)


def fact_batch(
    rng: np.random.Generator, ids: dict[str, int], batch: int, facts: int = 8, repeats: int = 3
):
    """Facts `relation subject value value` of the micro world, repeated in other orders; loss on
    the repeated values."""

    def draw(words):
        table = np.array([ids[word] for word in words])
        return table[rng.random((batch, len(table))).argsort(1)[:, :facts]]

    relations = np.array([ids[word] for word in (*ATTRIBUTES, *LINKS)])
    relation = relations[rng.integers(len(relations), size=(batch, facts))]
    body = _repeat(
        np.stack([relation, draw(PEOPLE), draw(ADJECTIVES), draw(NOUNS)], axis=2), repeats, rng
    )
    return _with_labels(body, 4 * facts, np.arange(body.shape[1]) % 4 >= 2)


def dialogue_rows(tokenizer, recipe: Recipe) -> list[tuple[list[int], list[int]]]:
    """Scripted turns as (prompt ids, reply ids), both tasks, questions of the split `base`."""
    rows = []
    for name in ("exchange", "debate"):
        system = make_system(name)
        rng = np.random.default_rng([recipe.seed, len(name)])
        for question in make_questions(name, "base", recipe.questions, recipe.seed):
            turns = scripted_dialogue(system, question, rng)
            index = int(rng.integers(len(turns)))
            rows.append(rendered_turns(tokenizer, system, question, turns)[index])
    return rows


def collate(rows: list[tuple[list[int], list[int]]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and labels (loss on the replies)."""
    width = max(len(prompt) + len(reply) for prompt, reply in rows)
    ids, labels = (
        torch.zeros(len(rows), width, dtype=torch.long),
        torch.full((len(rows), width), -100),
    )
    for i, (prompt, reply) in enumerate(rows):
        ids[i, : len(prompt) + len(reply)] = torch.tensor(prompt + reply)
        labels[i, len(prompt) : len(prompt) + len(reply)] = torch.tensor(reply)
    return ids, labels


def train(recipe: Recipe, tokenizer, device: str = "cpu") -> LlamaForCausalLM:
    """Both stages; deterministic for one recipe, machine and thread count."""
    ids = tokenizer.get_vocab()
    words = np.arange(len(SPECIAL), len(ids))
    model = make_model(recipe, len(ids)).to(device).train()
    optimizer = make_optimizer(model, recipe.learning_rate)
    total = recipe.lookup_steps + recipe.dialogue_steps
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _rate(step, recipe.lookup_steps, total)
    )
    rng = np.random.default_rng(recipe.seed + 1)
    rows = dialogue_rows(tokenizer, recipe)

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        if step < recipe.lookup_steps:
            return pair_batch(rng, words, recipe.pair_rows)
        if rng.random() < recipe.lookup_share:
            return fact_batch(rng, ids, recipe.fact_rows)
        return collate([rows[i] for i in rng.integers(len(rows), size=recipe.dialogue_rows)])

    return run_steps(model, optimizer, schedule, total, batch, "micro model")


def make_optimizer(model: LlamaForCausalLM, learning_rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        model.parameters(), lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.98)
    )


def run_steps(
    model: LlamaForCausalLM,
    optimizer,
    schedule,
    steps: int,
    batch: Callable[[int], tuple[torch.Tensor, torch.Tensor]],
    label: str,
) -> LlamaForCausalLM:
    """Take `steps` steps on `batch(step)` (ids and labels), gradients clipped at 1; the model in
    evaluation mode."""
    progress, device = tqdm(range(steps), desc=label, mininterval=5), model.device
    for step in progress:
        input_ids, labels = batch(step)
        loss = next_token_loss(model, input_ids.to(device), labels.to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}")
    return model.eval()


def next_token_loss(model, input_ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy, in nats a token, of the labels that are not -100; products in
    bfloat16."""
    with torch.autocast(input_ids.device.type, dtype=torch.bfloat16):
        logits = model(
            input_ids=input_ids, attention_mask=(input_ids != 0).long(), use_cache=False
        ).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten()
    )


def _rate(step: int, lookup_steps: int, total: int) -> float:
    """Warm-up over 50 steps, flat through stage 1, then a cosine to 5 %."""
    if step < lookup_steps:
        return min(1.0, (step + 1) / 50)
    return 0.05 + 0.475 * (1 + np.cos(np.pi * (step - lookup_steps) / (total - lookup_steps)))


def save(model: LlamaForCausalLM, tokenizer, folder: Path) -> None:
    """Write safetensors, config and tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
