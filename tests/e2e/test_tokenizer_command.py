"""`fulgur tokenize` as docs/spec/commands.md has it, and how it refuses."""

import json
import re
import subprocess

import pytest
from fulgur_cli import MINI, command, output, run

BOS = "<｜begin▁of▁sentence｜>"
USER = "<｜User｜>"


def ids(text, **options):
    return json.loads(output("tokenize", text, json=True, **options))


def refused(result):
    """The first line of what a failed run says."""
    assert (result.returncode, result.stdout) == (1, ""), result.stderr
    return result.stderr.splitlines()[0]


def test_a_person_sees_ids_and_pieces():
    lines = output("tokenize", f"{BOS}Hi\n\u4e3b").splitlines()
    assert [int(line.split()[0]) for line in lines] == ids(f"{BOS}Hi\n\u4e3b")
    assert lines[0].split() == ["0", f'"{BOS}"']
    assert any(line.endswith('"\\n"') for line in lines)
    assert any(re.search(r'"\\x[0-9a-f]{2}', line) for line in lines)  # a part of the Chinese character


def test_the_same_text_by_argument_file_and_standard_input(tmp_path):
    text = "Two lines,\r\nno newline added or taken: \U0001f600\n"
    (tmp_path / "text.txt").write_bytes(text.encode())
    assert ids(text) == json.loads(output("tokenize", file=tmp_path / "text.txt", json=True))
    assert ids(text) == json.loads(output("tokenize", "-", stdin=text, json=True))
    lines = json.dumps(text) + "\n" + json.dumps("", ensure_ascii=False) + "\n"
    assert output("tokenize", "-", stdin=lines, jsonl=True) == f"{json.dumps(ids(text), separators=(',', ':'))}\n[]\n"


def test_added_tokens_are_parsed_unless_told_not_to():
    text = f"{BOS}a{USER}b"
    assert ids(text)[0] == 0 and 1270 in ids(text)
    assert not {0, 1, 2, 1270, 1271} & set(ids(text, no_specials=True))


def test_bos_comes_on_demand_and_once():
    assert ids("hi", add_bos=True) == [0, *ids("hi")]
    assert ids(f"{BOS}hi", add_bos=True) == ids(f"{BOS}hi")
    assert ids(f"{BOS}hi", add_bos=True, no_specials=True) == [0, *ids(f"{BOS}hi", no_specials=True)]
    assert ids("", add_bos=True) == [0] and ids("") == []


def test_decode_is_the_reverse_to_the_byte():
    text = f"{BOS}In the\n\n  beginning \u4e3b\U0001f600{USER}\n"
    assert output("tokenize", json.dumps(ids(text)), decode=True) == text
    assert output("tokenize", ",".join(map(str, ids(text))), decode=True) == text
    assert output("tokenize", "-", stdin=json.dumps(ids(text)) + "\n", decode=True) == text
    assert json.loads(output("tokenize", json.dumps(ids(text)), decode=True, json=True)) == text
    assert output("tokenize", "[]", decode=True) == ""


@pytest.mark.parametrize("arguments", [[], ["a", "--file", "b"], ["a", "b"], ["a", "--json", "--jsonl"], ["1", "--decode", "--no-specials"],
                                       ["1", "--decode", "--add-bos"], ["a", "--ids"]], ids=" ".join)
def test_wrong_usage_exits_with_2(arguments):
    result = run("tokenize", *arguments)
    assert (result.returncode, result.stdout) == (2, "")


@pytest.mark.parametrize("given", ["[5, 1272]", "5,99999", "[2147483647]"])
def test_an_unknown_id_is_named(given):
    assert re.findall(r"\d+", given)[-1] in refused(run("tokenize", given, decode=True))


@pytest.mark.parametrize("given", ["", "[1, -2]", "[1.5]", '["1"]', "[[1]]", "{}", "[1", "1,,2", "one", "[4294967296]"])
def test_what_is_no_list_of_ids_is_refused(given):
    refused(run("tokenize", "-", stdin=given, decode=True))


def test_text_that_is_no_utf8_is_refused_by_its_byte(tmp_path):
    (tmp_path / "latin1.txt").write_bytes("caf\u00e9".encode("latin-1"))
    assert "byte 3 (0xe9)" in refused(run("tokenize", file=tmp_path / "latin1.txt"))
    result = subprocess.run([*command("tokenize"), b"ab\xff"], capture_output=True, timeout=60)
    assert (result.returncode, result.stdout) == (1, b"") and b"byte 2 (0xff)" in result.stderr


@pytest.mark.parametrize("line", ["[1]", "nonsense", '"\\ud800"', "", '"a" "b"', "null"])
def test_a_bad_line_is_named_by_its_number(line):
    result = run("tokenize", "-", stdin=f'"good"\n{line}\n"good"\n', jsonl=True)
    assert result.returncode == 1
    assert "line 2" in result.stderr.splitlines()[0]


def test_a_blank_line_is_called_so():
    result = run("tokenize", "-", stdin='"good"\n\n"good"\n', jsonl=True)
    assert "line 2" in result.stderr and "blank" in result.stderr and "file is empty" not in result.stderr


def test_an_unknown_id_in_a_line_is_named_with_the_line():
    result = run("tokenize", "-", stdin="[1]\n[5000]\n", jsonl=True, decode=True)
    assert result.returncode == 1
    assert "line 2" in result.stderr and "5000" in result.stderr


def test_bos_is_refused_where_there_is_none(tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((MINI / "tokenizer.json").read_bytes())
    assert "--add-bos" in refused(run("tokenize", "a", model=tmp_path, add_bos=True))
    assert ids("a", model=tmp_path) == ids("a")


def test_a_folder_without_a_tokenizer_is_a_sentence(tmp_path):
    assert "tokenizer.json" in refused(run("tokenize", "a", model=tmp_path))


def test_a_tokenizer_that_is_not_supported_names_file_field_and_value(tmp_path):
    tokenizer = json.loads((MINI / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["normalizer"] = {"type": "NFKC"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    said = refused(run("tokenize", "a", model=tmp_path))
    assert "tokenizer.json" in said and "normalizer.type" in said and "NFKC" in said
