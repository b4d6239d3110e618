"""Scales of activations, and what a converted checkpoint's config says of them: a reader that expects them finds them."""

import json
import shutil

import pytest
import stored_tensors as stored
from fulgur_cli import ROOT, run

GOLDEN = ROOT / "tests" / "golden" / "data"
ENDS = (".input_scale", ".input_global_scale")


def convert(source, destination, form):
    """What is written of it: the names of its scales of activations, what the config declares, and the notices."""
    result = run("convert", source, destination, to=form)
    assert result.returncode == 0, result.stderr
    names = [name for name in stored.read(destination) if name.endswith(ENDS)]
    groups = json.loads((destination / "config.json").read_text())["quantization_config"]["config_groups"]
    return names, groups["group_0"]["input_activations"], result.stderr


@pytest.mark.parametrize("name, number", [("v32-nvfp4", 54), ("glm-nvfp4-ct", 45)])
@pytest.mark.parametrize("form, dynamic, end", [("nvfp4-modelopt", False, ".input_scale"), ("nvfp4-ct", "local", ".input_global_scale")])
def test_those_that_all_matrices_have_are_kept_and_declared(name, number, form, dynamic, end, tmp_path):
    names, inputs, notices = convert(GOLDEN / name, tmp_path / "out", form)
    assert len(names) == number and all(name.endswith(end) for name in names)
    assert (inputs["dynamic"], inputs["num_bits"]) == (dynamic, 4)
    assert "activations" not in notices


@pytest.mark.parametrize("form", ["nvfp4-modelopt", "nvfp4-ct"])
def test_none_are_declared_where_none_are_written(form, tmp_path):
    names, inputs, notices = convert(GOLDEN / "v32-bf16", tmp_path / "out", form)
    assert (names, inputs) == ([], None) and "activations" not in notices


def test_those_that_only_some_matrices_have_are_left_out_with_a_notice(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(GOLDEN / "v32-nvfp4", source)

    def remove_one(header, data):
        begin, end = header.pop(next(name for name in header if name.endswith(".input_scale")))["data_offsets"]
        del data[begin:end]
        for name, entry in header.items():
            if name != "__metadata__":
                entry["data_offsets"] = [at - (end - begin) * (at > begin) for at in entry["data_offsets"]]

    stored.rewrite(source, remove_one)
    names, inputs, notices = convert(source, tmp_path / "out", "nvfp4-modelopt")
    assert (names, inputs) == ([], None)
    assert "53 scales of activations are left out" in notices
