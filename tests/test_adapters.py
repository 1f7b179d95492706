"""LoRA adapters that others trained with PEFT: read as PEFT reads them, or refused."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from dits_lib.engines import LORA_TARGETS, ModelError, load_model

from .test_conformance import TOKENIZER, random_model

IDS = torch.arange(1, 30)[None]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "base"
    random_model("llama").save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


def trained(base, folder, **options):
    """A PEFT adapter with random matrices, on disk, and the log probabilities of PEFT's model."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    chosen = {"r": 4, "lora_alpha": 6, "target_modules": list(LORA_TARGETS)} | options
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager"),
        LoraConfig(task_type="CAUSAL_LM", **chosen),
    )
    for name, parameter in model.named_parameters():
        if "lora_" in name and parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.eval().save_pretrained(folder)
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 8}},
        {"alpha_pattern": {"o_proj": 20}, "rank_pattern": {"o_proj": 3}},
        {"target_modules": ["q_proj"], "layers_to_transform": [1, 2]},
    ],
)
@torch.no_grad()
def test_an_adapter_says_what_peft_says(base, tmp_path, options):
    expected = trained(base, tmp_path, **options)
    model, _ = load_model(tmp_path)
    assert torch.allclose(model(IDS).logits, expected, atol=1e-4)
    plain, _ = load_model(base)
    assert not torch.allclose(plain(IDS).logits, expected, atol=1e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_dora": True}, "an adapter with use_dora True is not supported"),
        ({"modules_to_save": ["lm_head"]}, "an adapter with modules_to_save .*lm_head"),
        ({"bias": "lora_only"}, "an adapter with bias 'lora_only'"),
        ({"target_modules": ["q_proj", "lm_head"]}, "lm_head"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa' belongs to a changed base"),
    ],
)
def test_what_is_more_than_plain_lora_is_refused(base, tmp_path, options, message):
    trained(base, tmp_path, **options)
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path)


def test_an_adapter_of_another_model_is_refused(base, tmp_path):
    trained(base, tmp_path / "adapter")
    random_model("llama", hidden_size=64).save_pretrained(tmp_path / "wide")
    TOKENIZER.save_pretrained(tmp_path / "wide")
    rename(tmp_path / "adapter", str(tmp_path / "wide"))
    with pytest.raises(ModelError, match="is for a layer of 32 x 48, but the model's has 64 x 48"):
        load_model(tmp_path / "adapter")


def rename(folder, base):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": base}))


@pytest.mark.parametrize("text", ["[]", "{", '{"base_model_name_or_path": null}', "\udcff"])
def test_a_damaged_configuration_is_one_line(tmp_path, text):
    (tmp_path / "adapter_config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ModelError, match=r"adapter_config.json: [^\n]*$"):
        load_model(tmp_path)


def test_numbers_that_are_not_finite_and_rings_are_refused(base, tmp_path):
    trained(base, tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors[min(tensors)][0, 0] = float("inf")
    save_file(tensors, file)
    with pytest.raises(ModelError, match="holds numbers that are not finite"):
        load_model(tmp_path)
    rename(tmp_path, str(tmp_path))
    with pytest.raises(ModelError, match="an adapter of itself"):
        load_model(tmp_path)


def test_peft_reads_what_is_written(base, tmp_path):
    """An adapter of ranks that differ, written as one of scaling 1."""
    from transformers import AutoModelForCausalLM

    from dits_lib.engines import read_deltas, write_deltas

    expected = trained(base, tmp_path / "theirs", rank_pattern={"q_proj": 2})
    write_deltas(tmp_path / "ours", read_deltas(tmp_path / "theirs"), str(base))
    plain = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    model = PeftModel.from_pretrained(plain, tmp_path / "ours").eval()
    with torch.no_grad():
        assert torch.allclose(model(IDS).logits, expected, atol=1e-4)
