"""`fulgur tokenize` against the pinned `tokenizers` package: the same ids, and the same text back, on any text."""

import json
import random

import pytest
from fulgur_cli import MINI, output, rows_of
from random_strings import random_string
from tokenizer_variants import variants
from tokenizers import Tokenizer

pytestmark = pytest.mark.xdist_group("tokenizer")  # its fixture is costly
VARIANTS = variants()
WHOLE = ["mini-v32", "glm"]  # compared on the full number of strings
SEED = 20260


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Each variant's tokenizer.json in a folder of its own."""
    made = {}
    for name, tokenizer in VARIANTS.items():
        made[name] = tmp_path_factory.mktemp(name)
        (made[name] / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return made


def convert(folder, values, **options):
    lines = "".join(json.dumps(value) + "\n" for value in values)
    return [json.loads(line) for line in output("tokenize", "-", stdin=lines, model=folder, jsonl=True, **options).splitlines()]


def same(what, inputs, expected, got):
    assert len(got) == len(inputs)
    for value, want, have in zip(inputs, expected, got):
        assert want == have, f"{what}: {value!a}"


def compare(folder, name, texts, what):
    reference = Tokenizer.from_str(json.dumps(VARIANTS[name]))
    ids = [encoding.ids for encoding in reference.encode_batch(texts, add_special_tokens=False)]
    same(what, texts, ids, convert(folder, texts))
    decoded = reference.decode_batch(ids, skip_special_tokens=False)
    same(f"{what}, decoding", ids, decoded, convert(folder, ids, decode=True))

    # Where added tokens stay text, the file's other half decides alone.
    without = Tokenizer.from_str(json.dumps({**VARIANTS[name], "added_tokens": [], "post_processor": None}))
    plain = [encoding.ids for encoding in without.encode_batch(texts, add_special_tokens=False)]
    same(f"{what}, --no-specials", texts, plain, convert(folder, texts, no_specials=True))


def random_texts(name, seed, count):
    added = [token["content"] for token in VARIANTS[name]["added_tokens"]]
    generator = random.Random(seed)
    return [random_string(generator, added) for _ in range(count)]


def neighbours_of_every_code_point(last):
    """Each code point after a letter, before a digit, doubled, after an apostrophe and alone, many to a text."""
    texts = []
    for first in range(0, last, 32):
        block = [chr(c) for c in range(first, min(first + 32, last)) if not 0xD800 <= c < 0xE000]
        texts.append("".join(f"a{c} {c}1{c}{c}'{c}\n" for c in block))
    return texts


@pytest.mark.parametrize("name", VARIANTS)
def test_random_text(name, folders):
    compare(folders[name], name, random_texts(name, SEED, 2000 if name in WHOLE else 300), f"{name}, seed {SEED}")


@pytest.mark.long
@pytest.mark.parametrize("part", range(10))
@pytest.mark.parametrize("name", VARIANTS)
def test_much_random_text(name, part, folders):
    seed = SEED + 1 + part
    compare(folders[name], name, random_texts(name, seed, 10_000 if name in WHOLE else 1_000), f"{name}, seed {seed}")


@pytest.mark.parametrize("name", ["mini-v32", "glm", "nfc"])
def test_every_code_point_of_the_first_two_planes(name, folders):
    compare(folders[name], name, neighbours_of_every_code_point(0x20000), name)


@pytest.mark.long
@pytest.mark.parametrize("name", VARIANTS)
def test_every_code_point(name, folders):
    compare(folders[name], name, neighbours_of_every_code_point(0x110000), name)


def texts_without_a_break(length):
    generator = random.Random(SEED)
    return ["".join(generator.choices("etaoinshrdlu", k=length)), "a" * length, " " * length + "x", "\n" * length, "\u4e3b" * (length // 3),
            "\x01" * length, "'" * length, "a" + "\u0301\u0323" * (length // 4)]


@pytest.mark.parametrize("name", ["glm", "nfc"])
def test_long_text_without_a_break(name, folders):
    compare(folders[name], name, texts_without_a_break(100_000), name)


@pytest.mark.long
@pytest.mark.parametrize("name", VARIANTS)
def test_a_megabyte_without_a_break(name, folders):
    compare(folders[name], name, texts_without_a_break(1_000_000), name)


def test_random_ids_decode_alike(folders):
    reference = Tokenizer.from_str(json.dumps(VARIANTS["mini-v32"]))
    generator = random.Random(SEED)
    lists = [[generator.randrange(1272) for _ in range(generator.randint(0, 30))] for _ in range(3000)]
    same(f"seed {SEED}", lists, reference.decode_batch(lists, skip_special_tokens=False),
         convert(folders["mini-v32"], lists, decode=True))


def test_the_models_own_prompts_have_their_ids():
    goldens = json.loads((MINI / "expected" / "goldens.json").read_text(encoding="utf-8"))
    goldens = goldens if isinstance(goldens, list) else list(goldens.values())
    texts = [golden["text"] for golden in goldens]
    assert convert(MINI, texts) == [golden["ids"] for golden in goldens]
    kjv = rows_of("kjv")
    assert convert(MINI, [row["text"] for row in kjv], add_bos=True) == [row["ids"] for row in kjv]
    retrieval = rows_of("retrieval")
    assert [len(ids) for ids in convert(MINI, [row["prompt"] for row in retrieval])] == [row["n_tokens"] for row in retrieval]
