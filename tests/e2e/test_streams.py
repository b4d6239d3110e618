"""Standard input, output and error that are full, closed or broken: exit statuses and sentences as ever, no crash."""

import json
import shlex
import signal
import subprocess

import pytest
from fulgur_cli import MINI, command, output

ARITHMETIC = MINI / "eval" / "arithmetic.jsonl"
MISSING = "Standard output can't be written, so results are missing."
RESULTS = {
    "generate": ["generate", "In the beginning", "--max-tokens", "4"],
    "generate --json": ["generate", "In the beginning", "--max-tokens", "4", "--json"],
    "generate --ids": ["generate", "--model", "tests/golden/data/v32-bf16", "--ids", "1,2,3", "--max-tokens", "4"],
    "chat": ["chat", "--max-tokens", "4"],
    "tokenize": ["tokenize", "--file", str(ARITHMETIC)],
    "tokenize --json": ["tokenize", "--json", "--file", str(ARITHMETIC)],
    "tokenize --jsonl": ["tokenize", "--jsonl", "-"],
    "tokenize --decode": ["tokenize", "--decode", "1,2,3"],
    "eval": ["eval", str(ARITHMETIC), "--limit", "2"],
    "eval --json": ["eval", str(ARITHMETIC), "--limit", "2", "--json"],
    "info": ["info"],
    "--help": ["--help"],
    "generate --help": ["generate", "--help"],
    "--version": ["--version"],
}
STDIN = {"chat": "Hello\n", "tokenize --jsonl": '"text"\n' * 5}


def shell(arguments, redirections, stdin="", before=""):
    """The command in a shell: a crash by a signal is 128 + its number."""
    line = f"{before} {shlex.join(command(*arguments))} {redirections}"
    return subprocess.run(["bash", "-c", line], input=stdin, capture_output=True, text=True, timeout=120,
                          cwd=MINI.parent.parent)


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
@pytest.mark.parametrize("name", RESULTS)
def test_results_that_cannot_be_written_are_a_failure_and_a_sentence(name, redirection):
    result = shell(RESULTS[name], redirection, STDIN.get(name, ""))
    assert result.returncode == 1, result.stderr
    assert result.stderr.splitlines()[0] == MISSING
    assert "mistake" not in result.stderr


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-"])
@pytest.mark.parametrize("name", ["generate", "chat", "eval"])
def test_a_log_that_cannot_be_written_harms_nothing(name, redirection):
    result = shell(RESULTS[name], redirection, STDIN.get(name, ""))
    assert result.returncode == 0
    assert result.stdout == shell(RESULTS[name], "2>/dev/null", STDIN.get(name, "")).stdout != ""


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", ">/dev/full 2>/dev/full", ">&- 2>&-"])
@pytest.mark.parametrize("arguments, status", [(["generate", "x", "--model", "/nowhere"], 1), (["generate", "x", "--no-such-option"], 2), (["nothing"], 2)],
                         ids=["failed", "usage", "no command"])
def test_a_sentence_that_cannot_be_written_leaves_the_exit_status(arguments, status, redirection):
    assert shell(arguments, redirection).returncode == status


def test_a_log_whose_reader_has_gone_away_does_not_end_the_program():
    process = subprocess.Popen(command(*RESULTS["generate"]), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stderr.close()
    text = process.stdout.read()
    assert process.wait(timeout=60) == 0
    assert text.strip()


def test_a_reader_that_has_gone_away_ends_the_program_by_sigpipe_as_it_does_others():
    process = subprocess.Popen(command("tokenize", file=ARITHMETIC), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    log = process.stderr.read()
    assert (process.wait(timeout=60), log) == (-signal.SIGPIPE, b"")


def test_a_reader_that_has_gone_away_is_a_sentence_where_sigpipe_is_ignored():
    process = subprocess.Popen(command("tokenize", file=ARITHMETIC), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               restore_signals=False, preexec_fn=lambda: signal.signal(signal.SIGPIPE, signal.SIG_IGN))
    process.stdout.close()
    log = process.stderr.read()
    assert process.wait(timeout=60) == 1
    assert log.startswith(MISSING) and "Broken pipe" in log


def test_a_size_limit_on_the_redirected_output_is_a_sentence(tmp_path):
    result = shell(["tokenize", "--file", str(ARITHMETIC)], f">{tmp_path / 'out'}", before="ulimit -f 1;")
    assert result.returncode == 1
    assert result.stderr.startswith(MISSING) and "File too large" in result.stderr


@pytest.mark.parametrize("arguments", [["chat"], ["generate", "-"], ["tokenize", "-"]], ids=" ".join)
def test_closed_standard_input_is_an_error_and_never_the_weights(arguments):
    result = shell(arguments, "0<&-")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("standard input: This file can't be read.")


@pytest.mark.parametrize("arguments", [["chat"], ["generate", "-"], ["tokenize", "-"]], ids=" ".join)
def test_a_folder_as_standard_input_is_an_error(arguments):
    result = shell(arguments, "<.")
    assert (result.returncode, result.stdout) == (1, "")
    assert "Is a directory" in result.stderr


def test_files_are_not_taken_for_closed_standard_output(tmp_path):
    (tmp_path / "ids.json").write_text("[1, 2, 3]")
    arguments = ["logits", "--tokens", str(tmp_path / "ids.json"), "--out", str(tmp_path / "out.safetensors"), "--last"]
    assert shell(arguments, "").returncode == 0
    expected = (tmp_path / "out.safetensors").read_bytes()
    assert shell([*arguments, "--profile"], "0<&- >&- 2>&-").returncode == 0
    assert (tmp_path / "out.safetensors").read_bytes() == expected


def test_help_and_version_still_succeed():
    assert output("--version") and json.loads(output("info", json=True))
