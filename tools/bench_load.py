"""How fast a checkpoint is loaded, every page of it touched, beside `cat FILES >/dev/null` on the same files.

    tools/bench_load.py FOLDER [--rounds 3] [--config models/configs/deepseek-v3.2.json] [--form fp8-block] [--drop-caches]

Makes a checkpoint of about 4.7 GB in FOLDER (V3.2's layer of experts, fewer of them), unless one is there from an earlier run, and
leaves it there. The two take turns in every round, with the files' pages out of the page cache (cold) and in it (warm).
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from fulgur_cli import ROOT, output

EXPERTS, VOCABULARY = 88, 16384


def make(folder, config, form):
    """One layer of experts at the config's widths: weights that are used where they lie, but for 2% that are made at load."""
    output("convert", "--random-weights", config, "--layers", 1, "--weights-form", form, folder,
           *(part for field in ["first_k_dense_replace=0", "num_nextn_predict_layers=0", f"n_routed_experts={EXPERTS}",
                                f"vocab_size={VOCABULARY}", "eos_token_id=1"] for part in ("--set", field)), timeout=None)


def resident(files):
    """Bytes of the files in the page cache; None where nothing can tell."""
    if not shutil.which("fincore"):
        return None
    listing = subprocess.run(["fincore", "--bytes", "--noheadings", "--output", "RES", *files], capture_output=True, text=True, check=True)
    return sum(int(size) for size in listing.stdout.split())


def evict(files, drop_caches):
    """Takes the files out of the page cache: how, or None where they stay in it."""
    os.sync()
    if drop_caches:
        Path("/proc/sys/vm/drop_caches").write_text("1")
    for file in files:
        with open(file, "rb") as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    left = resident(files)
    if left is not None and left > 0.01 * sum(file.stat().st_size for file in files):
        return None
    return "drop_caches" if drop_caches else "posix_fadvise DONTNEED"


def time_cat(files):
    start = time.perf_counter()
    with open(os.devnull, "wb") as null:
        subprocess.run(["cat", *files], stdout=null, check=True)
    return time.perf_counter() - start


def time_load(folder, threads):
    return json.loads(output("generate", model=folder, ids="1", max_tokens=1, threads=threads, json=True, timeout=None))["timings"]["load_s"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--config", type=Path, default=ROOT / "models" / "configs" / "deepseek-v3.2.json")
    parser.add_argument("--form", default="fp8-block", help="storage form of the checkpoint")
    parser.add_argument("--threads", type=int, help="threads of the load (default: one a core)")
    parser.add_argument("--drop-caches", action="store_true", help="empty the machine's whole page cache (root), not just of these files")
    arguments = parser.parse_args()
    checkpoint = arguments.folder / f"{arguments.config.stem}-{arguments.form}"
    if not (checkpoint / "config.json").exists():
        arguments.folder.mkdir(parents=True, exist_ok=True)
        print(f"making {checkpoint}", file=sys.stderr)
        make(checkpoint, arguments.config, arguments.form)
    files = sorted(checkpoint.glob("*.safetensors"))
    size = sum(file.stat().st_size for file in files)
    print(f"{checkpoint.name}: {size / 1e9:.2f} GB in {len(files)} files")
    seconds = {}
    for number in range(arguments.rounds):
        for state in ("cold", "warm"):
            for what in ("cat", "fulgur") if number % 2 == 0 else ("fulgur", "cat"):
                how = evict(files, arguments.drop_caches) if state == "cold" else "read before"
                if how is None:
                    sys.exit("The files can't be taken out of the page cache: --drop-caches, as root, empties all of it.")
                taken = time_cat(files) if what == "cat" else time_load(checkpoint, arguments.threads)
                seconds.setdefault((state, how), {}).setdefault(what, []).append(taken)
                print(f"round {number + 1}  {state}  {what:<6}  {taken:7.3f} s  {size / taken / 1e9:6.2f} GB/s")
    print("\n| page cache | cat | fulgur | ratio |\n|---|---|---|---|")
    for (state, how), taken in seconds.items():
        cat, fulgur = (statistics.median(taken[what]) for what in ("cat", "fulgur"))
        print(f"| {state} ({how}) | {size / cat / 1e9:.2f} GB/s | {size / fulgur / 1e9:.2f} GB/s | {cat / fulgur:.2f} |")


if __name__ == "__main__":
    main()
