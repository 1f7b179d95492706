"""Plain names of what is compared. Code, parameters and csv files keep the short ones."""

from __future__ import annotations

import re

ARMS = {
    "base": "base model",
    "warm_start": "after the warm start",
    "sft": "SFT model",
    "full": "all pairs",
    "random": "drawn at random",
    "q_value": "top by Q",
    "dpo_loss": "top by influence on the DPO loss",
    "gamma_0": "top by influence",
    "gamma_1": "top by influence and Q",
    "reversed": "bottom by influence",
    "gamma_0_small": "very top by influence",
}
"""What an arm trains on, by its short name. `top` and `bottom` are the share `selection.alpha` of
the pairs, as many as are drawn at random; `very top` is the share `selection.small_alpha`."""
LEGEND_OF_NAMES = (
    "*Top* and *bottom* by a score: the share `selection.alpha` of the pairs (half of them, unless "
    "the parameters say otherwise) that have the highest or the lowest; as many are *drawn at "
    "random*. *Very top*: the share `selection.small_alpha`. *By influence*: the estimator "
    "`influence.estimator`; *and Q*: by H, influence and the Q-value of the chosen reply together. "
    "An estimator's name alone, such as *policy gradient*, stands for the top by its scores. "
    "*Equal steps*: all are trained for as many optimiser steps, so that a half is seen twice as "
    "often; *equal epochs*: each pair is seen as often. The csv files in `tables` keep the short "
    "names: " + ", ".join(f"`{short}` is *{long}*" for short, long in ARMS.items()) + "."
)
_ARM = re.compile(rf"\b({'|'.join(sorted(ARMS, key=len, reverse=True))})\b(?!_)")


def plain(text: str) -> str:
    """A text in which arms have their plain names, and underscores are spaces: `gamma_0 minus
    random` is `top by influence minus drawn at random`, and `one_step, reversed` is `one step,
    bottom`."""
    text = text.replace(", reversed", ", bottom")
    return _ARM.sub(lambda found: ARMS[found[1]], text).replace("_", " ")
