"""fulgur convert where it can't: usage, damaged sources, destinations in the way, full disks, signals. Nothing is left behind."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from fulgur_cli import ROOT, command, run
from stored_tensors import rewrite

GOLDEN = ROOT / "tests" / "golden" / "data"
SOURCE = GOLDEN / "v32-bf16"


def refused(*arguments, status=1, **options):
    """What is said: a whole sentence first, and no mistake of the program's own."""
    result = run("convert", *arguments, **options)
    assert result.returncode == status and result.stdout == "", result.stderr
    assert "mistake" not in result.stderr
    return result.stderr


@pytest.mark.parametrize("arguments", [
    ["--fuse", "--unfuse"], ["--to", "int8"], ["--scales", "f32"], ["--to", "bf16", "--scales", "e8m0"],
    ["--to", "fp8-block", "--scales", "f16"], ["--shard-size", "0"], ["--shard-size", "5 parsecs"], ["--shard-size", "nan"],
    ["--shard-size", "-1GB"], ["--threads", "0"], ["third"]], ids=" ".join)
def test_usage(arguments, tmp_path):
    assert refused(SOURCE, tmp_path / "out", *arguments, status=2)
    assert list(tmp_path.iterdir()) == []


def test_both_folders_are_needed():
    assert "DST" in refused(SOURCE, status=2)


def test_a_model_without_an_indexer_has_nothing_to_fuse(tmp_path):
    assert refused(GOLDEN / "v3-bf16", tmp_path / "out", fuse=True).startswith("There is no indexer to fuse")
    assert list(tmp_path.iterdir()) == []


def test_more_files_than_an_index_may_list_are_refused_before_the_work(tmp_path):
    random = ["--random-weights", ROOT / "models" / "mini-v32" / "config.json", "--set", "n_routed_experts=256"]
    text = refused(*random, tmp_path / "out", shard_size="1B")
    assert "more than a checkpoint may have" in text.splitlines()[0] and "--shard-size" in text.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_destination_that_is_in_the_way_stays_as_it_is(tmp_path):
    full, file, dangling = tmp_path / "full", tmp_path / "file", tmp_path / "dangling"
    full.mkdir()
    (full / "precious").write_text("mine")
    file.write_text("mine")
    dangling.symlink_to("nowhere")
    for place, reason in [(full, "not empty"), (file, "no folder"), (dangling, "leads nowhere"), (SOURCE, "not empty"),
                          (tmp_path / "none" / "out", "No such file"), (file / "out", "Not a directory")]:
        text = refused(SOURCE, place)
        assert "can't be written" in text.splitlines()[0] and reason in text.splitlines()[0], text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "file", "full"]
    assert (full / "precious").read_text() == file.read_text() == "mine"


def test_the_folder_that_one_stands_in_is_refused(tmp_path):
    result = subprocess.run(command("convert", SOURCE, "."), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1 and "the folder that this runs in" in result.stderr.splitlines()[0], result.stderr
    assert list(tmp_path.iterdir()) == [] and tmp_path.exists()


def test_what_a_killed_conversion_left_is_told_by_the_next(tmp_path):
    (tmp_path / "out.1-0.partial").mkdir()
    result = run("convert", SOURCE, tmp_path / "out")
    assert result.returncode == 0 and "out.1-0.partial" in result.stderr and "deleted" in result.stderr
    assert (tmp_path / "out.1-0.partial").exists()


@pytest.mark.parametrize("mount", ["-t tmpfs none", "--bind {}"], ids=["another file system", "a folder of the same"])
def test_a_mount_point_is_refused_before_the_work(mount, tmp_path):
    """Only a rename makes the folder appear whole, and a mount point keeps its name."""
    place = tmp_path / "disk"
    place.mkdir()
    inside = ["unshare", "-rm", "sh", "-c", f'mount {mount.format(place)} {place} && exec "$@"', "-"]
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this system lends no mount namespace")
    result = subprocess.run([*inside, *command("convert", SOURCE, place)], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1 and "a file system is mounted there" in result.stderr.splitlines()[0], result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk"]
    assert subprocess.run([*inside, *command("convert", SOURCE, place / "converted")], capture_output=True, timeout=60, check=False).returncode == 0


def test_an_empty_destination_is_filled_also_through_a_link_or_with_a_slash(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    assert run("convert", SOURCE, f"{tmp_path}/link/").returncode == 0
    assert (tmp_path / "empty" / "config.json").exists() and (tmp_path / "link").is_symlink()
    assert run("convert", SOURCE, f"{tmp_path}/new/").returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "link", "new"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_parent_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    assert "Permission denied" in refused(SOURCE, tmp_path / "out").splitlines()[0]


def rewritten(folder, change):
    """A copy of SOURCE whose header and data a test changes."""
    shutil.copytree(SOURCE, folder)
    rewrite(folder, change)
    return folder


def test_a_source_that_would_not_load_is_refused_before_anything_is_written(tmp_path):
    def rename(header, _):
        header["model.nrm.weight"] = header.pop("model.norm.weight")

    text = refused(rewritten(tmp_path / "bad", rename), tmp_path / "out")
    assert "model.norm.weight is missing" in text and "model.nrm.weight" in text
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]
    assert "no such folder" in refused(tmp_path / "nowhere", tmp_path / "out").lower()


@pytest.mark.parametrize("form, module", [("fp8-block", "self_attn.o_proj"), ("nvfp4-modelopt", "mlp.experts.3.up_proj")])
def test_a_nan_that_would_have_to_be_quantized_is_named_by_its_place(form, module, tmp_path):
    name = f"model.layers.1.{module}.weight"

    def poison(header, data):
        begin, columns = header[name]["data_offsets"][0], header[name]["shape"][1]
        at = begin + 2 * (columns * 2 + 5)
        data[at:at + 2] = b"\xc0\x7f"

    text = refused(rewritten(tmp_path / "bad", poison), tmp_path / "out", to=form)
    assert f"{name}[2, 5]" in text.splitlines()[0]
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def poisoned(folder, golden, end, value):
    """A golden in one file in which the first value of the first tensor whose name ends so is another; and that name."""
    assert run("convert", GOLDEN / golden, folder).returncode == 0
    chosen = []

    def damage(header, data):
        name = min(name for name in header if name.endswith(end))
        begin = header[name]["data_offsets"][0]
        data[begin:begin + len(value)] = value
        chosen.append(name)

    rewrite(folder, damage)
    return chosen[0]


def f32(value):
    return np.float32(value).tobytes()


BAD_SCALES = [("v3-fp8", "o_proj.weight_scale_inv", f32("nan")), ("v3-fp8", "o_proj.weight_scale_inv", f32("inf")),
              ("v3-fp8", "o_proj.weight_scale_inv", f32(-1)), ("v3-nvfp4", "up_proj.weight_scale_2", f32("nan")),
              ("v3-nvfp4", "up_proj.weight_scale_2", f32(0)), ("v3-nvfp4", "up_proj.weight_scale", b"\x7f"),
              ("v3-nvfp4", "up_proj.weight_scale", b"\xb0"), ("glm-nvfp4-ct", "up_proj.weight_global_scale", f32(-1)),
              ("v3-nvfp4", "experts.3.up_proj.input_scale", f32("nan")), ("glm-nvfp4-ct", "up_proj.input_global_scale", f32(0))]


@pytest.mark.parametrize("golden, end, value", BAD_SCALES)
def test_a_scale_that_none_can_be_is_refused_as_loading_refuses_it_whether_it_is_copied_or_used(golden, end, value, tmp_path):
    name = poisoned(tmp_path / "bad", golden, end, value)
    said = run("inspect", tmp_path / "bad", verify=True).stderr.splitlines()[0]
    assert name in said and "which no scale can be" in said
    forms = [{}, {"to": "nvfp4-modelopt"}, {"to": "nvfp4-ct"}]
    if "input" not in end:  # which other forms leave out
        forms.append({"to": "fp8-block"})
    for options in forms:
        assert refused(tmp_path / "bad", tmp_path / "out", **options).splitlines()[0] == said, options
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


@pytest.mark.parametrize("golden, end, value", [("v3-fp8", "o_proj.weight_scale_inv", f32(3e38)), ("v3-nvfp4", "up_proj.weight_scale_2", f32(1e38)),
                                                ("glm-nvfp4-ct", "up_proj.weight_global_scale", f32(1e-37))])
def test_codes_that_become_infinite_under_their_scale_are_refused_where_both_are_copied(golden, end, value, tmp_path):
    poisoned(tmp_path / "bad", golden, end, value)
    said = run("inspect", tmp_path / "bad", verify=True).stderr.splitlines()[0]
    assert "becomes infinite when it is multiplied by its scale" in said
    assert refused(tmp_path / "bad", tmp_path / "out").splitlines()[0] == said
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


EXPERT = "model.layers.1.mlp.experts.3.up_proj.weight"


@pytest.mark.parametrize("scales", ["f32-pow2", "e8m0"])
def test_a_value_that_rounding_up_makes_infinite_is_refused(scales, tmp_path):
    # 1.9375 * 2^127, of which 2^120 is the scale: 248 of these become 256.
    assert poisoned(tmp_path / "bad", "v32-bf16", EXPERT, b"\x78\x7f") == EXPERT
    text = refused(tmp_path / "bad", tmp_path / "out", to="fp8-block", scales=scales)
    assert f"{EXPERT}[0, 0]" in text.splitlines()[0] and "infinite as fp8" in text.splitlines()[0]
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]
    for options in [{"to": "fp8-block"}, {"to": "bf16"}]:
        assert run("convert", tmp_path / "bad", tmp_path / options["to"], **options).returncode == 0
        assert run("inspect", tmp_path / options["to"], verify=True).returncode == 0


@pytest.mark.parametrize("form", ["nvfp4-modelopt", "nvfp4-ct"])
def test_a_matrix_that_would_be_lost_is_refused_and_zeros_are_not(form, tmp_path):
    shutil.copytree(SOURCE, tmp_path / "bad")

    def fill(bits):
        def change(header, data):
            begin, end = header[EXPERT]["data_offsets"]
            data[begin:end] = bits * ((end - begin) // 2)

        rewrite(tmp_path / "bad", change)

    fill(b"\x80\x04")  # 2^-118
    text = refused(tmp_path / "bad", tmp_path / "out", to=form)
    assert text.splitlines()[0].endswith(f"{EXPERT} is so small that nothing but zeros would be left of it as {form}.")
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]
    fill(b"\0\x80")  # -0
    assert run("convert", tmp_path / "bad", tmp_path / "out", to=form).returncode == 0


def test_a_scale_whose_reciprocal_would_lose_bits_is_refused(tmp_path):
    name = poisoned(tmp_path / "bad", "v3-nvfp4", "experts.3.up_proj.weight_scale_2", f32(1e38))
    text = refused(tmp_path / "bad", tmp_path / "out", to="nvfp4-ct")
    assert f"{name} is 1e+38, which can't be written as its reciprocal" in text.splitlines()[0]


@pytest.mark.parametrize("golden, end, zero", [("v3-fp8", "o_proj.weight_scale_inv", f32(0)), ("v3-nvfp4", "up_proj.weight_scale", b"\0")])
def test_a_scale_of_0_over_codes_is_refused_where_values_are_made_of_them(golden, end, zero, tmp_path):
    name = poisoned(tmp_path / "bad", golden, end, zero)
    said = run("inspect", tmp_path / "bad", verify=True).stderr.splitlines()[0]
    assert f"{name}[0, 0] is 0" in said
    assert refused(tmp_path / "bad", tmp_path / "out", to="bf16").splitlines()[0] == said


def shell(line):
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)


def test_a_file_that_may_not_grow_is_one_sentence_and_leaves_nothing(tmp_path):
    result = shell(f"ulimit -f 100; {shlex.join(command('convert', SOURCE, tmp_path / 'out'))}")
    assert result.returncode == 1 and result.stdout == ""
    first = result.stderr.splitlines()[0]
    assert str(tmp_path / "out" / "model.safetensors") in first and "can't be written: writing failed" in first
    assert "  expected  " in result.stderr and "  found     File too large" in result.stderr and "ulimit -f" in result.stderr
    assert list(tmp_path.iterdir()) == []


# 999,240 bytes of tensors: the first disk has no room for them, the second none for the headers and what else there is.
@pytest.mark.parametrize("room, reason", [("500k", "too little room"), ("976k", "No space left on device")])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(room, reason, tmp_path):
    if shell(f"unshare -m mount -t tmpfs none {tmp_path}").returncode != 0:
        pytest.skip("no disk can be mounted here")
    convert = shlex.join(command("convert", SOURCE, tmp_path / "out"))
    result = shell(f"unshare -m bash -c {shlex.quote(f'mount -t tmpfs -o size={room} none {tmp_path} && {convert}; echo $?; ls -A {tmp_path}')}")
    assert result.stdout == "1\n", result.stderr
    assert reason in result.stderr.splitlines()[0] + result.stderr


def test_a_disk_that_a_killed_conversion_fills_is_told_so(tmp_path):
    convert = shlex.join(command("convert", SOURCE, tmp_path / "out"))
    left = f"mkdir {tmp_path}/out.1-0.partial && head -c 1M /dev/zero > {tmp_path}/out.1-0.partial/model.safetensors"
    result = shell(f"unshare -m bash -c {shlex.quote(f'mount -t tmpfs -o size=1500k none {tmp_path} && {left} && {convert}; echo $?')}")
    if "mount" in result.stderr:
        pytest.skip("no disk can be mounted here")
    assert result.stdout == "1\n" and "too little room" in result.stderr.splitlines()[0]
    todo = next(line for line in result.stderr.splitlines() if line.startswith("  to do"))
    assert "out.1-0.partial" in todo and "can be deleted" in todo


uses_large = pytest.mark.xdist_group("large")  # made once


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A source that takes long enough to be interrupted: 400 MB of zeros in f32, on no disk."""
    folder = tmp_path_factory.mktemp("large")
    shutil.copytree(SOURCE, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    file = folder / "model.safetensors"
    blob = file.read_bytes()
    size = int.from_bytes(blob[:8], "little")
    header, data = json.loads(blob[8:8 + size]), blob[8 + size:]
    vocab = config["vocab_size"] = 300_000
    old = {name: header.pop(name)["data_offsets"] for name in ["model.embed_tokens.weight", "lm_head.weight"]}
    kept = b""
    for name, entry in header.items():
        if name != "__metadata__":
            begin, stop = entry["data_offsets"]
            entry["data_offsets"] = [len(kept), len(kept) + stop - begin]
            kept += data[begin:stop]
    end = len(kept)
    for name in old:
        count = 4 * vocab * config["hidden_size"]
        header[name] = {"dtype": "F32", "shape": [vocab, config["hidden_size"]], "data_offsets": [end, end + count]}
        end += count
    text = json.dumps(header).encode()
    with open(file, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text + kept)
        out.truncate(8 + len(text) + end)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def header_of(folder):
    with open(folder / "model.safetensors", "rb") as file:
        return json.loads(file.read(int.from_bytes(file.read(8), "little")))


def stopped_in_the_middle(source, place):
    """A conversion that stands still with a part of its tensors written."""
    process = subprocess.Popen(command("convert", source, place / "out", to="bf16"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not any(file.stat().st_size for file in place.glob("out.*.partial/model*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.0005)
    process.send_signal(signal.SIGSTOP)
    assert not (place / "out").exists()
    return process


@uses_large
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGALRM, signal.SIGXCPU])
def test_a_signal_leaves_nothing(number, large, tmp_path):
    process = stopped_in_the_middle(large, tmp_path)
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=30)
    assert process.returncode == -number
    assert list(tmp_path.iterdir()) == []


@uses_large
def test_a_kill_leaves_what_does_not_load_and_is_in_nobodys_way(large, tmp_path):
    process = stopped_in_the_middle(large, tmp_path)
    process.kill()
    process.communicate(timeout=30)
    [leftover] = tmp_path.iterdir()
    assert leftover.name.startswith("out.") and leftover.name.endswith(".partial")
    result = run("inspect", leftover)
    assert result.returncode == 1 and "config.json" in result.stderr.splitlines()[0]
    assert run("convert", SOURCE, tmp_path / "out").returncode == 0


@uses_large
def test_a_source_that_shrinks_meanwhile_is_an_error(large, tmp_path):
    file = large / "model.safetensors"
    size = file.stat().st_size
    process = stopped_in_the_middle(large, tmp_path)
    os.truncate(file, size // 4)
    process.send_signal(signal.SIGCONT)
    _, said = process.communicate(timeout=30)
    os.truncate(file, size)  # zeros again
    assert process.returncode == 1 and b"model.safetensors" in said.splitlines()[0]
    assert list(tmp_path.iterdir()) == []


@uses_large
def test_memory_is_bounded_by_a_part_of_a_tensor(large, tmp_path):
    largest = max(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in header_of(large).values() if "shape" in entry)
    assert largest > 150_000_000
    line = shlex.join(command("convert", large, tmp_path / "out", to="bf16", threads=2))
    assert shell(f"ulimit -d 100000; {line}").returncode == 0  # KiB of a process's own memory
