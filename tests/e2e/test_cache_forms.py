"""What the caches hold their entries as: --kv-dtype and --index-dtype (docs/spec/model.md, section 12)."""

import itertools
import json

import numpy as np
import pytest
from fulgur_cli import MINI, ROOT, evaluate, logits, output, rows_of, run

GOLDEN = ROOT / "tests" / "golden" / "data"
FORMS = ["bf16", "fp8", "f32"]
# Bytes a token and layer of mini-v32.
LATENTS = {"bf16": 320, "fp8": 196, "f32": 640}
INDEX_KEYS = {"bf16": 128, "fp8": 68, "f32": 256}


def prompt(count, vocab):
    return [int(token) for token in np.random.default_rng(3).integers(2, vocab, count)]


@pytest.mark.parametrize("kv_dtype, index_dtype, precision", [("fp8", "fp8", "native"), ("f32", "fp8", "native"), ("fp8", "bf16", "full")])
@pytest.mark.parametrize("name", ["v32-bf16", "glm-fp8"])
def test_logits_have_the_same_bits_for_any_chunks_threads_and_projection(name, kv_dtype, index_dtype, precision):
    forms = {"model": GOLDEN / name, "kv_dtype": kv_dtype, "index_dtype": index_dtype, "precision": precision}
    ids = [prompt(150, 100)]
    expected = logits(ids, threads=1, **forms)["logits.0"]
    for options in ({"threads": 2, "chunk": 1}, {"threads": 3, "chunk": 7, "indexer_projection": "separate", "index_scratch": "100K"}):
        assert logits(ids, **options, **forms)["logits.0"].tobytes() == expected.tobytes(), options
    default = logits(ids, model=GOLDEN / name, precision=precision)["logits.0"]
    assert (default != expected).any(), "the options change something"


def test_fp8_caches_cost_mini_next_to_nothing():
    """docs/performance.md has 0.01% over all rows; single rows go either way."""
    rows = rows_of("kjv")[:2]
    nats = [evaluate(rows, **forms)["nats"] for forms in ({}, {"kv_dtype": "fp8", "index_dtype": "fp8"})]
    assert nats[0] != nats[1]
    assert nats[1] == pytest.approx(nats[0], rel=0.01)


@pytest.mark.parametrize("kv_dtype, index_dtype", list(itertools.product(FORMS, FORMS)))
def test_inspect_counts_entries_as_the_spec_does(kv_dtype, index_dtype):
    report = json.loads(output("inspect", MINI, json=True, context=100, batch=3, kv_dtype=kv_dtype, index_dtype=index_dtype))
    tokens = 3 * 128 * 6  # whole pages, layers with the MTP layer
    caches = report["memory"]["caches"]
    assert caches["latents"] == {"dtype": kv_dtype, "bytes": tokens * LATENTS[kv_dtype]}
    assert caches["index_keys"] == {"dtype": index_dtype, "bytes": tokens * INDEX_KEYS[index_dtype]}
    assert report["memory"]["cache"] == caches["latents"]["bytes"] + caches["index_keys"]["bytes"]


@pytest.mark.parametrize("precision, form", [("native", "bf16"), ("full", "f32")])
def test_the_precision_says_what_nobody_else_says(precision, form):
    caches = json.loads(output("inspect", MINI, json=True, precision=precision))["memory"]["caches"]
    assert {cache["dtype"] for cache in caches.values()} == {form}
    caches = json.loads(output("inspect", GOLDEN / "v3-bf16", json=True, precision=precision))["memory"]["caches"]
    assert caches.keys() == {"latents"} and caches["latents"]["dtype"] == form


@pytest.mark.parametrize("command", [["generate"], ["inspect", GOLDEN / "v3-bf16"]], ids=["generate", "inspect"])
def test_a_model_without_an_indexer_has_no_index_keys(command):
    model = {"model": GOLDEN / "v3-bf16", "ids": "1"} if command == ["generate"] else {}
    result = run(*command, index_dtype="bf16", **model)
    assert (result.returncode, result.stdout) == (1, "")
    assert "--index-dtype" in result.stderr.splitlines()[0]


def test_a_scratch_that_no_row_fits_in_is_refused():
    result = run("generate", "x", index_scratch="1K", threads=2)
    assert (result.returncode, result.stdout) == (1, "")
    assert "--index-scratch" in result.stderr.splitlines()[0] and "at least" in result.stderr
    assert run("generate", "x", index_scratch="much").returncode == 2
