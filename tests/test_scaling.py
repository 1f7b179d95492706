"""Hours on several GPUs: bounds by hand."""

import pandas as pd
import pytest

from dits_lib.commands.plan import main
from dits_lib.suite.params import load_params
from dits_lib.suite.scaling import least_hours, side_by_side
from dits_lib.suite.studies import influence_fidelity, selection_ablation

NOTEBOOKS = "notebooks=[03_selection_ablation, 05_iterations, 06_influence_fidelity]"


@pytest.fixture
def params():
    seeds = ["ablation.seeds=3", "iterations.seeds=2", "fidelity.use_seeds=4"]
    return load_params("micro", ["tasks=[exchange, debate]", NOTEBOOKS, *seeds])


def test_jobs_that_can_run_at_once_are_seeds_tasks_and_arms(params):
    jobs = side_by_side(params)
    assert jobs["03_selection_ablation", ""] == 3 * 2
    assert jobs["03_selection_ablation", "dpo"] == 6 * len(selection_ablation.arms_of(params))
    assert jobs["05_iterations", ""] == 2 * 2 * 3  # seeds, tasks, methods
    assert ("05_iterations", "dpo") not in jobs
    use = len(params.fidelity.use)
    assert jobs["06_influence_fidelity", ""] == 4 * 2
    scored = 2 * 2 * len(params.fidelity.validation) + 4 * 2 * use
    assert jobs["06_influence_fidelity", "score"] == scored
    halves = len(influence_fidelity.half_keys(params))
    arms = len(influence_fidelity.use_arms(params))
    assert jobs["06_influence_fidelity", "dpo"] == halves + 8 * arms


def test_a_run_takes_its_share_or_its_longest_notebook(params):
    work = pd.DataFrame(
        [
            ("03_selection_ablation", "search", 12.0),
            ("03_selection_ablation", "dpo", 30.0),
            ("05_iterations", "search", 24.0),
            ("all", "starting vLLM", 6.0),
        ],
        columns=["notebook", "stage", "hours"],
    )
    assert least_hours(params, work, 1) == (72.0, "")
    assert least_hours(params, work, 8) == (9.0, "")
    arms = len(selection_ablation.arms_of(params))
    assert arms >= 4
    chain = 12 / 6 + 30 / min(24, 6 * arms)  # six searches at once, then the arms
    assert 72 / 24 < chain
    assert least_hours(params, work, 24) == (pytest.approx(chain), "03_selection_ablation")


def test_the_command_tells_the_hours_on_so_many_gpus(capsys):
    main(["--profile", "micro", "--gpus", "2,64"])
    told = [line for line in capsys.readouterr().out.splitlines() if "at the least" in line]
    starts = ("On 2 x cpu, one process each: ", "On 64 x cpu, one process each: ")
    assert [line.startswith(start) for line, start in zip(told, starts, strict=True)] == [True] * 2


def test_numbers_of_gpus_are_checked(capsys):
    with pytest.raises(SystemExit):
        main(["--profile", "micro", "--gpus", "4,x"])
    assert "'4,x'; allowed: numbers above 0, such as 8,64" in capsys.readouterr().err
