#!/usr/bin/env python3
"""Measures mini-v32 with fulgur and compares with the tables of models/mini-v32/README.md.

  make eval                                          everything, both precisions
  tools/eval_mini.py --only kjv,sweep                some of it
  tools/eval_mini.py --only sweep --chart sweep.svg  and draw the sweep over index_topk

Prints each part's figures when they are known, all of them as one table at the end. Exit status 1 if a figure is not what
the README promises.
"""

import argparse
import json
import math
import sys
import time
from dataclasses import asdict, dataclass

import numpy as np
from fulgur_cli import MINI, evaluate, logits, output, rows_of

PRECISIONS = ("native", "full")
ANSWER_TOKENS = 8      # four digits, the end token, and room to be wrong in
SOLUTION_TOKENS = 64
BATCH_TOKENS = 30_000  # per call of fulgur: between two steps of the progress bar
BASE_TOPK = 128        # mini-v32's own

# models/mini-v32/README.md; transformers in f32, right answers by length of the prompt.
RECENT = {512: 5, 1024: 3, 2048: 8, 4000: 1}
# A prompt or two can go the other way by rounding alone.
COLLAPSE_TOLERANCE = 2
NATS_TOLERANCE = {"native": 0.5e-2, "full": 0.01e-2}
SWEEP_TOLERANCE = 0.02
# The stored perplexity has four decimals; it moves with single changed selections, far less than the KL does.
PERPLEXITY_TOLERANCE = 1e-3


# MTP as an engine runs it, one draft a step: (accepted, drafted) in float64.
MTP_PROMPT, MTP_NEW = 48, 64
MTP_ACCEPTED = (1391, 1910)
MTP_TOLERANCE = {"native": 0.05, "full": 0.01}


@dataclass
class Finding:
    """One line of the report."""

    name: str
    expected: str
    found: str
    holds: bool


class Progress:
    """A bar with the time left, on a terminal only."""

    def __init__(self, total):
        self.total, self.done, self.start = total, 0, time.monotonic()
        self.shown = sys.stderr.isatty()

    def add(self, tokens, label):
        self.done += tokens
        if not self.shown:
            return
        share = min(1.0, self.done / self.total)
        left = (time.monotonic() - self.start) * (1 - share) / max(share, 1e-9)
        bar = "#" * int(30 * share)
        print(f"\r[{bar:<30}] {share:4.0%}  {left / 60:3.0f}:{left % 60:02.0f} left  {label:<40.40}", end="", file=sys.stderr, flush=True)

    def clear(self):
        """Takes the bar away, so that a line can be printed; the next `add` draws it again."""
        if self.shown:
            print("\r" + " " * 100 + "\r", end="", file=sys.stderr, flush=True)


def tokens_in(row):
    if "ids" in row:
        return len(row["ids"])
    return row.get("n_tokens", 100)


def batches(rows, size):
    """Consecutive rows, about BATCH_TOKENS at a time."""
    batch, held = [], 0
    for row in rows:
        batch.append(row)
        held += size(row)
        if held >= BATCH_TOKENS:
            yield batch, held
            batch, held = [], 0
    if batch:
        yield batch, held


def evaluate_all(rows, progress=None, label="", **options):
    """`evaluate` in batches: the items of all rows, in order. No limit on the time: a busy machine is slow, not wrong."""
    items = []
    for batch, held in batches(rows, tokens_in):
        # Drafts change no answer, and on a model so small they cost more than they save.
        items += evaluate(batch, timeout=None, speculate=0, **options)["items"]
        if progress:
            progress.add(held, label)
    return items


def right_by_length(rows, items):
    """{length: (right, asked)}"""
    counts = {}
    for row, item in zip(rows, items, strict=True):
        right, asked = counts.get(row["length"], (0, 0))
        counts[row["length"]] = (right + item["correct"], asked + 1)
    return dict(sorted(counts.items()))


def retrieval(rows, progress=None, label="retrieval", **options):
    items = evaluate_all(rows, progress, label, max_tokens=ANSWER_TOKENS, **options)
    return right_by_length(rows, items), [item["correct"] for item in items]


def prose_rows(length):
    """The token sequences of sweep.py: 52 of 512, or 6 of 4,000 joined from the passages."""
    passages = [row["ids"] for row in rows_of("kjv")]
    if length == 512:
        return [ids[:512] for ids in passages]
    flat = [token for ids in passages for token in ids[1:]]
    return [[0] + flat[i * 4000:i * 4000 + 3999] for i in range(6)]


def log_probabilities(sequences, index_topk, progress=None, label="", precision="full"):
    """log p over the vocabulary at every position of every sequence, f32."""
    found = []
    for batch, held in batches(sequences, len):
        tensors = logits(batch, precision=precision, index_topk=index_topk, timeout=None)
        for i in range(len(batch)):
            rows = tensors[f"logits.{i}"].astype(np.float64)
            rows -= rows.max(-1, keepdims=True)
            found.append((rows - np.log(np.exp(rows).sum(-1, keepdims=True))).astype(np.float32))
        if progress:
            progress.add(held, label)
    return found


def distance(sequences, base, other):
    """KL(base || other) in nats a position, perplexity of `other`, share of equal best tokens: over all positions with a target."""
    nats = divergence = same = count = 0
    for ids, p, q in zip(sequences, base, other, strict=True):
        p, q = p[:-1].astype(np.float64), q[:-1].astype(np.float64)
        targets = np.asarray(ids[1:])
        nats -= q[np.arange(len(targets)), targets].sum()
        divergence += (np.exp(p) * (p - q)).sum()
        same += (p.argmax(-1) == q.argmax(-1)).sum()
        count += len(targets)
    return {"tokens": count, "ppl": math.exp(nats / count), "kl_to_k128": divergence / count, "top1_to_k128": same / count}


def accepted_drafts(rows, precision):
    """(accepted, drafted) of the engine: each row's first tokens continued greedily, one draft a step, until MTP_NEW tokens are there."""
    accepted = drafted = 0
    for row in rows:
        ids = ",".join(map(str, row["ids"][:MTP_PROMPT]))
        timings = json.loads(output("generate", model=MINI, ids=ids, max_tokens=MTP_NEW, precision=precision, speculate=1, json=True))["timings"]
        accepted += timings["accepted"]
        drafted += timings["drafted"]
    return accepted, drafted


def replayed_drafts(rows, precision):
    """The same replayed from the MTP layer's logits, as the README's were: it may end with a draft behind the last token wanted."""
    prompts = [row["ids"][:MTP_PROMPT] for row in rows]
    longest = MTP_NEW + 1  # the last step's accepted draft may come on top
    greedy = logits(prompts, precision=precision, last=True, greedy=longest, timeout=None)
    whole = [prompt + greedy[f"greedy.{i}"].tolist() for i, prompt in enumerate(prompts)]
    mtp = logits(whole, precision=precision, last=True, mtp=True, timeout=None)
    accepted = drafted = 0
    for i, tokens in enumerate(whole):
        drafts = mtp[f"mtp_logits.{i}"].argmax(-1)  # that of row t is for token t + 2
        last = MTP_PROMPT  # the newest token
        while last - MTP_PROMPT + 1 < MTP_NEW:
            right = bool(drafts[last - 1] == tokens[last + 1])
            drafted += 1
            accepted += right
            last += 1 + right
    return accepted, drafted


def mtp_finding(found, precision, by):
    share, expected = found[0] / found[1], MTP_ACCEPTED[0] / MTP_ACCEPTED[1]
    return Finding(f"mtp, {precision}: drafts accepted, {by}", f"{MTP_ACCEPTED[0]}/{MTP_ACCEPTED[1]}", f"{found[0]}/{found[1]}",
                   abs(share / expected - 1) <= MTP_TOLERANCE[precision])


def expected_sweep():
    """{index_topk: {"prose512": {...}, "prose4000": {...}}}; 8192 is every key."""
    return {int(k): row for k, row in json.loads((MINI / "expected" / "sweep.json").read_text()).items()}


def sweep_findings(index_topk, length, found):
    expected = expected_sweep()[index_topk][f"prose{length}"]
    name = f"index_topk {index_topk}, rows of {length}, full"

    def near(key, tolerance):
        return bool(abs(found[key] / expected[key] - 1) <= tolerance)  # NumPy's own is not JSON

    yield Finding(f"{name}: tokens", str(expected["tokens"]), str(found["tokens"]), expected["tokens"] == found["tokens"])
    yield Finding(f"{name}: perplexity", f"{expected['ppl']:.4f}", f"{found['ppl']:.4f}", near("ppl", PERPLEXITY_TOLERANCE))
    if index_topk != BASE_TOPK:
        yield Finding(f"{name}: KL", f"{expected['kl_to_k128']:.5f}", f"{found['kl_to_k128']:.5f}", near("kl_to_k128", SWEEP_TOLERANCE))


def nats_finding(rows, items, precision):
    expected, found = sum(row["nll"] for row in rows), sum(item["nats"] for item in items)
    return Finding(f"kjv, {precision}: nats", f"{expected:.2f}", f"{found:.2f}", abs(found / expected - 1) <= NATS_TOLERANCE[precision])


def solution_findings(rows, items, precision):
    answers = sum(item["correct"] for item in items)
    whole = sum(item["output"].strip() == row["solution"] for row, item in zip(rows, items, strict=True))
    yield Finding(f"arithmetic, {precision}: answers", f"{len(rows)}/{len(rows)}", f"{answers}/{len(rows)}", answers == len(rows))
    yield Finding(f"arithmetic, {precision}: whole workings", f"{len(rows)}/{len(rows)}", f"{whole}/{len(rows)}", whole == len(rows))


def retrieval_findings(counts, name):
    for length, (right, asked) in counts.items():
        yield Finding(f"{name}, {length} tokens", f"{asked}/{asked}", f"{right}/{asked}", right == asked)


def collapse_findings(counts, name, expected):
    for length, (right, asked) in counts.items():
        wanted = expected.get(length, 0)
        yield Finding(f"{name}, {length} tokens", f"{wanted}/{asked}, give or take {COLLAPSE_TOLERANCE}", f"{right}/{asked}",
                      abs(right - wanted) <= COLLAPSE_TOLERANCE)


def long_finding(rows, right, precision):
    key = "solved_f32" if precision == "full" else "solved_bf16"
    differing = [row["id"] for row, correct in zip(rows, right, strict=True) if row[key] != correct]
    return Finding(f"retrieval-long, {precision}: the same prompts right as stored", f"{sum(row[key] for row in rows)}/{len(rows)}",
                   f"{sum(right)}/{len(rows)}" + (f", differing: {differing}" if differing else ""), not differing)


# Each part yields findings; its cost in tokens is known beforehand, for the progress bar.


def part_arithmetic(precisions, progress):
    rows = rows_of("arithmetic")
    for precision in precisions:
        items = evaluate_all(rows, progress, f"arithmetic, {precision}", precision=precision, max_tokens=SOLUTION_TOKENS)
        yield from solution_findings(rows, items, precision)


def part_kjv(precisions, progress):
    rows = rows_of("kjv")
    for precision in precisions:
        yield nats_finding(rows, evaluate_all(rows, progress, f"kjv, {precision}", precision=precision), precision)


def part_retrieval(precisions, progress):
    rows = rows_of("retrieval")
    for precision in precisions:
        name = f"retrieval, {precision}"
        yield from retrieval_findings(retrieval(rows, progress, name, precision=precision)[0], name)
    name = "retrieval with 8 keys, full"
    yield from retrieval_findings(retrieval(rows, progress, name, precision="full", index_topk=8)[0], name)


def part_long(precisions, progress):
    rows = rows_of("retrieval-long")
    for precision in precisions:
        yield long_finding(rows, retrieval(rows, progress, f"retrieval-long, {precision}", precision=precision)[1], precision)


def part_collapse(precisions, progress):
    del precisions  # the README's figures are in f32
    rows = rows_of("retrieval")
    for selection, expected in (("recent", RECENT), ("random", {})):
        name = f"retrieval, selection {selection}, full"
        yield from collapse_findings(retrieval(rows, progress, name, precision="full", selection=selection)[0], name, expected)


def part_mtp(precisions, progress):
    rows = rows_of("kjv")
    for precision in precisions:
        yield mtp_finding(accepted_drafts(rows, precision), precision, "by the engine")
        yield mtp_finding(replayed_drafts(rows, precision), precision, "replayed from logits")
        progress.add(len(rows) * (MTP_PROMPT + MTP_NEW), f"mtp, {precision}")


def part_sweep(precisions, progress):
    del precisions  # only full precision is near enough to compare
    for length in (512, 4000):
        sequences = prose_rows(length)
        base = log_probabilities(sequences, BASE_TOPK, progress, f"sweep {length}, {BASE_TOPK}")
        for k in sorted(expected_sweep(), reverse=True):
            other = base if k == BASE_TOPK else log_probabilities(sequences, k, progress, f"sweep {length}, {k}")
            yield from sweep_findings(k, length, distance(sequences, base, other))


def cost(part, precisions):
    tokens = {name: sum(map(tokens_in, rows_of(name))) for name in ("arithmetic", "kjv", "retrieval", "retrieval-long")}
    return {
        "arithmetic": tokens["arithmetic"] * len(precisions),
        "kjv": tokens["kjv"] * len(precisions),
        "retrieval": tokens["retrieval"] * (len(precisions) + 1),
        "long": tokens["retrieval-long"] * len(precisions),
        "collapse": tokens["retrieval"] * 2,
        "mtp": len(rows_of("kjv")) * (MTP_PROMPT + MTP_NEW) * len(precisions),
        "sweep": sum(map(len, prose_rows(512) + prose_rows(4000))) * len(expected_sweep()),
    }[part]


PARTS = {"arithmetic": part_arithmetic, "kjv": part_kjv, "retrieval": part_retrieval, "long": part_long, "collapse": part_collapse,
         "mtp": part_mtp, "sweep": part_sweep}


def table(findings, heading=""):
    """The lines of a table: what, what the README says, what was found."""
    rows = [(heading, "README", "fulgur"),
            *((finding.name, finding.expected, finding.found + ("" if finding.holds else "   <-- not as promised")) for finding in findings)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"{name:<{widths[0]}}  {expected:<{widths[1]}}  {found}" for name, expected, found in rows]


def measure(parts, precisions, progress, out):
    """The findings of all parts; each part's go to `out` when it is finished."""
    findings = []
    for name, part in parts.items():
        start = time.monotonic()
        found = list(part(precisions, progress))
        findings += found
        progress.clear()
        print("\n".join(table(found, f"{name}, {time.monotonic() - start:.0f} s")) + "\n", file=out, flush=True)
    return findings


def conclude(findings, out):
    """The whole table and its sum, the exit status."""
    failed = sum(not finding.holds for finding in findings)
    print("\n".join([*table(findings, "all parts"), "", f"{len(findings) - failed} of {len(findings)} figures as promised"]), file=out, flush=True)
    return 1 if failed else 0


def write_chart(path, findings):
    """KL against index_topk on two logarithmic axes, as an SVG."""
    points = {}
    for finding in findings:
        if finding.name.endswith(": KL"):
            words = finding.name.replace(",", "").split()
            points.setdefault(f"rows of {words[4]}", []).append((int(words[1]), float(finding.expected), float(finding.found)))
    if not points:
        sys.exit("eval_mini.py: a chart needs the part `sweep`")
    width, height, margin = 640, 400, 60

    def x(k):
        return margin + (width - 2 * margin) * (math.log2(min(k, 256)) - 3) / 5

    def y(kl):
        return height - margin - (height - 2 * margin) * (math.log10(kl) + 3) / 3

    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
             f'<rect width="{width}" height="{height}" fill="white"/>',
             f'<text x="{width / 2}" y="24" text-anchor="middle" font-size="15">Distance from index_topk 128 on prose: '
             "lines transformers, dots Fulgur</text>"]
    for exponent in (-3, -2, -1, 0):
        at = y(10**exponent)
        lines += [f'<line x1="{margin}" x2="{width - margin}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>',
                  f'<text x="{margin - 8}" y="{at + 4:.1f}" text-anchor="end">{10**exponent:g}</text>']
    for k in (8, 16, 32, 64, 128, 256):
        lines.append(f'<text x="{x(k):.1f}" y="{height - margin + 20}" text-anchor="middle">{"all" if k == 256 else k}</text>')
    lines += [f'<text x="{width / 2}" y="{height - 14}" text-anchor="middle">keys a token and layer</text>',
              f'<text x="16" y="{height / 2}" text-anchor="middle" transform="rotate(-90 16 {height / 2})">KL, nats a token</text>']
    for i, (label, row) in enumerate(points.items()):
        colour = ("#1f6f8b", "#c0562f")[i % 2]
        # The point for all keys lies on the other side of the zero at 128: a line between would mean nothing.
        path_points = " ".join(f"{x(k):.1f},{y(expected):.1f}" for k, expected, _ in sorted(row) if k < BASE_TOPK)
        lines.append(f'<polyline points="{path_points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines += [f'<circle cx="{x(k):.1f}" cy="{y(found):.1f}" r="4" fill="{colour}"/>' for k, _, found in row]
        lines.append(f'<text x="{width - margin - 110}" y="{60 + 18 * i}" fill="{colour}">{label} tokens</text>')
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines + ["</svg>"]) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts, comma-separated: {', '.join(PARTS)}")
    parser.add_argument("--precision", choices=[*PRECISIONS, "both"], default="both")
    parser.add_argument("--json", metavar="FILE", help="write the findings there too")
    parser.add_argument("--chart", metavar="FILE.svg", help="draw the sweep over index_topk")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    if unknown := [part for part in chosen if part not in PARTS]:
        parser.error(f"unknown part {unknown[0]!r}; there are {', '.join(PARTS)}")
    precisions = PRECISIONS if arguments.precision == "both" else (arguments.precision,)

    progress = Progress(sum(cost(part, precisions) for part in chosen))
    findings = measure({part: PARTS[part] for part in chosen}, precisions, progress, sys.stdout)
    status = conclude(findings, sys.stdout)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump([asdict(finding) for finding in findings], file, indent=1)
    if arguments.chart:
        write_chart(arguments.chart, findings)
    return status


if __name__ == "__main__":
    sys.exit(main())
