"""Calls the fulgur program as docs/spec/commands.md promises it, for tests and tools."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parent.parent
MINI = ROOT / "models" / "mini-v32"
BINARY = Path(os.environ.get("FULGUR", ROOT / "build" / "release" / "bin" / "fulgur")).absolute()


def command(*arguments, **options):
    """The argument list: options by name, `index_topk=8` is `--index-topk 8`, True is a bare flag, None is left out."""
    line = [str(BINARY), *map(str, arguments)]
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            line.append(flag)
        elif value is not None and value is not False:
            line += [flag, str(value)]
    return line


def run(*arguments, stdin="", timeout=600, env=None, **options):
    """Runs to the end, whatever the exit status; `timeout` in seconds, None for as long as it takes."""
    return subprocess.run(command(*arguments, **options), input=stdin, capture_output=True, timeout=timeout,
                          text=True, encoding="utf-8", env={**os.environ, **env} if env else None)


def output(*arguments, **options):
    """stdout of a run that must succeed."""
    result = run(*arguments, **options)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(result.args)}\nexit status {result.returncode}\n{result.stderr}")
    return result.stdout


# A process's peak memory begins with that of the one it was forked from, and pytest's may be half a gigabyte.
MEASURE = """import os, sys
pid = os.spawnv(os.P_NOWAIT, sys.argv[2], sys.argv[2:])
_, status, usage = os.wait4(pid, 0)
with open(sys.argv[1], "w") as file: print(os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, 1024 * usage.ru_maxrss, file=file)
"""


def measured(line, stdin=None):
    """Runs an argument list to its end: its result, its CPU seconds and the most bytes that it held."""
    with tempfile.NamedTemporaryFile("r") as figures:
        result = subprocess.run([sys.executable, "-ISc", MEASURE, figures.name, *line], stdin=stdin, capture_output=True, text=True, check=True)
        status, seconds, most_bytes = figures.read().split()
    return subprocess.CompletedProcess(line, int(status), result.stdout, result.stderr), float(seconds), int(most_bytes)


def logits(prompts, **options):
    """`fulgur logits` on lists of token ids: the tensors it writes."""
    with tempfile.TemporaryDirectory() as folder:
        tokens, out = Path(folder, "tokens.json"), Path(folder, "out.safetensors")
        tokens.write_text(json.dumps([[int(token) for token in prompt] for prompt in prompts]))
        output("logits", tokens=tokens, out=out, **options)
        return load_file(out)


def evaluate(rows, **options):
    """`fulgur eval` on rows given as dictionaries: what `--json` prints."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.jsonl")
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return json.loads(output("eval", file, json=True, **options))


def rows_of(name):
    """The rows of one of mini-v32's evaluation sets."""
    with open(MINI / "eval" / f"{name}.jsonl", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
