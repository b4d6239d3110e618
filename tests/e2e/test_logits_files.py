"""The files of `fulgur logits`: what it reads with --inject-topk, and that OUT comes whole or not at all."""

import json
import os
import shlex
import signal
import subprocess
import time

import numpy as np
import pytest
from fulgur_cli import MINI, command, run
from safetensors.numpy import load_file, save_file

LONG = 300  # tokens: more than mini-v32's index_topk
LAYERS = range(json.loads((MINI / "config.json").read_text())["num_hidden_layers"])


@pytest.fixture
def ids(tmp_path):
    (tmp_path / "ids.json").write_text(json.dumps([[0] + [(37 * i) % 1000 + 20 for i in range(LONG - 1)]]))
    return tmp_path / "ids.json"


def left_in(folder):
    return sorted(entry.name for entry in folder.iterdir())


def refused(result):
    assert (result.returncode, result.stdout) == (1, ""), result.stderr
    assert "mistake" not in result.stderr
    return result.stderr.splitlines()[0]


def written(ids, name, **options):
    out = ids.parent / name
    result = run("logits", tokens=ids, out=out, **options)
    assert result.returncode == 0, result.stderr
    return load_file(out)


@pytest.mark.parametrize("out", ["no/out.safetensors", "", ".", "folder", "ids.json/out"])
def test_an_out_that_cannot_be_written_is_noticed_before_the_model_is_read(out, tmp_path, ids):
    (tmp_path / "folder").mkdir()
    result = subprocess.run(command("logits", "--out", out, tokens=ids, model=tmp_path / "nowhere"), capture_output=True, text=True, cwd=tmp_path,
                            timeout=60, check=False)
    assert "can't be written" in refused(result)
    assert "nowhere" not in result.stderr
    assert left_in(tmp_path) == ["folder", "ids.json"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_middle_of_a_large_write_leaves_no_file(number, tmp_path):
    (tmp_path / "ids.json").write_text(json.dumps([[0] + [5] * 3999] * 2))
    process = subprocess.Popen(command("logits", "--topk", tokens=tmp_path / "ids.json", out=tmp_path / "out.safetensors", dump="scores"),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def writing():  # the file made to try the folder is gone at once, and empty
        try:
            return any(entry.stat().st_size > 1 << 20 for entry in os.scandir(tmp_path) if entry.name.endswith(".partial"))
        except FileNotFoundError:
            return False

    while process.poll() is None and not writing():
        time.sleep(0.001)
    process.send_signal(signal.SIGSTOP)
    assert writing(), "the write was over before it was seen"
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=60)
    assert process.returncode == -number
    assert left_in(tmp_path) == ["ids.json"]


def test_a_size_limit_in_the_middle_of_a_write_leaves_no_file(tmp_path, ids):
    line = f"ulimit -f 10; exec {shlex.join(command('logits', tokens=ids, out=tmp_path / 'out.safetensors'))}"
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, check=False)
    assert "File too large" in refused(result)
    assert left_in(tmp_path) == ["ids.json"]


def test_inject_topk_takes_what_selection_all_has_written(ids):
    everything = written(ids, "all.safetensors", selection="all", topk=True, precision="full")
    own = written(ids, "own.safetensors", precision="full")
    injected = written(ids, "injected.safetensors", inject_topk=ids.parent / "all.safetensors", topk=True, precision="full", chunk=64, greedy=3)
    for layer in LAYERS:
        assert everything[f"topk.0.{layer}"].shape == (LONG, LONG)
        np.testing.assert_array_equal(injected[f"topk.0.{layer}"], everything[f"topk.0.{layer}"])
    assert np.abs(own["logits.0"] - everything["logits.0"]).max() > 1e-3
    np.testing.assert_allclose(injected["logits.0"], everything["logits.0"], atol=1e-4, rtol=0)


def test_inject_topk_takes_what_a_larger_index_topk_has_written(ids):
    wide = written(ids, "wide.safetensors", index_topk=200, topk=True)
    injected = written(ids, "injected.safetensors", inject_topk=ids.parent / "wide.safetensors", topk=True)
    for name, values in injected.items():
        np.testing.assert_array_equal(values, wide[name], err_msg=name)


@pytest.mark.parametrize("position", [2**32, 2**32 + 2, -(2**32) - 1, 2**63 - 1, 3, -2])
def test_inject_topk_refuses_positions_outside_their_rows_however_large(position, ids):
    tensors = written(ids, "own.safetensors", topk=True)
    topk = {name: values.astype(np.int64) for name, values in tensors.items() if name.startswith("topk")}
    topk["topk.0.1"][2, 2] = position
    save_file(topk, ids.parent / "bad.safetensors")
    result = run("logits", tokens=ids, out=ids.parent / "out.safetensors", inject_topk=ids.parent / "bad.safetensors")
    assert "topk.0.1" in refused(result)
    assert f"position {position} in row 2" in result.stderr
    assert not (ids.parent / "out.safetensors").exists()


def test_out_is_none_of_the_files_it_is_made_from(tmp_path, ids):
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "model.safetensors"):
        (model / name).write_bytes((MINI / name).read_bytes())
    config = tmp_path / "drawn.json"
    config.write_bytes((MINI / "config.json").read_bytes())
    os.link(ids, tmp_path / "another-name.json")
    (model / "circle.json").symlink_to("circle.json")
    for out, options in [(ids, {}), (tmp_path / "another-name.json", {}), (model / "model.safetensors", {"model": model}), (model / "config.json", {"model": model}),
                         (config, {"random_weights": config}), (tmp_path / "injected", {"inject_topk": tmp_path / "injected"})]:
        if not out.exists():
            written(ids, "injected", topk=True)
        before = out.read_bytes()
        assert "--out names" in refused(run("logits", tokens=ids, out=out, **options))
        assert out.read_bytes() == before
    assert "--out names a file of the model" in refused(run("logits", tokens=ids, out=model / "circle.json", model=model))
    assert (model / "circle.json").is_symlink()
