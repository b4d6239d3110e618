"""A damaged checkpoint, through the program: exit status 1, nothing on stdout, and a whole report on stderr.

Which defects there are, and that each golden is refused for each, is tests/fault; this is how a user meets them.
"""

import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest
from fulgur_cli import ROOT, command, run
from safetensors.numpy import load_file

GOLDEN = ROOT / "tests" / "golden" / "data"
SHARD = "model.safetensors"
NOBODY = 65534


def copy_of(golden, folder):
    """The golden by links, to be damaged file by file."""
    for file in (GOLDEN / golden).iterdir():
        (folder / file.name).symlink_to(file)
    return folder


def rewrite(path, change):
    """What `change` makes of a file's bytes, in its place."""
    content = change(path.read_bytes())
    path.unlink()
    path.write_bytes(content)


def edit_header(change):
    def edited(content):
        length = int.from_bytes(content[:8], "little")
        header = change(content[8:8 + length].decode()).encode()
        return len(header).to_bytes(8, "little") + header + content[8 + length:]

    return edited


def lost_scale(header):
    """The scale of wk under a name that nothing has: the bug that this project began with."""
    return header.replace("indexer.wk.weight_scale_inv", "indexer.wq.weight_scale_inv", 1)


def linked_to_itself(path):
    path.unlink()
    path.symlink_to(path.name)


DEFECTS = {
    "lost scale": ("glm-fp8", lambda f: rewrite(f / SHARD, edit_header(lost_scale)), SHARD, "indexer.wk.weight"),
    "half a pair": ("v32-bf16", lambda f: rewrite(f / SHARD, edit_header(lambda h: h.replace("indexer.weights_proj.", "indexer.weights_pro.", 1))), SHARD,
                    "indexer.weights_proj.weight"),
    "contains wk": ("v32-bf16-fused", lambda f: rewrite(f / SHARD, edit_header(lambda h: h.replace("wk_weights_proj", "wk_weights_proj_weights_proj", 1))), SHARD,
                    "indexer.wk.weight"),
    "cut": ("v3-bf16", lambda f: rewrite(f / SHARD, lambda content: content[:-1]), SHARD, "end of the file"),
    "empty": ("v3-fp8", lambda f: rewrite(f / SHARD, lambda content: b""), SHARD, "too short"),
    "loop": ("glm-bf16-fused", lambda f: linked_to_itself(f / SHARD), SHARD, "circle"),
    "stale index": ("v32-fp8", lambda f: rewrite(f / "model.safetensors.index.json", lambda c: c.replace(b"model.norm.weight", b"model.gone.weight")),
                    "model-0000", "model.gone.weight"),
    "leaves the folder": ("v3-nvfp4", lambda f: rewrite(f / "model.safetensors.index.json", lambda c: c.replace(b'"model-00001', b'"../model-00001')),
                          "model.safetensors.index.json", "../model-00001"),
    "overflow": ("v32-nvfp4", lambda f: rewrite(f / SHARD, edit_header(lambda h: h.replace("[192,176]", "[4611686018427387905,4]", 1))), SHARD, "overflow"),
    "config": ("glm-nvfp4-ct", lambda f: rewrite(f / "config.json", lambda c: json.dumps({**json.loads(c), "index_n_heads": 6}).encode()), SHARD,
               "index_n_heads"),
}


def check_report(stderr, file, word):
    lines = stderr.splitlines()
    assert lines[0].startswith(file) and ": " in lines[0]
    assert lines[0].endswith((".", "?"))
    assert [line[:12] for line in lines[1:4]] == ["  expected  ", "  found     ", "  to do     "]
    assert word in stderr


@pytest.mark.parametrize("name", DEFECTS)
def test_is_refused_by_whatever_reads_it(name, tmp_path):
    golden, damage, file, word = DEFECTS[name]
    model = tmp_path / "model"
    model.mkdir()
    damage(copy_of(golden, model))
    (tmp_path / "tokens.json").write_text("[1, 2, 3]")
    out = tmp_path / "out.safetensors"
    for arguments in (["logits", "--model", model, "--tokens", tmp_path / "tokens.json", "--out", out], ["generate", "--model", model, "--ids", "1,2"]):
        result = run(*arguments)
        assert (result.returncode, result.stdout) == (1, ""), result.stderr
        check_report(result.stderr, file, word)
    assert not out.exists()
    inspected = run("inspect", model)
    assert inspected.returncode == 1
    assert word in inspected.stdout + inspected.stderr


def test_a_file_that_may_not_be_read_is_refused():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        model = copy_of("v3-bf16", Path(folder))
        rewrite(model / SHARD, lambda content: content)
        os.chmod(model / SHARD, 0)
        # Root may read everything.
        user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
        try:
            result = subprocess.run(command("inspect", model), capture_output=True, text=True, timeout=60, **user)
        except PermissionError:
            pytest.skip("another user may not run the program where it lies")
    assert result.returncode == 1
    if "config.json: " in result.stderr:
        pytest.skip("another user may not read the goldens where they lie")
    assert result.stderr.startswith(f"{SHARD}: ") and "Permission denied" in result.stderr


def test_a_flipped_bit_that_means_nothing_changes_no_logit(tmp_path):
    (tmp_path / "tokens.json").write_text("[1, 2, 3, 4, 5]")
    flipped = tmp_path / "model"
    flipped.mkdir()
    rewrite(copy_of("glm-fp8", flipped) / SHARD, edit_header(lambda h: h.replace('"format":"pt"', '"format":"qt"')))
    assert (flipped / SHARD).read_bytes() != (GOLDEN / "glm-fp8" / SHARD).read_bytes()

    def logits(model):
        out = tmp_path / "out.safetensors"
        assert run("logits", model=model, tokens=tmp_path / "tokens.json", out=out).returncode == 0
        return {name: values.tobytes() for name, values in load_file(out).items()}

    assert logits(flipped) == logits(GOLDEN / "glm-fp8")


def holding_a_write_lease(path):
    """A process that opens a file for writing and wants to hear of who else opens it, as file servers do."""
    return subprocess.Popen(["python3", "-c", f"""
import fcntl, os, signal, sys
file = os.open({str(path)!r}, os.O_RDWR)
signal.signal(signal.SIGIO, signal.SIG_IGN)
if {path.name!r} == "leased": fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("ready", flush=True)
sys.stdin.read()"""], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.parametrize("name", ["leased", "open"])
def test_a_shard_that_another_process_writes_is_refused_until_it_is_through(name, tmp_path):
    copy_of("v3-bf16", tmp_path)
    target = tmp_path / name
    target.write_bytes((tmp_path / SHARD).read_bytes())
    (tmp_path / SHARD).unlink()
    (tmp_path / SHARD).symlink_to(target)
    generate = dict(model=tmp_path, ids="1,2", max_tokens=1)
    with holding_a_write_lease(target) as writer:
        writer.stdout.readline()
        result = run("generate", **generate)
        writer.stdin.close()
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith(f"{SHARD}: ") and "is being written" in result.stderr.splitlines()[0]
    assert [line.split()[0] for line in result.stderr.splitlines()[1:]] == ["expected", "found", "to"]
    assert run("generate", **generate).returncode == 0


@pytest.mark.parametrize("experts", [8, 8192, 65536])
@pytest.mark.parametrize("name", ["inspect", "generate"])
def test_a_checkpoint_of_which_shards_are_still_to_come_is_told_as_that(name, experts, tmp_path):
    """However many experts its config asks for: a half-downloaded one has a table, and what can be said of the rest is."""
    copy_of("v32-fp8", tmp_path)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    rewrite(tmp_path / "config.json", lambda text: re.sub(rb'"n_routed_experts": *\d+', b'"n_routed_experts": %d' % experts, text))
    result = run("inspect", tmp_path) if name == "inspect" else run("generate", model=tmp_path, ids="1")
    assert result.returncode == 1 and "mistake" not in result.stderr, result.stderr
    assert result.stderr.startswith("model-00002-of-00003.safetensors: The index lists this file, which is not there.")
    assert ("has another shape" in result.stderr) == (experts != 8)
    assert "first of many" not in result.stderr
    assert (name == "inspect") == result.stdout.startswith("model ")
