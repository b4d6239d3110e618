"""Models without weights (docs/spec/commands.md, Common): --random-weights wherever a command takes a checkpoint."""

import json

import numpy as np
import pytest
import stored_tensors
from fulgur_cli import MINI, ROOT, command, measured, output, run
from safetensors.numpy import load_file

CONFIGS = ROOT / "models" / "configs"
FORMS = ["bf16", "fp8-block", "nvfp4-modelopt", "nvfp4-ct"]
SIZES = {"vocab_size": 512, "hidden_size": 256, "intermediate_size": 384, "moe_intermediate_size": 128, "n_routed_experts": 16,
         "num_experts_per_tok": 4, "num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 128, "kv_lora_rank": 128,
         "index_n_heads": 4, "index_topk": 16, "eos_token_id": 1}


def small(config, layers=4, weights_form=None, **fields):
    """The arguments of a published config at sizes of a test."""
    values = {**SIZES, **fields}
    form = ["--weights-form", weights_form] if weights_form else []
    return ["--random-weights", CONFIGS / f"{config}.json", "--layers", layers, *form,
            *(part for name, value in values.items() for part in ("--set", f"{name}={json.dumps(value)}"))]


def draw_logits(tmp_path, *arguments, **options):
    tokens, out = tmp_path / "tokens.json", tmp_path / "out.safetensors"
    tokens.write_text(json.dumps([int(token) for token in np.random.default_rng(1).integers(0, 512, 48)]))
    output("logits", *arguments, tokens=tokens, out=out, **options)
    return load_file(out)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("config", ["deepseek-v3.2", "deepseek-r1", "glm-5.2"])
def test_every_family_runs_in_every_form(config, form, tmp_path):
    found = draw_logits(tmp_path, *small(config), weights_form=form, topk=True, dump="router,hidden")
    logits = found["logits.0"]
    assert logits.shape == (48, 512) and np.isfinite(logits).all()
    assert 0.2 < logits.std() < 5  # of a product of a normed vector with rows of deviation 1 / sqrt(columns)
    assert len(set(logits.argmax(axis=1))) > 20
    assert len(np.unique(found["router_experts.0.3"])) == 16, "every expert is chosen by some token"
    if config != "deepseek-r1":
        later = found["topk.0.0"][24:]
        assert any((row != np.arange(len(row)) + t + 24 - 15).any() for t, row in enumerate(later)), "not just the last"
        assert not all((row == later[0]).all() for row in later)


def test_the_seed_alone_decides_and_threads_do_not(tmp_path):
    def logits(**options):
        return draw_logits(tmp_path, *small("glm-5"), last=True, **options)["logits.0"]

    first = logits(threads=1)
    assert (first == logits(threads=3)).all()
    assert (first == logits(random_seed=0)).all()
    assert (first != logits(random_seed=1)).any()


def test_a_model_of_the_real_width_with_few_experts(tmp_path):
    arguments = ["--random-weights", CONFIGS / "deepseek-v3.2.json", "--layers", 1, "--set", "first_k_dense_replace=0",
                 "--set", "n_routed_experts=8", "--set", "n_group=2", "--set", "topk_group=2", "--set", "vocab_size=1024"]
    answer = json.loads(output("generate", *arguments, ids="1,2,3,4,5,6,7,8", max_tokens=4, speculate=0, json=True))
    assert len(answer["ids"]) == 4 and answer["text"] is None
    assert 5e8 < answer["timings"]["peak_rss_bytes"] < 1.5e9


def test_inspect_knows_the_published_sizes():
    report = json.loads(output("inspect", random_weights=CONFIGS / "deepseek-v3.2.json", json=True))
    assert report["errors"] == [] and report["ignored"] == [] and report["notices"] == []
    # 671 billion parameters and 14 of the MTP layer, one byte each in FP8 (DeepSeek-V3.2's model card: 685B)
    assert 6.8e11 < sum(report["bytes"].values()) < 7.0e11
    assert report["memory"]["weights_mapped"] == 0
    steps = {step for parameter in report["parameters"] for step in parameter["steps"]}
    assert "draw" in steps and "map" not in steps


def test_inspect_verifies_what_would_be_drawn():
    for form in FORMS:
        output("inspect", *small("deepseek-v3.2"), weights_form=form, verify=True)


def test_eval_takes_ids_of_a_model_without_weights(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"ids": list(range(30))}) + "\n")
    result = json.loads(output("eval", rows, *small("glm-5"), json=True))
    assert result["tokens"] == 29 and 1 < result["nats"] / 29 < 20


def test_text_needs_a_tokenizer():
    result = run("generate", *small("glm-5"), "hello")
    assert result.returncode == 1 and "--ids" in result.stderr


@pytest.mark.parametrize("command", [["generate", "--ids", "1,2"], ["inspect"]])
def test_what_is_for_random_weights_alone_is_a_usage_error_without_them(command):
    for option in [["--layers", 1], ["--set", "hidden_size=64"], ["--weights-form", "bf16"], ["--random-seed", 1]]:
        result = run(*command, *option)
        assert result.returncode == 2 and option[0] in result.stderr, option


@pytest.mark.parametrize("form", FORMS)
def test_convert_writes_the_bytes_that_are_drawn_in_memory(form, tmp_path):
    model = small("deepseek-v3.2", weights_form=form)
    output("convert", *model, tmp_path / "one", threads=1)
    output("convert", *model, tmp_path / "many", threads=3, shard_size="2MB")
    one, many = (stored_tensors.read(tmp_path / folder) for folder in ("one", "many"))
    assert one.keys() == many.keys() and all(stored_tensors.same(one[name], many[name]) for name in one)
    assert json.loads(output("inspect", tmp_path / "one", verify=True, json=True))["errors"] == []
    in_memory = draw_logits(tmp_path, *model, topk=True)
    from_disk = draw_logits(tmp_path, model=tmp_path / "many", topk=True)
    assert all((in_memory[name] == from_disk[name]).all() for name in in_memory)


def test_convert_draws_before_it_quantizes(tmp_path):
    output("convert", *small("glm-5", weights_form="bf16"), tmp_path / "plain")
    output("convert", tmp_path / "plain", tmp_path / "twice", to="fp8-block", fuse=True)
    output("convert", *small("glm-5", weights_form="bf16"), tmp_path / "once", to="fp8-block", fuse=True)
    assert (tmp_path / "once" / "model.safetensors").read_bytes() == (tmp_path / "twice" / "model.safetensors").read_bytes()


def test_bench_engine_times_drawn_models():
    lines = output("bench", "engine", *small("glm-5"), requests=2, prompt_tokens=4, new_tokens=4, prefix_tokens=64, rounds=1, json=True)
    assert [json.loads(line).get("requests") for line in lines.splitlines()] == [None, 2, 2]


def test_usage_errors():
    config = ["--random-weights", CONFIGS / "glm-5.json"]
    for command in [["generate", "--ids", "1", "--model", MINI, *config], ["inspect", MINI, *config], ["inspect"],
                    ["inspect", *config, "--layers", 0], ["inspect", *config, "--layers", 1001], ["inspect", *config, "--set", "hidden_size"],
                    ["inspect", *config, "--set", "=3"], ["inspect", *config, "--weights-form", "int8"],
                    ["inspect", *config, "--random-seed", -1], ["inspect", "--random-weights", ""],
                    ["convert", *config], ["convert", *config, "from", "to"], ["convert", "--layers", 3, "from", "to"]]:
        assert run(*command).returncode == 2, command


def test_refusals_name_the_field():
    for arguments, field in [(["--layers", 1], "--set first_k_dense_replace=0"), (["--set", "hiden_size=64"], "hiden_size"),
                             (["--set", "hidden_size=0"], "hidden_size"), (["--set", "hidden_act=silu"], "hidden_act"),
                             (["--layers", 4, "--set", "num_hidden_layers=4"], "num_hidden_layers"),
                             (["--set", "n_group=7"], "n_group"), (["--layers", 200, "--set", 'index_topk_pattern="FS"'], "index_topk_pattern")]:
        result = run("inspect", *arguments, random_weights=CONFIGS / "deepseek-v3.2.json")
        assert result.returncode == 1 and field in result.stderr, (arguments, result.stderr)
        assert result.stderr.splitlines()[0].endswith("."), result.stderr
    result = run("inspect", random_weights=CONFIGS / "no-such.json")
    assert result.returncode == 1 and "no-such.json" in result.stderr


def test_advice_is_about_the_options_and_not_about_a_checkpoint():
    for sets, todo in [(["hidden_size=0"], "give --set hidden_size another value"), (["hidden_act=\"gelu\""], "give --set hidden_act another value"),
                       (["n_routed_experts=8"], "correct the field, or give --set n_group a value"),
                       (["rope_scaling.factor=-1"], "give --set rope_scaling.factor another value")]:
        options = [word for field in sets for word in ("--set", field)]
        for line in ["inspect"], ["generate", "--ids", "1"]:
            result = run(*line, "--random-weights", CONFIGS / "deepseek-v3.2.json", *options)
            assert result.returncode == 1 and f"to do     {todo}\n" in result.stderr, result.stderr


def test_ids_outside_the_vocabulary_are_refused_before_anything_is_drawn(tmp_path):
    model = [*small("glm-5"), "--set", "vocab_size=250000", "--set", "hidden_size=2048"]  # 2 GB
    (tmp_path / "ids.json").write_text("[[1, 2], [3, 250000]]")
    for line in ["generate", "--ids", "1,250000"], ["logits", "--tokens", tmp_path / "ids.json", "--out", tmp_path / "out"]:
        result, _, most_bytes = measured(command(*line, *model))
        assert result.returncode == 1 and result.stderr.startswith("Token id 250000 is not in the model's vocabulary."), result.stderr
        assert "fulgur tokenize" not in result.stderr and most_bytes < 100e6
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_in_memory_is_refused_before_anything_is_allocated():
    for speculate, takes in [(None, "690."), (0, "675.1")]:  # with the layer that drafts, as inspect counts it, and without
        result = run("generate", ids="1,2", random_weights=CONFIGS / "deepseek-v3.2.json", speculate=speculate)
        assert result.returncode == 1
        message = result.stderr.splitlines()[0]
        assert message.startswith(f"The model's weights take {takes}") and message.endswith("of memory are available.")


def test_more_experts_than_fit_are_refused_before_they_are_listed():
    for arguments, words in [(["generate", "--ids", "1,2"], "The model's weights take"), (["inspect"], "n_routed_experts = 65536 makes a model of")]:
        line = command(*arguments, "--random-weights", CONFIGS / "deepseek-v3.2.json", "--set", "n_routed_experts=65536")
        result, _, most_bytes = measured(line)
        assert result.returncode == 1 and words in result.stderr.splitlines()[0], result.stderr
        assert most_bytes < 200e6


def test_a_field_inside_another_is_set():
    config = ["--random-weights", CONFIGS / "deepseek-v3.2.json", "--layers", 1, "--set", "first_k_dense_replace=0"]
    assert "rope_scaling.factor" in run("inspect", *config, "--set", "rope_scaling.factor=0").stderr
    assert run("inspect", *config, "--set", "rope_scaling.factor=2", parameter="lm_head").returncode == 0
