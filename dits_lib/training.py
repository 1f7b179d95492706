"""SFT and DPO by TRL, on the token ids that were sampled: what is trained is what was said, token for token."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from .engines import LORA_TARGETS, base_of, load_model
from .pairs import Pair

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run; the ranges are checked in `params`.

    Attributes:
        steps: optimiser steps; equal for all arms of a comparison.
        batch: rows (SFT) or pairs (DPO) a step.
        learning_rate: peak; linear decay after 10 % warm-up.
        lora_rank: 0 trains all weights and writes a whole model; otherwise a LoRA of this rank, written as an adapter.
        beta: of DPO.
        nll_weight: weight of an NLL term on the chosen replies beside the DPO loss; 0 switches it off.
        device: cpu or cuda (autocast to bfloat16 there).
        dtype: of the weights while training; a LoRA is kept in float32.
        gradient_checkpointing: recompute activations, for less memory.
    """

    steps: int
    batch: int = 16
    learning_rate: float = 1e-3
    lora_rank: int = 0
    beta: float = 0.1
    nll_weight: float = 0.0
    device: str = "cpu"
    dtype: str = "float32"
    gradient_checkpointing: bool = False


def train_sft(model_folder: str | Path, rows: list[dict], config: TrainConfig, seed: int, out: Path) -> list[dict]:
    """SFT on {prompt_ids, reply_ids} rows (loss on the reply) by `trl.SFTTrainer`; writes a model folder.

    Returns the log: one row a logging step with `loss` and `num_tokens` trained on so far.
    """
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = load_model(model_folder, config.dtype, config.device, whole=not config.lora_rank)
    data = Dataset.from_list([_sft_row(row) for row in rows])
    longest = max(len(row["input_ids"]) for row in data)
    arguments = SFTConfig(
        **_arguments(config, seed, out), max_length=longest, packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = SFTTrainer(
        model=model, args=arguments, train_dataset=data, processing_class=tokenizer, peft_config=_peft_config(config)
    )
    return _run(trainer, tokenizer, model_folder, out)


def train_dpo(model_folder: str | Path, pairs: list[Pair], config: TrainConfig, seed: int, out: Path) -> list[dict]:
    """DPO from a model, which is also the reference, by `trl.DPOTrainer`; writes a model folder.

    Returns the log: one row a logging step with `loss`, and the drift from the reference in nats a reply,
    `drift_chosen` and `drift_rejected` (mean log pi/ref).
    """
    from trl import DPOConfig, DPOTrainer

    class TokenDPOTrainer(DPOTrainer):
        """A DPOTrainer that takes token ids as they are; the stock one renders and tokenises text again."""

        def _prepare_dataset(self, dataset, *args, **kwargs):
            return dataset

    place = {"dtype": config.dtype, "device": config.device, "whole": not config.lora_rank}
    model, tokenizer = load_model(model_folder, **place)
    reference = None if config.lora_rank else load_model(model_folder, **place)[0]
    data = Dataset.from_list([
        {name: list(getattr(pair, name)) for name in ("prompt_ids", "chosen_ids", "rejected_ids")} for pair in pairs
    ])
    losses = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, config.nll_weight]} if config.nll_weight else {}
    arguments = DPOConfig(**_arguments(config, seed, out), beta=config.beta, max_length=None, **losses)
    trainer = TokenDPOTrainer(
        model=model, ref_model=reference, args=arguments, train_dataset=data, processing_class=tokenizer,
        peft_config=_peft_config(config),
    )
    log = _run(trainer, tokenizer, model_folder, out)
    return [
        {"step": row["step"], "loss": row["loss"], "num_tokens": row["num_tokens"], "drift_chosen": row["rewards/chosen"] / config.beta,
         "drift_rejected": row["rewards/rejected"] / config.beta}
        for row in log
    ]


def _sft_row(row: dict) -> dict:
    prompt, reply = list(row["prompt_ids"]), list(row["reply_ids"])
    return {"input_ids": prompt + reply, "labels": [-100] * len(prompt) + reply}


def _peft_config(config: TrainConfig):
    if not config.lora_rank:
        return None
    from peft import LoraConfig

    return LoraConfig(r=config.lora_rank, lora_alpha=2 * config.lora_rank, target_modules=list(LORA_TARGETS), task_type="CAUSAL_LM")


def _arguments(config: TrainConfig, seed: int, out: Path) -> dict:
    cuda = config.device == "cuda"
    return {
        "output_dir": str(out), "max_steps": config.steps, "per_device_train_batch_size": config.batch,
        "learning_rate": config.learning_rate, "lr_scheduler_type": "linear", "warmup_steps": max(1, config.steps // 10),
        "seed": seed % (1 << 31), "data_seed": seed % (1 << 31), "logging_steps": max(1, config.steps // 10),
        "logging_first_step": False, "save_strategy": "no", "report_to": [], "disable_tqdm": True, "bf16": cuda, "use_cpu": not cuda,
        "gradient_checkpointing": config.gradient_checkpointing, "dataloader_num_workers": 0, "dataloader_pin_memory": False, "max_grad_norm": 1.0,
    }


def _run(trainer, tokenizer, model_folder: str | Path, out: Path) -> list[dict]:
    """Train, and write the model: an adapter that names the model it changes, or all weights."""
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    trainer.train()
    out.mkdir(parents=True, exist_ok=True)
    trainer.model.save_pretrained(out)
    if base_of(out) is None:
        tokenizer.save_pretrained(out)
    else:
        config = out / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(model_folder)}, sort_keys=True))
        (out / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    log = [row for row in trainer.state.log_history if "loss" in row]
    (out / "train_log.json").write_text(json.dumps(log))
    return log
