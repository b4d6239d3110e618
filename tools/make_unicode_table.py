#!/usr/bin/env python3
"""Writes src/tokenizer/unicode_table.inc: what the `tokenizers` package takes each code point for.

    python tools/make_unicode_table.py src/tokenizer/unicode_table.inc

Its three sources of character classes (Oniguruma in regexes, Rust's standard library in `Digits`, Rust's regex crate
around added tokens, an old Unicode version in NFC) are each asked about every code point, so that nothing here
depends on this machine's or this Python's Unicode version.
"""
import sys

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
CATEGORIES = ("Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Cs Co Cn").split()


def regex_class(pattern):
    """The code points that Oniguruma lets `pattern`, a class of one character, match."""
    text = "".join(map(chr, CODE_POINTS))
    split = pre_tokenizers.Split(Regex(f"{pattern}+"), "removed", invert=True)
    return {ord(c) for piece, _ in split.pre_tokenize_str(text) for c in piece}


def digits():
    """Rust's char::is_numeric, through the Digits pre-tokenizer: a numeric character is a piece of its own."""
    text = "".join("a" + chr(c) for c in CODE_POINTS)
    pieces = pre_tokenizers.Digits(individual_digits=True).pre_tokenize_str(text)
    return {ord(piece) for piece, (begin, _) in pieces if len(piece) == 1 and begin % 2 == 1}


def around_added_token(after, **flags):
    """Where the first added token X of "X" + c + `after` lies, by c."""
    spans = {}
    tokenizer = Tokenizer(models.BPE(vocab={"b": 0}, merges=[]))
    tokenizer.add_tokens([AddedToken("X", normalized=False, **flags)])
    for c in CODE_POINTS:
        encoding = tokenizer.encode("X" + chr(c) + after, add_special_tokens=False)
        spans[c] = encoding.offsets[0] if encoding.ids[:1] == [tokenizer.token_to_id("X")] else None
    return spans


def word_characters():
    return {c for c, span in around_added_token("", single_word=True).items() if span is None}


def white_space():
    return {c for c, span in around_added_token(".", rstrip=True).items() if span == (0, 2)}


def nfc_active():
    """Code points that NFC may change or move, or that compose with a neighbour; all others stand alone in it."""
    nfd = normalizers.NFD()
    active = set()
    for c in CODE_POINTS:
        decomposed = nfd.normalize_str(chr(c))
        if decomposed != chr(c):
            active.add(c)
            active.update(map(ord, decomposed))
        # Combining classes are seen by reordering: U+0334 has class 1, U+0345 the highest, 240.
        low, high = "a" + chr(c) + "\u0334", "a\u0345" + chr(c)
        if decomposed == chr(c) and (nfd.normalize_str(low) != low or nfd.normalize_str(high) != high):
            active.add(c)
    return active | {0x0334, 0x0345}


def case_folds():
    """(other, ASCII lower-case letter) for the code points beyond ASCII that equal a letter under (?i)."""
    folds = []
    for letter in "abcdefghijklmnopqrstuvwxyz":
        members = regex_class(f"(?i:{letter})")
        assert {ord(letter), ord(letter.upper())} <= members
        folds += [(c, letter) for c in sorted(members) if c > 0x7F]
    return folds


def ranges(code_points):
    """Inclusive ranges; a run may go through the surrogates, which no text holds."""
    found = []
    for c in sorted(code_points):
        if found and (c == found[-1][1] + 1 or (c == 0xE000 and found[-1][1] == 0xD7FF)):
            found[-1][1] = c
        else:
            found.append([c, c])
    return found


def wrapped(items):
    lines, line = [], "   "
    for item in items:
        if len(line) + len(item) + 2 > 108:
            lines.append(line)
            line = "   "
        line += f" {item},"
    return "\n".join(lines + [line])


def main(path):
    by_category = {name: regex_class(rf"\p{{{name}}}") for name in CATEGORIES if name != "Cs"}
    category_of = {}
    for name, members in by_category.items():
        for c in members:
            assert c not in category_of, f"U+{c:04X} is in {name} and {category_of[c]}"
            category_of[c] = name
    assert len(category_of) == len(CODE_POINTS)
    for major in "LMNPSZC":
        assert regex_class(rf"\p{{{major}}}") == {c for c, name in category_of.items() if name[0] == major}
    for c in range(0xD800, 0xE000):
        category_of[c] = "Cs"

    runs, previous = [], None
    for c in range(0x110000):
        if category_of[c] != previous:
            previous = category_of[c]
            runs.append(f"{c << 5 | CATEGORIES.index(previous):#x}")

    def as_class(name, comment, members):
        """The categories that are mostly in, and the ranges where the class differs from them."""
        inside = [n for n, all_of in by_category.items() if len(all_of & members) * 2 > len(all_of)]
        base = set().union(*(by_category[n] for n in inside)) if inside else set()
        mask = sum(1 << CATEGORIES.index(n) for n in inside)
        toggled = [f"{{{first:#x}, {last:#x}}}" for first, last in ranges(base ^ members)]
        # A class equal to a union of categories still needs an array, and C++ has none of length 0.
        toggled = toggled or ["{0xffffffff, 0}"]
        return (f"// {comment}\nconstexpr uint32_t k{name}Categories = {mask:#x};  // {' '.join(inside) or 'none'}\n"
                f"constexpr CodePointRange k{name}Toggled[] = {{\n{wrapped(toggled)}\n}};\n")

    folds = [f"{{{c:#x}, '{letter}'}}" for c, letter in case_folds()]
    parts = [
        f"// Written by tools/make_unicode_table.py from what tokenizers {tokenizers.__version__} answers. Do not edit.\n"
        "// clang-format off\n",
        "// General categories (\\p{Lu}, ...): a run begins at value >> 5 and has the category value & 31.\n"
        f"constexpr std::string_view kCategoryNames[] = {{\n{wrapped(f'{chr(34)}{n}{chr(34)}' for n in CATEGORIES)}\n}};\n"
        f"constexpr uint32_t kCategoryRuns[] = {{\n{wrapped(runs)}\n}};\n",
        as_class("RegexSpace", "\\s in a regex.", regex_class(r"\s")),
        as_class("RegexDigit", "\\d in a regex.", regex_class(r"\d")),
        as_class("RegexWord", "\\w in a regex.", regex_class(r"\w")),
        as_class("Numeric", "What Digits splits off.", digits()),
        as_class("Word", "What single_word takes for a part of a word.", word_characters()),
        as_class("Space", "What lstrip and rstrip take in.", white_space()),
        as_class("NfcActive", "What NFC may change, move or compose.", nfc_active()),
        "// Equal to an ASCII letter where case is ignored.\n"
        f"constexpr CaseFold kCaseFolds[] = {{\n{wrapped(folds)}\n}};\n",
    ]
    with open(path, "w", encoding="utf-8") as out:
        out.write("\n".join(parts))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
