"""SFT and DPO by TRL, on the token ids that were sampled: what is trained is what was said, token
for token."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from .engines import LORA_TARGETS, ModelError
from .pairs import Pair
from .settings import Count, Positive, Settings

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")


class TrainingError(RuntimeError):
    """A training whose numbers are not finite; nothing of it was saved. In one line."""


class TrainingSettings(Settings):
    """Settings that SFT and DPO share.

    Attributes:
        steps: optimiser steps; equal for all arms of a comparison.
        batch: rows (SFT) or pairs (DPO) of a step.
        learning_rate: peak; linear decay after 10 % warm-up.
        lora_rank: 0 trains all weights and writes a whole model; otherwise a LoRA of this rank,
            kept in float32 and written as an adapter.
        gradient_checkpointing: recompute activations, for less memory.
    """

    steps: Count
    batch: Count
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    lora_rank: Annotated[int, Field(ge=0, le=256)]
    gradient_checkpointing: bool


class SFTSettings(TrainingSettings):
    """Settings of supervised fine-tuning."""

    section: ClassVar = "sft"


class DPOSettings(TrainingSettings):
    """Settings of direct preference optimisation.

    Attributes:
        beta: strength of the tie to the reference.
        nll_weight: weight of an NLL term on the chosen replies beside the DPO loss; 0 switches it
            off.
    """

    section: ClassVar = "dpo"

    beta: Positive
    nll_weight: Annotated[float, Field(ge=0, le=10)]


@dataclass(frozen=True)
class Place:
    """Where, and in what precision, a model is trained.

    Attributes:
        device: cpu or cuda (autocast to bfloat16 there).
        dtype: of the weights: float32 or bfloat16.
    """

    device: str = "cpu"
    dtype: str = "float32"


def train_sft(
    model_folder: str | Path,
    rows: list[dict],
    settings: SFTSettings,
    seed: int,
    out: Path,
    place: Place = Place(),
) -> list[dict]:
    """SFT on {prompt_ids, reply_ids} rows (loss on the reply) by `trl.SFTTrainer`; writes a model
    folder.

    Returns the log: one row a logging step with `loss` and `num_tokens` trained on so far.

    Raises:
        TrainingError: when a loss, a gradient or a weight is not finite; nothing is written then.
        ModelError: for a model that cannot be used, or rows longer than it reads.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from .engines import load_model, longest_of

    whole = not settings.lora_rank
    model, tokenizer = load_model(model_folder, place.dtype, place.device, whole=whole)
    data = Dataset.from_list([_sft_row(row) for row in rows])
    longest = max(len(row["input_ids"]) for row in data)
    reads = longest_of(model.config)
    if reads is not None and longest > reads:
        raise ModelError(
            f"{model_folder}: a row of the training has {longest} tokens, but the model reads "
            f"{reads}; lower data.context_words, or the turns"
        )
    arguments = SFTConfig(
        **_arguments(settings, seed, out, place),
        max_length=longest,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=_peft_config(settings),
    )
    return _run(trainer, tokenizer, model_folder, out)


def train_dpo(
    model_folder: str | Path,
    pairs: list[Pair],
    settings: DPOSettings,
    seed: int,
    out: Path,
    place: Place = Place(),
) -> list[dict]:
    """DPO from a model, which is also the reference, by `trl.DPOTrainer`; writes a model folder.

    Returns the log: one row a logging step with `loss`, and the drift from the reference in nats a
    reply, `drift_chosen` and `drift_rejected` (mean log pi/ref).

    Raises:
        TrainingError: when a loss, a gradient or a weight is not finite; nothing is written then.
        ModelError: for a model that cannot be used.
    """
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from .engines import load_model

    class TokenDPOTrainer(DPOTrainer):
        """A DPOTrainer that takes token ids as they are; the stock one renders and tokenises text
        again."""

        def _prepare_dataset(self, dataset, *args, **kwargs):
            return dataset

    whole = not settings.lora_rank
    model, tokenizer = load_model(model_folder, place.dtype, place.device, whole=whole)
    reference = None  # with a LoRA: the model without it
    if whole:
        reference, _ = load_model(model_folder, place.dtype, place.device, whole=True)
    losses = {}
    if settings.nll_weight:
        losses = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, settings.nll_weight]}
    arguments = DPOConfig(
        **_arguments(settings, seed, out, place),
        beta=settings.beta,
        max_length=None,
        # Read once where pairs are trained on more than once; else the reference reads each batch.
        precompute_ref_log_probs=len(pairs) < settings.steps * settings.batch,
        **losses,
    )
    with _without_progress_bars():
        trainer = TokenDPOTrainer(
            model=model,
            ref_model=reference,
            args=arguments,
            train_dataset=Dataset.from_list([_dpo_row(pair) for pair in pairs]),
            processing_class=tokenizer,
            peft_config=_peft_config(settings),
        )
    log = _run(trainer, tokenizer, model_folder, out)
    return [
        {
            "step": row["step"],
            "loss": row["loss"],
            "num_tokens": row["num_tokens"],
            "drift_chosen": row["rewards/chosen"] / settings.beta,
            "drift_rejected": row["rewards/rejected"] / settings.beta,
        }
        for row in log
    ]


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """TRL and datasets show bars while the reference reads the pairs; a study has hundreds of such
    trainings, and one bar of its own."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown, before = not are_progress_bars_disabled(), os.environ.get("TQDM_DISABLE")
    disable_progress_bars()
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()
        if before is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = before


def _dpo_row(pair: Pair) -> dict:
    return {
        "prompt_ids": list(pair.prompt_ids),
        "chosen_ids": list(pair.chosen_ids),
        "rejected_ids": list(pair.rejected_ids),
    }


def _sft_row(row: dict) -> dict:
    prompt, reply = list(row["prompt_ids"]), list(row["reply_ids"])
    return {"input_ids": prompt + reply, "labels": [-100] * len(prompt) + reply}


def _peft_config(settings: TrainingSettings):
    if not settings.lora_rank:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=2 * settings.lora_rank,
        target_modules=list(LORA_TARGETS),
        task_type="CAUSAL_LM",
    )


def _arguments(settings: TrainingSettings, seed: int, out: Path, place: Place) -> dict:
    cuda = place.device == "cuda"
    return {
        "output_dir": str(out),
        "max_steps": settings.steps,
        "per_device_train_batch_size": settings.batch,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": max(1, settings.steps // 10),
        "seed": seed % (1 << 31),
        "data_seed": seed % (1 << 31),
        "logging_steps": max(1, settings.steps // 10),
        "logging_first_step": False,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "bf16": cuda,
        "use_cpu": not cuda,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "max_grad_norm": 1.0,
        "logging_nan_inf_filter": False,  # it would put the mean in place of a loss that is not
    }


def _run(trainer, tokenizer, model_folder: str | Path, out: Path) -> list[dict]:
    """Train, and write the model: an adapter that names the model it changes, or all weights."""
    from transformers.trainer_callback import PrinterCallback

    from .engines import base_of

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_finite_callback(model_folder))
    logging.getLogger("transformers").setLevel(logging.ERROR)
    trainer.train()
    log = [row for row in trainer.state.log_history if "loss" in row]
    _check_trained(trainer, log, model_folder)
    out.mkdir(parents=True, exist_ok=True)
    trainer.model.save_pretrained(out)
    if base_of(out) is None:
        tokenizer.save_pretrained(out)
    else:
        file = out / "adapter_config.json"
        named = json.loads(file.read_text()) | {"base_model_name_or_path": str(model_folder)}
        file.write_text(json.dumps(named, sort_keys=True))
        (out / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    (out / "train_log.json").write_text(json.dumps(log))
    return log


def _finite_callback(model_folder: str | Path):
    """A callback that ends a training at the first step whose gradients are not finite: an
    optimiser that has seen one never recovers, and clipping turns an infinite norm into steps of
    zero."""
    import torch
    from transformers import TrainerCallback

    class FiniteGradients(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            if not bool(torch.nn.utils.get_total_norm(gradients).isfinite()):
                raise TrainingError(
                    f"{model_folder}: the gradient of step {state.global_step + 1} is not finite, "
                    "so nothing was saved; lower the learning rate (or beta), or use float32"
                )

        def on_log(self, args, state, control, logs=None, **kwargs):
            for name in ("loss", "grad_norm"):
                if not math.isfinite(float((logs or {}).get(name, 0.0))):
                    raise TrainingError(
                        f"{model_folder}: {name} is {logs[name]} at step {state.global_step}, so "
                        "nothing was saved; lower the learning rate (or beta), or use float32"
                    )

    return FiniteGradients()


def _check_trained(trainer, log: list[dict], model_folder: str | Path) -> None:
    """Raises TrainingError for a training without a loss, or with weights that are not finite."""
    from .engines import check_finite

    if not log:
        raise TrainingError(f"{model_folder}: the training logged no loss, so nothing was saved")
    try:
        check_finite(trainer.model, model_folder)
    except ModelError as error:
        raise TrainingError(f"after training, {error}") from None
