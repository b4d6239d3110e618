"""fulgur convert (docs/spec/commands.md): what it writes, against numpy, and that it loads."""

import itertools
import json
import re
import shutil

import numpy as np
import pytest
import stored_tensors as stored
from fulgur_cli import MINI, ROOT, command, logits, measured, output, run
from safetensors import safe_open
from safetensors.numpy import load_file
from test_commands import Terminal
from unsanitized import unsanitized

GOLDEN = ROOT / "tests" / "golden" / "data"
FOLDERS = sorted(folder.name for folder in GOLDEN.iterdir() if folder.is_dir())
WITH_INDEXER = [name for name in FOLDERS if not name.startswith("v3-")]
FORMS = ["bf16", "fp8-block", "nvfp4-modelopt", "nvfp4-ct"]
PROJECTIONS = ("wk", "weights_proj", "wk_weights_proj")
# What the release of each family has in NVFP4: docs/spec/checkpoints.md, 3.7.
FP4 = {"v3": r"\.mlp\.(experts\.\d+\.|shared_experts\.)?\w+_proj$", "v32": r"\.mlp\.(experts\.\d+|shared_experts)\.\w+$", "glm": r"\.mlp\.experts\.\d+\.\w+$"}


def convert(source, destination, **options):
    """Converts, has the result inspected with all its values, and reads it."""
    output("convert", source, destination, **options)
    report = json.loads(output("inspect", destination, verify=True, json=True))
    assert report["errors"] == []
    for file in destination.glob("*.safetensors"):  # what others read of it
        with safe_open(file, "np") as tensors:
            assert tensors.metadata() == {"format": "pt"} and len(list(tensors.keys())) > 0
    return stored.read(destination)


def config_of(folder, name="config.json"):
    return json.loads((folder / name).read_text())


def modules_of(tensors):
    return sorted(name.rsplit(".", 1)[0] for name, (_, array) in tensors.items()
                  if name.endswith((".weight", ".weight_packed")) and array.ndim == 2)


def prompt_of(folder):
    return load_file(folder / "golden.safetensors")["p1.input_ids"]


@pytest.mark.parametrize("name", FOLDERS)
def test_without_options_every_tensor_keeps_its_bytes(name, tmp_path):
    before, after = stored.read(GOLDEN / name), convert(GOLDEN / name, tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(stored.same(before[tensor], after[tensor]) for tensor in before)
    for file in ["config.json", "hf_quant_config.json"]:
        assert (tmp_path / "out" / file).exists() == (GOLDEN / name / file).exists()
        if (GOLDEN / name / file).exists():
            assert (tmp_path / "out" / file).read_bytes() == (GOLDEN / name / file).read_bytes()


@pytest.mark.parametrize("name", ["v32-bf16", "glm-bf16"])
def test_fusing_and_unfusing_bf16_gives_the_same_bytes(name, tmp_path):
    before = stored.read(GOLDEN / name)
    fused = convert(GOLDEN / name, tmp_path / "fused", fuse=True)
    reference = stored.read(GOLDEN / f"{name}-fused")
    assert fused.keys() == reference.keys()
    assert all(stored.same(fused[tensor], reference[tensor]) for tensor in fused)
    after = convert(tmp_path / "fused", tmp_path / "again", unfuse=True)
    assert before.keys() == after.keys()
    assert all(stored.same(before[tensor], after[tensor]) for tensor in before)


def halves(tensors):
    """The modules of every indexer in front of wk, weights_proj and wk_weights_proj."""
    found = {}
    for module in modules_of(tensors):
        prefix, _, last = module.rpartition(".")
        if last in PROJECTIONS:
            found.setdefault(prefix, set()).add(last)
    return found


@pytest.mark.parametrize("name", WITH_INDEXER)
@pytest.mark.parametrize("way", ["fuse", "unfuse"])
def test_the_indexer_is_respelled_in_every_layer_and_answers_as_before(name, way, tmp_path):
    before = stored.read(GOLDEN / name)
    after = convert(GOLDEN / name, tmp_path / "out", **{way: True})
    assert halves(after).keys() == halves(before).keys()
    assert all(parts == ({"wk_weights_proj"} if way == "fuse" else {"wk", "weights_proj"}) for parts in halves(after).values())
    prompt = prompt_of(GOLDEN / name)
    # The fused matrix that the model computes with has the same bits, whichever way it is stored.
    wanted = logits([prompt], model=GOLDEN / name)["logits.0"]
    assert np.array_equal(logits([prompt], model=tmp_path / "out")["logits.0"], wanted)


def test_unfusing_fp8_whose_block_rows_hold_both_halves_keeps_the_codes_of_wk(tmp_path):
    before = stored.read(GOLDEN / "glm-fp8-fused")
    after = convert(GOLDEN / "glm-fp8-fused", tmp_path / "out", unfuse=True)
    for indexer in halves(before):
        rows = after[f"{indexer}.wk.weight"][1].shape[0]
        assert rows == 64
        codes, scales = (before[f"{indexer}.wk_weights_proj.weight{end}"] for end in ("", "_scale_inv"))
        assert stored.same(after[f"{indexer}.wk.weight"], (codes[0], codes[1][:rows]))
        assert stored.same(after[f"{indexer}.wk.weight_scale_inv"], (scales[0], scales[1][:1]))
        wanted = stored.to_bf16(stored.values(before, f"{indexer}.wk_weights_proj")[0][rows:])
        assert stored.same(after[f"{indexer}.weights_proj.weight"], ("BF16", wanted))
        assert f"{indexer}.weights_proj" in config_of(tmp_path / "out")["quantization_config"]["modules_to_not_convert"]


def test_unfusing_fp8_halves_with_block_rows_of_their_own_loses_nothing(tmp_path):
    before = stored.read(GOLDEN / "v32-fp8-fused")
    apart = convert(GOLDEN / "v32-fp8-fused", tmp_path / "apart", unfuse=True)
    assert all(apart[f"{indexer}.weights_proj.weight"][0] == "F8_E4M3" for indexer in halves(before))
    again = convert(tmp_path / "apart", tmp_path / "again", fuse=True)
    assert before.keys() == again.keys() and all(stored.same(before[tensor], again[tensor]) for tensor in before)


def store_anew(folder, changed):
    """Rewrites a one-file checkpoint with other arrays in place of some: name -> (dtype, array)."""
    tensors = {**stored.read(folder), **changed}

    def change(header, data):
        data.clear()
        for name, (dtype, array) in tensors.items():
            header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), len(data) + array.nbytes]}
            data += array.tobytes()

    stored.rewrite(folder, change)


@pytest.mark.parametrize("scales", ["f32-pow2", "e8m0", "f32"])
def test_fusing_fp8_with_f32_is_exact_where_f32_is_and_says_so_where_it_is_not(scales, tmp_path):
    convert(GOLDEN / "v32-bf16", tmp_path / "fp8", to="fp8-block", scales=scales)
    before = stored.read(tmp_path / "fp8")
    heads = [name for name in before if name.endswith("weights_proj.weight")]
    draw = np.random.default_rng(0)
    store_anew(tmp_path / "fp8", {name: ("F32", draw.normal(size=before[name][1].shape).astype(np.float32)) for name in heads})
    before = stored.read(tmp_path / "fp8")
    result = run("convert", tmp_path / "fp8", tmp_path / "out", fuse=True)
    after = stored.read(tmp_path / "out")
    kinds = set()
    for indexer in halves(before):
        wanted = np.concatenate([stored.values(before, f"{indexer}.{part}")[0] for part in ("wk", "weights_proj")])
        exact = np.array_equal(wanted, wanted.astype(np.float32))
        kind, fused = after[f"{indexer}.wk_weights_proj.weight"]
        assert kind == ("F32" if exact else "BF16")
        assert np.array_equal(fused, wanted if exact else stored.to_bf16(wanted))
        kinds.add(kind)
    assert ("BF16" in kinds) == (scales == "f32")
    assert result.returncode == 0 and bool(result.stderr) == ("rounded once" in result.stderr) == ("BF16" in kinds)


def test_fusing_fp8_with_bf16_stays_bf16_where_that_is_exact(tmp_path):
    convert(GOLDEN / "v32-bf16", tmp_path / "fp8", to="fp8-block", scales="f32-pow2")
    before = stored.read(tmp_path / "fp8")
    result = run("convert", tmp_path / "fp8", tmp_path / "out", fuse=True)
    assert result.returncode == 0 and result.stderr == ""
    after = stored.read(tmp_path / "out")
    for indexer in halves(before):
        wanted = np.concatenate([stored.values(before, f"{indexer}.{part}")[0] for part in ("wk", "weights_proj")])
        kind, fused = after[f"{indexer}.wk_weights_proj.weight"]
        assert kind == "BF16" and np.array_equal(stored.bf16(fused), wanted)


def expected_form(family, form, module, shape):
    """By the published recipes: docs/spec/commands.md, convert."""
    if re.search(r"(embed_tokens|lm_head|shared_head\.head|mlp\.gate|eh_proj)$", module):
        return "BF16"
    if form == "fp8-block":
        return "BF16" if module.endswith(".weights_proj") else "fp8"
    return form if form != "bf16" and re.search(FP4[family], module) and shape[1] % 16 == 0 else "BF16"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["v32-bf16", "glm-bf16-fused", "v3-fp8", "glm-fp8", "v32-nvfp4", "glm-nvfp4-ct"])
def test_a_form_holds_what_numpy_makes_of_the_values(name, form, tmp_path):
    before = stored.read(GOLDEN / name)
    after = convert(GOLDEN / name, tmp_path / "out", to=form)
    assert modules_of(after) == modules_of(before)
    for tensor, (dtype, array) in before.items():
        if array.ndim == 1 and "scale" not in tensor:
            assert stored.same(after[tensor], (dtype, array)), tensor
    for module in modules_of(before):
        wanted, was = stored.values(before, module)
        given, now = stored.values(after, module)
        assert now == expected_form(name.split("-")[0], form, module, wanted.shape), module
        if now == was and now != "BF16" or {now, was} == {"nvfp4-modelopt", "nvfp4-ct"}:
            # Codes and scales are kept. A reciprocal in f32 is off by 2^-24 at most.
            np.testing.assert_allclose(given, wanted, rtol=2.0**-23 if now != was else 0, atol=0)
        elif now == "BF16":
            assert np.array_equal(after[f"{module}.weight"][1], stored.to_bf16(wanted)), module
        elif now == "fp8":
            codes, scales = stored.quantize_fp8(wanted.astype(np.float32), False)
            assert np.array_equal(after[f"{module}.weight"][1], codes), module
            assert np.array_equal(after[f"{module}.weight_scale_inv"][1], scales), module
        else:
            codes, scales, stored_factor = stored.quantize_nvfp4(wanted.astype(np.float32), now == "nvfp4-ct")
            names = ("weight_packed", "weight_global_scale") if now == "nvfp4-ct" else ("weight", "weight_scale_2")
            assert np.array_equal(after[f"{module}.{names[0]}"][1], codes), module
            assert np.array_equal(after[f"{module}.weight_scale"][1], scales), module
            assert after[f"{module}.{names[1]}"][1].reshape(()) == stored_factor, module


def test_a_release_written_in_the_form_that_it_has_stays_as_it_is(tmp_path):
    before = stored.read(GOLDEN / "v3-nvfp4")  # dense MLPs too
    after = convert(GOLDEN / "v3-nvfp4", tmp_path / "out", to="nvfp4-modelopt")
    assert before.keys() == after.keys() and all(stored.same(before[name], after[name]) for name in before)


@pytest.mark.parametrize("scales, dtype", [("f32-pow2", "F32"), ("e8m0", "F8_E8M0")])
@pytest.mark.parametrize("name", ["v32-bf16", "glm-fp8"])
def test_power_of_two_scales_are_chosen_and_stored_as_asked(name, scales, dtype, tmp_path):
    before = stored.read(GOLDEN / name)
    after = convert(GOLDEN / name, tmp_path / "out", to="fp8-block", scales=scales)
    assert config_of(tmp_path / "out")["quantization_config"]["scale_fmt"] == "ue8m0"
    quantized = [module for module in modules_of(after) if after[f"{module}.weight"][0] == "F8_E4M3"]
    assert quantized
    for module in quantized:
        kind, grid = after[f"{module}.weight_scale_inv"]
        assert kind == dtype
        assert (np.frexp(stored.scales_of(kind, grid))[0] == 0.5).all()
        if name == "v32-bf16":
            codes, wanted = stored.quantize_fp8(stored.values(before, module)[0].astype(np.float32), True)
            assert np.array_equal(after[f"{module}.weight"][1], codes)
            assert np.array_equal(stored.scales_of(kind, grid), wanted)


@pytest.mark.parametrize("scales, scale", [("f32", 0.0123), ("e8m0", 0.125), ("e8m0", 0.0123)])
def test_codes_of_a_matrix_of_one_scale_are_kept_where_blocks_can_have_it(scales, scale, tmp_path):
    output("convert", GOLDEN / "v32-fp8", tmp_path / "one")  # in one file
    config = config_of(tmp_path / "one")
    weights = {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True, "dynamic": False}
    config["quantization_config"] = {"quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"],
                                     "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}
    (tmp_path / "one" / "config.json").write_text(json.dumps(config))

    def one_scale(header, data):
        kept = bytearray()
        for name, entry in list(header.items()):
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            content = data[begin:end]
            if name.endswith(".weight_scale_inv"):
                content = np.float32(scale).tobytes()
                entry = {"dtype": "F32", "shape": [1]}
                del header[name]
                name = name.removesuffix("_inv")
            header[name] = {**entry, "data_offsets": [len(kept), len(kept) + len(content)]}
            kept += content
        data[:] = kept

    stored.rewrite(tmp_path / "one", one_scale)
    before = stored.read(tmp_path / "one")
    after = convert(tmp_path / "one", tmp_path / "out", to="fp8-block", scales=scales)
    quantized = [tensor for tensor, (dtype, _) in after.items() if dtype == "F8_E4M3"]
    assert len(quantized) > 20
    kept = [tensor for tensor in quantized if np.array_equal(after[tensor][1], before[tensor][1])]
    if scales == "f32" or scale == 0.125:
        assert kept == quantized
        for tensor in quantized:
            assert (stored.scales_of(*after[f"{tensor}_scale_inv"]) == np.float32(scale)).all()
    else:
        assert len(kept) < len(quantized)


@pytest.mark.parametrize("name, options", [("v32-fp8", {}), ("v32-fp8-fused", {}), ("v32-fp8", {"fuse": True})])
def test_to_the_form_that_it_has_a_checkpoint_keeps_its_scale_fmt(name, options, tmp_path):
    """Which says of activations too how they are quantized; and what is quantized anew has such scales."""
    before, after = stored.read(GOLDEN / name), convert(GOLDEN / name, tmp_path / "out", to="fp8-block", **options)
    assert config_of(tmp_path / "out")["quantization_config"]["scale_fmt"] == "ue8m0"
    if not options:
        assert before.keys() == after.keys() and all(stored.same(before[tensor], after[tensor]) for tensor in before)
    fused = [tensor for tensor in after if tensor not in before and tensor.endswith("_scale_inv")]
    assert bool(fused) == bool(options)
    assert all((np.frexp(stored.scales_of(*after[tensor])[1:])[0] == 0.5).all() for tensor in fused)  # weights_proj's


def test_where_all_scales_are_bytes_those_of_new_blocks_are_too(tmp_path):
    before = convert(GOLDEN / "v32-bf16", tmp_path / "fp8", to="fp8-block", scales="e8m0")
    after = convert(tmp_path / "fp8", tmp_path / "fused", to="fp8-block", fuse=True)
    assert config_of(tmp_path / "fused")["quantization_config"]["scale_fmt"] == "ue8m0"
    assert {kind for tensors in (before, after) for name, (kind, _) in tensors.items() if name.endswith("_scale_inv")} == {"F8_E8M0"}


def test_scales_that_are_asked_for_decide_the_scale_fmt(tmp_path):
    convert(GOLDEN / "v32-fp8", tmp_path / "out", to="fp8-block", scales="f32")
    assert "scale_fmt" not in config_of(tmp_path / "out")["quantization_config"]


def test_power_of_two_scales_in_f32_become_e8m0_without_loss(tmp_path):
    before = convert(GOLDEN / "v32-bf16", tmp_path / "f32", to="fp8-block", scales="f32-pow2")
    after = convert(tmp_path / "f32", tmp_path / "e8m0", to="fp8-block", scales="e8m0")
    for module in modules_of(before):
        assert stored.same(before[f"{module}.weight"], after[f"{module}.weight"])
        assert np.array_equal(stored.values(before, module)[0], stored.values(after, module)[0])


@pytest.mark.parametrize("name, options", [
    ("v32-bf16", {"to": "fp8-block", "fuse": True}), ("glm-bf16", {"to": "fp8-block", "fuse": True, "scales": "e8m0"}),
    ("v32-fp8", {"to": "fp8-block", "fuse": True}), ("glm-fp8-fused", {"to": "nvfp4-ct", "unfuse": True})])
def test_a_form_and_a_spelling_at_once_stand_for_the_same_matrix(name, options, tmp_path):
    before, after = stored.read(GOLDEN / name), convert(GOLDEN / name, tmp_path / "out", **options)

    def projection(tensors, indexer):
        parts = [part for part in ("wk", "weights_proj", "wk_weights_proj") if part in halves(tensors)[indexer]]
        return np.concatenate([stored.values(tensors, f"{indexer}.{part}")[0] for part in parts])

    for indexer in halves(before):
        wanted, given = projection(before, indexer), projection(after, indexer)
        # e4m3 has 3 bits after the point; with power-of-two scales the largest code is at least 224, so that codes below its
        # least normal value, 2^-6, are off by at most 2^-10 / 224 of the block's largest value.
        assert (np.abs(given - wanted) <= np.maximum(2.0**-4 * np.abs(wanted), 2.0**-17 * np.abs(wanted).max())).all()
    if name == "v32-fp8":  # dI = 128: the rows of wk have blocks of their own, and keep them
        for indexer in halves(before):
            codes = after[f"{indexer}.wk_weights_proj.weight"]
            assert stored.same((codes[0], codes[1][:128]), before[f"{indexer}.wk.weight"])


@pytest.mark.parametrize("form", FORMS)
def test_what_a_form_computes_is_near_what_the_source_does(form, tmp_path):
    convert(MINI, tmp_path / "out", to=form)
    prompt = list(range(1, 200))
    wanted = logits([prompt], model=MINI, precision="full", last=True)["logits.0"]
    given = logits([prompt], model=tmp_path / "out", precision="full", last=True)["logits.0"]
    # Not a bound but a sanity check: a scale that is off by a factor changes every logit by far more.
    assert np.abs(given - wanted).mean() < (0 if form == "bf16" else 0.5) + 1e-6 and np.isfinite(given).all()


def test_a_divisor_turned_factor_and_back_is_itself_or_its_neighbour(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(GOLDEN / "glm-nvfp4-ct", source)
    steps = itertools.cycle(np.linspace(1.01, 1.99, 23, dtype=np.float32))
    names = []

    def spread(header, data):
        start = 0
        for name, entry in header.items():
            if name.endswith("weight_global_scale"):
                start = entry["data_offsets"][0]
                divisor = np.frombuffer(data, np.float32, 1, start)[0]
                data[start:start + 4] = np.float32(divisor / np.frexp(divisor)[0] / 2 * next(steps)).tobytes()
                names.append(name)

    stored.rewrite(source, spread)
    convert(source, tmp_path / "factors", to="nvfp4-modelopt")
    before, after = stored.read(source), convert(tmp_path / "factors", tmp_path / "divisors", to="nvfp4-ct")
    for name, tensor in before.items():
        if not name.endswith("_global_scale"):
            assert stored.same(after[name], tensor), name
    was = np.array([before[name][1].reshape(()) for name in names])
    now = np.array([after[name][1].reshape(()) for name in names])
    # 1 / d is off by half its last place; as 1 / (1 / d) that is d^2 / 4 of d's last place, for d in [1, 2).
    exact = 2 * np.frexp(was)[0] < np.sqrt(2)
    assert exact.any() and not exact.all() and np.array_equal(now[exact], was[exact])
    assert (np.abs(now - was) <= np.spacing(was)).all()


def test_quantization_fields_follow_the_form(tmp_path):
    convert(GOLDEN / "v32-nvfp4", tmp_path / "bf16", to="bf16")
    assert "quantization_config" not in config_of(tmp_path / "bf16")
    assert not (tmp_path / "bf16" / "hf_quant_config.json").exists()
    convert(tmp_path / "bf16", tmp_path / "modelopt", to="nvfp4-modelopt")
    fields = config_of(tmp_path / "modelopt", "hf_quant_config.json")["quantization"]
    assert fields["quant_algo"] == "NVFP4" and fields["group_size"] == 16
    tensors = stored.read(tmp_path / "modelopt")
    plain = [module for module in modules_of(tensors) if stored.values(tensors, module)[1] == "BF16"]
    assert fields["exclude_modules"] == plain == config_of(tmp_path / "modelopt")["quantization_config"]["ignore"]
    convert(tmp_path / "modelopt", tmp_path / "ct", to="nvfp4-ct")
    assert config_of(tmp_path / "ct")["quantization_config"]["format"] == "nvfp4-pack-quantized"
    assert not (tmp_path / "ct" / "hf_quant_config.json").exists()


def test_lists_of_modules_name_the_projection_as_it_is_spelled(tmp_path):
    convert(GOLDEN / "v32-nvfp4", tmp_path / "fused", fuse=True)
    lists = [config_of(tmp_path / "fused")["quantization_config"]["ignore"],
             config_of(tmp_path / "fused", "hf_quant_config.json")["quantization"]["exclude_modules"]]
    for names in lists:
        spelled = {name.rpartition(".")[2] for name in names if ".indexer.w" in name and not name.endswith("wq_b")}
        assert spelled == {"wk_weights_proj"} and names == sorted(names)
    convert(tmp_path / "fused", tmp_path / "apart", unfuse=True)
    assert config_of(tmp_path / "apart") == config_of(GOLDEN / "v32-nvfp4")


def test_shards_are_no_larger_than_asked_and_the_index_lists_them(tmp_path):
    most = 200_000
    tensors = convert(GOLDEN / "v32-fp8", tmp_path / "out", shard_size="200KB")
    index = config_of(tmp_path / "out", "model.safetensors.index.json")
    assert index["weight_map"].keys() == tensors.keys()
    assert index["metadata"]["total_size"] == sum(array.nbytes for _, array in tensors.values())
    files = sorted(set(index["weight_map"].values()))
    assert files == [f"model-{i + 1:05}-of-{len(files):05}.safetensors" for i in range(len(files))] and len(files) > 2
    for file in files:
        held = [name for name, place in index["weight_map"].items() if place == file]
        assert (tmp_path / "out" / file).stat().st_size <= most
        assert all(index["weight_map"][name.removesuffix("_scale_inv")] == file for name in held if name.endswith("_scale_inv"))


def test_a_tensor_larger_than_a_shard_has_one_of_its_own(tmp_path):
    tensors = convert(GOLDEN / "v3-bf16", tmp_path / "out", shard_size="1B")
    index = config_of(tmp_path / "out", "model.safetensors.index.json")
    assert len(set(index["weight_map"].values())) == len(tensors)
    said = run("convert", GOLDEN / "v3-bf16", tmp_path / "again", shard_size="20KB").stderr
    files = len(list((tmp_path / "again").glob("*.safetensors")))
    assert re.search(rf"\d+ of {files} files are larger than --shard-size \(20000 bytes\)", said), said


OTHER_WEIGHTS = {"pytorch_model.bin", "flax_model.msgpack", "model.ckpt", "model.ckpt.index", "model.safetensors.1", "model.GGUF", "weights.npz",
                 "pytorch_model.bin.index.json", "model.onnx_data"}


def test_files_beside_the_weights_go_along(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(MINI, source)
    for stale in OTHER_WEIGHTS:
        (source / stale).write_bytes(b"stale")
    (source / ".hidden").write_bytes(b"")
    result = run("convert", source, tmp_path / "out", fuse=True)
    assert result.returncode == 0 and "eval, expected, train" in result.stderr
    kept = {file.name for file in source.iterdir() if file.is_file()} - OTHER_WEIGHTS - {".hidden"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == kept
    assert all((tmp_path / "out" / name).read_bytes() == (source / name).read_bytes() for name in kept - {"model.safetensors"})
    options = {"max_tokens": 12}
    assert output("generate", "In the beginning", model=tmp_path / "out", **options) == \
        output("generate", "In the beginning", model=MINI, **options)


def test_a_pipe_sees_no_progress_and_a_terminal_does(tmp_path):
    result = run("convert", GOLDEN / "v32-bf16", tmp_path / "out")
    assert result.stderr == "" and result.stdout.startswith(f"{tmp_path / 'out'}: ")
    terminal = Terminal(*command("convert", GOLDEN / "v32-bf16", tmp_path / "again"))
    terminal.read_until(r"converting \[[#.]+\] \d+/\d+ [\d.]+ \w*B/s \d+ s left")
    assert terminal.status() == 0


def test_the_examples_of_the_help_work(tmp_path):
    text = output("convert", help=True)
    examples = [line.split()[1:] for line in text.partition("Examples:")[2].splitlines() if line.startswith("  fulgur")]
    assert len(examples) == 3
    for arguments in examples:
        here = [argument.replace("/tmp", str(tmp_path)).replace("models/mini-v32", str(MINI)) for argument in arguments]
        output(*here)


def test_quantized_tensors_that_the_model_does_not_use_do_not_outlive_their_config(tmp_path):
    """A GLM layer that shares another's indexer may hold one of its own all the same."""
    source = tmp_path / "source"
    shutil.copytree(GOLDEN / "glm-fp8", source)
    config = config_of(source)
    shared = config["indexer_types"].index("shared")
    stray = f"model.layers.{shared}.self_attn.indexer."
    full = f"model.layers.{config['indexer_types'].index('full')}.self_attn.indexer."

    def add(header, data):
        for name in [name for name in header if name.startswith(full)]:
            begin, end = header[name]["data_offsets"]
            header[stray + name.removeprefix(full)] = {**header[name], "data_offsets": [len(data), len(data) + end - begin]}
            data += data[begin:end]

    stored.rewrite(source, add)
    assert any(name.startswith(stray) for name in convert(source, tmp_path / "as-is"))
    result = run("convert", source, tmp_path / "bf16", to="bf16")
    held = stored.read(tmp_path / "bf16")
    assert result.returncode == 0 and "no use for are left out" in result.stderr and stray in result.stderr
    assert {dtype for dtype, _ in held.values()} <= {"BF16", "F32"} and "quantization_config" not in config_of(tmp_path / "bf16")
    assert stray + "k_norm.weight" in held and not any(name.startswith(stray) and "_scale" in name for name in held)
    assert stray + "wk.weight" not in held


@unsanitized
@pytest.mark.parametrize("options", [{"to": "nvfp4-ct"}, {"fuse": True}], ids=["rewritten", "copied"])
def test_a_conversion_holds_a_few_tensors_of_its_source(options, tmp_path):
    """Also of what is mapped: a large checkpoint must not push out what else the machine holds."""
    wide = ["--set", "hidden_size=1024", "--set", "moe_intermediate_size=512", "--set", "intermediate_size=2048"]
    output("convert", *["--random-weights", MINI / "config.json", *wide], tmp_path / "source")
    size = sum(file.stat().st_size for file in (tmp_path / "source").glob("*.safetensors"))
    assert size > 150 << 20
    result, _, most_bytes = measured(command("convert", tmp_path / "source", tmp_path / "out", **options))
    assert result.returncode == 0, result.stderr
    assert most_bytes < 64 << 20  # 32 MiB of values, the largest matrix (4 MiB), and the program itself
