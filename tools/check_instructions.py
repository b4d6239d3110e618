#!/usr/bin/env python3
"""Refuses instructions beyond baseline x86-64 outside the namespaces of the instruction sets.

  tools/check_instructions.py build/release

The program must start on any x86-64 CPU, so wider instructions may stand only in functions that are called after a look at
the CPU: those of fulgur::cpu::{avx2,avx512,avx512_bf16,amx}. A function of a shared header that was compiled for one of
them by accident would be merged by the linker with the copies of other files, and trap elsewhere.
"""

import re
import subprocess
import sys
from pathlib import Path

NAMESPACES = re.compile(r"6fulgur3cpu(4avx2|6avx512|11avx512_bf16|3amx)")
# VEX and EVEX (every AVX mnemonic begins with v), AMX tiles, BMI, LZCNT, POPCNT. TZCNT is absent: on a CPU without it the
# same bytes are BSF, and compilers use it so.
WIDE = re.compile(r"v\w+|tile\w+|tdp\w+|andn|bextr|bls(i|r|msk)|mulx|pdep|pext|rorx|sarx|shlx|shrx|bzhi|lzcnt|popcnt|ldtilecfg|sttilecfg")
SYMBOL = re.compile(r"^[0-9a-f]+ <(.+)>:$")
INSTRUCTION = re.compile(r"^\s*[0-9a-f]+:\s+(?:(?:rep|repz|repnz|lock|notrack|bnd|data16|cs) )*(\w+)")


def wide_functions(file):
    """(symbol, mnemonic) of the first wide instruction in each function that may hold none; and how many may and do."""
    listing = subprocess.run(["objdump", "-d", "--no-show-raw-insn", file], capture_output=True, text=True, check=True).stdout
    symbol, refused, allowed = "", {}, set()
    for line in listing.splitlines():
        if found := SYMBOL.match(line):
            symbol = found[1]
        elif (found := INSTRUCTION.match(line)) and WIDE.fullmatch(found[1]):
            if NAMESPACES.search(symbol):
                allowed.add(symbol)
            else:
                refused.setdefault(symbol, found[1])
    return refused.items(), allowed


def main():
    objects = sorted(Path(sys.argv[1], "src").rglob("*.o"))
    refused, allowed = [], set()
    for file in objects:
        here, may = wide_functions(file)
        refused += [(file, symbol, mnemonic) for symbol, mnemonic in here]
        allowed |= may
    names = subprocess.run(["c++filt"], input="\n".join(symbol for _, symbol, _ in refused), capture_output=True, text=True,
                           check=True).stdout.splitlines()
    for (file, _, mnemonic), name in zip(refused, names):
        print(f"{file.name}: {mnemonic} in {name}")
    print(f"{len(objects)} objects: {len(allowed)} functions use wide instructions where they may, {len(refused)} where they may not")
    if not allowed:
        print("No kernel uses wide instructions: this test looked at the wrong files, or nothing was built.")
    return 1 if refused or not allowed else 0


if __name__ == "__main__":
    sys.exit(main())
