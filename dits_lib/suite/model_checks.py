"""Models, looked at before anything expensive: whether they are whole, of a kind that is supported,
and long enough."""

from __future__ import annotations

from pathlib import Path

from ..engines import ModelError, check_model_folder
from .params import Params

SMALL = 1_000_000_000
"""Bytes of weights, at most, that are loaded to see whether the engine computes what the model
does; larger models are looked at when they are loaded anyway."""


def check_models(params: Params) -> None:
    """Look at every model of the parameters: configuration, tokenizer, chat template, whether the
    weights are whole, whether adapters reach its layers, and whether it reads as many tokens as
    vLLM is to be started for. Small ones are held against their own forward pass.

    Raises:
        ModelError: naming the folder and what is wrong.
    """
    for path in params.model_paths():
        check_model(path)
        if params.model.engine == "vllm":
            _check_length(path, params.model.max_length)


def check_model(path: str) -> None:
    """One model of `check_models`, but for its length."""
    from ..engines import TransformersEngine, load_tokenizer

    check_model_folder(path)
    _check_weights(path)
    _check_layers(path)
    load_tokenizer(path)
    weights = list(Path(path).glob("*.safetensors")) if Path(path).is_dir() else []
    if weights and sum(file.stat().st_size for file in weights) <= SMALL:
        TransformersEngine.load(path)


def _check_weights(path: str) -> None:
    """Whether the files of the weights are whole."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(Path(path).glob("*.safetensors")) if Path(path).is_dir() else []:
        try:
            with safe_open(file, framework="pt") as opened:
                opened.keys()
        except SafetensorError as error:
            raise ModelError(f"{file}: damaged or cut short ({error})") from None


def _check_layers(path: str) -> None:
    """The configuration, and the layers of a model made by it without weights."""
    import torch
    from transformers import AutoModelForCausalLM

    from ..engines import check_architecture, load_config

    config = load_config(path)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds; the user needs one line
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{path}: transformers cannot build it: {reason[:300]}") from None
    check_architecture(model, path)


def _check_length(path: str, max_length: int) -> None:
    from ..engines import load_config, longest_of

    most = longest_of(load_config(path))
    if most is not None and max_length > most:
        raise ModelError(
            f"{path}: reads {most} tokens at most, but model.max_length is {max_length}; lower it"
        )
