"""Largest drops: what is a collapse, what a dip, and what nothing but noise."""

import doctest
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from written_runs import curves, load, write_run

from experiments.reports import collapse, online
from experiments.reports.collapse import fall
from experiments.runs.reading import load_runs

STEPS = 100 * np.arange(1, 201)
UP = np.concatenate([np.linspace(0.0, 100.0, 50), np.full(50, 100.0)])
SHAPES = {
    "collapse": np.concatenate([UP, np.linspace(100.0, 10.0, 10), np.full(90, 10.0)]),
    "loss": np.concatenate([UP, np.full(10, 10.0), np.full(90, 70.0)]),
    "dip": np.concatenate([UP, np.full(10, 10.0), np.full(90, 97.0)]),
    "none": np.concatenate([UP, np.full(10, 70.0), np.full(90, 100.0)]),  # a small dip
}


def noisy(shape: NDArray[np.float64], seed: int, scale: float = 5.0) -> NDArray[np.float64]:
    return shape + np.random.default_rng(seed).normal(scale=scale, size=len(shape))


@pytest.mark.parametrize("outcome", SHAPES)
@pytest.mark.parametrize(("offset", "scale"), [(0.0, 1.0), (-100.0, 1.0), (-1e4, 30.0)])
def test_a_collapse_is_told_from_a_dip(outcome: str, offset: float, scale: float) -> None:
    """Whatever the sign and the size of the returns, with noise or without."""
    shape = SHAPES[outcome]
    bare = fall(STEPS, offset + scale * shape)
    assert bare.outcome == outcome
    assert bare.recovered is (outcome in ("dip", "none"))
    assert bare.largest_drop == pytest.approx(scale * (30.0 if outcome == "none" else 90.0))
    assert bare.largest_drop_share == pytest.approx(bare.largest_drop / scale / 100.0, abs=0.02)
    for seed in range(20):
        one = fall(STEPS, offset + scale * noisy(shape, seed))
        assert one.outcome == outcome
        assert one.recovered is bare.recovered
        assert one.largest_drop == pytest.approx(
            bare.largest_drop, abs=20.0 * scale
        )  # four scatters
        assert one.scatter == pytest.approx(5.0 * scale, rel=0.35)


@pytest.mark.parametrize("shape", [np.zeros(200), np.concatenate([UP, np.full(100, 100.0)])])
def test_noise_is_neither(shape: NDArray[np.float64]) -> None:
    """Neither that of an agent that never learns nor that of one that does."""
    for seed in range(200):
        one = fall(STEPS, noisy(shape, seed, 20.0))
        assert (one.outcome, one.recovered) == ("none", None)
        assert one.drop_from_step is None
        assert one.drop_to_step is None
        assert one.steps_below_half == 0
    assert fall(STEPS, np.zeros(200)) == collapse.Fall(0.0, 0.0, None, None, 0, 0.0, None, "none")


def test_single_points_are_no_drop() -> None:
    spikes = np.full(200, 100.0)
    spikes[20:180:10] = spikes[21:180:10] = -50.0
    assert fall(STEPS, spikes).largest_drop == 0.0


def test_an_agent_that_only_gets_worse_has_collapsed() -> None:
    one = fall(STEPS, np.linspace(0.0, -100.0, 200))
    assert one.outcome == "collapse"
    assert one.largest_drop_share == 1.0
    assert 0 < 100 * 200 - one.steps_below_half <= 100 * 6  # all but its start


def test_numbers_by_hand() -> None:
    #           start -8, best 0: half of the way is -4, nine tenths of it -0.8
    returns = [-8, -8, -8, -4, 0, 0, 0, 0, -6, -6, -6, -6, -5, -3, -1, -1, -1]
    one = fall(np.arange(10, 180, 10), np.array(returns, float))
    assert (one.largest_drop, one.largest_drop_share) == (6.0, 0.75)
    assert (one.drop_from_step, one.drop_to_step) == (80, 90)
    assert one.steps_below_half == 50  # points 9 to 13
    assert one.recovered is False
    assert one.outcome == "loss"
    assert fall(np.arange(10, 190, 10), np.array([*returns, -0.5, -0.5][:18], float)).recovered is (
        False  # a single point
    )
    later = np.array([*returns, -0.5, -0.5, -0.5], float)
    assert fall(np.arange(10, 210, 10), later).outcome == "dip"


def test_stretches_without_an_episode_count_as_the_one_before() -> None:
    values = np.concatenate([np.full(10, 10.0), np.full(20, 2.0), np.full(3, 1.5)])
    values[0] = values[1] = values[2] = 0.0
    steps = 100 * np.arange(1, len(values) + 1)
    full = fall(steps, values)
    gaps = values.copy()
    gaps[[11, 12, 15, 20, 21, 22, 32]] = np.nan
    thinned = fall(steps, np.concatenate([[np.nan], gaps[1:]]))
    assert full.steps_below_half == thinned.steps_below_half == 2300
    assert (thinned.largest_drop, thinned.outcome) == (full.largest_drop, "collapse")
    assert thinned.drop_from_step == 1000


def test_a_seed_without_an_episode_is_unknown() -> None:
    one = fall(STEPS, np.full(200, np.nan))
    assert np.isnan([one.largest_drop, one.largest_drop_share, one.scatter]).all()
    assert (one.outcome, one.recovered, one.steps_below_half) == (None, None, None)
    assert fall(STEPS[:1], np.array([3.0])).outcome == "none"


def test_a_diverged_seed_stays_where_it_falls(tmp_path: Path) -> None:
    cells = curves(UP, UP)
    cells[1][80:] = [("nan", 10, 1)] * 20
    run = load(write_run(tmp_path / "run", cells))
    whole, broken = collapse.falls(run)
    assert whole.outcome == "none"
    assert (broken.outcome, broken.largest_drop, broken.drop_to_step) == ("collapse", 100.0, 8100)
    assert collapse.collapse_notes([run]) == []  # the table counts it as diverged


def test_a_collapse_is_noted_where_nothing_changes(tmp_path: Path) -> None:
    seeds = [SHAPES[outcome] for outcome in ("collapse", "loss", "dip", "collapse")]
    write_run(tmp_path / "runs" / "a", curves(*seeds), optimizer="weak")
    write_run(tmp_path / "runs" / "b", curves(SHAPES["dip"]), optimizer="strong")
    runs = load_runs([tmp_path / "runs"])
    written = online.write_report(runs, tmp_path / "out")
    assert {"collapse.csv", "phases.csv"}.isdisjoint(path.name for path in written)
    text = (tmp_path / "out" / "summary.md").read_text()
    assert "* Collapsed on Breakout-MinAtar: weak in 2 of 4 seeds. The return fell by" in text
    assert "strong in" not in text


def test_doctests() -> None:
    results = doctest.testmod(collapse)
    assert results.attempted > 0
    assert results.failed == 0
