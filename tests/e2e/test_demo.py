"""The demo is the project's story: it must be true, and must fail where it isn't."""

import json
import os
import re

import pytest
from fulgur_cli import MINI, command, run, rows_of
from test_commands import Terminal

FORMS = ["separate", "overlapped", "fused"]
pytestmark = pytest.mark.xdist_group("demo")  # its fixture is costly
SELECTED = json.loads((MINI / "config.json").read_text(encoding="utf-8"))["index_topk"]
LAYERS = 5


@pytest.fixture(scope="module")
def story():
    return run("demo", profile=True)


def attended(text):
    """What each layer attended to, and how many tokens there were."""
    line = re.search(r"^attended +(.*) of ([\d,]+) tokens$", text, re.MULTILINE)
    counts = re.findall(r"layer \d+: ([\d,]+)", line[1])
    assert [int(layer) for layer in re.findall(r"layer (\d+):", line[1])] == list(range(LAYERS))
    return [int(count.replace(",", "")) for count in counts], int(line[2].replace(",", ""))


def the_row(text):
    """The row of the retrieval set that was asked."""
    return next(row for row in rows_of("retrieval") if row["length"] == 4000 and row["user"] in text)


def test_the_number_that_is_asked_for_stands_thousands_of_tokens_before_the_end(story):
    row = the_row(story.stdout)
    assert row["distance"] > 2000
    assert f"{row['distance']:,} tokens before the end" in story.stdout and f"{row['n_tokens']:,} tokens" in story.stdout


def test_the_architecture_is_the_models(story):
    assert re.search(r"^model +mini-v32: 5 layers, deepseek_v32 architecture, ", story.stdout, re.MULTILINE)


def test_the_indexer_finds_it_reading_128_tokens_a_layer(story):
    assert story.returncode == 0, story.stderr
    assert f"answer     {the_row(story.stdout)['answer']} (right)" in story.stdout
    counts, tokens = attended(story.stdout)
    assert counts == [SELECTED] * LAYERS
    # The four digits were read too.
    assert tokens == the_row(story.stdout)["n_tokens"] + 4


def test_rates_and_times_of_the_three_projections_stand_side_by_side(story):
    assert re.search(r"^speed +prefill [\d,]+ tokens/s, decode [\d,]+ tokens/s$", story.stdout, re.MULTILINE)
    rows = re.findall(r"^(\w+) +([\d,]+) tokens/s +([\d,]+) tokens/s +([\d.]+) us +([\d.]+) us +same bits$", story.stdout, re.MULTILINE)
    assert [row[0] for row in rows] == FORMS
    assert all(float(value.replace(",", "")) > 0 for row in rows for value in row[1:])


def test_profile_prints_the_cost_of_each_op(story):
    for op in ("indexer_select", "sparse_mla", "moe"):
        assert re.search(rf"^{op} +\d+ ", story.stderr, re.MULTILINE), story.stderr


def test_with_the_most_recent_tokens_instead_the_answer_is_wrong_and_the_demo_fails():
    """A demo that passes without an indexer would show nothing: once the number stood 22 tokens before the end."""
    result = run("demo", selection="recent")
    assert result.returncode == 1
    row = the_row(result.stdout)
    assert re.search(rf"^answer .*\(wrong, it is {row['answer']}\)$", result.stdout, re.MULTILINE)
    assert attended(result.stdout)[0] == [SELECTED] * LAYERS
    assert re.fullmatch(rf"The answer is wrong: the number is {row['answer']}, the model said .*\.\n", result.stderr)


def test_with_everything_selected_every_layer_attends_to_every_token():
    result = run("demo", selection="all")
    assert result.returncode == 0, result.stdout
    counts, tokens = attended(result.stdout)
    assert counts == [tokens] * LAYERS
    assert tokens == the_row(result.stdout)["n_tokens"] + 4


def test_in_a_pipe_it_is_plain_text_of_narrow_lines(story):
    assert "\x1b" not in story.stdout and "\r" not in story.stdout
    assert max(map(len, story.stdout.splitlines())) <= 110


def test_on_a_terminal_it_ends_with_the_same_story():
    terminal = Terminal(*command("demo"))
    terminal.read_until(r"answer +\d{4} \(right\)")
    terminal.read_until(r"All three give the same bits\.")
    assert terminal.status() == 0


def test_a_model_without_questions_for_it_is_a_sentence(tmp_path):
    for file in MINI.iterdir():
        if file.is_file():
            os.symlink(file, tmp_path / file.name)
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "retrieval.jsonl").write_text('{"length": 4000, "distance": 22}\n[1]\n{"length": "4000"}\n')
    result = run("demo", model=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert "no question for the demo" in result.stderr.splitlines()[0] and "mini-v32" in result.stderr
