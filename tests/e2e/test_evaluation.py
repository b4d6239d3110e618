"""The figures of models/mini-v32/README.md, as far as `make check` has time; tools/eval_mini.py measures all of them."""

import pytest
from eval_mini import (
    BASE_TOPK,
    PRECISIONS,
    MTP_ACCEPTED,
    SOLUTION_TOKENS,
    accepted_drafts,
    collapse_findings,
    distance,
    evaluate_all,
    log_probabilities,
    long_finding,
    nats_finding,
    prose_rows,
    replayed_drafts,
    retrieval,
    retrieval_findings,
    solution_findings,
    sweep_findings,
)
from fulgur_cli import rows_of

# Every 10th row: all four lengths.
RETRIEVAL_STEP = 10
SWEEP_TOPK = 16


def hold(findings):
    findings = list(findings)
    assert findings
    failed = [finding for finding in findings if not finding.holds]
    assert not failed, failed


@pytest.mark.parametrize("precision", PRECISIONS)
def test_solves_all_arithmetic(precision):
    rows = rows_of("arithmetic")
    hold(solution_findings(rows, evaluate_all(rows, precision=precision, max_tokens=SOLUTION_TOKENS), precision))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_finds_held_out_prose_as_likely_as_the_reference(precision):
    rows = rows_of("kjv")
    hold([nats_finding(rows, evaluate_all(rows, precision=precision), precision)])


def test_retrieves_the_number_at_every_length():
    rows = rows_of("retrieval")[::RETRIEVAL_STEP]
    counts, _ = retrieval(rows)
    assert set(counts) == {512, 1024, 2048, 4000}
    hold(retrieval_findings(counts, "retrieval"))


def test_beyond_the_trained_length_it_solves_the_same_prompts_as_the_reference():
    rows = rows_of("retrieval-long")[::20]
    assert {row["length"] for row in rows} == {6000, 7000, 8000}
    _, right = retrieval(rows)
    hold([long_finding(rows, right, "native")])


def test_without_the_indexer_retrieval_collapses():
    """Of the prompts of 512 and 1,024 tokens, the reference with the most recent 128 keys answers 5 of 20 and 3 of 40."""
    rows = [row for row in rows_of("retrieval") if row["length"] <= 1024]
    counts, _ = retrieval(rows, precision="full", selection="recent")
    hold(collapse_findings(counts, "recent", {512: 5, 1024: 3}))


def test_drafts_of_the_mtp_layer_are_accepted_as_often_as_the_reference():
    rows = rows_of("kjv")[::8]
    accepted, drafted = accepted_drafts(rows, "full")
    assert drafted > 200
    # A seventh of the rows: three standard deviations of so many independent drafts.
    expected = MTP_ACCEPTED[0] / MTP_ACCEPTED[1]
    assert abs(accepted / drafted - expected) < 3 * (expected * (1 - expected) / drafted) ** 0.5
    # The engine's drafts are those of the MTP layer's logits, but for the last of each row.
    replayed = replayed_drafts(rows, "full")
    assert 0 <= replayed[0] - accepted <= len(rows)
    assert 0 <= replayed[1] - drafted <= len(rows)


@pytest.mark.parametrize("length", [512, 4000])
def test_fewer_keys_move_the_prose_as_far_as_the_reference(length):
    sequences = prose_rows(length)
    base = log_probabilities(sequences, BASE_TOPK)
    found = distance(sequences, base, log_probabilities(sequences, SWEEP_TOPK))
    hold(sweep_findings(SWEEP_TOPK, length, found))
