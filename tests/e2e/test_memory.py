"""The memory that is predicted before a model is loaded, and what the process then takes (docs/spec/commands.md, inspect)."""

import json
import re

import pytest
from fulgur_cli import MINI, ROOT, output, run

CONFIG = ROOT / "models" / "configs" / "deepseek-v3.2.json"
SMALL = ["hidden_size=512", "intermediate_size=1024", "moe_intermediate_size=256", "n_routed_experts=32", "num_attention_heads=8",
         "num_key_value_heads=8", "q_lora_rank=256", "kv_lora_rank=256", "vocab_size=4096", "index_n_heads=8", "index_topk=256"]


def sets(*fields):
    return [part for field in fields for part in ("--set", field)]


def ids(count):
    return ",".join(str(2 + 7 * i % 1000) for i in range(count))


def measured(*model, prompt, max_tokens, **options):
    """(predicted, used) bytes of a run that fills its caches."""
    result = run("generate", *model, ids=ids(prompt), max_tokens=max_tokens, verbose=True, json=True, **options)
    assert result.returncode == 0, result.stderr
    predicted = float(re.search(r"memory: ([0-9.]+) MB predicted", result.stderr).group(1)) * 1e6
    return predicted, json.loads(result.stdout)["timings"]["peak_rss_bytes"]


@pytest.mark.parametrize("options", [{}, {"threads": 1, "kv_dtype": "fp8", "index_dtype": "fp8"}, {"precision": "full", "speculate": 1}],
                         ids=["native", "fp8", "full"])
def test_a_process_takes_what_was_predicted(options):
    predicted, used = measured(prompt=2000, max_tokens=40, model=MINI, **options)
    assert used == pytest.approx(predicted, rel=0.05)


@pytest.mark.parametrize("layers", [4, pytest.param(60, marks=pytest.mark.long)])
def test_weights_drawn_at_random_take_what_was_predicted(layers):
    """4 layers: 130 MB; 60: 1.9 GB."""
    model = ["--random-weights", CONFIG, "--layers", layers, "--weights-form", "bf16", *sets(*SMALL)]
    predicted, used = measured(*model, prompt=600, max_tokens=8)
    assert used == pytest.approx(predicted, rel=0.05)


def test_inspect_predicts_what_generate_takes():
    """Of a model without a tokenizer, which inspect doesn't read."""
    model = ["--random-weights", CONFIG, "--layers", 4, "--weights-form", "bf16", *sets(*SMALL)]
    report = json.loads(output("inspect", *model, json=True, context=608, threads=2))
    _, used = measured(*model, prompt=600, max_tokens=8, threads=2)
    assert used == pytest.approx(report["memory"]["total"], rel=0.05)


def test_what_does_not_fit_is_refused_before_it_is_allocated():
    model = ["--random-weights", CONFIG, "--layers", 4, *sets(*SMALL, "max_position_embeddings=16000000")]
    result = run("generate", *model, ids="5", max_tokens=15_000_000)
    assert (result.returncode, result.stdout) == (1, "")
    assert "The model takes" in result.stderr.splitlines()[0] and "of caches" in result.stderr
