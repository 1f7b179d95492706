"""The transformers engine against plain transformers calls."""

import copy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dits_lib.agents import prompt_and_prefix
from dits_lib.engines import (
    LoRAStack,
    ModelError,
    Request,
    TransformersEngine,
    derive_seed,
    gumbel,
    load_model,
)
from dits_lib.engines.noise import gumbel_of_bits, nucleus
from dits_lib.engines.vllm import adapter_folder
from dits_lib.influence import fresh_stack
from dits_lib.rollout import sample_dialogues
from dits_lib.tasks import make_questions

from .conftest import MODEL, ROOT, SYSTEMS


@pytest.fixture(scope="module")
def prompts(engine):
    rows = []
    for task, system in SYSTEMS.items():
        for question in make_questions(task, "development", 12, 0):
            agent = system.agents[0]
            rows.append(prompt_and_prefix(engine.tokenizer, system, question, (), agent))
    return rows


def requests_of(prompts, adapter=None, temperature=1.0):
    return [
        Request(p, derive_seed(i), 12, temperature, adapter, n) for i, (p, n) in enumerate(prompts)
    ]


def random_stack(engine, count, seed=0, size=0.3):
    stack = fresh_stack(engine, count, 4, 2.0, seed)
    generator = torch.Generator().manual_seed(seed)
    return LoRAStack(
        {
            n: (a, size * torch.randn(b.shape, generator=generator))
            for n, (a, b) in stack.weights.items()
        },
        stack.scaling,
    )


def merged(stack, index):
    """The model with adapter `index` merged into its weights."""
    model, _ = load_model(MODEL)
    modules = dict(model.named_modules())
    for name, (a, b) in stack.weights.items():
        a = a if a.dim() == 2 else a[index]
        modules[name].weight.data += stack.scaling * b[index] @ a
    return model


def test_greedy_equals_transformers_generate(engine, prompts):
    for (prompt, _), ours in zip(
        prompts, engine.generate(requests_of(prompts, temperature=0.0)), strict=True
    ):
        theirs = engine.model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[
            0, len(prompt) :
        ].tolist()
        assert list(ours.token_ids) == theirs


def test_a_reply_does_not_depend_on_its_batch(engine, prompts):
    together = engine.generate(requests_of(prompts))
    alone = [engine.generate([request])[0] for request in requests_of(prompts)]
    assert [c.token_ids for c in together] == [c.token_ids for c in alone]
    backwards = engine.generate(requests_of(prompts)[::-1])[::-1]
    assert [c.token_ids for c in backwards] == [c.token_ids for c in together]


def test_the_prefix_store_changes_nothing(engine, prompts):
    without = [
        Request(r.prompt_ids, r.seed, r.max_new_tokens, r.temperature) for r in requests_of(prompts)
    ]
    fresh = TransformersEngine.load(MODEL, max_rows=5, prefill_rows=3, prefix_tokens=200)
    expected = [c.token_ids for c in engine.generate(without)]
    assert [c.token_ids for c in fresh.generate(requests_of(prompts))] == expected
    assert [c.token_ids for c in fresh.generate(requests_of(prompts))] == expected


def test_log_probabilities_are_those_of_an_unpadded_forward(engine, prompts):
    replies = engine.generate(requests_of(prompts))
    rows = [(p, c.token_ids) for (p, _), c in zip(prompts, replies, strict=True)]
    for (prompt, reply), scores, sampled in zip(rows, engine.logprobs(rows), replies, strict=True):
        with torch.no_grad():
            logits = engine.model(torch.tensor([[*prompt, *reply]])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(1).gather(1, torch.tensor(reply)[:, None])[:, 0].tolist()
        assert scores == pytest.approx(expected, abs=1e-4)
        assert list(sampled.logprobs) == pytest.approx(expected, abs=1e-4)


def test_log_probabilities_are_computed_in_parts_that_bound_the_logits(
    engine, prompts, monkeypatch
):
    """With a large vocabulary the logits of all replies would fill a GPU."""
    rows = [(prompt, tuple(range(3, 3 + n % 5 + 1))) for n, (prompt, _) in enumerate(prompts)]
    whole, sizes, forced = engine.logprobs(rows), [], engine.teacher_forced
    vocabulary = engine.model.config.vocab_size
    monkeypatch.setattr("dits_lib.engines.transformers.MOST_LOGITS", 3 * 5 * vocabulary)
    monkeypatch.setattr(
        engine, "teacher_forced", lambda part: (sizes.append(len(part)), forced(part))[1]
    )
    parts = engine.logprobs(rows)
    assert max(sizes) == 3 and sum(sizes) == len(rows) and engine.logprobs([]) == []
    for found, expected in zip(parts, whole, strict=True):
        assert found == pytest.approx(expected, abs=1e-5)


def test_sampling_follows_the_softmax(engine, prompts):
    prompt = prompts[0][0]
    replies = engine.generate([Request(prompt, derive_seed("many", i), 1) for i in range(4000)])
    counts = (
        np.bincount([c.token_ids[0] for c in replies], minlength=engine.model.config.vocab_size)
        / 4000
    )
    with torch.no_grad():
        expected = engine.model(torch.tensor([prompt])).logits[0, -1].softmax(0).numpy()
    assert np.abs(counts - expected).max() < 0.035  # four standard errors of a share near one half


def nucleus_of(probabilities, top_p):
    """The nucleus by trial: the fewest of the most likely tokens that reach the sum."""
    order = sorted(range(len(probabilities)), key=lambda i: (-probabilities[i], i))
    for count in range(1, len(order) + 1):
        if sum(probabilities[i] for i in order[:count]) >= top_p:
            return set(order[:count])
    return set(order)


def test_the_nucleus_is_the_fewest_tokens_that_reach_the_sum():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(40, 12, generator=generator, dtype=torch.float64)
    logits[7] = 0.0  # all alike: by index
    for top_p in (1e-9, 0.1, 0.5, 0.9, 0.999):
        cut = nucleus(logits, torch.full((40, 1), top_p, dtype=torch.float64))
        for row, before, after in zip(logits.softmax(1).tolist(), logits, cut, strict=True):
            kept = nucleus_of(row, top_p)
            assert set(after.isfinite().nonzero()[:, 0].tolist()) == kept
            assert torch.equal(after[sorted(kept)], before[sorted(kept)])
    both = torch.tensor([[1.0]] * 20 + [[0.5]] * 20)
    assert torch.equal(nucleus(logits, both)[:20], logits[:20])
    assert not nucleus(logits, both)[20:].isfinite().all()


def test_sampling_keeps_to_the_nucleus(engine, prompts):
    prompt, top_p, heat = prompts[0][0], 0.8, 1.5
    asked = [Request(prompt, derive_seed("many", i), 1, heat, top_p=top_p) for i in range(4000)]
    said = [reply.token_ids[0] for reply in engine.generate(asked)]
    with torch.no_grad():
        expected = (engine.model(torch.tensor([prompt])).logits[0, -1] / heat).softmax(0)
    kept = sorted(nucleus_of(expected.tolist(), top_p))
    assert set(said) <= set(kept) and 1 < len(kept) < len(expected)
    counts = np.bincount(said, minlength=len(expected))[kept] / 4000
    renormed = expected[kept] / expected[kept].sum()
    assert np.abs(counts - renormed.numpy()).max() < 0.035


def test_a_top_p_of_one_changes_nothing(engine, prompts):
    """Also beside requests that are cut; greedy replies are never changed."""
    plain = requests_of(prompts)
    cut = [replace(request, top_p=0.3) for request in plain]
    alone = [reply.token_ids for reply in engine.generate(plain)]
    mixed = [reply.token_ids for reply in engine.generate([*plain, *cut])]
    assert mixed[: len(plain)] == alone != mixed[len(plain) :]
    greedy = [replace(request, temperature=0.0) for request in plain]
    least = [replace(request, top_p=1e-9) for request in plain]
    expected = engine.generate(greedy)
    assert engine.generate([replace(g, top_p=0.5) for g in greedy]) == expected
    assert engine.generate(least) == expected


def test_gumbel_noise_is_a_function_of_seed_and_position():
    seeds = torch.tensor([1, 2, 3])
    assert torch.equal(gumbel(seeds, 5, 50)[1], gumbel(seeds[1:2], 5, 50)[0])
    assert not torch.equal(gumbel(seeds, 5, 50), gumbel(seeds, 6, 50))
    many = gumbel(torch.arange(2000), 0, 50)
    assert float(many.mean()) == pytest.approx(0.5772, abs=0.02) and float(
        many.var()
    ) == pytest.approx(np.pi**2 / 6, abs=0.06)


def test_noise_is_finite_at_both_ends():
    assert torch.isfinite(gumbel_of_bits(torch.tensor([0, 1, (1 << 23) - 1]))).all()


def test_stacked_adapters_equal_merged_weights(engine, prompts):
    stack = random_stack(engine, 3)
    for index in range(3):
        other = TransformersEngine(merged(stack, index), engine.tokenizer)
        ours, theirs = (
            engine.generate(requests_of(prompts, index), stack),
            other.generate(requests_of(prompts)),
        )
        assert [c.token_ids for c in ours] == [c.token_ids for c in theirs]
        for a, b in zip(ours, theirs, strict=True):
            assert a.logprobs == pytest.approx(b.logprobs, abs=2e-3)


def test_adapters_that_own_their_a_equal_merged_weights(engine, prompts):
    stack = random_stack(engine, 2)
    own = {n: (torch.stack([a, a.flip(0)]), b) for n, (a, b) in stack.weights.items()}
    stack = LoRAStack(own, stack.scaling)
    other = TransformersEngine(merged(stack, 1), engine.tokenizer)
    assert [c.token_ids for c in engine.generate(requests_of(prompts, 1), stack)] == [
        c.token_ids for c in other.generate(requests_of(prompts))
    ]


def test_many_adapters_share_a_batch_and_leave_the_base_alone(engine, prompts):
    stack = random_stack(engine, 3)
    mixed = [
        requests_of(prompts, index)[i]
        for i, index in zip(range(len(prompts)), [0, 1, 2, None] * 6, strict=True)
    ]
    together = [c.token_ids for c in engine.generate(mixed, stack)]
    for i, request in enumerate(mixed):
        assert together[i] == engine.generate([request], stack)[0].token_ids
    base = [c.token_ids for c in engine.generate(requests_of(prompts))]
    assert [together[i] for i in range(3, 24, 4)] == base[3::4]
    assert together != base


def test_a_new_stack_is_not_served_old_prefix_states(engine, prompts):
    first, second = random_stack(engine, 1, seed=1), random_stack(engine, 1, seed=2)
    engine.generate(requests_of(prompts, 0), first)
    after = engine.generate(requests_of(prompts, 0), second)
    fresh = TransformersEngine.load(MODEL).generate(requests_of(prompts, 0), second)
    assert [c.token_ids for c in after] == [c.token_ids for c in fresh]
    assert [c.logprobs for c in after] != [
        c.logprobs for c in engine.generate(requests_of(prompts, 0), first)
    ]


def test_usage_counts_tokens(engine, prompts):
    before = engine.snapshot()
    replies = engine.generate(requests_of(prompts))
    used = engine.usage.minus(before)
    assert used["requests"] == len(prompts) and used["generated_tokens"] == sum(
        len(c.token_ids) for c in replies
    )
    assert used["prompt_tokens"] == sum(len(p) for p, _ in prompts)


def test_equal_seeds_give_equal_dialogues(engine):
    questions = make_questions("debate", "development", 6, 0)
    one, two = (sample_dialogues(engine, SYSTEMS["debate"], questions, seed) for seed in (1, 1))
    assert one == two != sample_dialogues(engine, SYSTEMS["debate"], questions, 2)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("none", "no such model folder"),
        ("empty", "no config.json"),
        ("weights", "no weights"),
        ("tokenizer", "no a tokenizer"),
        ("garbage", "cannot load it"),
    ],
)
def test_a_bad_model_folder_is_named(tmp_path, broken, message):
    import shutil

    folder = tmp_path / "model"
    if broken != "none":
        shutil.copytree(MODEL, folder)
    removed = {"empty": "*", "weights": "*.safetensors", "tokenizer": "tokenizer*"}.get(broken)
    for file in list(folder.glob(removed)) if removed else []:
        file.unlink()
    if broken == "garbage":
        (folder / "config.json").write_text("{")
    with pytest.raises(ModelError) as error:
        load_model(str(folder))
    assert (
        str(folder) in str(error.value)
        and message in str(error.value)
        and "\n" not in str(error.value)
    )


def test_a_tokenizer_without_chat_template_is_named(tmp_path, engine):
    engine.model.save_pretrained(tmp_path)
    tokenizer = copy.deepcopy(engine.tokenizer)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no chat template"):
        load_model(tmp_path)


def test_adapters_work_on_bfloat16_weights(engine, prompts):
    """float32 adapters on bfloat16 weights: gradients and replies; the numbers agree with float32
    to bfloat16's precision."""
    half = TransformersEngine.load(MODEL, dtype="bfloat16")
    assert engine.exact and not half.exact
    stack = random_stack(engine, 2, size=0.1)
    rows = [(prompt, (5, 6, 7)) for prompt, _ in prompts[:4]]
    index = torch.tensor([0, 1, 0, 1])
    expected, found = (
        engine.teacher_forced(rows, stack, index),
        half.teacher_forced(rows, stack, index),
    )
    assert (
        found.dtype == torch.float32
        and torch.allclose(found, expected, atol=0.3)
        and not torch.equal(found, expected)
    )
    assert len(half.generate(requests_of(prompts[:4], adapter=1), stack)) == 4


def test_a_released_engine_gives_its_weights_up(prompts):
    released = TransformersEngine.load(MODEL)
    released.generate(requests_of(prompts[:2]))
    with released.learning() as learner:
        learner.release()
    assert all(p.is_meta for p in released.model.parameters()) and not released.prefixes.row_of


def test_every_end_of_turn_token_ends_a_reply(engine, prompts):
    import copy as copies

    model = copies.copy(engine.model)
    model.generation_config = copies.deepcopy(engine.model.generation_config)
    first = engine.generate(requests_of(prompts[:1]))[0].token_ids[0]
    model.generation_config.eos_token_id = [engine.tokenizer.eos_token_id, first]
    stopped = TransformersEngine(model, engine.tokenizer).generate(requests_of(prompts[:1]))[0]
    assert stopped.token_ids == (first,)


def test_adapters_that_killed_processes_left_in_memory_are_removed(tmp_path):
    """A lock goes with the process that holds it; one that is held says that its folder is in
    use."""
    code = (
        "import os, sys, pathlib; from dits_lib.engines.vllm import adapter_folder; "
        "folder, lock = adapter_folder(pathlib.Path(sys.argv[1])); (folder / 'a').write_text('x'); "
        "print(folder, flush=True); os._exit(9)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    left = Path(killed.stdout.strip())
    assert killed.returncode == 9 and (left / "a").is_file()
    own, lock = adapter_folder(tmp_path)
    other, other_lock = adapter_folder(tmp_path)
    assert not left.exists() and own.is_dir() and other.is_dir() and own != other
    for held in (lock, other_lock):
        held.release()
