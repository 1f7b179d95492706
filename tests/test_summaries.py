"""Tables of means over seeds."""

import pandas as pd

from dits_lib.report import seed_means
from dits_lib.report.stats import mean_interval


def test_each_group_keeps_its_own_numbers_whatever_order_groups_come_in():
    """Levels that occur in another order than the groups do once put the tokens of one budget
    beside the metric of another."""
    rows = [
        {"task": "b", "d": 3, "kept": "all", "metric": 0.1, "tokens": 10},
        {"task": "b", "d": 3, "kept": "half", "metric": 0.2, "tokens": 20},
        {"task": "b", "d": 12, "kept": "all", "metric": 0.3, "tokens": 30},
        {"task": "a", "d": 12, "kept": "half", "metric": 0.4, "tokens": 40},
        {"task": "b", "d": 3, "kept": "all", "metric": 0.5, "tokens": 13},
    ]
    found = seed_means(pd.DataFrame(rows), ["task", "kept", "d"], means=("tokens",))
    keys = [tuple(row) for row in found[["task", "kept", "d"]].to_numpy()]
    assert keys == [("b", "all", 3), ("b", "half", 3), ("b", "all", 12), ("a", "half", 12)]
    assert found["tokens"].tolist() == [12, 20, 30, 40]
    assert found.loc[0, ["mean", "low", "high", "n"]].to_dict() == mean_interval([0.1, 0.5])
    assert found["n"].tolist() == [2, 1, 1, 1] and found["low"].isna().tolist() == [
        False,
        True,
        True,
        True,
    ]
