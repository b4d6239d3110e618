"""mini-v32 against models/mini-v32/expected/goldens.* (that folder's README says what they hold)."""

import json

import numpy as np
import pytest
from fulgur_cli import MINI, logits, output
from safetensors.numpy import load_file

GOLDENS = json.loads((MINI / "expected" / "goldens.json").read_text(encoding="utf-8"))
TENSORS = load_file(MINI / "expected" / "goldens.safetensors")
LAYERS = range(5)
TOLERANCE = 1e-3  # README, "How exactly to agree"

each_golden = pytest.mark.parametrize("golden", GOLDENS, ids=[golden["name"] for golden in GOLDENS])


@each_golden
def test_full_precision_gives_the_reference(golden):
    name = golden["name"]
    tensors = logits([golden["ids"]], precision="full", topk=True, dump="hidden,router", greedy=len(golden["greedy_ids"]))
    rows = tensors["logits.0"]
    np.testing.assert_allclose(rows[-1], TENSORS[f"{name}.logits_last"], rtol=0, atol=TOLERANCE)
    if f"{name}.logits_all" in TENSORS:
        np.testing.assert_allclose(rows, TENSORS[f"{name}.logits_all"], rtol=0, atol=TOLERANCE)
    for layer in LAYERS:
        selected = tensors[f"topk.0.{layer}"][-1]
        np.testing.assert_array_equal(selected[selected >= 0], TENSORS[f"{name}.indexer_topk.{layer}"])
    for key, expected in TENSORS.items():
        stem, _, layer = key.rpartition(".")
        if stem == f"{name}.hidden" or stem == f"{name}.router_weights":
            kind = stem.rpartition(".")[2]
            np.testing.assert_allclose(tensors[f"{kind}.0.{layer}"], expected, rtol=0, atol=TOLERANCE, err_msg=key)
        elif stem == f"{name}.router_experts":
            np.testing.assert_array_equal(tensors[f"router_experts.0.{layer}"], expected, err_msg=key)
    np.testing.assert_array_equal(tensors["greedy.0"], golden["greedy_ids"])
    assert rows[-1].argmax() == golden["next_token"]
    best = np.argsort(-rows[-1], kind="stable")[:5]
    assert best.tolist() == [token for token, _ in golden["top5"]]
    np.testing.assert_allclose(rows[-1][best], [value for _, value in golden["top5"]], rtol=0, atol=TOLERANCE)


@each_golden
def test_full_precision_drafts_as_the_reference(golden):
    """The reference runs the MTP layer at the last position, given the token that the model chose there."""
    mtp = logits([[*golden["ids"], golden["next_token"]]], precision="full", last=True, mtp=True)["mtp_logits.0"]
    np.testing.assert_allclose(mtp[-1], TENSORS[f"{golden['name']}.mtp_logits_last"], rtol=0, atol=TOLERANCE)
    assert mtp[-1].argmax() == golden["mtp_second_token"]


def test_the_goldens_cover_hidden_states_and_routing():
    for name in ("kjv", "arithmetic"):
        assert {f"{name}.hidden.{layer}" for layer in LAYERS} <= TENSORS.keys()
        assert {f"{name}.router_experts.{layer}" for layer in LAYERS if layer > 0} <= TENSORS.keys()


@each_golden
def test_the_prompt_is_tokenized_as_the_reference(golden):
    assert json.loads(output("tokenize", golden["text"], json=True)) == golden["ids"]


@each_golden
def test_generate_continues_as_the_reference(golden):
    answer = json.loads(output("generate", golden["text"], precision="full", max_tokens=len(golden["greedy_ids"]), json=True))
    assert answer["prompt_ids"] == golden["ids"]
    end = answer["finish_reason"] == "stop"
    assert end == (golden["greedy_ids"][-1] == 1)
    # The end token is no part of the answer, wherever a reader counts it.
    assert [token for token in answer["ids"] if token != 1] == [token for token in golden["greedy_ids"] if token != 1]
    text = golden["greedy_text"].replace("<｜end▁of▁sentence｜>", "")
    assert answer["text"] == text


@pytest.mark.parametrize("precision", ["native", "full"])
def test_logits_of_a_long_prompt_do_not_depend_on_chunks_or_threads(precision):
    ids = next(golden["ids"] for golden in GOLDENS if golden["name"] == "retrieval-512")
    reference = logits([ids], precision=precision, mtp=True)
    for variant in [dict(chunk=1), dict(chunk=7, threads=3), dict(chunk=64, threads=1), dict(threads=2)]:
        tensors = logits([ids], precision=precision, mtp=True, **variant)
        for name in ("logits.0", "mtp_logits.0"):
            assert tensors[name].tobytes() == reference[name].tobytes(), (name, variant)


def test_native_precision_says_the_same_number_in_4000_tokens():
    golden = next(golden for golden in GOLDENS if golden["name"] == "retrieval-4000")
    tensors = logits([golden["ids"]], last=True, greedy=len(golden["greedy_ids"]))
    np.testing.assert_array_equal(tensors["greedy.0"], golden["greedy_ids"])
