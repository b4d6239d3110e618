"""fulgur inspect (docs/spec/commands.md): what a checkpoint holds, how it loads, what is wrong with it."""

import json
import re
import shutil

import numpy as np
import published_checkpoint
import pytest
from fulgur_cli import MINI, ROOT, command, measured, output, run
from stored_tensors import rewrite

GOLDEN = ROOT / "tests" / "golden" / "data"
FOLDERS = sorted(folder.name for folder in GOLDEN.iterdir() if folder.is_dir())
PUBLISHED = ROOT / "models" / "configs"


def inspect(folder, *arguments):
    """The report, and the exit status that belongs to it."""
    result = run("inspect", str(folder), *arguments, json=True)
    report = json.loads(result.stdout)
    assert result.returncode == (1 if report["errors"] else 0)
    assert bool(result.stderr) == bool(report["errors"])
    return report


def entries(folder):
    """name -> (dtype, shape, bytes), read by hand."""
    found = {}
    for file in sorted(folder.glob("model*.safetensors")):
        blob = file.read_bytes()
        header = json.loads(blob[8:8 + int.from_bytes(blob[:8], "little")])
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                found[name] = (entry["dtype"], entry["shape"], end - begin)
    return found


@pytest.mark.parametrize("name", FOLDERS)
def test_every_tensor_is_a_source_or_ignored_by_a_rule(name):
    report = inspect(GOLDEN / name, "--verify")
    assert report["errors"] == []
    sources = {source for parameter in report["parameters"] for source in parameter["sources"]}
    ignored = {tensor["name"] for tensor in report["ignored"]}
    held = entries(GOLDEN / name)
    assert sources | ignored == set(held) and not sources & ignored
    assert sum(report["bytes"].values()) == sum(size for name, (_, _, size) in held.items() if name in sources)
    assert all(parameter["steps"] and parameter["form"] for parameter in report["parameters"])
    parts = ("weights_mapped", "weights_copied", "weights_sources", "cache", "tables", "scratch", "process")
    assert report["memory"]["total"] == sum(report["memory"][key] for key in parts) and all(report["memory"][key] > 0 for key in parts[3:])


def test_a_fused_projection_names_its_halves_and_their_scales():
    report = inspect(GOLDEN / "v32-fp8", "--parameter", "*.0.*wk_weights_proj")
    [parameter] = report["parameters"]
    indexer = "model.layers.0.self_attn.indexer."
    assert parameter["name"].startswith(indexer) and parameter["form"] == "bf16"
    assert parameter["sources"] == [indexer + part for part in ("wk.weight", "wk.weight_scale_inv", "weights_proj.weight")]
    assert any("dequantize" in step for step in parameter["steps"]) and "concat rows" in parameter["steps"]


def test_a_table_for_people_groups_layers_and_experts():
    text = output("inspect", str(MINI))
    assert "model.layers.*.mlp.experts.*.gate_proj" in text and "memory" in text
    assert len(text.splitlines()) < 60


def test_memory_grows_with_context_and_batch():
    small = inspect(MINI, "--context", "64")["memory"]
    large = inspect(MINI, "--context", "128", "--batch", "3")["memory"]
    assert large["cache"] == 6 * small["cache"] > 0


@pytest.mark.parametrize("name", FOLDERS)
def test_memory_is_what_loading_takes(name):
    memory = inspect(GOLDEN / name)["memory"]
    said = run("generate", model=GOLDEN / name, ids="1", max_tokens=1, verbose=True).stderr
    mapped, copied = re.search(r"([0-9.]+) MB mapped from .* and ([0-9.]+) MB copied", said).groups()
    assert (mapped, copied) == tuple(f"{memory[key] / 1e6:.1f}" for key in ("weights_mapped", "weights_copied"))


def test_a_glob_that_matches_nothing_is_refused():
    result = run("inspect", str(MINI), parameter="*.no_such_part")
    assert result.returncode == 1 and "no_such_part" in result.stderr
    report = inspect(MINI, "--parameter", "*.no_such_part")
    assert report["parameters"] == [] and [error["kind"] for error in report["errors"]] == ["bad_request"]
    assert set(report["errors"][0]) == {"kind", "file", "tensor", "expected", "found", "message"} and report["errors"][0]["found"]


@pytest.fixture
def broken(tmp_path):
    """A copy of a good checkpoint whose tensors a test may change."""
    shutil.copytree(GOLDEN / "v32-bf16", tmp_path / "model")
    return tmp_path / "model"


def test_what_is_expected_is_told_as_it_is_computed(tmp_path):
    """The rows of a sum of fields, in blocks."""
    output("convert", GOLDEN / "v32-fp8", tmp_path / "model")  # in one file

    def turn(header, _):
        scale = header["model.layers.0.self_attn.kv_a_proj_with_mqa.weight_scale_inv"]
        scale["shape"] = scale["shape"][::-1]

    rewrite(tmp_path / "model", turn)
    (error,) = inspect(tmp_path / "model")["errors"]
    assert "(ceil((kv_lora_rank + qk_rope_head_dim) / 128))" in error["expected"]


def test_all_structural_defects_are_in_one_report(broken):
    def rename(header, _):
        for old, new in [("model.norm.weight", "model.nrm.weight"), ("lm_head.weight", "lm_heads.weight")]:
            header[new] = header.pop(old)

    rewrite(broken, rename)
    report = inspect(broken)
    assert sorted((error["kind"], error["tensor"]) for error in report["errors"]) == [
        ("missing_tensor", "lm_head.weight"), ("missing_tensor", "model.norm.weight"),
        ("unexpected_tensor", "lm_heads.weight"), ("unexpected_tensor", "model.nrm.weight")]
    assert all(error["message"].endswith(".") and error["expected"] and error["found"] for error in report["errors"])
    assert {parameter["name"]: parameter["form"] for parameter in report["parameters"] if not parameter["sources"]} == {
        "lm_head": None, "model.norm": None}
    both = inspect(broken, "--parameter", "no_such_part")["errors"]
    assert [error["kind"] for error in both] == [error["kind"] for error in report["errors"]] + ["bad_request"]


def test_with_a_glob_the_errors_of_its_parameters_are_shown(broken):
    def drop(header, _):
        for layer in range(2):
            for name in [name for name in header if name.startswith(f"model.layers.{layer}.")]:
                header[name + ".old"] = header.pop(name)

    rewrite(broken, drop)
    missing = "model.layers.1.self_attn.o_proj"
    plain = run("inspect", broken)
    assert plain.returncode == 1 and f"{missing}.weight is missing" not in plain.stderr  # beyond the 20 that are shown
    count = len(inspect(broken)["errors"])
    narrow = run("inspect", broken, parameter=missing)
    assert narrow.returncode == 1 and "see the errors" in narrow.stdout and f"{missing}.weight is missing" in narrow.stderr
    assert f"{count - 1} errors of other tensors" in narrow.stderr and narrow.stderr.count("expected") == 1
    good = run("inspect", broken, parameter="model.norm")
    assert good.returncode == 1 and f"{count} errors of other tensors" in good.stderr and "expected" not in good.stderr
    assert len(inspect(broken, "--parameter", missing)["errors"]) == count
    (broken / "tokenizer.json").write_text("{")
    assert "tokenizer.json" in run("inspect", broken, parameter="model.norm").stderr  # of no tensor: shown always


def test_tensors_behind_the_mtp_layer_are_ignored_as_loading_ignores_them(tmp_path):
    shutil.copytree(GOLDEN / "v3-fp8", tmp_path / "model")
    broken = tmp_path / "model"
    config = json.loads((broken / "config.json").read_text())
    assert config["num_nextn_predict_layers"] == 1
    name = f"model.layers.{config['num_hidden_layers'] + 1}.mlp.gate.weight"

    def add(header, data):
        header[name] = {"dtype": "BF16", "shape": [1], "data_offsets": [len(data), len(data) + 2]}
        data += b"\0\0"

    rewrite(broken, add)
    report = inspect(broken)
    assert report["errors"] == [] and name in [tensor["name"] for tensor in report["ignored"]]
    assert run("generate", model=broken, ids="1", max_tokens=1).returncode == 0


def test_a_config_that_cannot_be_read_is_an_error_beside_a_good_catalog(broken):
    (broken / "config.json").write_text("{")
    report = inspect(broken)
    assert [error["kind"] for error in report["errors"]] == ["bad_config"]


def test_a_tokenizer_that_generating_refuses_is_an_error(broken):
    (broken / "tokenizer.json").write_text("{")
    assert [error["kind"] for error in inspect(broken)["errors"]] == ["bad_tokenizer"]
    said = run("generate", model=broken, ids="1", max_tokens=1)
    assert said.returncode == 1 and said.stderr == run("inspect", broken).stderr


def test_verify_finds_a_nan_that_headers_do_not_show(broken):
    name = "model.layers.1.self_attn.o_proj.weight"

    def poison(header, data):
        begin = header[name]["data_offsets"][0]
        data[begin + 2 * 5:begin + 2 * 5 + 2] = b"\xc0\x7f"

    rewrite(broken, poison)
    assert inspect(broken)["errors"] == []
    [error] = inspect(broken, "--verify")["errors"]
    assert (error["kind"], error["tensor"]) == ("bad_value", name) and "[0, 5]" in error["message"]


def fp8_part(folder, part, index, code):
    """Sets one byte of the first FP8 tensor whose name ends so; returns its name."""
    chosen = []

    def change(header, data):
        name = next(name for name in header if name.endswith(part))
        begin = header[name]["data_offsets"][0]
        data[begin + index:begin + index + len(code)] = code
        chosen.append(name)

    rewrite(folder, change)
    return chosen[0]


def test_verify_finds_fp8_nan_codes_and_zero_scales_over_codes(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(GOLDEN / "v3-fp8", model)
    name = fp8_part(model, "o_proj.weight", 3, b"\x7f")
    [error] = inspect(model, "--verify")["errors"]
    assert (error["kind"], error["tensor"]) == ("bad_value", name) and "[0, 3]" in error["message"]
    fp8_part(model, "o_proj.weight", 3, b"\x01")
    scale = fp8_part(model, "o_proj.weight_scale_inv", 0, b"\0\0\0\0")
    [error] = inspect(model, "--verify")["errors"]
    assert (error["kind"], error["tensor"]) == ("bad_scale", scale) and error["message"].startswith(scale + "[0, 0]")
    assert name in error["message"] and error["file"] in {file.name for file in model.iterdir()}


def test_verify_finds_a_scale_that_is_nan(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(GOLDEN / "v3-fp8", model)
    name = fp8_part(model, "o_proj.weight_scale_inv", 0, np.float32("nan").tobytes())
    [error] = inspect(model, "--verify")["errors"]
    assert (error["kind"], error["tensor"]) == ("bad_scale", name)


def published_config(name):
    """GLM-5's FP8 release quantizes as DeepSeek's do."""
    of = {form: json.loads((PUBLISHED / f"{form}.json").read_text()) for form in (name.removesuffix("-fp8"), "deepseek-v3.2")}
    quantization = {"quantization_config": of["deepseek-v3.2"]["quantization_config"]} if name.endswith("-fp8") else {}
    return {**of[name.removesuffix("-fp8")], **quantization}


@pytest.mark.parametrize("config, parts", [("deepseek-v3.2", 91_000), ("glm-5", 58_000), ("glm-5-fp8", 116_000), ("glm-5.2", 58_000)])
def test_a_checkpoint_of_published_size_is_inspected_from_its_headers(config, parts, tmp_path):
    held = published_checkpoint.write(tmp_path, published_config(config))
    assert held > parts
    result, _, most_bytes = measured(command("inspect", tmp_path, "--json"))
    assert result.returncode == 0
    report = json.loads(result.stdout)
    assert report["errors"] == [] and len(report["parameters"]) > 30_000
    assert most_bytes < 300e6


@pytest.mark.long
@pytest.mark.parametrize("config", ["deepseek-v3.2", "glm-5-fp8"])
def test_a_checkpoint_of_published_size_is_inspected_in_a_second(config, tmp_path):
    published_checkpoint.write(tmp_path, published_config(config))
    assert min(measured(command("inspect", tmp_path, *options))[1] for options in [(), ("--json",)] for _ in range(3)) < 1.5
