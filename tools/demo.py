#!/usr/bin/env python3
"""The project's story in under a minute: a number named once in 4,000 tokens, found by reading 128 of them a layer.

  tools/demo.py build/release/bin/fulgur
"""

import json
import math
import statistics
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

MINI = Path(__file__).resolve().parent.parent / "models" / "mini-v32"
PROJECTIONS = ("separate", "overlapped", "fused")
ROUNDS = 3


def read_tensors(path):
    """{name: (shape, bytes)} of a safetensors file, with nothing but Python's own library."""
    blob = path.read_bytes()
    size = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8:8 + size])
    header.pop("__metadata__", None)
    return {name: (entry["shape"], blob[8 + size + entry["data_offsets"][0]:8 + size + entry["data_offsets"][1]])
            for name, entry in header.items()}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    fulgur = sys.argv[1]

    def run(*arguments):
        return subprocess.run([fulgur, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True, encoding="utf-8").stdout

    rows = [json.loads(line) for line in (MINI / "eval" / "retrieval.jsonl").read_text(encoding="utf-8").splitlines()]
    row = max((row for row in rows if row["length"] == 4000), key=lambda row: row["distance"])
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        prompt = folder / "prompt.txt"
        prompt.write_text(row["prompt"], encoding="utf-8")

        print(f"\nThe prompt: {row['n_tokens']:,} tokens of Bible prose with {row['needles']} sentences like \"The secret number of NAME is DDDD.\"\n"
              f"The one that is asked for stands {row['distance']:,} tokens before the end.\n")
        print(f"  {row['user']}")
        answer = json.loads(run("generate", "--file", prompt, "--max-tokens", 16, "--json"))
        verdict = "right" if answer["text"].strip() == row["answer"] else f"wrong, it is {row['answer']}"
        print(f"  {answer['text'].strip()}      ({verdict})\n")

        ids, out = folder / "ids.json", folder / "out.safetensors"
        ids.write_text(json.dumps(answer["prompt_ids"]))
        run("logits", "--tokens", ids, "--out", out, "--topk", "--last")
        print("To choose the first digit, each layer's indexer scored all tokens and attention read only the best:")
        length = len(answer["prompt_ids"])
        for name, (shape, data) in sorted(read_tensors(out).items()):
            if not name.startswith("topk.0."):
                continue
            last = [position for position in struct.unpack(f"<{shape[1]}i", data[-4 * shape[1]:]) if position >= 0]
            marks = ["."] * 60
            for position in last:
                marks[min(59, position * 60 // length)] = "#"
            print(f"  layer {name.rpartition('.')[2]}  {len(last):4} of {length:,}  |{''.join(marks)}|")
        timings = answer["timings"]
        print(f"\nPrefill {timings['prompt_tokens'] / timings['prompt_s']:,.0f} tokens/s, "
              f"decode {timings['generated_tokens'] / timings['decode_s']:,.0f} tokens/s, "
              f"peak memory {timings['peak_rss_bytes'] / 2**20:,.0f} MiB.\n")

        print("The indexer's two projections of a token, wk and weights_proj, in three ways:")
        reference = None
        for projection in PROJECTIONS:
            run("logits", "--tokens", ids, "--out", out, "--indexer-projection", projection)
            same = reference is None or out.read_bytes() == reference
            reference = reference or out.read_bytes()
            runs = [json.loads(run("generate", "--file", prompt, "--max-tokens", 1, "--json", "--indexer-projection", projection))
                    for _ in range(ROUNDS)]
            seconds = statistics.median(one["timings"]["prompt_s"] for one in runs)
            print(f"  {projection:<11} prefill {seconds * 1e3:7.1f} ms   "
                  + ("" if reference is None else f"{math.prod(read_tensors(out)['logits.0'][0]):,} logits, "
                     + ("the same bits" if same else "DIFFERENT BITS")))
            if not same:
                sys.exit("demo: the three projections must give the same bits")
    if verdict != "right":
        sys.exit("demo: the answer is wrong")


if __name__ == "__main__":
    main()
