"""Penalties against their formula in NumPy (docs/spec/commands.md, generate), with and without drafts."""

import json

import numpy as np
import pytest
from fulgur_cli import logits, output, run

PROMPT = "And the sons of the king, the sons of the"
PENALTIES = [dict(repetition_penalty=1.4), dict(frequency_penalty=0.6), dict(presence_penalty=1.5),
             dict(repetition_penalty=0.8, frequency_penalty=-0.2, presence_penalty=2.0)]


def choices(prompt, text, repetition_penalty=1.0, frequency_penalty=0.0, presence_penalty=0.0, bias=None):
    """The likeliest token before each token of the text, in the order of operations of the formula, in f32."""
    rows = logits([[*prompt, *text[:-1]]])["logits.0"][len(prompt) - 1:]
    r, f, p = (np.float32(value) for value in (repetition_penalty, frequency_penalty, presence_penalty))
    for i, row in enumerate(rows):
        for token, added in (bias or {}).items():
            row[token] += np.float32(added)
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


def test_biases_are_added_before_penalties():
    free = json.loads(output("generate", PROMPT, max_tokens=20, json=True))["ids"]
    biases = [f"--logit-bias={free[0]}:-100", "--logit-bias", f"{free[2]}:+2.5", "--logit-bias", f"{free[2]}:0.5"]
    found = json.loads(output("generate", PROMPT, *biases, max_tokens=20, json=True, repetition_penalty=1.3))
    assert free[0] not in found["ids"]
    bias = {free[0]: -100, free[2]: 3}
    assert found["ids"] == choices(found["prompt_ids"], found["ids"], repetition_penalty=1.3, bias=bias)
    assert set(json.loads(output("generate", PROMPT, "--logit-bias", f"{free[5]}:100", max_tokens=5, json=True))["ids"]) == {free[5]}


@pytest.mark.parametrize("bias", ["", "5", "5:", ":1", "5:nan", "5:inf", "x:1", "-1:1", "5:1x", "5 :1", "5:+-1", "99999999999:1"])
def test_what_is_no_bias_is_wrong_usage(bias):
    result = run("generate", "hi", f"--logit-bias={bias}", max_tokens=1)
    assert (result.returncode, result.stdout) == (2, "") and "--logit-bias" in result.stderr


@pytest.mark.parametrize("bias, said", [("1280:1", "Token id 1280 is not in the model's vocabulary."), ("5:101", "The bias of token 5 is out of range.")])
def test_biases_that_no_request_may_have_are_refused(bias, said):
    for command in (["generate", "hi"], ["chat"]):
        result = run(*command, "--logit-bias", bias)
        assert (result.returncode, result.stdout) == (1, "") and said in result.stderr


def test_the_least_penalty_that_help_names_is_taken():
    assert run("generate", "hi", repetition_penalty=0.01, max_tokens=2).returncode == 0
