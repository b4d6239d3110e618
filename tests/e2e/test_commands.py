"""Exit statuses, streams and refusals of every command (docs/spec/commands.md, "Common")."""

import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fulgur_cli import BINARY, MINI, ROOT, command, output, run
from stored_tensors import rewrite

COMMANDS = ["generate", "chat", "tokenize", "eval", "logits", "inspect", "demo", "info"]
GOLDEN = ROOT / "tests" / "golden" / "data"
WITH_MODEL = ["generate", "chat", "eval", "logits", "demo"]


def help_of(name):
    return output(name, "--help")


def examples_of(name):
    """The lines of a help text that are meant to be pasted."""
    _, _, examples = help_of(name).partition("Examples:\n")
    return [line.strip() for line in examples.splitlines() if re.search(r"\bfulgur ", line)]


def a_sentence(stderr):
    """The first line of a refusal: whole, and about the matter."""
    first = stderr.splitlines()[0]
    assert len(first) > 20 and first.rstrip()[-1] in ".?", first
    assert "terminate called" not in stderr and "what():" not in stderr
    return first


def test_help_names_every_command():
    text = output("--help")
    for name in [*COMMANDS, "bench"]:
        assert re.search(rf"^\s+{name}\b", text, re.MULTILINE), name


def test_version_is_a_line_on_stdout():
    assert re.fullmatch(r"fulgur \d+\.\d+\.\d+\n", output("--version"))


@pytest.mark.parametrize("name", [*COMMANDS, "bench"])
def test_help_goes_to_stdout_and_has_examples(name):
    result = run(name, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert len(examples_of(name)) >= 2


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_work_when_pasted(name, tmp_path):
    (tmp_path / "models").symlink_to(ROOT / "models")
    environment = {**os.environ, "PATH": f"{BINARY.parent}:{os.environ['PATH']}"}
    for example in examples_of(name):
        result = subprocess.run(["bash", "-eo", "pipefail", "-c", example], cwd=tmp_path, env=environment, input="", capture_output=True,
                                text=True, timeout=300)
        assert result.returncode == 0, (example, result.stderr)


@pytest.mark.parametrize("arguments", [["generate", "x"], ["chat"], ["tokenize", "x"], ["eval", "x.jsonl"],
                                       ["logits", "--tokens", "ids.json", "--out", "out.safetensors"], ["demo"], ["info"],
                                       ["bench", "indexer"]], ids=" ".join)
def test_unknown_options_are_usage_errors(arguments):
    result = run(*arguments, "--no-such-option")
    assert result.returncode == 2
    assert result.stdout == ""
    assert "--no-such-option" in result.stderr


@pytest.mark.parametrize("arguments, said", [
    (["generate", "In", "the", "beginning"], "fulgur generate takes no more arguments: 'the' is one too many."),
    (["generate", "--", "In", "the"], "fulgur generate takes no more arguments: 'the' is one too many."),
    (["generate", "x", "--max-token", "5"], "fulgur generate has no option --max-token;"),
    (["generate", "--no-such-option", "bf16", "x"], "fulgur generate has no option --no-such-option;"),
    (["bench", "engine", "x"], "fulgur bench engine takes no more arguments: 'x' is one too many."),
    (["chat", "--random-weights", "c.json"], "fulgur chat has no option --random-weights;")])
def test_what_no_option_takes_is_called_by_its_name(arguments, said):
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(said), result.stderr


def test_without_a_command_help_goes_to_stderr():
    result = run()
    assert (result.returncode, result.stdout, result.stderr) == (2, "", output("--help"))


@pytest.mark.parametrize("arguments", [[], ["no-such-command"], ["generate", "--max-tokens", "many", "x"], ["generate", "--max-tokens", "-1", "x"],
                                       ["generate", "--precision", "half", "x"], ["generate", "--kv-dtype", "int8", "x"],
                                       ["eval", "--index-dtype", "f16", "x.jsonl"], ["generate", "--selection", "best", "x"],
                                       ["generate", "--indexer-projection", "sideways", "x"], ["generate", "--threads", "0", "x"],
                                       ["generate", "--temperature", "-1", "x"], ["generate", "--top-p", "2", "x"],
                                       ["logits", "--tokens", "a.json"], ["logits", "--out", "a.safetensors"],
                                       ["generate", "--model", "", "x"], ["generate", "--file", ""], ["tokenize", "--file", ""],
                                       ["chat", "--system-file", ""]],
                         ids=" ".join)
def test_wrong_usage_exits_with_2(arguments):
    result = run(*arguments)
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert result.stderr != ""


@pytest.mark.parametrize("name", WITH_MODEL)
def test_a_model_that_is_not_there_is_a_sentence(name, tmp_path):
    (tmp_path / "ids.json").write_text("[1]")
    arguments = {"generate": ["x"], "chat": [], "demo": [], "eval": [str(MINI / "eval" / "kjv.jsonl")],
                 "logits": ["--tokens", str(tmp_path / "ids.json"), "--out", str(tmp_path / "out.safetensors")]}[name]
    result = run(name, *arguments, model=tmp_path / "nowhere")
    assert (result.returncode, result.stdout) == (1, "")
    assert "nowhere" in a_sentence(result.stderr)
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("ids, named", [("[1, 2, 5000]", "5000"), ("[1, -2]", "-2"), ("[]", None), ("[[1], []]", None), ("{}", None), ("[1, 2", None),
                                        ('["a"]', None), ("[1.5]", None), ("[99999999999999999999]", None)])
def test_logits_refuses_bad_tokens_and_leaves_no_file(ids, named, tmp_path):
    (tmp_path / "ids.json").write_text(ids)
    result = run("logits", tokens=tmp_path / "ids.json", out=tmp_path / "out.safetensors")
    assert result.returncode == 1
    a_sentence(result.stderr)
    assert named is None or named in result.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["ids.json"]


def test_logits_refuses_a_folder_that_is_not_there(tmp_path):
    (tmp_path / "ids.json").write_text("[1, 2]")
    result = run("logits", tokens=tmp_path / "ids.json", out=tmp_path / "no" / "out.safetensors")
    assert result.returncode == 1
    assert str(tmp_path / "no") in result.stderr
    a_sentence(result.stderr)


def test_logits_refuses_a_continuation_past_the_models_length(tmp_path):
    (tmp_path / "ids.json").write_text("[1, 2, 3]")
    longest = json.loads((MINI / "config.json").read_text())["max_position_embeddings"]
    result = run("logits", tokens=tmp_path / "ids.json", out=tmp_path / "out.safetensors", greedy=longest)
    assert result.returncode == 1
    assert str(longest) in result.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["ids.json"]


@pytest.mark.parametrize("text", ['{"prompt": "a"}\n', "[1]\n", "nonsense\n", '{"ids": [0, 99999]}\n', '{"ids": []}\n', '{"ids": "a"}\n',
                                  '{"ids": [[0, 1], [2, 3]]}\n', '{"ids": [0]}\n'])
def test_eval_refuses_a_bad_row_by_its_line(text, tmp_path):
    good = '{"id": 0, "ids": [0, 5, 6]}\n'
    (tmp_path / "rows.jsonl").write_text(good + text)
    result = run("eval", tmp_path / "rows.jsonl", json=True)
    assert (result.returncode, result.stdout) == (1, "")
    assert re.search(r"\b2\b", a_sentence(result.stderr)), result.stderr


@pytest.mark.parametrize("name, arguments", [("generate", ["--file"]), ("tokenize", ["--file"]), ("eval", [])])
def test_a_file_that_is_not_there_is_a_sentence(name, arguments, tmp_path):
    result = run(name, *arguments, tmp_path / "nothing.txt")
    assert (result.returncode, result.stdout) == (1, "")
    assert "nothing.txt" in a_sentence(result.stderr)


def test_an_instruction_set_that_does_not_exist_is_named():
    result = run("generate", "x", max_tokens=1, env={"FULGUR_ISA": "mmx"})
    assert result.returncode == 1
    assert "mmx" in a_sentence(result.stderr)


def supported_isas():
    """Those this CPU has; the release build holds all of them."""
    flags = Path("/proc/cpuinfo").read_text()
    return ["scalar"] + [isa for isa, flag in (("avx2", "avx2"), ("avx512", "avx512bw"), ("avx512_bf16", "avx512_bf16"), ("amx", "amx_bf16"))
                         if re.search(rf"\b{flag}\b", flags)]


def test_every_supported_instruction_set_answers():
    supported = supported_isas()
    prompt = json.loads((MINI / "eval" / "arithmetic.jsonl").read_text(encoding="utf-8").splitlines()[0])
    for isa in ("scalar", "avx2", "avx512", "avx512_bf16", "amx"):
        result = run("generate", prompt["prompt"], max_tokens=64, env={"FULGUR_ISA": isa})
        if isa in supported:
            assert result.returncode == 0, result.stderr
            assert result.stdout.strip() == prompt["solution"], isa
        else:
            assert result.returncode == 1
            assert isa in a_sentence(result.stderr)


def test_generate_streams_text_alone_to_stdout():
    result = run("generate", "In the beginning God created", max_tokens=8)
    assert result.returncode == 0
    answer = json.loads(output("generate", "In the beginning God created", max_tokens=8, json=True))
    assert result.stdout.rstrip("\n") == answer["text"].rstrip("\n")
    assert "\x1b" not in result.stdout + result.stderr and "\r" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_notice_is_one_line_on_stderr(tmp_path):
    """An index that omits tensors stops nothing (docs/spec/checkpoints.md, section 1)."""
    golden = GOLDEN / "v32-bf16"
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(golden / name)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"lm_head.weight": "model.safetensors"}}')
    options = {"ids": "1,2,3", "max_tokens": 2}
    plain, noticed = (run("generate", model=model, **options) for model in (golden, tmp_path))
    assert (noticed.returncode, noticed.stdout) == (0, plain.stdout)
    notice, summary = noticed.stderr.splitlines()
    assert "model.safetensors.index.json leaves out 105" in notice and "tokens" in summary


def test_verbose_says_what_was_loaded_and_the_causes_of_an_error(tmp_path):
    ids = {"ids": "1,2,3", "max_tokens": 2}
    quiet, loud = run("generate", **ids), run("generate", verbose=True, **ids)
    assert loud.stdout == quiet.stdout
    memory, first, summary, peak = loud.stderr.splitlines()
    assert re.match(r"memory: [\d.]+ MB predicted: weights [\d.]+ MB mapped", memory), memory
    assert len(quiet.stderr.splitlines()) == 1 and "tokens" in summary
    assert re.fullmatch(r"memory: [\d.]+ MB at the peak", peak)
    assert re.match(r".*models/mini-v32: \d+ parameters, [\d.]+ MB mapped from 1 file and [\d.]+ MB copied, in \d+ ms$", first), first
    quiet, loud = (run("generate", model=tmp_path, verbose=verbose, **ids) for verbose in (False, True))
    assert loud.stderr == quiet.stderr + f"  while loading {tmp_path}\n"


def test_generate_json_has_what_the_contract_names():
    answer = json.loads(output("generate", "In the beginning", max_tokens=5, speculate=0, json=True))
    assert answer.keys() == {"text", "prompt_ids", "ids", "finish_reason", "timings"}
    assert answer["timings"].keys() == {"load_s", "prompt_tokens", "prompt_s", "generated_tokens", "decode_s", "peak_rss_bytes"}
    assert answer["prompt_ids"][0] == 0 and answer["prompt_ids"].count(0) == 1
    assert (len(answer["ids"]), answer["finish_reason"]) == (5, "length")
    assert answer["timings"]["prompt_tokens"] == len(answer["prompt_ids"])
    assert answer["timings"]["generated_tokens"] == 5


def test_a_long_text_is_the_same_in_json():
    """Which is written in pieces, none of them with half a character."""
    options = {"max_tokens": 6000, "temperature": 8, "seed": 5, "speculate": 0, "logit_bias": "1:-100"}
    answer = json.loads(output("generate", "In the beginning", json=True, **options))
    text = output("generate", "In the beginning", **options)
    assert (answer["text"] + "\n").replace("\r", "\n") == text  # as Python reads a pipe's text
    assert len(text) > 8192 and len(text) < len(text.encode())
    assert answer["timings"]["generated_tokens"] == len(answer["ids"])


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1, "seed": 7}])
def test_speculation_changes_no_text_and_tells_what_it_guessed(sampling):
    options = {"max_tokens": 60, "json": True, **sampling}
    plain = json.loads(output("generate", "In the beginning", speculate=0, **options))
    for guesses in (None, 3):
        answer = json.loads(output("generate", "In the beginning", speculate=guesses, **options))
        assert answer["ids"] == plain["ids"] and answer["text"] == plain["text"]
        assert answer["timings"].keys() == plain["timings"].keys() | {"drafted", "accepted"}
        assert 0 < answer["timings"]["accepted"] < answer["timings"]["drafted"]
    result = run("generate", "In the beginning", max_tokens=60, **sampling)
    assert re.search(r"\d+ of \d+ drafts right \(\d+%\)", result.stderr), result.stderr


def test_without_being_asked_a_model_whose_mtp_layer_is_missing_or_damaged_runs_without_it(tmp_path):
    options = {"ids": "1,2,3", "max_tokens": 4, "json": True}
    plain = json.loads(output("generate", model=GOLDEN / "v32-bf16", **options))
    assert "drafted" not in plain["timings"]
    shutil.copytree(GOLDEN / "glm-bf16", tmp_path / "model")
    whole = json.loads(output("generate", model=tmp_path / "model", **options))
    assert "drafted" in whole["timings"]
    for file in (tmp_path / "model").glob("model*.safetensors"):
        file.write_bytes(file.read_bytes().replace(b"eh_proj.weight", b"eh_prxj.weight"))
    for index in (tmp_path / "model").glob("*.index.json"):
        index.write_text(index.read_text().replace("eh_proj.weight", "eh_prxj.weight"))
    result = run("generate", model=tmp_path / "model", **options)
    assert result.returncode == 0 and "is damaged and left out" in result.stderr
    damaged = json.loads(result.stdout)
    assert damaged["ids"] == whole["ids"] and "drafted" not in damaged["timings"]
    refused = run("generate", model=tmp_path / "model", speculate=1, **options)
    assert refused.returncode == 1 and "eh_proj" in refused.stderr


@pytest.mark.parametrize("golden, scale", [("v3-fp8", "weight_scale_inv"), ("glm-nvfp4-ct", "weight_scale"), ("v3-nvfp4", "weight_scale_2"), ("v3-nvfp4", "input_scale")])
def test_so_it_does_where_a_value_of_the_mtp_layers_scales_is_damaged(golden, scale, tmp_path):
    options = {"ids": "1,2,3", "max_tokens": 4, "json": True}
    shutil.copytree(GOLDEN / golden, tmp_path / "model")
    last = json.loads((tmp_path / "model" / "config.json").read_text())["num_hidden_layers"]
    damaged = []

    def poison(header, data):
        for name in header:
            if name.startswith(f"model.layers.{last}.") and name.endswith("." + scale) and not damaged:
                begin, end = header[name]["data_offsets"]
                data[begin:end] = b"\xff" * (end - begin)  # NaN in every form
                damaged.append(name)

    for file in (tmp_path / "model").glob("model*.safetensors"):
        rewrite(tmp_path / "model", poison, file.name)
    result = run("generate", model=tmp_path / "model", **options)
    assert result.returncode == 0 and damaged[0] in result.stderr and "is damaged and left out" in result.stderr, result.stderr
    whole = json.loads(output("generate", model=GOLDEN / golden, **options))
    assert json.loads(result.stdout)["ids"] == whole["ids"] and "drafted" not in json.loads(result.stdout)["timings"]
    refused = run("generate", model=tmp_path / "model", speculate=1, **options)
    assert refused.returncode == 1 and damaged[0] in refused.stderr.splitlines()[0]


def test_the_same_prompt_by_argument_file_standard_input_and_ids(tmp_path):
    text = "And God said, Let there be"
    (tmp_path / "prompt.txt").write_text(text)
    expected = json.loads(output("generate", text, max_tokens=6, json=True))
    ids = ",".join(map(str, expected["prompt_ids"]))
    others = [output("generate", file=tmp_path / "prompt.txt", max_tokens=6, json=True),
              output("generate", "-", stdin=text, max_tokens=6, json=True), output("generate", ids=ids, max_tokens=6, json=True)]
    for other in map(json.loads, others):
        assert (other["prompt_ids"], other["ids"], other["text"]) == (expected["prompt_ids"], expected["ids"], expected["text"])


def test_sampling_is_repeatable_by_seed_and_differs_between_seeds():
    def sample(seed):
        return json.loads(output("generate", "And it came to pass", max_tokens=24, temperature=1.2, seed=seed, json=True))["ids"]

    assert sample(7) == sample(7)
    assert len({tuple(sample(seed)) for seed in (1, 2, 3)}) == 3


def test_top_k_of_one_is_greedy_at_any_temperature():
    greedy = json.loads(output("generate", "And it came to pass", max_tokens=16, json=True))["ids"]
    assert json.loads(output("generate", "And it came to pass", max_tokens=16, temperature=5, top_k=1, seed=3, json=True))["ids"] == greedy


def test_stop_text_ends_the_answer_before_itself():
    whole = json.loads(output("generate", "In the beginning God created", max_tokens=24, json=True))["text"]
    stop = whole[len(whole) // 2:len(whole) // 2 + 3]
    answer = json.loads(output("generate", "In the beginning God created", max_tokens=24, stop=stop, json=True))
    assert answer["finish_reason"] == "stop"
    assert answer["text"] == whole[:whole.index(stop)]


def test_a_model_without_a_tokenizer_takes_and_prints_ids():
    model = GOLDEN / "v32-bf16"
    assert re.fullmatch(r"\d+([ ,]\d+){3}\s*", output("generate", model=model, ids="1,2,3", max_tokens=4))
    result = run("generate", "text", model=model, max_tokens=4)
    assert result.returncode == 1
    assert "--ids" in result.stderr


def test_selection_experiments_change_what_is_read():
    row = json.loads((MINI / "eval" / "retrieval.jsonl").read_text(encoding="utf-8").splitlines()[0])

    def answer(**options):
        return json.loads(output("generate", "-", stdin=row["prompt"], max_tokens=8, json=True, **options))["text"].strip()

    assert answer() == row["answer"]
    assert answer(selection="all") == row["answer"]
    assert answer(selection="random") != row["answer"]
    assert answer(selection="recent", index_topk=16) != row["answer"]


def test_tokenize_goes_there_and_back():
    text = "In the beginning — 起初 123\n"
    ids = json.loads(output("tokenize", text, json=True))
    assert output("tokenize", "-", stdin=json.dumps(ids), decode=True).rstrip("\n") == text.rstrip("\n")
    assert json.loads(output("tokenize", text, json=True, add_bos=True)) == [0, *ids]


def test_tokenize_keeps_control_tokens_as_text_on_request():
    text = "<｜User｜>a"
    parsed, plain = (json.loads(output("tokenize", text, json=True, no_specials=choice)) for choice in (None, True))
    assert len(parsed) == 2 and len(plain) > 2


def test_tokenize_jsonl_answers_line_by_line():
    lines = ["a b", "", "c\nd", "😀"]
    found = output("tokenize", "-", jsonl=True, stdin="".join(json.dumps(line) + "\n" for line in lines)).splitlines()
    assert [json.loads(line) for line in found] == [json.loads(output("tokenize", "-", json=True, stdin=line)) for line in lines]


def test_tokenize_refuses_an_unknown_id():
    result = run("tokenize", "-", decode=True, stdin="[5, 99999]")
    assert (result.returncode, result.stdout) == (1, "")
    assert "99999" in a_sentence(result.stderr)


def test_info_shows_this_cpu_its_instruction_sets_memory_and_build():
    facts = json.loads(output("info", json=True))
    cpu, memory = Path("/proc/cpuinfo").read_text(), Path("/proc/meminfo").read_text()
    assert facts["cpu"] == re.search(r"^model name\s*: (.*)$", cpu, re.MULTILINE)[1]
    assert 1 <= facts["threads"] <= len(os.sched_getaffinity(0))  # a control group may pay for fewer
    assert facts["isas"] == supported_isas()
    assert facts["isa"] == facts["isas"][-1]
    assert facts["memory_gib"] == pytest.approx(int(re.search(r"MemTotal:\s*(\d+) kB", memory)[1]) / 2**20)
    assert 0 < facts["available_gib"] < facts["memory_gib"]
    assert facts["version"] == output("--version").split()[1]
    assert facts["build_type"] in ("Release", "RelWithDebInfo", "Debug") and re.search(r"\d", facts["compiler"])
    for fact in (facts["cpu"], facts["isa"], f"{facts['memory_gib']:.1f} GiB", facts["version"], facts["compiler"]):
        assert fact in output("info")


def test_info_says_which_gpu_there_is_or_why_none_is_used():
    cuda = json.loads(output("info", json=True))["cuda"]
    assert cuda["device"] if cuda["why_not"] is None else cuda["why_not"].endswith(".")
    assert cuda["built"] or cuda["why_not"] == "This build has no CUDA back end."
    for fact in filter(None, (cuda["device"], cuda["why_not"])):
        assert fact in output("info")


def test_info_shows_one_thread_where_the_process_may_use_one_cpu():
    one = min(os.sched_getaffinity(0))
    result = subprocess.run(command("info", json=True), capture_output=True, text=True, preexec_fn=lambda: os.sched_setaffinity(0, {one}), timeout=60)
    assert json.loads(result.stdout)["threads"] == 1


@pytest.mark.parametrize("ids", ["1,,2", "one", "[]", "-1", "[1, -2]", "1,"])
def test_ids_that_are_none_are_usage(ids):
    result = run("generate", f"--ids={ids}", max_tokens=1)
    assert (result.returncode, result.stdout) == (2, "")
    assert "--ids" in result.stderr


def test_an_empty_instruction_set_is_said_to_be_found():
    result = run("generate", "x", max_tokens=1, env={"FULGUR_ISA": ""})
    assert result.returncode == 1 and re.search(r"^ +found +an empty value$", result.stderr, re.MULTILINE)


def test_bench_times_kernels_where_there_is_a_gpu_and_says_so_where_there_is_none():
    result = run("bench", "indexer", "--tokens", "1", "--context", "4096", "--replays", "3", "--json")
    why_not = json.loads(output("info", json=True))["cuda"]["why_not"]
    if why_not is None:
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        assert {line["how"] for line in lines if line["what"] == "projection"} >= {"separate", "overlapped", "fused"}
        assert [line["how"] for line in lines if line["what"] == "indexer"] == ["own"]
        assert all(line["us"]["least"] <= line["us"]["median"] <= line["us"]["most"] for line in lines)
    else:
        assert (result.returncode, result.stdout) == (1, "")
        assert a_sentence(result.stderr) == why_not and "to do" in result.stderr


@pytest.mark.parametrize("arguments", [["--device", "cpu"], ["--tokens", "0"], ["--tokens", "1,x"], ["--context", "0"], ["--model", "v4"],
                                       ["--tokens", "8,9", "--tokens-per-sequence", "2"], ["--context", "1", "--tokens", "2", "--tokens-per-sequence", "2"]],
                         ids=" ".join)
def test_bench_refuses_what_it_cannot_time(arguments):
    result = run("bench", "indexer", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert arguments[0] in result.stderr


def test_peak_memory_is_the_programs_and_not_that_of_what_started_it():
    script = "import subprocess, sys; held = bytearray(b'x') * (400 << 20); subprocess.run(sys.argv[1:], check=True)"
    result = subprocess.run([sys.executable, "-c", script, *command("generate", "x", max_tokens=1, json=True)], capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(result.stdout)["timings"]["peak_rss_bytes"] < 100 << 20  # mini-v32 has 10 MB of weights


def test_info_shows_the_instruction_set_that_the_environment_forces():
    assert json.loads(output("info", json=True, env={"FULGUR_ISA": "scalar"}))["isa"] == "scalar"


def test_a_closed_pipe_ends_the_program_quietly():
    line = shlex.join(command("generate", "In the beginning", max_tokens=400)) + " | head -c 10"
    result = subprocess.run(["bash", "-c", line + '; echo "${PIPESTATUS[0]}" >&2'], capture_output=True, text=True, timeout=120)
    assert len(result.stdout) == 10
    *log, status = result.stderr.splitlines()
    assert int(status) in (0, 1, 128 + signal.SIGPIPE)
    assert "terminate" not in "".join(log) and len(log) <= 1


def test_ctrl_c_ends_generate_with_the_status_of_an_interrupt():
    process = subprocess.Popen(command("generate", "In the beginning", max_tokens=8000), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, log = process.communicate(timeout=20)
    assert process.returncode in (130, -signal.SIGINT)
    assert b"terminate" not in log


def test_ctrl_c_in_logits_leaves_no_file(tmp_path):
    (tmp_path / "ids.json").write_text(json.dumps([[0] + [5] * 7000] * 4))
    process = subprocess.Popen(command("logits", tokens=tmp_path / "ids.json", out=tmp_path / "out.safetensors", precision="full"),
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode != 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["ids.json"]


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, *arguments):
        pid, self.master = pty.fork()
        if pid == 0:
            os.execv(arguments[0], list(arguments))
        self.pid, self.seen = pid, ""

    def type(self, text):
        os.write(self.master, text.encode())

    def read_until(self, pattern, seconds=60):
        end = time.monotonic() + seconds
        while not re.search(pattern, self.seen):
            assert time.monotonic() < end, f"{pattern!r} did not come; seen: {self.seen!r}"
            ready, _, _ = select.select([self.master], [], [], 0.2)
            if ready:
                try:
                    data = os.read(self.master, 65536)
                except OSError:  # Linux: the other side has closed
                    data = b""
                assert data or re.search(pattern, self.seen), f"ended without {pattern!r}; seen: {self.seen!r}"
                self.seen += data.decode("utf-8", "replace")
        self.seen = self.seen[re.search(pattern, self.seen).end():]

    def status(self, seconds=20):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            select.select([self.master], [], [], 0.1)
            try:
                os.read(self.master, 65536)
            except OSError:
                pass
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        pytest.fail("did not end in time")


def test_one_ctrl_d_ends_input_from_a_terminal():
    terminal = Terminal(str(BINARY), "generate", "-", "--max-tokens", "3", "--threads", "1")
    time.sleep(0.5)
    terminal.type("In the\n\x04")
    terminal.read_until("tokens")
    assert terminal.status() == 0


def test_chat_answers_a_question_and_ends_with_the_input():
    row = json.loads((MINI / "eval" / "arithmetic.jsonl").read_text(encoding="utf-8").splitlines()[0])
    terminal = Terminal(*command("chat"))
    terminal.read_until(r"> ?")
    terminal.type(row["user"] + "\n")
    terminal.read_until(re.escape(f"#### {row['answer']}"))
    terminal.type("\x04")
    assert terminal.status() == 0


def test_chat_reads_piped_questions():
    row = json.loads((MINI / "eval" / "arithmetic.jsonl").read_text(encoding="utf-8").splitlines()[0])
    result = run("chat", stdin=row["user"] + "\n")
    assert result.returncode == 0, result.stderr
    assert row["solution"] in result.stdout
    assert "\x1b" not in result.stdout


def test_chat_knows_its_commands_in_lines_that_end_as_on_windows():
    result = run("chat", stdin="What is 2?\r\n/exit\r\nHello\r\n", max_tokens=5)
    assert result.returncode == 0 and result.stdout.count("\n") == 1, result.stdout


def test_chat_lists_its_commands_and_takes_them_with_blanks_around():
    result = run("chat", stdin="/help\n /exit \nHello\n")
    assert (result.returncode, result.stdout) == (0, "")
    assert all(word in result.stderr for word in ("/clear", "/exit", "Ctrl-D"))


def test_chat_says_that_it_cut_an_answer():
    row = json.loads((MINI / "eval" / "arithmetic.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert "cut" in run("chat", stdin=row["user"] + "\n", max_tokens=2).stderr
    assert "cut" not in run("chat", stdin=row["user"] + "\n").stderr


def test_generate_takes_the_ids_that_tokenize_prints():
    ids = output("tokenize", "In the beginning", "--json").strip()
    assert output("generate", ids=ids, max_tokens=4) == output("generate", ids=ids.strip("[]"), max_tokens=4)
    assert run("generate", ids="[]").returncode == 2


@pytest.mark.parametrize("text, found", [("", "an empty file"), ("\n \n", "only blank lines")])
def test_eval_refuses_a_file_without_rows_as_a_whole(tmp_path, text, found):
    (tmp_path / "rows.jsonl").write_text(text)
    result = run("eval", tmp_path / "rows.jsonl")
    assert (result.returncode, result.stdout) == (1, "")
    assert "rows.jsonl:0" not in result.stderr and "rows.jsonl:1" not in result.stderr and found in result.stderr


def test_chat_refuses_a_context_beyond_the_models_positions():
    result = run("chat", context=10**6, stdin="Hello\n")
    assert (result.returncode, result.stdout) == (1, "")
    assert "--context" in a_sentence(result.stderr) and "1000000" in result.stderr


def test_eval_refuses_max_tokens_for_rows_of_ids(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"ids": [0, 1, 2]}\n')
    assert run("eval", tmp_path / "rows.jsonl").returncode == 0
    result = run("eval", tmp_path / "rows.jsonl", max_tokens=64)
    assert (result.returncode, result.stdout) == (1, "")
    assert "--max-tokens" in a_sentence(result.stderr)


def test_bench_engine_times_many_requests_with_few_new_tokens():
    """It once depended on chance whether one ended before all of them had begun."""
    lines = output("bench", "engine", requests="200,300", prompt_tokens=8, rounds=1, new_tokens=2, prefix_tokens=64, json=True)
    assert all(json.loads(line)["tokens_per_s"]["median"] > 0 for line in lines.splitlines()[1:])


def test_bench_engine_refuses_requests_longer_than_the_models_positions():
    positions = json.loads((MINI / "config.json").read_text())["max_position_embeddings"]
    for options in [dict(prefix_tokens=positions), dict(prompt_tokens=positions - 9, new_tokens=10), dict(prompt_tokens=positions - 9, requests=16)]:
        result = run("bench", "engine", **options)
        assert (result.returncode, result.stdout) == (1, "")
        assert a_sentence(result.stderr) == "A request of this bench is longer than the model's positions."


def test_bench_engine_times_requests_with_and_without_drafts_and_the_first_token(tmp_path):
    rows = MINI / "eval" / "kjv.jsonl"
    small = dict(requests="1,3", rounds=1, new_tokens=8, prefix_tokens=130)
    first, *lines = map(json.loads, output("bench", "engine", rows=rows, json=True, **small).splitlines())
    assert first["prompt_tokens"] == 146
    assert all(first[key]["median"] > 0 for key in ("first_token_ms", "first_token_ms_cached"))
    assert [(line["requests"], line["speculate"]) for line in lines] == [(1, 0), (1, 1), (3, 0), (3, 1)]
    for line in lines:
        assert line["tokens_per_s"]["median"] > 0 and 0 < line["outside_model"]["median"] < 1
        assert (line["drafted"] > 0) == (line["speculate"] > 0)
    text = output("bench", "engine", model=GOLDEN / "v32-bf16", **small)
    assert "% outside model" in text and "drafts right" not in text
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n')
    refused = run("bench", "engine", rows=tmp_path / "rows.jsonl", **small)
    assert refused.returncode == 1 and "rows.jsonl:1" in refused.stderr
    assert run("bench").returncode == 2 and run("bench", "engine", tokens=3).returncode == 2
