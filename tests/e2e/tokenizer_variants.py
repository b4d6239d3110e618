"""Tokenizers for the comparison with the `tokenizers` package: mini-v32's own, and others that between them use every
part and flag of a tokenizer.json that Fulgur reads. Each is the JSON of a file that both programs load."""

import copy
import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parents[2]
MINI = json.loads((ROOT / "models/mini-v32/tokenizer.json").read_text(encoding="utf-8"))

GLM_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
POSSESSIVE_REGEX = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s*[\r\n]|\s+(?!\S)|\s+"
)
CASED_REGEX = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
OTHER_REGEXES = [
    r"(?<=\s)\w+|(?<!a)\d{2,}?|(?>\p{P}+)x?",
    r"(?i:k+|s[a-f']?)|\p{^L}\P{N}|[\w&]",
    r"[\x41-\x{5A}\u00e9\]\[^-]+|\W{,2}(?=\S)|.",
    r"(a|b*)|\D?\p{Zs}|(?:\p{So}|\p{Cf})+?",
    r"\p{Lu}+?|\p{Cn}|\p{Co}*|(?:\p{M}{1,2}){2}",
]


def split(pattern, kind="Regex", invert=False):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": "Isolated", "invert": invert}


def byte_level(add_prefix_space=False, trim_offsets=True, use_regex=False):
    return {
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": trim_offsets,
        "use_regex": use_regex,
    }


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


def added(content, **flags):
    token = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return {"content": content, **token, **flags}


def mini(**changes):
    return {**copy.deepcopy(MINI), **changes}


def with_added(tokenizer, tokens):
    """Appends added tokens under the next free ids."""
    known = {**tokenizer["model"]["vocab"], **{t["content"]: t["id"] for t in tokenizer["added_tokens"]}}
    free = max(known.values()) + 1
    for token in tokens:
        if token["content"] in known:
            tokenizer["added_tokens"].append({"id": known[token["content"]], **token})
        else:
            tokenizer["added_tokens"].append({"id": free, **token})
            free += 1
    return tokenizer


def string_merges(tokenizer):
    merges = [" ".join(merge) for merge in tokenizer["model"]["merges"]]
    tokenizer["model"]["merges"] = ["#version: 0.2", *merges]
    return tokenizer


def flags():
    """Added tokens with each flag, overlapping one another."""
    contents = ["<a>", "<a><b>", "<b>", "ab", "abc", "bcd", " x", "\n\n", "Ünï", "e\u0301t", "é", "\u1e9b\u0323", "the", "4"]
    tokens = []
    for i, content in enumerate(contents):
        tokens.append(
            added(
                content,
                single_word=i % 2 == 1 and content.isalnum(),
                # `tokenizers` itself panics where a token begins in the white space that the one before took in
                # and would take in white space to its left.
                lstrip=i % 3 == 1 and not content[0].isspace(),
                rstrip=i % 4 == 2,
                normalized=i % 5 > 2,
                special=i % 3 == 0,
            )
        )
    tokens += [added("word", single_word=True), added("Word", single_word=True, normalized=True, lstrip=True)]
    tokens += [added("<strip>", lstrip=True, rstrip=True, special=True), added("<left>", lstrip=True, normalized=True)]
    return tokens


def ignoring_merges():
    """Whole words in the vocabulary that no merge leads to, one of them also an added token."""
    tokenizer = with_added(mini(pre_tokenizer=sequence(split(GLM_REGEX), byte_level())), [])
    model = tokenizer["model"]
    model["ignore_merges"] = True
    tokenizer["added_tokens"] = tokenizer["added_tokens"][:3]
    for word in ["xyzzy", "Ġquux", "Ġsecret", "ćĉ"]:
        model["vocab"].setdefault(word, len(model["vocab"]))
    return with_added(tokenizer, [added("Moses", special=True)])


def trained():
    """What tokenizers' own trainer makes of the model's prose with GLM's regex, NFC off."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(GLM_REGEX), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    passages = (ROOT / "models/mini-v32/eval/kjv.jsonl").read_text(encoding="utf-8").splitlines()
    trainer = trainers.BpeTrainer(
        vocab_size=3000,
        special_tokens=["<|endoftext|>", "[gMASK]", "<sop>", "<|user|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([json.loads(line)["text"] for line in passages], trainer)
    return json.loads(tokenizer.to_str())


def variants():
    nfc = {"type": "NFC"}
    bos = MINI["post_processor"]
    ends = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "begin", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "end", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            "begin": {"id": "begin", "ids": [0, 2], "tokens": ["x", "y"]},
            "end": {"id": "end", "ids": [1], "tokens": ["z"]},
        },
    }
    nested = {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": []}, nfc, nfc]}
    digits = [{"type": "Digits", "individual_digits": individual} for individual in (True, False)]
    glm = sequence(split(GLM_REGEX), byte_level())
    made = {
        "mini-v32": mini(),
        "glm": string_merges(mini(normalizer=None, pre_tokenizer=glm, post_processor=None)),
        "trained": trained(),
        "nfc": with_added(mini(normalizer=nfc), flags()),
        "nfc-nested": with_added(mini(normalizer=nested, pre_tokenizer=glm), flags()[::-1]),
        "flags": with_added(mini(normalizer=None), flags()),
        "gpt2": mini(pre_tokenizer=byte_level(True, False, True), post_processor=byte_level(True, True, True)),
        "prefix-space": mini(
            pre_tokenizer=sequence(digits[1], sequence(split(GLM_REGEX, invert=True), byte_level(True))),
            post_processor={"type": "Sequence", "processors": [byte_level(), ends]},
        ),
        "digits": mini(pre_tokenizer=sequence(digits[0], split(" ", "String"), byte_level()), post_processor=ends),
        "strings": mini(
            normalizer=nfc,
            pre_tokenizer=sequence(split("th", "String", invert=True), split("", "String"), byte_level()),
        ),
        "ignore-merges": ignoring_merges(),
        "possessive": mini(pre_tokenizer=sequence(split(POSSESSIVE_REGEX), byte_level()), post_processor=bos),
        "cased": mini(pre_tokenizer=sequence(split(CASED_REGEX), byte_level(use_regex=True))),
    }
    for i, regex in enumerate(OTHER_REGEXES):
        made[f"regex-{i}"] = mini(pre_tokenizer=sequence(split(regex), byte_level()))
    return made
