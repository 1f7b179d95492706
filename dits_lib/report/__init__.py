"""Tables, figures, the paper's numbers, and the verdict on each claim. Nothing below imports this package."""

from .book import Report
from .claims import CLAIMS, verdict
from .figures import (
    distribution_figure, forest_figure, lines_figure, reliability_cost_figure, reliability_figure, response_figure, scatter_figure,
    sensitivity_figure, tree_figure,
)
from .paper import PAPER_MAIN, PAPER_SELECTION
from .stats import joint_level, mean_interval, paired_interval

__all__ = [
    "CLAIMS",
    "PAPER_MAIN",
    "PAPER_SELECTION",
    "Report",
    "distribution_figure",
    "forest_figure",
    "joint_level",
    "lines_figure",
    "mean_interval",
    "paired_interval",
    "reliability_cost_figure",
    "reliability_figure",
    "response_figure",
    "scatter_figure",
    "sensitivity_figure",
    "tree_figure",
    "verdict",
]
