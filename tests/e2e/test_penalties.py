"""Penalties against their formula in NumPy (docs/spec/commands.md, generate), with and without drafts."""

import json

import numpy as np
import pytest
from fulgur_cli import logits, output, run

PROMPT = "And the sons of the king, the sons of the"
PENALTIES = [dict(repetition_penalty=1.4), dict(frequency_penalty=0.6), dict(presence_penalty=1.5),
             dict(repetition_penalty=0.8, frequency_penalty=-0.2, presence_penalty=2.0)]


def choices(prompt, text, repetition_penalty=1.0, frequency_penalty=0.0, presence_penalty=0.0):
    """The likeliest token before each token of the text, in the order of operations of the formula, in f32."""
    rows = logits([[*prompt, *text[:-1]]])["logits.0"][len(prompt) - 1:]
    r, f, p = (np.float32(value) for value in (repetition_penalty, frequency_penalty, presence_penalty))
    for i, row in enumerate(rows):
        seen = np.unique([*prompt, *text[:i]])
        row[seen] = np.where(row[seen] > 0, row[seen] / r, row[seen] * r)
        said, counts = np.unique(np.array(text[:i], int), return_counts=True)
        row[said] -= f * counts.astype(np.float32) + p
    return rows.argmax(-1).tolist()


@pytest.mark.parametrize("penalties", PENALTIES, ids=lambda penalties: "-".join(penalties))
def test_tokens_are_chosen_by_the_penalized_logits(penalties):
    def answer(**options):
        return json.loads(output("generate", PROMPT, max_tokens=40, json=True, **options))

    free, found = answer(), answer(**penalties, speculate=0)
    assert found["ids"] != free["ids"]
    assert found["ids"] == choices(found["prompt_ids"], found["ids"], **penalties)
    drafting = answer(**penalties, speculate=3)
    assert drafting["ids"] == found["ids"]
    assert drafting["timings"]["accepted"] > 0


def test_the_least_penalty_that_help_names_is_taken():
    assert run("generate", "hi", repetition_penalty=0.01, max_tokens=2).returncode == 0
