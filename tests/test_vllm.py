"""The vLLM engine against the transformers engine, on SmolLM2 and a CPU (`make test VLLM=1`)."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch

pytest.importorskip(
    "vllm", reason="vLLM is not installed; make test VLLM=1 installs it for the CPU"
)
pytestmark = [pytest.mark.vllm, pytest.mark.slow]
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from dits_lib.agents import make_system, prompt_and_prefix  # noqa: E402
from dits_lib.commands import convert_model  # noqa: E402
from dits_lib.engines import (  # noqa: E402
    LoRAStack,
    ModelError,
    Request,
    TransformersEngine,
    VLLMEngine,
    derive_seed,
)
from dits_lib.engines.vllm import stop  # noqa: E402
from dits_lib.influence import InfluenceSettings, fresh_stack  # noqa: E402
from dits_lib.influence.estimators.one_step import one_step_influence  # noqa: E402
from dits_lib.pairs import extract_pairs  # noqa: E402
from dits_lib.search import SearchSettings, tree_search  # noqa: E402
from dits_lib.settings import ROOT  # noqa: E402
from dits_lib.tasks import make_questions  # noqa: E402
from dits_lib.training import SFTSettings, train_sft  # noqa: E402

from .test_conformance import TOKENIZER, random_model  # noqa: E402

SYSTEM = make_system("exchange", "chat", max_turns=2, max_new_tokens=12)
SETTINGS = {
    "device": "cpu",
    "dtype": "float32",
    "max_adapters": 4,
    "max_rank": 32,
    "max_length": 1024,
    "eager": True,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """SmolLM2 from its PyPI package; the one in models/ if it is there."""
    out = ROOT / "models" / "smollm2"
    if not (out / "config.json").exists():
        out = tmp_path_factory.mktemp("smollm2")
        assert convert_model.main(["smollm2", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def served(folder):
    yield VLLMEngine(folder, **SETTINGS)
    stop()


@pytest.fixture(scope="module")
def plain(folder):
    return TransformersEngine.load(folder, max_rows=32)


def prompts(tokenizer, count):
    return [
        prompt_and_prefix(tokenizer, SYSTEM, q, (), SYSTEM.agents[i % 2])
        for i, q in enumerate(make_questions("exchange", "development", count, 0))
    ]


def requests_of(tokenizer, count, temperature=0.0, length=12, adapter=None):
    return [
        Request(p, derive_seed(i), length, temperature, adapter, n)
        for i, (p, n) in enumerate(prompts(tokenizer, count))
    ]


def random_stack(plain, seed, count=2, size=0.05):
    stack, generator = fresh_stack(plain, count, 8, 2.0, seed), torch.Generator().manual_seed(seed)
    return LoRAStack(
        {
            n: (a, size * torch.randn(b.shape, generator=generator))
            for n, (a, b) in stack.weights.items()
        },
        2.0,
    )


def forced(plain, rows, stack, index):
    scores = plain.teacher_forced(rows, stack, torch.full((len(rows),), index)).detach()
    return [row[: len(reply)].tolist() for row, (_, reply) in zip(scores, rows, strict=True)]


def farthest(a, b):
    return max(
        abs(x - y)
        for left, right in zip(a, b, strict=True)
        for x, y in zip(left, right, strict=True)
    )


def test_a_small_nucleus_is_greedy(served):
    hot = requests_of(served.tokenizer, 6, temperature=1.0)
    least = [replace(request, top_p=1e-6) for request in hot]
    texts = [[c.text for c in served.generate(asked)] for asked in (hot, least)]
    assert texts[1] == [c.text for c in served.generate(requests_of(served.tokenizer, 6))]
    assert texts[0] != texts[1]


def test_both_engines_give_the_same_greedy_text(served, plain):
    requests = requests_of(plain.tokenizer, 200)
    ours, theirs = plain.generate(requests), served.generate(requests)
    different = [
        i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a.token_ids != b.token_ids
    ]
    assert len(different) <= 10
    for i in different:  # the first difference must be a numeric tie of the two tokens
        a, b = ours[i].token_ids, theirs[i].token_ids
        at = next(k for k in range(min(len(a), len(b))) if a[k] != b[k])
        prompt = (*requests[i].prompt_ids, *a[:at])
        (first,), (second,) = plain.logprobs([(prompt, (a[at],)), (prompt, (b[at],))])
        assert abs(first - second) < 1e-3


def test_log_probabilities_agree(served, plain):
    requests = requests_of(plain.tokenizer, 6, temperature=1.0)
    sampled = served.generate(requests)
    rows = [(r.prompt_ids, c.token_ids) for r, c in zip(requests, sampled, strict=True)]
    expected = plain.logprobs(rows)
    assert farthest([c.logprobs for c in sampled], expected) < 1e-3
    assert farthest(served.logprobs(rows), expected) < 1e-3


def test_a_reply_does_not_depend_on_its_company(served, plain):
    requests = requests_of(plain.tokenizer, 6, temperature=1.0)
    together = served.generate(requests)
    assert [served.generate([r])[0].token_ids for r in requests[:3]] == [
        c.token_ids for c in together[:3]
    ]
    assert len({c.token_ids for c in together}) > 1


def test_adapters_share_a_batch_and_leave_the_base_alone(served, plain):
    requests = requests_of(plain.tokenizer, 4)
    rows = [
        (r.prompt_ids, c.token_ids) for r, c in zip(requests, plain.generate(requests), strict=True)
    ]
    stack, before = random_stack(plain, 1), served.logprobs(rows)
    mixed = served.logprobs([*rows, *rows, *rows], stack, [0] * 4 + [1] * 4 + [None] * 4)
    assert farthest(mixed[:4], forced(plain, rows, stack, 0)) < 1e-3
    assert farthest(mixed[4:8], forced(plain, rows, stack, 1)) < 1e-3
    assert farthest(mixed[:4], mixed[4:8]) > 0.05 and farthest(mixed[:4], before) > 0.05
    assert farthest(mixed[8:], before) < 1e-4 and farthest(served.logprobs(rows), before) < 1e-4


def test_a_new_stack_is_never_served_the_states_of_an_old_one(served, plain):
    """Prefix caching across adapters: the same prompts, under stack after stack, in the same
    places."""
    requests = requests_of(plain.tokenizer, 3)
    rows = [
        (r.prompt_ids, c.token_ids) for r, c in zip(requests, plain.generate(requests), strict=True)
    ]
    replies = []
    for seed in range(3, 6):
        stack = random_stack(plain, seed, count=1)
        replies.append(
            served.generate([Request(r.prompt_ids, r.seed, 8, 0.0, 0) for r in requests], stack)
        )
        sampled = [(r.prompt_ids, c.token_ids) for r, c in zip(requests, replies[-1], strict=True)]
        assert farthest([c.logprobs for c in replies[-1]], forced(plain, sampled, stack, 0)) < 1e-3
        assert farthest(served.logprobs(rows, stack, [0] * 3), forced(plain, rows, stack, 0)) < 1e-3
        del stack
    left = [file.name for file in served._files.iterdir()]
    assert left == [".lock"]  # the adapters' files went with their stacks


def test_a_chain_of_trained_adapters_is_served_as_one(folder, served, plain, tmp_path):
    requests = requests_of(plain.tokenizer, 3)
    rows = [
        (r.prompt_ids, c.token_ids) for r, c in zip(requests, plain.generate(requests), strict=True)
    ]
    learned = [{"prompt_ids": p, "reply_ids": r} for p, r in rows]
    config = SFTSettings(steps=2, batch=2, learning_rate=5e-3, lora_rank=4)
    train_sft(folder, learned, config, 0, tmp_path / "first")
    train_sft(tmp_path / "first", learned, config, 1, tmp_path / "second")
    expected = TransformersEngine.load(tmp_path / "second").logprobs(rows)
    policy = VLLMEngine(tmp_path / "second", **SETTINGS)
    assert policy._llm is served._llm  # no second start
    assert (
        farthest(policy.logprobs(rows), expected) < 1e-3
        and farthest(expected, served.logprobs(rows)) > 0.01
    )
    with pytest.raises(ModelError, match=r"rank 40 together; allowed: up to 32"):
        policy.logprobs(
            rows,
            LoRAStack(
                {
                    n: (torch.zeros(32, a.shape[1]), torch.zeros(1, b.shape[1], 32))
                    for n, (a, b) in fresh_stack(plain, 1, 1, 1.0, 0).weights.items()
                },
                1.0,
            ),
            [0] * 3,
        )


def test_search_and_scoring_through_vllm(served):
    questions = make_questions("exchange", "train", 2, 0)
    trees = tree_search(served, SYSTEM, questions, SearchSettings(repetitions=2, rollouts=2), 0)
    assert [len(tree.rewards) for tree in trees] == [4, 4]
    pairs = extract_pairs(served.tokenizer, SYSTEM, trees, -1.0, -1.0)[:3]
    assert pairs
    validation = make_questions("exchange", "validation", 3, 0)
    config = InfluenceSettings(rank=4, temperature=0.0)
    scores = one_step_influence(served, SYSTEM, pairs, validation, 0.0, config, 0)
    assert scores.per_question.shape == (len(pairs), 3) and np.all(scores.value == 0)
    moved = one_step_influence(served, SYSTEM, pairs, validation, 3.0, config, 0)
    assert moved.per_question.shape == (len(pairs), 3) and moved.cost["generated_tokens"] > 0


def test_a_prompt_that_is_too_long_gives_one_line(served):
    with pytest.raises(
        ModelError,
        match="take 1040 tokens, but the model reads 1024; raise model.max_length if the model",
    ):
        served.generate([Request(tuple(range(10, 1038)), 0, 12)])


def test_a_conversation_that_fails_leaves_no_request_behind(served, plain):
    requests = dict(enumerate(requests_of(plain.tokenizer, 6)))

    def reply(said):
        raise RuntimeError("what was said cannot be used")

    with pytest.raises(RuntimeError, match="cannot be used"):
        served.converse(requests, reply)
    assert not served._llm.llm_engine.has_unfinished_requests()
    assert served.generate([requests[0]])[0].token_ids == plain.generate([requests[0]])[0].token_ids


def test_one_process_serves_one_root_model(served):
    with pytest.raises(ModelError, match="one process serves one root model"):
        VLLMEngine(ROOT / "models" / "micro", **SETTINGS)


def test_notebooks_whose_stages_are_computed_ahead_through_vllm(tmp_path):
    """In a process of its own: the workers start vLLM once, the notebooks find every stage, and
    nothing is left running."""
    settings = [
        "tasks=[exchange]",
        "model.engine=vllm",
        "model.max_length=256",
        "model.max_adapters=4",
        "model.memory=0.1",
        "model.eager=true",
        "sft.lora_rank=8",
        "dpo.lora_rank=8",
    ]
    command = [
        sys.executable,
        "-m",
        "dits_lib.commands.reproduce",
        "--profile",
        "smoke",
        "--notebook",
        "01_rollout",
        "--notebook",
        "02_scoring",
    ]
    command += [part for setting in settings for part in ("--set", setting)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"DITS_OUTPUT": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "all stages are computed" in done.stdout and "2 of 2 notebooks run" in done.stdout
    assert not [
        p
        for p in psutil.process_iter(["environ"])
        if (p.info["environ"] or {}).get("DITS_OUTPUT") == str(tmp_path)
    ]


CONFORMS = """
import sys
from dits_lib.engines import ModelError, Request, VLLMEngine
from dits_lib.engines.vllm import stop

if __name__ == "__main__":
    try:
        engine = VLLMEngine(sys.argv[1], device="cpu", dtype="float32", max_adapters=2,
                            max_rank=8, max_length=512, memory=0.1, eager=True)
        with engine.learning() as learner:
            print("CONFORMS", type(learner.model).__name__)
    except ModelError as error:
        print("REFUSED", error)
    stop()
"""


@pytest.mark.long
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma2", "gemma3", "granite"])
def test_families_conform_through_vllm_too(family, tmp_path):
    """What vLLM samples from and scores is what transformers computes, for models with random
    weights; each in a process of its own, since a process serves one model."""
    model = random_model(family, hidden_size=128, head_dim=32, num_hidden_layers=2, std=0.1)
    model.save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    script = tmp_path / "conforms.py"
    script.write_text(CONFORMS)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "model")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    told = [line for line in done.stdout.splitlines() if line.startswith(("CONF", "REFUSED"))]
    assert len(told) == 1, done.stdout[-2000:] + done.stderr[-2000:]
    assert told[0].startswith("CONFORMS") or family not in ("llama", "qwen2", "qwen3"), told[0]
