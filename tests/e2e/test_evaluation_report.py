"""How tools/eval_mini.py tells what it measured; nothing is measured here."""

import io
import json
from dataclasses import asdict

import numpy as np
import pytest
from eval_mini import (
    Finding,
    Progress,
    collapse_findings,
    conclude,
    expected_sweep,
    long_finding,
    measure,
    nats_finding,
    retrieval_findings,
    sweep_findings,
    table,
)

HOLDS = Finding("kjv, full: nats", "65495.59", "65495.60", True)
FAILS = Finding("retrieval, native, 512 tokens", "20/20", "19/20", False)


def holds(findings):
    return [finding.holds for finding in findings]


def test_each_part_is_shown_when_it_is_finished_and_all_of_them_at_the_end():
    out = io.StringIO()

    def first(precisions, progress):
        assert out.getvalue() == ""
        yield HOLDS

    def second(precisions, progress):
        assert HOLDS.found in out.getvalue() and FAILS.name not in out.getvalue()
        yield FAILS

    findings = measure({"kjv": first, "retrieval": second}, ("full",), Progress(1), out)
    assert findings == [HOLDS, FAILS]
    shown = out.getvalue()
    assert FAILS.name in shown
    assert conclude(findings, out) == 1
    assert HOLDS.name in out.getvalue()[len(shown):] and FAILS.name in out.getvalue()[len(shown):]


@pytest.mark.parametrize("findings, status, sum_line", [([HOLDS], 0, "1 of 1 figures as promised"), ([HOLDS, FAILS], 1, "1 of 2 figures as promised"),
                                                        ([FAILS], 1, "0 of 1 figures as promised")])
def test_one_figure_that_is_off_is_exit_status_1(findings, status, sum_line):
    out = io.StringIO()
    assert conclude(findings, out) == status
    assert out.getvalue().splitlines()[-1] == sum_line


def test_the_table_marks_what_is_not_as_promised_and_nothing_else():
    heading, good, bad = table([HOLDS, FAILS])
    assert heading.split() == ["README", "fulgur"]
    assert good.endswith("65495.60") and bad.endswith("19/20   <-- not as promised")
    assert good.index("65495.59") == bad.index("20/20")


def test_a_single_wrong_answer_of_retrieval_does_not_hold():
    assert holds(retrieval_findings({512: (20, 20), 1024: (39, 40)}, "retrieval")) == [True, False]


@pytest.mark.parametrize("right, verdict", [(3, True), (5, True), (7, True), (2, False), (8, False)])
def test_a_collapse_may_differ_by_two_prompts(right, verdict):
    assert holds(collapse_findings({512: (right, 20)}, "recent", {512: 5})) == [verdict]


def test_a_random_selection_may_answer_two_prompts_of_a_length():
    assert holds(collapse_findings({512: (2, 20), 4000: (3, 70)}, "random", {})) == [True, False]


@pytest.mark.parametrize("precision, nats, verdict", [("full", 1000.09, True), ("full", 1000.11, False), ("full", 999.89, False),
                                                      ("native", 1004.9, True), ("native", 1005.1, False)])
def test_nats_may_differ_by_a_ten_thousandth_in_full_and_a_half_percent_in_native(precision, nats, verdict):
    assert nats_finding([{"nll": 600.0}, {"nll": 400.0}], [{"nats": nats - 1}, {"nats": 1}], precision).holds == verdict


def test_the_long_set_wants_the_same_prompts_and_not_only_as_many():
    rows = [{"id": 0, "solved_f32": True, "solved_bf16": True}, {"id": 1, "solved_f32": False, "solved_bf16": False}]
    assert long_finding(rows, [True, False], "full").holds
    other = long_finding(rows, [False, True], "native")
    assert not other.holds and other.expected == "1/2" and other.found == "1/2, differing: [0, 1]"


@pytest.mark.parametrize("kl, verdict", [(1.0, True), (1.019, True), (0.981, True), (1.021, False), (0.979, False)])
def test_a_kl_of_the_sweep_may_differ_by_two_percent(kl, verdict):
    stored = expected_sweep()[16]["prose512"]
    *_, last = sweep_findings(16, 512, {**stored, "kl_to_k128": stored["kl_to_k128"] * kl})
    assert last.name.endswith(": KL") and last.holds == verdict


def test_findings_of_measured_arrays_can_be_written_as_json():
    """`--json` once failed at the very end, on a verdict that was NumPy's."""
    stored = expected_sweep()[16]["prose512"]
    measured = {**stored, "kl_to_k128": np.float64(stored["kl_to_k128"]), "top1_to_k128": np.float64(stored["top1_to_k128"])}
    found = [asdict(finding) for finding in sweep_findings(16, 512, measured)]
    assert json.loads(json.dumps(found)) == found
