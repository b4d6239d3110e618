"""Input made to break the program gets a sentence or a usage error (docs/design.md, 1.5)."""

import json
import os
import re
import shlex
import shutil
import subprocess

import pytest
from fulgur_cli import MINI, ROOT, command, measured, output, run
from stored_tensors import rewrite
from unsanitized import unsanitized

GOLDEN = ROOT / "tests" / "golden" / "data"
DEEP = "[" * 10**6 + "]" * 10**6


def refused(result, status=1):
    """The first line of what a failed run says."""
    assert (result.returncode, result.stdout) == (status, ""), result.stderr
    assert "mistake" not in result.stderr
    return result.stderr.splitlines()[0]


def linked_mini(folder, without):
    """mini-v32 by links, but for one file."""
    for file in MINI.iterdir():
        if file.name != without:
            (folder / file.name).symlink_to(file)
    return folder


def logits_of(tmp_path, text):
    (tmp_path / "ids.json").write_bytes(text.encode())
    return run("logits", tokens=tmp_path / "ids.json", out=tmp_path / "out.safetensors")


def eval_of(tmp_path, *lines):
    (tmp_path / "rows.jsonl").write_bytes(b"".join(line.encode() + b"\n" for line in lines))
    return run("eval", tmp_path / "rows.jsonl", json=True)


def test_json_a_million_levels_deep_is_refused_as_tokens(tmp_path):
    assert "100 levels" in refused(logits_of(tmp_path, DEEP))


@pytest.mark.parametrize("row", ['{"id": %s, "ids": [1, 2, 3]}', '{"id": 1, "ids": %s}', "%s"])
def test_json_a_million_levels_deep_is_refused_in_an_eval_row(row, tmp_path):
    said = refused(eval_of(tmp_path, '{"ids": [1, 2]}', row % DEEP))
    assert "rows.jsonl:2" in said and "100 levels" in said


def test_json_a_million_levels_deep_is_refused_by_tokenize(tmp_path):
    assert "100 levels" in refused(run("tokenize", "-", decode=True, stdin=DEEP))


def test_text_behind_a_nul_byte_is_no_json(tmp_path):
    assert "NUL" in refused(logits_of(tmp_path, "[1, 2]\0[3"))
    assert "rows.jsonl:1" in refused(eval_of(tmp_path, '{"ids": [1, 2]}\0'))
    assert "NUL" in refused(run("tokenize", "-", decode=True, stdin="[1]\0x"))


@pytest.mark.parametrize("row, named", [('{"ids": [[1, 2]]}', "[1,2]"), ('{"ids": [1, 2], "prompt": "a", "answer": "b"}', "beside"),
                                        ('{"ids": [1, 2], "prompt": "a"}', "beside"), ('{"ids": [1, 2], "answer": "b"}', "beside"),
                                        ('{"ids": 5}', "5"), ('{"ids": [1, -2]}', "-2"), ('{"ids": [1, 1280]}', "1280")])
def test_an_ambiguous_or_wrong_eval_row_is_refused_by_its_line(row, named, tmp_path):
    result = eval_of(tmp_path, '{"ids": [1, 2]}', row)
    assert "rows.jsonl:2" in refused(result)
    assert named in result.stderr
    assert "[[1, 2], [3]]" not in result.stderr  # is right for logits alone


def test_a_stop_text_that_is_no_utf8_is_a_usage_error():
    result = subprocess.run([*command("generate", "x", "--json"), "--stop", b"\xbd"], capture_output=True, timeout=60)
    assert (result.returncode, result.stdout) == (2, b"")
    assert b"UTF-8" in result.stderr


def test_a_folder_whose_name_is_no_utf8_is_told_in_json_too(tmp_path):
    result = subprocess.run([*command("inspect", "--json"), bytes(tmp_path) + b"/\xbd"], capture_output=True, timeout=60)
    assert result.returncode == 1
    assert [error["kind"] for error in json.loads(result.stdout)["errors"]] == ["io_error"]
    assert b"mistake" not in result.stderr


@unsanitized
def test_threads_that_the_address_space_has_no_room_for_are_a_sentence():
    line = f"ulimit -v 1500000; exec {shlex.join(command('generate', 'hi', max_tokens=1, threads=1024))}"
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout) == (1, "")
    assert "address space" in result.stderr.splitlines()[0] and "fewer threads" in result.stderr, result.stderr


@unsanitized
@pytest.mark.parametrize("limit", [160_000, 225_000, 240_000, 290_000])
def test_address_space_that_suffices_is_not_taken_by_arenas_of_malloc(limit):
    line = f"ulimit -v {limit}; exec {shlex.join(command('generate', ids='1,2', max_tokens=2, threads=8))}"
    for _ in range(5):
        result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stderr


@unsanitized
def test_too_few_open_files_are_no_matter_of_permissions(tmp_path):
    line = f"ulimit -n 4; exec {shlex.join(command('inspect', GOLDEN / 'v32-fp8'))}"
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert result.returncode == 1 and "Too many open files" in result.stderr and "ulimit -n" in result.stderr, result.stderr


@unsanitized
@pytest.mark.parametrize("limit", range(23_000, 62_000, 3_000))
def test_too_little_address_space_for_anything_is_a_sentence(limit):
    for line in (command("generate", ids="1,2", max_tokens=2), command("inspect", MINI)):
        result = subprocess.run(["bash", "-c", f"ulimit -v {limit}; exec {shlex.join(line)}"], capture_output=True, text=True, timeout=60)
        if result.returncode == 127 and "error while loading shared libraries" in result.stderr:
            continue  # the system's loader says so before the program begins
        assert result.returncode in (0, 1), result
        if result.returncode == 1:
            assert "mistake" not in result.stderr and "  to do     " in result.stderr and "permissions" not in result.stderr, result.stderr
            figures = re.findall(r"takes (.*), but (.*) of memory", result.stderr)
            assert all(takes != left for takes, left in figures), result.stderr


@pytest.mark.parametrize("arguments", [["generate", "--file", "/dev/zero"], ["generate", "-"], ["tokenize", "--file", "/dev/zero"], ["tokenize", "-"],
                                       ["eval", "/dev/zero"], ["chat"], ["logits", "--tokens", "/dev/zero", "--out", "OUT"]], ids=" ".join)
def test_an_endless_file_is_refused_before_it_takes_the_memory(arguments, tmp_path):
    line = command(*(str(tmp_path / "out.safetensors") if argument == "OUT" else argument for argument in arguments))
    with open("/dev/zero", "rb") as zeros:
        result, _, most_bytes = measured(line, stdin=zeros)
    assert result.returncode == 1
    assert "256 MiB" in result.stderr
    assert most_bytes < 700 << 20, "more than twice the limit and the model"


@pytest.mark.long
def test_a_header_of_100_megabytes_needs_about_a_gibibyte_and_no_more(tmp_path):
    entry, tensors = '"%07d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}', 1_650_000
    header = "{" + ",".join(entry % i for i in range(tensors)) + "}"
    assert 90_000_000 < len(header) < 100_000_000
    (tmp_path / "config.json").symlink_to(MINI / "config.json")
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header.encode())
    result, _, most_bytes = measured(command("generate", ids="1,2", model=tmp_path))
    assert result.returncode == 1
    assert "model.safetensors" in result.stderr or "missing" in result.stderr
    assert "0000000 is a tensor that this model has no use for, the first of 1650000." in result.stderr
    assert most_bytes < 1.25 * (1 << 30)  # the mapped file is a tenth of it


@pytest.mark.parametrize("arguments, named", [
    (["--temperature", "nan"], "finite"), (["--temperature", "inf"], "finite"), (["--top-p", "nan"], "finite"), (["--top-p", "-nan"], "finite"),
    (["--min-p", "NaN"], "finite"), (["--seed", "18446744073709551616"], "18446744073709551616"), (["--seed", "-1"], "-1"),
    (["--selection", "random", "--selection-seed", "18446744073709551616"], "18446744073709551616"),
    (["--selection", "random", "--selection-seed", "-1"], "-1"), (["--selection-seed", "1"], "--selection random"),
    (["--selection", "recent", "--selection-seed", "1"], "--selection random"), (["--index-topk", "0"], "--index-topk"),
    (["--index-topk", "-5"], "--index-topk"), (["--index-topk", "16777217"], "--index-topk"),
    (["--precision", "half"], "full"), (["--precision", "1"], "native"), (["--precision", "0"], "native"),
    (["--indexer-projection", "0"], "separate"), (["--indexer-projection", "x"], "overlapped"), (["--selection", "0"], "recent")], ids=lambda given: " ".join(given) if isinstance(given, list) else given)
def test_a_value_out_of_range_is_a_usage_error_that_says_what_is_allowed(arguments, named):
    result = run("generate", "x", *arguments)
    assert named in refused(result, status=2)
    assert "->" not in result.stderr and "FAILED" not in result.stderr


def test_the_largest_seeds_are_taken_as_they_are():
    def ids(**options):
        return json.loads(output("generate", "And it came to pass", max_tokens=12, json=True, **options))["ids"]

    largest = 2**64 - 1
    assert ids(temperature=2, seed=largest) != ids(temperature=2, seed=largest - 1)
    prompt = json.loads((MINI / "eval" / "retrieval.jsonl").read_text(encoding="utf-8").splitlines()[0])["prompt"]

    def selected(seed):
        return json.loads(output("generate", "-", stdin=prompt, max_tokens=16, json=True, selection="random", selection_seed=seed, index_topk=4))["ids"]

    assert selected(largest) == selected(largest)
    assert len({tuple(selected(seed)) for seed in (0, 1, largest)}) > 1


@pytest.mark.parametrize("name", ["generate", "tokenize"])
def test_an_empty_file_name_is_a_refusal_and_no_text(name):
    result = run(name, "--file", "")
    assert result.returncode in (1, 2)
    assert result.stdout == "" and len(result.stderr.splitlines()[0]) > 20


def test_answers_of_eval_end_at_the_models_last_position(tmp_path):
    config = json.loads((MINI / "config.json").read_text())
    model = linked_mini(tmp_path, "config.json")
    prompt = json.loads((MINI / "eval" / "kjv.jsonl").read_text(encoding="utf-8").splitlines()[0])["text"][:200]
    tokens = len(json.loads(output("tokenize", prompt, json=True)))
    row = json.dumps({"prompt": prompt, "answer": "x"})
    (tmp_path / "rows.jsonl").write_text(row + "\n")

    def answer(positions):
        (model / "config.json").unlink(missing_ok=True)
        (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": positions}))
        return run("eval", tmp_path / "rows.jsonl", json=True, model=model, max_tokens=16777216)

    def text(positions):
        return json.loads(answer(positions).stdout)["items"][0]["output"]

    longer, shorter = text(tokens + 40), text(tokens + 3)
    assert longer.startswith(shorter) and len(longer) > len(shorter) > 0
    assert len(json.loads(output("tokenize", shorter, json=True))) <= 3
    assert "rows.jsonl:1" in refused(answer(tokens))


def test_eval_takes_memory_for_the_models_positions_and_no_more():
    result, _, most_bytes = measured(command("eval", MINI / "eval" / "arithmetic.jsonl", limit=1, max_tokens=16777216))
    assert result.returncode == 0
    assert most_bytes < 512 << 20


def test_the_program_works_without_proc():
    hidden = "mount -t tmpfs none /proc && exec"
    if subprocess.run(["unshare", "-rm", "sh", "-c", f"{hidden} true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this system lends no mount namespace to hide /proc in")

    def without_proc(*arguments, **options):
        return subprocess.run(["unshare", "-rm", "sh", "-c", f'{hidden} "$@"', "-", *command(*arguments, **options)], capture_output=True,
                              text=True, timeout=60, check=False)

    info = without_proc("info", json=True)
    assert info.returncode == 0, info.stderr
    assert (json.loads(info.stdout)["memory_gib"], json.loads(info.stdout)["cpu"]) == (None, "unknown")
    assert "unknown" in without_proc("info").stdout
    assert "--model" in without_proc("generate", "x").stderr
    assert without_proc("generate", "x", max_tokens=2, model=MINI).returncode == 0


@pytest.mark.parametrize("bits", [0x7fc0, 0x7f80], ids=["nan", "infinity"])
def test_the_likelihood_of_a_model_with_damaged_weights_is_no_result(bits, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    linked_mini(model, "model.safetensors")
    shutil.copy(MINI / "model.safetensors", model)

    def damage(header, data):
        begin = header["lm_head.weight"]["data_offsets"][0]
        data[begin:begin + 2] = bits.to_bytes(2, "little")

    rewrite(model, damage)
    (tmp_path / "rows.jsonl").write_text('{"ids": [0, 5, 6, 7]}\n')
    result = run("eval", tmp_path / "rows.jsonl", model=model, json=True)
    assert "row 0" in refused(result) and "--verify" in result.stderr
