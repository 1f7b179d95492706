"""Tables, figures, the paper's numbers, and the verdict on each claim. It knows the method, and
nothing of the experiments. Matplotlib is imported when a figure or a report is first asked for."""

import lazy_loader

from .claims import CLAIMS, Comparison, correlation, mean_correlation, paired
from .markdown import markdown_table
from .paper import PAPER_COST, PAPER_MAIN, PAPER_SELECTION
from .stats import joint_level, mean_interval, paired_interval, reach_of

_FIGURES = [
    "distribution_figure",
    "families_figure",
    "forest_figure",
    "lines_figure",
    "loss_figure",
    "reliability_cost_figure",
    "reliability_figure",
    "response_figure",
    "scatter_figure",
    "sensitivity_figure",
]
__getattr__, _, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "book": ["Report"],
        "explorer": ["selection_explorer", "tree_explorer"],
        "figures": _FIGURES,
        "summaries": ["seed_differences", "seed_means"],
        "trees": ["tree_figure"],
    },
)

__all__ = [
    "CLAIMS",
    "Comparison",
    "PAPER_COST",
    "PAPER_MAIN",
    "PAPER_SELECTION",
    "Report",
    "correlation",
    "joint_level",
    "markdown_table",
    "mean_correlation",
    "mean_interval",
    "paired",
    "paired_interval",
    "reach_of",
    "seed_differences",
    "seed_means",
    "selection_explorer",
    "tree_explorer",
    "tree_figure",
    *_FIGURES,
]
