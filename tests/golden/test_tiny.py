"""The tiny checkpoints of tests/golden/data against their reference answers (tests/golden/data/README.md)."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from fulgur_cli import logits, run
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

DATA = Path(__file__).parent / "data"
KINDS = ["v32-bf16", "v32-bf16-fused", "v32-fp8", "v32-fp8-fused", "v32-nvfp4",
         "glm-bf16", "glm-bf16-fused", "glm-fp8", "glm-fp8-fused", "glm-nvfp4-ct",
         "v3-bf16", "v3-fp8", "v3-nvfp4"]
WITH_MTP = ["glm-bf16", "glm-fp8", "glm-fp8-fused", "glm-nvfp4-ct", "v3-bf16", "v3-fp8", "v3-nvfp4"]
WITH_INDEXER = [name for name in KINDS if not name.startswith("v3-")]
PROJECTIONS = ["separate", "overlapped", "fused"]

# What a float32 engine keeps to (README, "What to expect").
LOGITS = 1e-3
SCORES = 1e-4


class Golden:
    """One folder: its reference tensors, and the prompts in it."""

    def __init__(self, name):
        self.model = DATA / name
        self.tensors = load_file(self.model / "golden.safetensors")
        self.names = [f"p{i}" for i in range(4) if f"p{i}.input_ids" in self.tensors]
        self.prompts = [self.tensors[f"{p}.input_ids"] for p in self.names]
        self.config = json.loads((self.model / "config.json").read_text())

    def layers(self, prompt, kind):
        """Layers for which the reference has `pN.kind.LAYER`."""
        start = f"{prompt}.{kind}."
        return sorted(int(key[len(start):]) for key in self.tensors if key.startswith(start))

    def run(self, **options):
        return logits(self.prompts, model=self.model, **options)

    def rows(self, tensors, i):
        """The logits of prompt i at the rows that the reference stores."""
        return tensors[f"logits.{i}"][self.tensors[f"{self.names[i]}.rows"]]

    def weight(self, name):
        """A bf16 tensor of the checkpoint, in f32."""
        for file in sorted(self.model.glob("model*.safetensors")):
            with safe_open(file, "np") as tensors:
                if name not in tensors.keys():
                    continue
            blob = file.read_bytes()
            size = int.from_bytes(blob[:8], "little")
            entry = json.loads(blob[8:8 + size])[name]
            assert entry["dtype"] == "BF16"
            begin, end = entry["data_offsets"]
            stored = np.frombuffer(blob[8 + size + begin:8 + size + end], "<u2").astype(np.uint32)
            return (stored << 16).view(np.float32).reshape(entry["shape"])
        raise KeyError(name)


@pytest.fixture(params=KINDS)
def golden(request):
    return Golden(request.param)


@pytest.fixture(params=WITH_INDEXER)
def golden_with_indexer(request):
    return Golden(request.param)


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_full_precision_gives_the_reference_logits(golden, projection):
    tensors = golden.run(precision="full", indexer_projection=projection)
    for i, name in enumerate(golden.names):
        assert tensors[f"logits.{i}"].shape == (len(golden.prompts[i]), golden.config["vocab_size"])
        np.testing.assert_allclose(golden.rows(tensors, i), golden.tensors[f"{name}.logits"], rtol=0, atol=LOGITS, err_msg=name)


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_full_precision_selects_the_reference_keys(golden_with_indexer, projection):
    golden = golden_with_indexer
    tensors = golden.run(precision="full", topk=True, indexer_projection=projection)
    compared = 0
    for i, name in enumerate(golden.names):
        for layer in golden.layers(name, "topk"):
            np.testing.assert_array_equal(tensors[f"topk.{i}.{layer}"], golden.tensors[f"{name}.topk.{layer}"], err_msg=f"{name}, layer {layer}")
            compared += 1
    assert compared >= 2 * len(golden.names)


def test_topk_is_written_for_the_layers_that_own_an_indexer_and_no_others(golden):
    tensors = golden.run(precision="full", topk=True)
    for i, name in enumerate(golden.names):
        start = f"topk.{i}."
        assert sorted(int(key[len(start):]) for key in tensors if key.startswith(start)) == golden.layers(name, "topk")


@pytest.mark.parametrize("name", ["v32-bf16", "glm-bf16"])
def test_full_precision_gives_the_reference_index_scores(name):
    golden = Golden(name)
    tensors = golden.run(precision="full", dump="scores")
    layers = golden.layers("p2", "index_scores")
    assert layers
    for layer in layers:
        expected = golden.tensors[f"p2.index_scores.{layer}"]
        np.testing.assert_allclose(tensors[f"scores.2.{layer}"], expected, rtol=0, atol=SCORES, err_msg=f"layer {layer}")
        assert not np.triu(tensors[f"scores.2.{layer}"], 1).any()


@pytest.mark.parametrize("name", ["v32-bf16", "glm-bf16", "v3-bf16"])
def test_full_precision_gives_the_reference_hidden_states(name):
    golden = Golden(name)
    tensors = golden.run(precision="full", dump="hidden")
    count = golden.config["num_hidden_layers"]
    assert golden.layers("p1", "hidden") == list(range(count + 1))
    for layer in range(1, count):
        np.testing.assert_allclose(tensors[f"hidden.1.{layer - 1}"], golden.tensors[f"p1.hidden.{layer}"], rtol=0, atol=LOGITS)
    # The reference's last entry is after the final norm.
    last = tensors[f"hidden.1.{count - 1}"].astype(np.float64)
    normed = last / np.sqrt((last**2).mean(-1, keepdims=True) + golden.config["rms_norm_eps"]) * golden.weight("model.norm.weight")
    np.testing.assert_allclose(normed, golden.tensors[f"p1.hidden.{count}"], rtol=0, atol=LOGITS)


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("name", WITH_MTP)
def test_full_precision_gives_the_reference_of_the_mtp_layer(name, projection):
    golden = Golden(name)
    tensors = golden.run(precision="full", mtp=True, dump="hidden", indexer_projection=projection)
    compared = 0
    for i, prompt in enumerate(golden.names):
        for kind, rows in (("mtp_logits", golden.tensors.get(f"{prompt}.mtp_rows")), ("mtp_hidden", slice(None))):
            if f"{prompt}.{kind}" in golden.tensors:
                np.testing.assert_allclose(tensors[f"{kind}.{i}"][rows], golden.tensors[f"{prompt}.{kind}"], rtol=0, atol=LOGITS, err_msg=f"{prompt}.{kind}")
                compared += 1
    assert compared == sum(key.endswith((".mtp_logits", ".mtp_hidden")) for key in golden.tensors) > 0


def test_a_prompt_of_one_token_has_no_mtp_row():
    tensors = logits([[5], [5, 6]], model=DATA / "v3-bf16", mtp=True, dump="hidden")
    assert tensors["mtp_logits.0"].shape == (0, 128) and tensors["mtp_hidden.0"].shape == (0, 160)
    assert tensors["mtp_logits.1"].shape == (1, 128) and tensors["mtp_hidden.1"].shape == (1, 160)


def test_mtp_on_a_model_without_that_layer_is_refused(tmp_path):
    (tmp_path / "ids.json").write_text("[1, 2, 3]")
    result = run("logits", model=DATA / "v32-bf16", tokens=tmp_path / "ids.json", out=tmp_path / "out.safetensors", mtp=True)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.splitlines()[0] == "This model has no layer for multi-token prediction."
    assert "num_nextn_predict_layers" in result.stderr.split("expected", 1)[1]
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("projection", PROJECTIONS)
def test_full_precision_continues_as_the_reference(golden, projection):
    tensors = golden.run(precision="full", greedy=32, indexer_projection=projection)
    for i, name in enumerate(golden.names):
        if f"{name}.greedy" in golden.tensors:
            np.testing.assert_array_equal(tensors[f"greedy.{i}"], golden.tensors[f"{name}.greedy"], err_msg=name)
    assert {"p1.greedy", "p3.greedy"} <= golden.tensors.keys()


@pytest.mark.parametrize("precision", ["native", "full"])
def test_logits_do_not_depend_on_chunks_threads_or_the_form_of_the_projection(golden, precision):
    reference = golden.run(precision=precision)
    variants = [dict(chunk=chunk, threads=threads) for chunk in (1, 7, 64) for threads in (1, 2, 3)]
    variants += [dict(indexer_projection=projection) for projection in PROJECTIONS]
    for variant in variants:
        tensors = golden.run(precision=precision, **variant)
        for i in range(len(golden.prompts)):
            assert tensors[f"logits.{i}"].tobytes() == reference[f"logits.{i}"].tobytes(), (variant, i)


@pytest.mark.parametrize("precision", ["native", "full"])
@pytest.mark.parametrize("name", ["glm-bf16", "glm-fp8-fused", "v3-nvfp4"])
def test_mtp_logits_do_not_depend_on_chunks_threads_or_the_form_of_the_projection(name, precision):
    golden = Golden(name)
    reference = golden.run(precision=precision, mtp=True)
    without = golden.run(precision=precision)
    for i, prompt in enumerate(golden.prompts):
        assert reference[f"logits.{i}"].tobytes() == without[f"logits.{i}"].tobytes()
        assert reference[f"mtp_logits.{i}"].shape == (len(prompt) - 1, golden.config["vocab_size"])
    variants = [dict(chunk=1, threads=2), dict(chunk=7, threads=3), dict(chunk=64, threads=1)]
    variants += [dict(indexer_projection=projection) for projection in PROJECTIONS]
    for variant in variants:
        tensors = golden.run(precision=precision, mtp=True, **variant)
        for i in range(len(golden.prompts)):
            assert tensors[f"mtp_logits.{i}"].tobytes() == reference[f"mtp_logits.{i}"].tobytes(), (variant, i)


def test_logits_do_not_depend_on_the_other_prompts(golden):
    together = golden.run()
    for i, prompt in enumerate(golden.prompts):
        alone = logits([prompt], model=golden.model)
        assert alone["logits.0"].tobytes() == together[f"logits.{i}"].tobytes()


def test_last_writes_the_last_row_alone(golden):
    tensors, last = golden.run(), golden.run(last=True)
    for i in range(len(golden.prompts)):
        assert last[f"logits.{i}"].tobytes() == tensors[f"logits.{i}"][-1:].tobytes()


def test_native_precision_stays_near_the_reference(golden):
    tensors = golden.run(topk=True)
    differences, agreements, overlaps = [], [], []
    for i, name in enumerate(golden.names):
        expected, found = golden.tensors[f"{name}.logits"], golden.rows(tensors, i)
        differences.append(np.abs(found - expected))
        agreements.append(found.argmax(-1) == expected.argmax(-1))
        for layer in golden.layers(name, "topk"):
            for ours, theirs in zip(tensors[f"topk.{i}.{layer}"], golden.tensors[f"{name}.topk.{layer}"]):
                theirs = set(theirs[theirs >= 0])
                overlaps.append(len(theirs & set(ours)) / len(theirs))
    assert np.concatenate(differences).mean() < 0.5
    assert np.concatenate(agreements).mean() > 0.8
    assert not overlaps or np.mean(overlaps) > 0.9


@pytest.mark.parametrize("precision", ["native", "full"])
def test_imposed_selections_leave_only_rounding(golden_with_indexer, precision, tmp_path):
    golden = golden_with_indexer
    imposed = {f"topk.{i}.{layer}": golden.tensors[f"{name}.topk.{layer}"]
               for i, name in enumerate(golden.names) for layer in golden.layers(name, "topk")}
    save_file(imposed, tmp_path / "topk.safetensors")
    tensors = golden.run(precision=precision, inject_topk=tmp_path / "topk.safetensors", topk=True)
    differences = np.concatenate([np.abs(golden.rows(tensors, i) - golden.tensors[f"{name}.logits"]).ravel() for i, name in enumerate(golden.names)])
    if precision == "full":
        assert differences.max() < LOGITS
    else:  # bf16 rounds everywhere (README, "What to expect")
        assert differences.mean() < 0.1
    for key, selection in imposed.items():
        np.testing.assert_array_equal(tensors[key], selection, err_msg=key)


def test_a_missing_imposed_selection_is_an_error(tmp_path):
    golden = Golden("v32-bf16")
    imposed = {f"topk.{i}.{layer}": golden.tensors[f"{name}.topk.{layer}"]
               for i, name in enumerate(golden.names) for layer in golden.layers(name, "topk")}
    del imposed["topk.3.1"]
    save_file(imposed, tmp_path / "topk.safetensors")
    (tmp_path / "ids.json").write_text(json.dumps([prompt.tolist() for prompt in golden.prompts]))
    result = run("logits", model=golden.model, tokens=tmp_path / "ids.json", out=tmp_path / "out.safetensors",
                 inject_topk=tmp_path / "topk.safetensors")
    assert result.returncode == 1
    assert "topk.3.1" in result.stderr.splitlines()[0]
    assert not (tmp_path / "out.safetensors").exists()


def test_a_weight_stored_as_integers_is_refused_by_name(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(DATA / "v32-bf16", model)
    name = "model.layers.1.self_attn.kv_b_proj.weight"
    blob = (model / "model.safetensors").read_bytes()
    entry = f'"{name}":{{"dtype":"BF16"'.encode()
    assert blob.count(entry) == 1
    # Two bytes an element, as bf16; spaces keep the header's length.
    size = int.from_bytes(blob[:8], "little")
    header = blob[8:8 + size].replace(entry, entry.replace(b"BF16", b"I16"))
    (model / "model.safetensors").write_bytes(blob[:8] + header.ljust(size) + blob[8 + size:])
    (tmp_path / "ids.json").write_text("[1, 2, 3]")
    result = run("logits", model=model, tokens=tmp_path / "ids.json", out=tmp_path / "out.safetensors")
    assert (result.returncode, result.stdout) == (1, "")
    first = result.stderr.splitlines()[0]
    assert first.startswith("model.safetensors: ") and first.endswith(".")
    assert name in first and "I16" in first
    assert "BF16" in result.stderr.split("expected", 1)[1]
    assert not (tmp_path / "out.safetensors").exists()


def test_every_folder_with_mtp_answers_is_among_those_compared():
    assert sorted(WITH_MTP) == sorted(name for name in KINDS if any(".mtp_logits" in key for key in Golden(name).tensors))


def test_every_folder_of_the_data_is_a_kind():
    assert sorted(KINDS) == sorted(path.name for path in DATA.iterdir() if path.is_dir())
