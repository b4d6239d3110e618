"""Whichever file of a checkpoint's folder can't be opened, each command says so of that file, or does without it."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from fulgur_cli import MINI, command
from safetensors import safe_open

READ_BY_ALL = ["config.json", "generation_config.json", "hf_quant_config.json", "model.safetensors", "model.safetensors.index.json"]
TOKENIZERS = ["tokenizer.json", "tokenizer_config.json"]
NAMES = READ_BY_ALL + TOKENIZERS
COMMANDS = {
    "generate": (["x"], {"max_tokens": 1}, NAMES),
    "chat": ([], {}, NAMES),
    "eval": ([MINI / "eval" / "arithmetic.jsonl"], {"limit": 1}, NAMES),
    "logits": ([], {"tokens": "ids.json", "out": "out.safetensors"}, READ_BY_ALL),
    "bench": (["engine"], {"requests": 1, "rounds": 1, "speculate": 0}, READ_BY_ALL),
    "tokenize": (["x"], {}, TOKENIZERS),
    "inspect": (["model"], {}, NAMES),
    "convert": (["model", "converted"], {}, NAMES),
}
UNOPENABLE = {
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to too long a name": lambda path: path.symlink_to("a" * 300),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a pipe": os.mkfifo,
}


@pytest.fixture
def model(tmp_path, monkeypatch):
    """mini-v32 by links, in the folder `model` of the present one, which holds ids.json too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ids.json").write_text("[[1, 2, 3]]")
    folder = tmp_path / "model"
    folder.mkdir()
    for file in MINI.iterdir():
        if file.is_file():
            (folder / file.name).symlink_to(file)
    return folder


def run_on_model(name, prefix=()):
    arguments, options, _ = COMMANDS[name]
    where = {} if name in ("inspect", "convert") else {"model": "model"}
    line = [*prefix, *command(name, *arguments, **options, **where)]
    return subprocess.run(line, input="", capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("kind", UNOPENABLE)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_that_cannot_be_opened_is_named(name, kind, model):
    for file in NAMES:
        path = model / file
        kept = path.is_symlink() and path.readlink()
        path.unlink(missing_ok=True)
        UNOPENABLE[kind](path)
        result = run_on_model(name)
        if file in COMMANDS[name][2]:
            first, *rest = result.stderr.splitlines()
            assert result.returncode == 1 and first.count(file) >= 1 and first.endswith("."), result.stderr
            assert any(line.strip().startswith("expected") for line in rest) and "mistake" not in result.stderr
        else:
            assert result.returncode == 0, result.stderr
        path.unlink()
        if kept:
            path.symlink_to(kept)
    assert not Path("converted").exists()


# Root as a folder's owner whom its mode binds.
BOUND = [] if os.getuid() else ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_may_be_entered_and_not_listed_serves_where_an_index_lists_its_shards(name, model):
    with safe_open(model / "model.safetensors", "numpy") as file:
        shards = dict.fromkeys(file.keys(), "model.safetensors")
    index = model / "model.safetensors.index.json"
    for listed, refused in [(True, name == "convert"), (False, name != "tokenize")]:
        index.write_text(json.dumps({"metadata": {}, "weight_map": shards})) if listed else index.unlink()
        model.chmod(0o311)
        result = run_on_model(name, BOUND)
        model.chmod(0o755)
        if refused:
            first, *rest = result.stderr.splitlines()
            assert result.returncode == 1 and first.startswith("model: The checkpoint's folder can't be read."), result.stderr
            assert "may be listed" in rest[0] and not Path("converted").exists()
        else:
            assert result.returncode == 0, result.stderr
