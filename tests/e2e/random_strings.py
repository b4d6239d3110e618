"""Random text that tokenizers tell apart: every plane, marks, digits of all scripts, white space of all kinds."""

SPACES = " \t\n\r\v\f\x1c\x85\xa0\u1680\u180e\u2000\u2007\u2028\u2029\u202f\u205f\u3000\u200b\u200d\ufeff"
DIGITS = "0123456789\u0663\u096a\u0660\u00b2\u00bd\u2167\u4e00\U0001d7d8\U00011de3\U00016ff4"
CONTRACTIONS = ["'s", "'T", "'RE", "'ve", "'M", "'lL", "'d", "'\u017f", "'\u212a", "don't", "I'LL", "\u2019s"]
WORDS = "the Lord and of number secret Moses in Word word xyzzy quux".split()
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~\u00ab\u00bb\u2014\u2026\u20ac\uff5c\u2581"
# Scripts with marks of many combining classes, Hangul by syllables and by letters, letters newer than Unicode 14.
COMPOSING = [(0xAC00, 0xD7A3), (0x1100, 0x11FF), (0x900, 0xD7F), (0x1AB0, 0x1AFF), (0x10A00, 0x11FFF), (0x1DF0, 0x1EFF),
             (0x1E000, 0x1E95F), (0x31350, 0x323AF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)]


def any_code_point(random):
    return chr(random.choice([random.randint(0, 0xD7FF), random.randint(0xE000, 0xFFFF), random.randint(0x10000, 0x10FFFF)]))


def marked(random):
    return random.choice("aeonuKS\u1e9b\u03b9") + "".join(chr(random.randint(0x300, 0x36F)) for _ in range(random.randint(0, 4)))


def part(random, added):
    n = random.choice([1, 1, 2, 3, 8, 20])

    def some(make):
        return "".join(make() for _ in range(n))

    kinds = [
        lambda: some(lambda: chr(random.randint(0, 0x7F))),
        lambda: some(lambda: chr(random.randint(0x80, 0x24F))),
        lambda: some(lambda: any_code_point(random)),
        lambda: some(lambda: chr(random.randint(0x3040, 0x9FFF))),
        lambda: some(lambda: chr(random.randint(0x1F000, 0x1FAFF))),
        lambda: some(lambda: chr(random.randint(*random.choice(COMPOSING)))),
        lambda: some(lambda: marked(random)),
        lambda: some(lambda: random.choice(SPACES)),
        lambda: some(lambda: random.choice(DIGITS)),
        lambda: some(lambda: random.choice(PUNCTUATION)),
        lambda: some(lambda: chr(random.choice([97, 65]) + random.randint(0, 25))),
        lambda: " ".join(random.choice(WORDS) for _ in range(n)),
        lambda: random.choice(CONTRACTIONS),
        lambda: random.choice(added) if added else "",
        lambda: random.choice(" \n\ta\u00e97.\u4e3b") * random.choice([2, 10, 100, 1000]),
    ]
    return random.choice(kinds)()


def random_string(random, added):
    """`added`: texts of added tokens, to be strewn in."""
    return "".join(part(random, added) for _ in range(random.randint(1, 8)))
