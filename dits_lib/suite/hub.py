"""The hub where models and public data are, when it cannot be reached: a plan is made all the same,
from the known shapes of some models, and says what nobody looked at."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ..engines import ModelError
from ..tasks import DataError
from .checks import InputError
from .model_checks import check_models
from .params import Params
from .question_checks import check_questions, check_words

SECONDS = 5
"""Within which the hub must answer."""
SHAPES = {
    "meta-llama/Meta-Llama-3-8B-Instruct": {
        "model_type": "llama",
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
    },
    "Qwen/QwQ-32B": {
        "model_type": "qwen2",
        "vocab_size": 152064,
        "max_position_embeddings": 40960,
        "hidden_size": 5120,
        "intermediate_size": 27648,
        "num_hidden_layers": 64,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
    },
    "Qwen/Qwen2.5-7B-Instruct": {
        "model_type": "qwen2",
        "vocab_size": 152064,
        "max_position_embeddings": 32768,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
}
"""Configurations on the hub, cut to sizes, of the models that profiles name."""


def is_offline() -> bool:
    """Whether the user told this process to ask the hub for nothing."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def answers() -> bool:
    """Whether the hub answers, anything at all and soon."""
    import httpx

    try:
        httpx.head(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), timeout=SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    return True


def leave_the_hub_alone_if_it_is_silent() -> bool:
    """Whether the hub answers. If not, this process asks it for nothing more (what lies in the
    local cache is still found), so that nothing is tried again and again. To be called before
    transformers or datasets are imported."""
    if is_offline():
        return False
    if answers():
        return True
    os.environ["HF_HUB_OFFLINE"] = "1"
    return False


def check_what_can_be(params: Params, reachable: bool) -> list[str]:
    """Data and models, as `check_inputs` looks at them before a run.

    Returns:
        What could not be looked at because the hub is out of reach, in words; [] if it is not.

    Raises:
        ModelError, DataError: in one line, for what is wrong.
    """
    left: list[str] = []

    def look(what: str, check: Callable[[], None], excused: bool) -> None:
        try:
            check()
        except (ModelError, DataError) as error:
            if reachable or not excused or not _is_out_of_reach(error):
                raise
            left.append(what)

    on_hub = [path for path in params.model_paths() if not Path(path).exists()]
    look("the questions", lambda: check_questions(params), True)
    models = f"{', '.join(on_hub)} (a gated model also needs its licence accepted, and HF_TOKEN)"
    look(models, lambda: check_models(params), bool(on_hub))
    look("the words of the questions", lambda: check_words(params), True)
    return left


def _is_out_of_reach(error: Exception) -> bool:
    """Whether it was the hub's silence, and not something that can be mended here."""
    return "cannot be loaded from the hub" in str(error) or "transformers cannot load" in str(error)


def known_shape(path: str, **changes):
    """The configuration (transformers) of a model in `SHAPES`, with some of its values changed.

    Raises:
        InputError: for another model.
    """
    from transformers import AutoConfig

    if path not in SHAPES:
        raise InputError(
            f"{path}: the hub cannot be reached, and the shape of this model is not known here; "
            f"known: {', '.join(SHAPES)}; or name a folder with its config.json"
        )
    shape = SHAPES[path] | changes
    return AutoConfig.for_model(shape.pop("model_type"), **shape)
