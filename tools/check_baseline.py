#!/usr/bin/env python3
"""Refuses instructions beyond baseline x86-64 (SSE2) in any code that runs before an instruction set was chosen.

usage: check_baseline.py BUILD_DIR

Disassembles every object of the project below BUILD_DIR/src. Code in the namespaces fulgur::cpu::<instruction set> may use
anything; all other functions, those that templates instantiate inside the kernel objects included, may not: the linker
keeps one copy of an inline function, whichever object it comes from (docs/design.md, section 4).
"""

import pathlib
import re
import subprocess
import sys

ISA_SYMBOL = re.compile(r"^_Z+(?:GV)?N?[KVRO]*6fulgur3cpu(?:4avx2|6avx512|11avx512_bf16|3amx)")
FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")
# VEX, EVEX and AMX: every mnemonic of theirs begins with v, k or t, or is one of BMI's; wide registers catch the rest.
WIDE_OPERAND = re.compile(r"%(?:[yz]mm|tmm|k[0-7]\b|xmm(?:1[6-9]|2\d|3[01]))")
WIDE_MNEMONIC = re.compile(
    r"^(?:v(?!err|erw|mcall|mmcall|mlaunch|mresume)[a-z0-9]+|popcnt|lzcnt|andn|bextr|bls[irm]?k?|bzhi|mulx|pdep|pext|rorx|sarx|shlx|shrx"
    r"|movbe|ldtilecfg|sttilecfg|tilerelease|tileload\w*|tilestored|tilezero|tdp\w+"
    r"|p(?:shufb|alignr|abs[bwd]|hadd\w+|blendw|blendvb|mulld|ackusdw|insr[bdq]|extr[bdq]|test|cmpeqq|min[su][bdw]|movzx\w+|movsx\w+)"
    r"|round[sp][sd]|dpp[sd]|hadd[ps][sd]|blendv?p[sd]|crc32\w*|aes\w+|sha\d+\w+)$"
)
SSE2_MINMAX = {"pminub", "pminsw", "pmaxub", "pmaxsw"}


def violations(obj: pathlib.Path):
    text = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", "-w", str(obj)], check=True, capture_output=True, text=True
    ).stdout
    function, allowed = "", False
    for line in text.splitlines():
        if match := FUNCTION.match(line):
            function = match.group(1)
            allowed = ISA_SYMBOL.match(function) is not None
        elif not allowed and "\t" in line:
            instruction = line.split("\t", 1)[1].strip()
            mnemonic = instruction.split(" ", 1)[0]
            if mnemonic in SSE2_MINMAX:
                continue
            if WIDE_MNEMONIC.match(mnemonic) or WIDE_OPERAND.search(instruction):
                yield function, instruction


def main() -> int:
    objects = sorted(pathlib.Path(sys.argv[1], "src").rglob("*.o"))
    if not any("avx512" in str(obj) for obj in objects):
        print(f"no AVX-512 kernel object below {sys.argv[1]}/src: nothing was checked")
        return 1
    bad = 0
    for obj in objects:
        for function, instruction in violations(obj):
            bad += 1
            if bad <= 20:
                print(f"{obj}: {function}: {instruction}")
    print(f"{len(objects)} objects, {bad} instructions beyond baseline outside the kernels' namespaces")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
