"""Public data sets. A new one is a class of about thirty lines and a line in `PUBLIC`."""

from .base import SHARES, PublicDataset, RowError, Slice, check_disjoint, load_splits
from .cbt import CBT
from .choice import MMLU, ARCChallenge
from .hotpotqa import HotpotQA, TwoWikiMultiHopQA
from .triviaqa import TriviaQA
from .webwalkerqa import WebWalkerQA

PUBLIC: dict[str, PublicDataset] = {
    d.name: d
    for d in (
        HotpotQA(),
        TwoWikiMultiHopQA(),
        TriviaQA(),
        CBT(),
        ARCChallenge(),
        MMLU(),
        WebWalkerQA(),
    )
}

__all__ = [
    "PUBLIC",
    "SHARES",
    "PublicDataset",
    "RowError",
    "Slice",
    "WebWalkerQA",
    "check_disjoint",
    "load_splits",
]
