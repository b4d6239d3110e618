#!/usr/bin/env python3
"""Speed on mini-v32 beside Hugging Face transformers: one run, the same threads, the two taking turns.

  make compare
  .venv-compare/bin/python tools/compare_transformers.py --rounds 7 --markdown

Fulgur in native precision against the faster of transformers' f32 and bf16 in each line: prefill of a prompt of 4,000 tokens,
then decoding after 64 and after 2,000 tokens. Medians over the rounds; loading is not counted.
"""

import argparse
import json
import logging
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import torch
import transformers
from eval_mini import prose_rows
from fulgur_cli import MINI, output
from transformers import DeepseekV32ForCausalLM

PROMPT_TOKENS = 4000
CONTEXTS = (64, 2000)
DECODED_TOKENS = 64
DTYPES = {"transformers f32": torch.float32, "transformers bf16": torch.bfloat16}


class Transformers:
    def __init__(self, dtype):
        self.model = DeepseekV32ForCausalLM.from_pretrained(MINI, dtype=dtype).eval()

    @torch.inference_mode()
    def prefill(self, ids):
        """Seconds, and what decoding goes on from."""
        tokens = torch.tensor([ids])
        start = time.perf_counter()
        out = self.model(input_ids=tokens, use_cache=True, logits_to_keep=1)
        return time.perf_counter() - start, out

    @torch.inference_mode()
    def decode(self, ids):
        """Seconds a token, and the tokens."""
        _, out = self.prefill(ids)
        tokens = [out.logits[:, -1].argmax(-1, keepdim=True)]
        start = time.perf_counter()
        for _ in range(DECODED_TOKENS):
            out = self.model(input_ids=tokens[-1], past_key_values=out.past_key_values, use_cache=True)
            tokens.append(out.logits[:, -1].argmax(-1, keepdim=True))
        return (time.perf_counter() - start) / DECODED_TOKENS, [int(token) for token in tokens]


class Fulgur:
    def __init__(self, threads):
        self.threads = threads

    def generate(self, ids, max_tokens):
        answer = json.loads(output("generate", ids=",".join(map(str, ids)), max_tokens=max_tokens, threads=self.threads, speculate=0, json=True))
        if len(answer["ids"]) != max_tokens:
            sys.exit("compare_transformers.py: the model ended its answer early; the comparison needs a longer one")
        return answer

    def prefill(self, ids):
        return self.generate(ids, 1)["timings"]["prompt_s"], None

    def decode(self, ids):
        # The first token comes from the prompt's last row.
        answer = self.generate(ids, DECODED_TOKENS + 1)
        return answer["timings"]["decode_s"] / DECODED_TOKENS, answer["ids"]


def machine():
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")),
                 platform.machine())
    return f"{model}, {os.cpu_count()} cores"


def measure(engines, sequence, rounds):
    """{line: {engine: median seconds}} and the tokens that each engine chose at each context."""
    seconds, chosen = {}, {}
    for turn in range(rounds + 1):
        for name, engine in engines.items():
            if sys.stderr.isatty():
                print(f"\rround {turn} of {rounds}  {name:<20}", end="", file=sys.stderr, flush=True)
            found = {f"prefill, {PROMPT_TOKENS:,} tokens": engine.prefill(sequence[:PROMPT_TOKENS])[0]}
            for context in CONTEXTS:
                found[f"decode after {context:,}"], chosen[name, context] = engine.decode(sequence[:context])
            if turn > 0:  # the first warms up
                for line, value in found.items():
                    seconds.setdefault(line, {}).setdefault(name, []).append(value)
    if sys.stderr.isatty():
        print("\r" + " " * 60 + "\r", end="", file=sys.stderr)
    return {line: {name: statistics.median(values) for name, values in row.items()} for line, row in seconds.items()}, chosen


def rows(seconds):
    """The table: a figure an engine, and how many times Fulgur is faster than the faster of the others."""
    for line, row in seconds.items():
        best = min(value for name, value in row.items() if name != "Fulgur native")
        if line.startswith("prefill"):
            figures = [f"{PROMPT_TOKENS / value:,.0f} tokens/s" for value in row.values()]
        else:
            figures = [f"{value * 1e3:.3f} ms a token" for value in row.values()]
        yield [line, *figures, f"{best / row['Fulgur native']:.1f} x"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--markdown", action="store_true", help="print the table for a document")
    parser.add_argument("--json", metavar="FILE", help="write the medians (seconds; seconds a token) there too")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    engines = {name: Transformers(dtype) for name, dtype in DTYPES.items()} | {"Fulgur native": Fulgur(arguments.threads)}
    seconds, chosen = measure(engines, prose_rows(PROMPT_TOKENS)[0], arguments.rounds)

    table = [["", *engines, "Fulgur against the faster"], *rows(seconds)]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    if arguments.markdown:
        table.insert(1, ["---"] * len(widths))
        print("\n".join("| " + " | ".join(row) + " |" for row in table))
    else:
        print("\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in table))
    print(f"\n{machine()}, {arguments.threads} threads each; torch {torch.__version__}, transformers {transformers.__version__}; "
          f"medians of {arguments.rounds} rounds in turns")
    for context in CONTEXTS:
        same = sum(a == b for a, b in zip(chosen["transformers f32", context], chosen["Fulgur native", context]))
        print(f"After {context:,} tokens Fulgur native chooses {same} of {DECODED_TOKENS + 1} tokens as transformers in f32 does.")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({"machine": machine(), "threads": arguments.threads, "medians": seconds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
