"""The memory that is predicted before a model is loaded, and what the process then takes (docs/spec/commands.md, inspect)."""

import json
import re
import shlex
import subprocess

import pytest
from fulgur_cli import MINI, ROOT, command, output, run

GOLDEN = ROOT / "tests" / "golden" / "data"
CONFIG = ROOT / "models" / "configs" / "deepseek-v3.2.json"
SMALL = ["hidden_size=512", "intermediate_size=1024", "moe_intermediate_size=256", "n_routed_experts=32", "num_attention_heads=8",
         "num_key_value_heads=8", "q_lora_rank=256", "kv_lora_rank=256", "vocab_size=4096", "index_n_heads=8", "index_topk=256"]


def shell(line):
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)


def sets(*fields):
    return [part for field in fields for part in ("--set", field)]


def ids(count):
    return ",".join(str(2 + 7 * i % 200) for i in range(count))


def told(result):
    """(predicted, used) bytes of a run with --verbose."""
    assert result.returncode == 0, result.stderr
    return [float(re.search(rf"memory: ([0-9.]+) MB {what}", result.stderr).group(1)) * 1e6 for what in ("predicted", "at the peak")]


def measured(*model, prompt, max_tokens, **options):
    """(predicted, used) bytes of a run that fills its caches."""
    return told(run("generate", *model, ids=ids(prompt), max_tokens=max_tokens, verbose=True, json=True, **options))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """mini-v32, and without its tokenizer."""
    bare = tmp_path_factory.mktemp("bare")
    for name in ("config.json", "model.safetensors"):
        (bare / name).symlink_to(MINI / name)
    return {"tokenizer": MINI, "bare": bare}


FORMS = {
    "native": {},
    "fp8": {"threads": 1, "kv_dtype": "fp8", "index_dtype": "fp8"},
    "full": {"precision": "full", "speculate": 1},
    "plain": {"speculate": 0, "threads": 16},
}


@pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("sizes", [(2000, 40), (8, 8)], ids=["long", "short"])
@pytest.mark.parametrize("model", ["tokenizer", "bare"])
def test_a_process_takes_what_was_predicted(models, model, sizes, options):
    predicted, used = measured(prompt=sizes[0], max_tokens=sizes[1], model=models[model], **options)
    assert used == pytest.approx(predicted, rel=0.05)


@pytest.mark.parametrize("drafts", [0, 1])
@pytest.mark.parametrize("requests", [1, 16, 64, pytest.param(1024, marks=pytest.mark.long)])
@pytest.mark.parametrize("form", ["bf16", "fp8"])
def test_many_requests_take_what_was_predicted(requests, form, drafts):
    """With drafts there are two engines at once."""
    predicted, used = told(run("bench", "engine", model=MINI, requests=requests, new_tokens=16, prefix_tokens=64, rounds=1, speculate=drafts,
                               kv_dtype=form, index_dtype=form, verbose=True))
    assert used == pytest.approx(predicted, rel=0.05)


def test_the_second_of_two_first_tokens_takes_only_its_own_pages():
    """Of the two prompts that are timed, the second begins as the first."""
    predicted, used = told(run("bench", "engine", model=MINI, requests=1, new_tokens=2, rounds=1, verbose=True))
    assert used == pytest.approx(predicted, rel=0.05)


def test_an_index_topk_beyond_the_prompt_takes_what_was_predicted():
    predicted, used = measured(prompt=600, max_tokens=8, model=MINI, index_topk=2000)
    assert used == pytest.approx(predicted, rel=0.05)


LOGITS = {
    "one": ([1], {}),
    "short": ([8], {}),
    "whole": ([4000], {}),
    "last": ([4000], {"last": True}),
    "many": ([500, 300, 400], {}),
    "mtp": ([700], {"mtp": True}),
    "many_threads": ([100, 513, 7], {"threads": 128}),
    "dumps": ([700, 90], {"topk": True, "dump": "hidden,scores,router", "greedy": 3, "mtp": True}),
    "all": ([900], {"topk": True, "selection": "all", "chunk": 4096, "precision": "full"}),
}


@pytest.mark.parametrize(("prompts", "options"), LOGITS.values(), ids=LOGITS)
def test_logits_takes_what_was_predicted(tmp_path, prompts, options):
    """A prompt's tensors too, which it keeps until they are written."""
    (tmp_path / "ids.json").write_text(json.dumps([[2 + i % 1000 for i in range(count)] for count in prompts]))
    predicted, used = told(run("logits", model=MINI, tokens=tmp_path / "ids.json", out=tmp_path / "out", verbose=True, **options))
    assert used == pytest.approx(predicted, rel=0.05)


@pytest.mark.parametrize("options", [{"last": True}, {"last": True, "greedy": 5}], ids=["last", "greedy"])
def test_logits_of_many_prompts_take_what_was_predicted(tmp_path, options):
    """What of the tensors is not their bytes: names, and the file's header."""
    (tmp_path / "ids.json").write_text(json.dumps([[3, 4, 5]] * 5000))
    predicted, used = told(run("logits", model=GOLDEN / "v3-bf16", tokens=tmp_path / "ids.json", out=tmp_path / "out", threads=2, verbose=True, **options))
    assert used == pytest.approx(predicted, rel=0.05)


def test_injected_selections_take_what_was_predicted(tmp_path):
    (tmp_path / "ids.json").write_text(json.dumps([[2 + i % 1000 for i in range(900)]]))
    written = dict(model=MINI, tokens=tmp_path / "ids.json", verbose=True)
    told(run("logits", out=tmp_path / "all", topk=True, selection="all", **written))
    predicted, used = told(run("logits", out=tmp_path / "out", inject_topk=tmp_path / "all", **written))
    assert used == pytest.approx(predicted, rel=0.05)


EVAL = {
    "tiny": (100, 4, {}),
    "many_tiny": (600, 4, {"batch": 500}),
    "tiniest": (8000, 2, {"batch": 4096, "json": True}),
    "two_pages": (400, 66, {"batch": 256}),
    "rows": (8, 700, {}),
    "one": (2, 700, {"batch": 1}),
    "many_threads": pytest.param(8, 150, {"threads": 128}, marks=pytest.mark.long),
    "full": (6, 512, {"precision": "full", "index_topk": 700}),
    "few_long": (300, [4] * 299 + [3000], {"batch": 256}),
    "long_first": (300, [3000] + [4] * 299, {"batch": 64}),
}


@pytest.mark.parametrize(("count", "length", "options"), EVAL.values(), ids=EVAL)
def test_eval_takes_what_was_predicted(tmp_path, count, length, options):
    lengths = length if isinstance(length, list) else count * [length]
    rows = [{"ids": [2 + (i + j) % 1000 for i in range(each)]} for j, each in enumerate(lengths)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    predicted, used = told(run("eval", tmp_path / "rows.jsonl", model=MINI, verbose=True, **options))
    assert used == pytest.approx(predicted, rel=0.05)


def test_rows_behind_the_limit_take_no_memory(tmp_path):
    rows = tmp_path / "rows.jsonl"
    row = json.dumps({"prompt": "What is 1 + 1?", "answer": "2", "note": "x" * 1000})
    rows.write_text(f"{row}\n" * 20000)
    predicted, used = told(run("eval", rows, model=MINI, limit=2, max_tokens=4, threads=1, verbose=True))
    assert used == pytest.approx(predicted, rel=0.05)
    few = tmp_path / "few.jsonl"
    few.write_text(f"{row}\n" * 2)
    assert used == pytest.approx(told(run("eval", few, model=MINI, max_tokens=4, threads=1, verbose=True))[1], rel=0.02)


def test_what_reading_took_is_in_the_prediction(tmp_path):
    (tmp_path / "ids.json").write_text("[[3, 4, 5]" + " " * 20_000_000 + "]")
    predicted, used = told(run("logits", model=GOLDEN / "v3-bf16", tokens=tmp_path / "ids.json", out=tmp_path / "out", last=True, verbose=True))
    assert used == pytest.approx(predicted, rel=0.05)


@pytest.mark.parametrize("max_tokens", [16, 400])
def test_answers_take_what_was_predicted(max_tokens):
    """Wherever they end: most before they have 400 tokens."""
    predicted, used = told(run("eval", MINI / "eval" / "arithmetic.jsonl", model=MINI, limit=32, max_tokens=max_tokens, verbose=True))
    assert used == pytest.approx(predicted, rel=0.05)


CHATS = {
    "full": {"context": 512, "precision": "full"},
    "small": {"context": 1024},
    "fp8": {"kv_dtype": "fp8", "index_dtype": "fp8"},
    "unhurried": pytest.param({"context": 2048, "precision": "full", "speculate": 0}, marks=pytest.mark.long),
}


@pytest.mark.parametrize("options", CHATS.values(), ids=CHATS)
@pytest.mark.parametrize("says", ["Who was that?\n", pytest.param("In the beginning God. " * 50 + "\n", marks=pytest.mark.long)], ids=["little", "much"])
def test_a_chat_takes_what_was_predicted_whatever_is_said(says, options):
    """The scratch of the largest step too, which a short message doesn't run."""
    predicted, used = told(run("chat", model=MINI, stdin=says, max_tokens=8, verbose=True, **options))
    assert used == pytest.approx(predicted, rel=0.05)


def test_a_message_that_can_not_fit_is_refused_without_being_kept():
    result = run("chat", model=MINI, stdin="In the beginning. " * 500_000 + "\nWho was that?\n", context=512, max_tokens=8, kv_dtype="fp8", verbose=True)
    assert result.returncode == 1 and result.stdout.strip()  # the next was answered
    assert "a message of more than" in result.stderr and "no longer fits the context" in result.stderr
    predicted, used = (float(each) for each in re.findall(r"memory: ([0-9.]+) MB", result.stderr))
    assert used == pytest.approx(predicted, rel=0.05)


@pytest.mark.parametrize("threads", [64, 128, pytest.param(1024, marks=pytest.mark.long)])
@pytest.mark.parametrize("prompt", [5, pytest.param(2000, marks=pytest.mark.long)])
def test_many_threads_take_what_was_predicted(prompt, threads):
    """Most find nothing to do where the prompt is short."""
    predicted, used = measured(prompt=prompt, max_tokens=8, model=MINI, threads=threads)
    assert used == pytest.approx(predicted, rel=0.05)


def test_a_long_prompt_that_json_repeats_takes_what_was_predicted():
    predicted, used = measured(prompt=30000, max_tokens=10, model=GOLDEN / "glm-fp8", threads=2, speculate=0, kv_dtype="fp8", index_dtype="fp8")
    assert used == pytest.approx(predicted, rel=0.035)


def test_a_text_that_ends_early_takes_what_was_predicted():
    predicted, used = told(run("generate", "In the beginning God", model=MINI, stop=" ", max_tokens=4000, verbose=True))
    assert used == pytest.approx(predicted, rel=0.05)


def test_parts_of_files_that_copies_are_made_from_are_predicted(tmp_path):
    """In full precision weights of an FP8 checkpoint are copies in f32; what they were made from stays mapped."""
    output("convert", MINI, tmp_path / "fp8", to="fp8-block")
    predicted, used = measured(prompt=8, max_tokens=8, model=tmp_path / "fp8", precision="full")
    assert used == pytest.approx(predicted, rel=0.05)


@pytest.mark.parametrize("layers", [4, pytest.param(60, marks=pytest.mark.long)])
def test_weights_drawn_at_random_take_what_was_predicted(layers):
    """4 layers: 130 MB; 60: 1.9 GB."""
    model = ["--random-weights", CONFIG, "--layers", layers, "--weights-form", "bf16", *sets(*SMALL)]
    predicted, used = measured(*model, prompt=600, max_tokens=8)
    assert used == pytest.approx(predicted, rel=0.05)


@pytest.mark.parametrize("model", ["drawn", "tokenizer", "bare"])
def test_inspect_predicts_what_generate_takes(models, model):
    drawn = model == "drawn"
    folder = [] if drawn else [models[model]]
    chosen = ["--random-weights", CONFIG, "--layers", 4, "--weights-form", "bf16", *sets(*SMALL)] if drawn else []
    report = json.loads(output("inspect", *folder, *chosen, json=True, context=608, threads=2))
    _, used = measured(*(chosen or ["--model", *folder]), prompt=600, max_tokens=8, threads=2)
    assert used == pytest.approx(report["memory"]["total"], rel=0.05)


def test_what_does_not_fit_is_refused_before_it_is_allocated():
    model = ["--random-weights", CONFIG, "--layers", 4, *sets(*SMALL, "max_position_embeddings=16000000")]
    result = run("generate", *model, ids="5", max_tokens=15_000_000)
    assert (result.returncode, result.stdout) == (1, "")
    assert "The model takes" in result.stderr.splitlines()[0] and "of caches" in result.stderr


def test_memory_is_predicted_without_taking_it():
    """In less than the steps need (KiB)."""
    result = shell("ulimit -v 400000; " + shlex.join(command("inspect", MINI, json=True, context=2**24, batch=65536, threads=2)))
    assert result.returncode == 0
    memory = json.loads(result.stdout)["memory"]
    assert memory["scratch"] > 512 * 2**24 // 64 * 4, "page tables of a step's sequences"
    assert memory["cache"] > 65536 * 2**24


@pytest.mark.parametrize("limit", ["v", "d"])
def test_limits_that_count_stacks_used_or_not_are_met_with_a_sentence(limit):
    """Each thread's takes 8 MB of address space, whatever it uses (KiB); the first one's grows into what is left."""
    line = shlex.join(command("generate", model=MINI, ids="5,6,7", max_tokens=2, threads=8))
    firsts = {}
    for kib in range(64_000, 152_000, 4_000):
        result = shell(f"ulimit -s 8192; ulimit -{limit} {kib}; {line}")
        firsts.setdefault(result.returncode, set()).update(result.stderr.splitlines()[:1])
    assert set(firsts) <= {0, 1}
    assert all(line.endswith(".") for line in firsts[1])
    if limit == "v":
        assert any("of address space, but this process is let have" in line for line in firsts[1])


def test_what_a_limit_of_the_process_has_no_room_for_is_refused_with_figures(tmp_path):
    (tmp_path / "ids.json").write_text(json.dumps([[5] * 100_000]))
    model = ["--random-weights", CONFIG, "--layers", 1, *sets(*SMALL, "first_k_dense_replace=1")]
    result = shell("ulimit -v 900000; " + shlex.join(command("logits", *model, tokens=tmp_path / "ids.json", out=tmp_path / "out", chunk=1_048_576, threads=2)))
    lines = result.stderr.splitlines()
    assert result.returncode == 1 and "The model takes" in lines[0]
    assert [line.split()[0] for line in lines[1:]] == ["expected", "found", "to"]
