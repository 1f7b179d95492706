"""Models of many families, with random weights: what the engine computes is what they compute, or
they are refused."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import nn

from dits_lib.engines import ModelError, Request, TransformersEngine, derive_seed
from dits_lib.engines.architecture import check_architecture, check_config, check_finite, longest_of
from dits_lib.engines.conformance import check_agreement, check_conformance
from dits_lib.influence import DPOLoss
from dits_lib.influence.gradients import dpo_gradients
from dits_lib.pairs import Pair

from .scripted import byte_tokenizer

TOKENIZER = byte_tokenizer()
SIZES = {
    "vocab_size": len(TOKENIZER),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": TOKENIZER.eos_token_id,
}
WINDOW = {"sliding_window": 16}
FAMILIES = {
    "llama": ("Llama", {}),
    "qwen2": ("Qwen2", {}),
    "qwen2-window": ("Qwen2", WINDOW | {"use_sliding_window": True, "max_window_layers": 2}),
    "qwen3": ("Qwen3", {}),
    "gemma2": ("Gemma2", WINDOW | {"query_pre_attn_scalar": 8, "final_logit_softcapping": 5.0}),
    "gemma3": ("Gemma3Text", WINDOW | {"query_pre_attn_scalar": 8}),
    "granite": ("Granite", {"logits_scaling": 8.0}),
    "cohere": ("Cohere", {"logit_scale": 0.0625, "tie_word_embeddings": False}),
    "mistral": ("Mistral", WINDOW),
}
_CLASSES = {"Gemma3Text": "Gemma3ForCausalLM"}


def random_model(family: str, std: float = 0.3, **changes):
    """A model of a family, with weights large enough that its attention matters."""
    name, own = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(**SIZES | own | changes)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = getattr(transformers, _CLASSES.get(name, f"{name}ForCausalLM"))(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=std)
    return model.eval()


@pytest.fixture(scope="module", params=FAMILIES)
def engine(request):
    return TransformersEngine(random_model(request.param), TOKENIZER)


def conversation(tokens: int) -> tuple[int, ...]:
    return tuple(derive_seed("word", i) % 200 for i in range(tokens))


def own_logprobs(model, prompt, reply) -> list[float]:
    logits = model(torch.tensor([[*prompt, *reply]]), use_cache=False).logits[0].float()
    scores = logits[len(prompt) - 1 : -1].log_softmax(1)
    return scores.gather(1, torch.tensor(reply)[:, None])[:, 0].tolist()


@torch.no_grad()
def test_replies_are_sampled_from_the_models_own_forward_pass(engine):
    prompts = [conversation(71), conversation(23)]
    requests = [Request(p, derive_seed(i), 9, prefix=20) for i, p in enumerate(prompts)]
    for prompt, reply in zip(prompts, engine.generate(requests), strict=True):
        expected = own_logprobs(engine.model, prompt, reply.token_ids)
        assert list(reply.logprobs) == pytest.approx(expected, abs=2e-4)


@torch.no_grad()
def test_scores_are_the_models_own(engine):
    rows = [(conversation(71), (5, 9, 3)), (conversation(23), (8, 2, 4, 7, 1))]
    for (prompt, reply), found in zip(rows, engine.logprobs(rows), strict=True):
        assert found == pytest.approx(own_logprobs(engine.model, prompt, reply), abs=2e-4)


def test_an_influence_gradient_is_that_of_the_models_own_loss(engine):
    """At B = 0 the DPO loss has the gradient -beta / 2 * (grad log pi(chosen) - ...)."""
    pair = Pair("q/0", "q", 0, conversation(40), (5, 9, 3), (8, 2), "", "", 1.0, 0.0)
    stack = dpo_gradients(engine, [pair], loss=DPOLoss(0.3, 0.0), rank=4, scaling=2.0, seed=1)
    name = next(iter(stack.weights))
    a, b = stack.weights[name]
    model = copy.deepcopy(engine.model)
    weight = model.get_submodule(name).weight
    weight.requires_grad_(True)
    margin = 0.0
    for reply, sign in ((pair.chosen_ids, 1), (pair.rejected_ids, -1)):
        ids = torch.tensor([[*pair.prompt_ids, *reply]])
        logits = model(ids, use_cache=False).logits[0, len(pair.prompt_ids) - 1 : -1]
        margin += sign * logits.log_softmax(1).gather(1, torch.tensor(reply)[:, None]).sum()
    (gradient,) = torch.autograd.grad(
        -torch.nn.functional.logsigmoid(0.3 * (margin - margin.detach())), [weight]
    )  # noqa: E501
    assert torch.allclose(b[0], 2.0 * gradient @ a.T, rtol=1e-3, atol=1e-5)


def test_the_family_conforms(engine):
    before = engine.snapshot()
    check_conformance(engine, "model")
    assert engine.usage == before  # a check is not charged to the run


@pytest.mark.parametrize("wrong", ["scaled output", "one mask for all layers"])
def test_an_engine_that_is_wrong_is_found(wrong):
    """The two faults that the check was made for, put back."""
    engine = TransformersEngine(random_model("gemma3"), TOKENIZER)
    if wrong == "scaled output":
        scores = engine.logprobs
        engine.logprobs = lambda rows: [[s / 8 for s in row] for row in scores(rows)]
    else:
        engine._plain_mask = True
    with pytest.raises(ModelError, match="Gemma3ForCausalLM is not supported: what it s"):
        check_conformance(engine, "models/wrong")


def test_nan_never_conforms():
    model = random_model("llama")
    model.model.norm.weight.data[3] = math.nan
    engine = TransformersEngine(model, TOKENIZER)
    with pytest.raises(ModelError, match="not finite|nan nats"):
        check_conformance(engine, "models/nan")
    with pytest.raises(ModelError, match=r"weight model.norm.weight holds numbers that are not"):
        check_finite(model, "models/nan")
    with pytest.raises(ModelError, match="log probabilities that are not finite"):
        engine.generate([Request((1, 2, 3), 0, 4)])


def test_two_engines_that_differ_or_give_no_number_do_not_agree():
    check_agreement("m", [[-1.0], [-2.0, -3.0]], [[-1.3], [-2.0, -3.4]])
    for found in ([[-1.3], [-2.0, -4.5]], [[-1.0], [-2.0, math.nan]]):
        with pytest.raises(ModelError, match="m: vLLM differs by"):
            check_agreement("m", [[-1.0], [-2.0, -3.0]], found)


def small(name: str, **changes):
    return getattr(transformers, name)(**SIZES | changes)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: small("Phi3Config"), "do not reach .*qkv_proj"),
        (lambda: small("MixtralConfig", num_local_experts=2), "do not reach .*experts"),
        (lambda: transformers.GPT2Config(n_layer=1, n_embd=32, n_head=2), "keeps its layers"),
    ],
)
def test_models_whose_layers_adapters_do_not_reach_are_refused(config, message):
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config())
    with pytest.raises(ModelError, match=message):
        check_architecture(model, "models/other")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: transformers.Gemma3Config(), "Gemma3Config reads more than text"),
        (lambda: transformers.LlavaConfig(), "reads more than text"),
        (lambda: transformers.T5Config(), "an encoder-decoder"),
        (
            lambda: small("LlamaConfig", quantization_config={"quant_method": "awq"}),
            "weights are quantised",
        ),
        (
            lambda: small("Qwen3NextConfig", layer_types=["linear_attention"] * 4),
            "layers of linear_attention",
        ),
    ],
)
def test_other_kinds_of_models_are_refused(config, message):
    with pytest.raises(ModelError, match=message):
        check_config(config(), "models/other")


def test_a_prompt_longer_than_the_model_reads_is_refused():
    engine = TransformersEngine(random_model("llama", max_position_embeddings=64), TOKENIZER)
    assert engine.generate([Request(conversation(60), 1, 4)])
    with pytest.raises(ModelError, match="take 65 tokens, but the model reads 64"):
        engine.generate([Request(conversation(61), 1, 4)])


def test_a_scaled_rope_reads_more():
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    assert longest_of(small("LlamaConfig")) == 2048
    assert longest_of(small("LlamaConfig", rope_parameters=yarn | {"rope_theta": 1e4})) == 2048
    unnamed = yarn | {"rope_theta": 1e4, "original_max_position_embeddings": None}
    assert longest_of(SimpleNamespace(max_position_embeddings=512, rope_parameters=unnamed)) == 2048
    four = yarn | {"rope_theta": 1e4, "original_max_position_embeddings": 2048}
    assert longest_of(small("LlamaConfig", rope_parameters=four)) == 8192


def test_a_token_for_padding_that_the_model_was_never_given_is_no_matter(tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    assert tokenizer.pad_token_id == SIZES["vocab_size"]  # one beyond the embeddings
    random_model("llama").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    engine = TransformersEngine.load(tmp_path)
    assert engine.tokenizer.pad_token_id == tokenizer.eos_token_id
    replies = engine.generate([Request(conversation(n), 1, 4) for n in (9, 30)])
    for n, reply in zip((9, 30), replies, strict=True):
        expected = own_logprobs(engine.model, conversation(n), reply.token_ids)
        assert list(reply.logprobs) == pytest.approx(expected, abs=2e-4)


def test_a_template_that_writes_a_token_beyond_the_model_is_refused(tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|new|>"]})
    tokenizer.chat_template = "<|new|>" + tokenizer.chat_template
    random_model("llama").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"'<\|new\|>', token 258, .*allowed: tokens below 258"):
        TransformersEngine.load(tmp_path)
