"""Shared fixtures: the released micro model, and everything computed goes to a temporary folder."""

import os
import tempfile

# Each process of a parallel run has a folder of its own.
os.environ["DITS_OUTPUT"] = tempfile.mkdtemp(prefix="dits-test-")
# Beside other work, two threads spin, and their sums do not repeat to the last digit.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest  # noqa: E402

from dits_lib.agents import make_system  # noqa: E402
from dits_lib.engines import TransformersEngine  # noqa: E402
from dits_lib.influence.peers import PeerEstimator  # noqa: E402
from dits_lib.influence.registry import ESTIMATORS  # noqa: E402
from dits_lib.pairs import extract_pairs  # noqa: E402
from dits_lib.search import SearchSettings, tree_search  # noqa: E402
from dits_lib.settings import ROOT  # noqa: E402
from dits_lib.tasks import make_questions  # noqa: E402

MODEL = ROOT / "models" / "micro"
needs_bergson = pytest.mark.skipif(
    any(getattr(record, "missing", None) for record in ESTIMATORS.values()),
    reason="bergson is not installed; make test PEERS=1 installs it",
)
ESTIMATOR_NAMES = [
    pytest.param(name, marks=needs_bergson if isinstance(record, PeerEstimator) else ())
    for name, record in ESTIMATORS.items()
]
"""All estimators; those that need bergson are skipped where it is not installed."""
SYSTEMS = {task: make_system(task) for task in ("exchange", "debate")}


def pytest_collection_modifyitems(items):
    """Files that hold slow tests come first: a long one that started last would keep one process
    busy while the others have nothing left to do."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def engine():
    return TransformersEngine.load(MODEL, max_rows=64)


@pytest.fixture(scope="session")
def trees(engine):
    """Trees of twelve questions of each task."""
    config = SearchSettings(repetitions=4)
    return {
        t: tree_search(engine, s, make_questions(t, "train", 12, 0), config, 0)
        for t, s in SYSTEMS.items()
    }


@pytest.fixture(scope="session")
def pairs(engine, trees):
    return {t: extract_pairs(engine.tokenizer, SYSTEMS[t], trees[t], 0.4, 0.2) for t in trees}
