"""What is exported can be sent to the hub: a stand-in holds it byte for byte, and what keeps it
from being sent is told in one line, before anything is computed."""

import json
import os
import subprocess
import sys

import pytest
import torch

from dits_lib.commands.export import NOTEBOOK, main
from dits_lib.engines.adapters import write_deltas
from dits_lib.settings import ROOT
from dits_lib.suite import export
from dits_lib.suite.params import load_params
from tests.stand_in_hub import TOKEN, files_of, reach, stand_in_hub

MODEL, PAIRS = ("model", "me/debater"), ("dataset", "me/debater-pairs")
CHOICE = ("--profile", "smoke", "--task", "debate", "--arm", "full")


@pytest.fixture
def hub():
    with stand_in_hub() as found:
        yield found


@pytest.fixture
def exported(tmp_path):
    """An export as the command leaves it, of an adapter that nobody trained."""
    folder = tmp_path / "exported"
    small = {"model.layers.0.self_attn.q_proj": (torch.ones(2, 300), torch.ones(300, 2))}
    write_deltas(folder / "model", small, "models/micro")
    export._card(folder / "model", {"library_name": "peft"}, "A policy", ["a fact"])
    export.write_pairs(folder / "pairs", [{"prompt": "größer?", "chosen": "a", "rejected": "b"}])
    export._card(folder / "pairs", {"task_categories": ["x"]}, "Pairs", ["a fact"])
    of = export._choices(load_params("smoke").serving(NOTEBOOK), "debate", "full", 0, False)
    told = {"pairs": 1, "selected": 1, "exact": 1, "adapter": True}
    (folder / export.RECORD).write_text(json.dumps({"of": of, "told": told}))
    return folder


def run(to, push, tmp_path, address):
    """The command in a process of its own, which reads where the hub is when it starts."""
    own = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    kept = {key: v for key, v in os.environ.items() if not key.startswith(("HF_", "HUGGING_FACE"))}
    return subprocess.run(
        [sys.executable, "-m", "dits_lib.commands.export", *CHOICE, "--to", to, "--push", push],
        cwd=ROOT,
        env=kept | own | {"HF_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        timeout=120,
    )


def sent(hub, repository):
    """{path: content} of a repository, but for what the hub puts there itself."""
    return {k: v for k, v in hub.repositories[repository].items() if k != ".gitattributes"}


def test_the_hub_holds_what_was_exported_byte_for_byte(hub, exported, tmp_path):
    done = run(exported, "me/debater", tmp_path, hub.address)
    assert done.returncode == 0, done.stderr
    assert sent(hub, MODEL) == files_of(exported / "model")
    assert sent(hub, PAIRS) == files_of(exported / "pairs")
    assert set(hub.repositories) == {MODEL, PAIRS} and all(hub.private.values())
    adapter = (exported / "model" / "adapter_model.safetensors").read_bytes()
    assert list(hub.large.values()) == [adapter]
    last = done.stdout.splitlines()[-1]
    links = (f"{hub.address}/me/debater", f"{hub.address}/datasets/me/debater-pairs")
    assert last == f"sent to {' and '.join(links)} (what is new there is private)"
    model, pairs = ((exported / part / "README.md").read_text() for part in ("model", "pairs"))
    assert f"- on the hub: its pairs are [me/debater-pairs]({links[1]})\n" in model
    assert "datasets:\n- me/debater-pairs\n" in model and "a fact" in model
    assert f"- on the hub: their model is [me/debater]({links[0]})\n" in pairs
    assert "export.json" not in str(hub.repositories)

    # Sent once more, nothing changes, here or there; sent elsewhere, the cards link that.
    before = files_of(exported)
    assert run(exported, "me/debater", tmp_path, hub.address).returncode == 0
    assert files_of(exported) == before and sent(hub, MODEL) == files_of(exported / "model")
    assert sum("/commit/" in path for _, path in hub.asked) == 2
    assert run(exported, "us/other", tmp_path, hub.address).returncode == 0
    model = (exported / "model" / "README.md").read_text()
    assert "debater" not in model and model.count("us/other-pairs](") == 1
    assert sent(hub, ("model", "us/other")) == files_of(exported / "model")


@pytest.mark.parametrize("refused", ["/storage/", "/datasets/me/debater-pairs/commit/"])
def test_an_upload_that_breaks_is_sent_by_the_same_command(hub, exported, tmp_path, refused):
    hub.refused = refused
    before = files_of(exported / "pairs")["train.jsonl"]
    done = run(exported, "me/debater", tmp_path, hub.address)
    *_, told = done.stderr.splitlines()
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert told.startswith("PUSH=me/debater: me/debater") and "the storage is full" in told
    assert f"{exported} holds the export; the same command sends it" in told
    assert files_of(exported / "pairs")["train.jsonl"] == before
    hub.refused = ""
    assert run(exported, "me/debater", tmp_path, hub.address).returncode == 0
    assert sent(hub, MODEL) == files_of(exported / "model")
    assert sent(hub, PAIRS) == files_of(exported / "pairs")


@pytest.fixture
def told(hub, monkeypatch, tmp_path, capsys):
    """Runs the command here, for the one line that it ends with."""
    reach(hub.address, monkeypatch, tmp_path)

    def run_here(to, push="me/debater", *more):
        assert main([*CHOICE, "--to", str(to), "--push", push, *more]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        return lines[0]

    return run_here


def test_files_of_another_export_are_neither_mixed_with_it_nor_deleted(hub, exported, told):
    there = {"model.safetensors": b"whole weights"}
    hub.repositories[MODEL] = dict(there)
    assert "me/debater holds other files on the hub (model.safetensors); name" in told(exported)
    assert hub.repositories[MODEL] == there


@pytest.mark.parametrize(
    "change", [("--arm", "sft"), ("--seed", "1"), ("--merged",), ("--set", "dpo.beta=0.3")]
)
def test_a_folder_with_another_export_is_not_sent(hub, exported, told, change):
    line = told(exported, "me/debater", *change)
    assert line == f"{exported}: not an empty folder, nor the export to be sent; name a new one"
    (exported / export.RECORD).write_text("[]")
    assert told(exported) == line
    assert not hub.asked


@pytest.mark.parametrize(
    ("push", "environment", "reason"),
    [
        ("debater", {}, "no name of a repository; allowed: owner/name"),
        ("me/debater/x", {}, "no name of a repository; allowed: owner/name"),
        ("me/a debater", {}, "no name of a repository; allowed: owner/name"),
        ("", {}, "no name of a repository; allowed: owner/name"),
        ("me/" + 91 * "x", {}, "the name of 90 characters at most"),
        ("me/debater", {"HF_TOKEN": ""}, "no token of the hub; allowed: a token that may write"),
        ("me/debater", {"HF_TOKEN": "hf_other"}, "(Invalid user token."),
        ("you/debater", {}, "allowed owners: me, us"),
        ("me/debater", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set; unset it"),
        ("me/debater", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached at http://127.0"),
        ("me/debater", {"HF_ENDPOINT": "nowhere"}, "cannot be reached at nowhere"),
    ],
)
def test_what_keeps_it_from_being_sent_is_told_first(
    hub, told, tmp_path, monkeypatch, push, environment, reason
):
    if "HF_ENDPOINT" in environment:
        reach(environment["HF_ENDPOINT"], monkeypatch, tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    line = told(tmp_path / "new", push)
    assert line.startswith(f"PUSH={push}: ") and reason in line
    assert not hub.repositories and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("role", "refused", "reason"),
    [("read", "", "the token may only read; allowed: "), ("write", "whoami", "does not say whose")],
)
def test_a_hub_that_would_refuse_is_told_first(hub, told, tmp_path, role, refused, reason):
    hub.role, hub.refused = role, refused
    assert reason in told(tmp_path / "new")
    assert not hub.repositories and not (tmp_path / "new").exists()


@pytest.mark.parametrize("push", ["", "me/debater"])
def test_make_hands_on_where_to_send_it(push):
    told = subprocess.run(
        ["make", "-n", "export", "ARM=full", "TO=x", f"PUSH={push}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert ('--push "me/debater"' in told) == bool(push)
