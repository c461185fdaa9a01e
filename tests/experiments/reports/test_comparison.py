"""Optimizers against baselines: pairing, scales, divergence and verdicts."""

import numpy as np
import pytest

from experiments.reports.comparison import ALL, ALL_SETTINGS, Returns, comparison, table

RANDOM = np.random.default_rng(0)


def returns(task: str, gain: float, scale: float = 10.0, setting: str = "training") -> Returns:
    """Seeds that differ much, on each of which the gain is nearly the same."""
    seeds = scale * (1.0 + RANDOM.normal(size=16))
    ours = seeds + gain + 0.01 * RANDOM.normal(size=16)
    return Returns(
        setting, task, {"adam": "adam:learning_rate=0.01"}, {"adam": seeds, "ours": ours}, scale
    )


def test_differences_are_paired_by_seed() -> None:
    (row,) = comparison([returns("a", 0.5)])
    assert row.difference == pytest.approx(0.5, abs=0.02)
    assert 0.48 < row.difference_low < row.difference < row.difference_high < 0.52
    assert row.verdict == "better"
    assert row.mean_high - row.mean_low > 5.0
    assert 0.4 < row.improvement < 0.7  # of runs that are not paired
    (row,) = comparison([returns("a", -0.5)])
    assert row.verdict == "worse"
    (row,) = comparison([returns("a", 0.0)])
    assert row.verdict == ""


def test_all_tasks_weigh_alike() -> None:
    """Each divided by what tuned Adam earned; unless that is nothing."""
    found = [returns("a", 1.0, 10.0), returns("b", -100.0, 1000.0)]
    rows = comparison(found)
    assert [row.task for row in rows] == ["a", "b", ALL]
    assert rows[2].difference == pytest.approx(0.0, abs=0.01)
    assert rows[2].chosen == ""
    assert rows[1].difference == pytest.approx(-100.0, abs=0.1)
    found = [returns("a", 1.0), Returns(*list(vars(returns("b", 0.25, 0.5)).values())[:4], 0.0)]
    assert comparison(found)[2].difference == pytest.approx((0.1 + 0.25) / 2, abs=0.01)


def test_settings_stay_apart_and_baselines_are_compared_too() -> None:
    rows = comparison([returns("a", 1.0), returns("a", -1.0, setting="horizon")])
    assert [(row.setting, row.verdict) for row in rows] == [
        ("training", "better"),
        ("horizon", "worse"),
        (ALL_SETTINGS, ""),
    ]
    assert rows[2].task == ALL
    assert rows[2].improvement == pytest.approx((rows[0].improvement + rows[1].improvement) / 2)
    each = returns("a", 1.0)
    other = {"searched": each.returns["adam"] + 2.0}
    every = {"adam": each.returns["adam"], **other, "ours": each.returns["ours"]}
    chosen = {**each.chosen, "searched": "adam:learning_rate=0.1"}
    rows = comparison([Returns("training", "a", chosen, every, 10.0)])
    assert [(row.optimizer, row.baseline, row.verdict) for row in rows] == [
        ("searched", "adam", "better"),
        ("ours", "adam", "better"),
        ("ours", "searched", "worse"),
    ]


def test_a_life_that_diverged_counts_as_the_worst() -> None:
    each = returns("a", 1.0)
    lowest = min(each.returns["adam"].min(), each.returns["ours"].min())
    expected = each.returns["ours"].copy()
    expected[3] = lowest
    each.returns["ours"][3] = np.nan
    (row,) = comparison([each])
    assert row.diverged == 1
    assert row.mean == pytest.approx(expected.mean())
    assert "1 diverged" in table([row])
    nothing = Returns("training", "a", each.chosen, dict.fromkeys(each.returns, [np.nan] * 2), 0.0)
    (row,) = comparison([nothing])
    assert (row.mean, row.difference, row.verdict) == (0.0, 0.0, "")


def test_the_table_says_what_was_chosen() -> None:
    text = table(comparison([returns("a", 1.0), returns("b", 0.0, 1000.0)]))
    lines = text.splitlines()
    assert len(lines) == 5
    assert len({line.count("|") for line in lines}) == 1
    assert "adam, `adam:learning_rate=0.01`" in lines[2]
    assert lines[2].endswith("| better |")
