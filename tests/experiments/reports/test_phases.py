"""Tasks that change, phase by phase, their numbers worked out by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from written_runs import curves, flat, load, write_run

from experiments.reports import phases, statistics
from experiments.runs import reading

NAN = float("nan")
TASK = {
    "environment": "CartPole-v1",
    "environment_options": {"flip": True, "phase": 1000},
    "phase_steps": 1000,
}
RESTART = {"settings": {"restart": True}}


def write(directory: Path, *seeds: Any, **changes: Any) -> Path:
    """A run of a point every 50 steps, 20 a phase, unless it is said otherwise."""
    return write_run(directory, curves(*seeds), **{"stretch": 50} | TASK | changes)


def ramp(first: float, last: float) -> list[float]:
    return np.linspace(first, last, 20).tolist()


def test_numbers_by_hand(tmp_path: Path) -> None:
    one = [0.0, 1.0, *[5.0] * 16, 8.0, 9.0, 2.0, -2.0, *[4.0] * 16, 6.0, 7.0]
    two = [-100.0 + value for value in one]
    run = load(write(tmp_path / "run", one, two))
    found = phases.measure(run)
    assert found.count == 2
    np.testing.assert_allclose(found.ends, [[8.5, 6.5], [-91.5, -93.5]])
    np.testing.assert_allclose(found.starts, [[0.5, 0.0], [-99.5, -100.0]])
    means = [(0 + 1 + 80 + 17) / 20, (0 + 64 + 13) / 20]
    np.testing.assert_allclose(found.means[0], means)
    np.testing.assert_allclose(found.drops[:, 1], [8.5, 8.5])
    assert np.isnan(found.drops[:, 0]).all()
    rows = phases.phase_rows([run])
    assert [(row.seed, row.phase) for row in rows] == [(0, 1), (1, 1), (0, 2), (1, 2)]
    assert rows[3].end_return == pytest.approx(-93.5)
    assert rows[3].drop == pytest.approx(8.5)
    assert rows[3].restart is None
    assert np.isnan(rows[3].restart_gap)


def test_points_need_not_divide_phases(tmp_path: Path) -> None:
    """A stretch belongs to the phase in which most of it lies, up to the phase's boundary."""
    # ends of stretches 300 600 900 | 1200 1500 1800 2100 | 2400 2700 3000: one from 900 to 1200
    # and one from 1800 to 2100, which belongs to the second phase.
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]
    found = phases.measure(load(write(tmp_path / "run", values, stretch=300)))
    assert found.count == 3
    np.testing.assert_allclose(found.ends, [[3.0, 7.0, 10.0]])
    np.testing.assert_allclose(found.starts, [[1.0, 4.0, 8.0]])
    second = (4 * 200 + 5 * 300 + 6 * 300 + 7 * 200) / 1000
    np.testing.assert_allclose(found.means, [[(300 + 600 + 1200) / 1000, second, 9.0 - 0.1]])


@pytest.mark.parametrize(
    ("points", "iterations", "steps", "count"),
    [
        (40, 40, 2000, 2),
        (39, 40, 2000, 1),  # an iteration is missing
        (39, 39, 1999, 2),  # less than one is, as the steps are no multiple of an iteration's
        (50, 50, 2500, 2),  # a phase that was half gone through
        (45, 60, 3000, 2),  # a run that goes on
        (19, 60, 3000, 0),
    ],
)
def test_only_whole_phases_count(
    points: int, iterations: int, steps: int, count: int, tmp_path: Path
) -> None:
    changes = {"iterations": iterations, "steps": steps}
    run = load(write(tmp_path / "run", [1.0] * points, [2.0] * points, **changes))
    found = phases.measure(run)
    assert found.count == count
    np.testing.assert_allclose(found.ends, np.array([[1.0] * count, [2.0] * count]))
    assert len(phases.phase_rows([run])) == 2 * count


def test_what_is_missing_is_not_taken_from_before_the_change(tmp_path: Path) -> None:
    one = [*ramp(0, 9), NAN, NAN, NAN, 3.0, *[5.0] * 13, NAN, 6.0, NAN, *[NAN] * 20]
    found = phases.measure(load(write(tmp_path / "run", one)))
    assert found.starts[0, 1] == found.firsts[0, 1] == 3.0
    assert found.ends[0, 1] == 6.0
    assert found.means[0, 1] == pytest.approx((4 * 3.0 + 14 * 5.0 + 2 * 6.0) / 20)
    assert np.isnan([found.starts[0, 2], found.ends[0, 2], found.means[0, 2]]).all()


def test_a_diverged_seed_scores_the_lowest_return(tmp_path: Path) -> None:
    cells = curves([*ramp(0, 10), *ramp(0, 10)], [*ramp(1, 10), *ramp(1, 10)])
    cells[1][25:] = [("nan", 5, 1)] * 15
    run = load(write_run(tmp_path / "run", cells, stretch=50, **TASK))
    found = phases.measure(run)
    assert found.ends[1].tolist() == [pytest.approx(10 - 4.5 / 19), 0.0]


# Against agents that start afresh


def write_arms(folder: Path, *, restart: bool = True) -> list[reading.Run]:
    """The restarted run goes from 0 to 20 in every phase, and is at 19 in its last two points."""
    fresh = [0.0, 0.0, 0.0, *[10.0] * 15, 19.0, 21.0]
    late = [0.0] * 12 + [18.0] * 8  # at the level from point 13 on, 18
    early = [0.0, 0.0, 18.5, 18.5, 18.5, *[1.0] * 15]
    never = [17.9] * 20
    write(folder / "a", [*fresh, *late, *early], [*fresh, *never, *late], optimizer="adam")
    if restart:
        write(folder / "b", fresh * 3, fresh * 3, optimizer="adam", **RESTART)
    return reading.load_runs([folder])


def test_steps_to_the_level_of_a_fresh_agent(tmp_path: Path) -> None:
    adam, restarted = runs = write_arms(tmp_path / "runs")
    assert [run.label for run in runs] == ["adam", "adam (restart)"]
    levels = phases.restart_levels(phases.measure(restarted))
    np.testing.assert_allclose(levels, [18.0] * 3)
    assert phases.steps_to(adam, levels).tolist() == [[1000, 650, 150], [1000, np.inf, 650]]
    rows = {(r.optimizer, r.seed, r.phase): r for r in phases.phase_rows(runs)}
    missed = rows["adam", 1, 2]
    assert (missed.reached_level, missed.steps_to_level) == (False, None)
    assert (missed.restart, missed.restart_level) == ("adam (restart)", 18.0)
    there = rows["adam", 0, 2]
    assert (there.reached_level, there.steps_to_level) == (True, 650)
    own = rows["adam (restart)", 0, 3]
    assert (own.reached_level, own.steps_to_level) == (True, 1000)
    assert np.isnan(own.restart_gap)


def test_a_level_that_is_no_way_up_is_none(tmp_path: Path) -> None:
    write(tmp_path / "runs" / "a", ramp(0, 10) * 2)
    write(tmp_path / "runs" / "b", [*ramp(0, 10), *ramp(9, 3)], **RESTART)
    adam, restarted = runs = reading.load_runs([tmp_path / "runs"])
    levels = phases.restart_levels(phases.measure(restarted))
    assert np.isfinite(levels).tolist() == [True, False]
    assert np.isnan(phases.steps_to(adam, levels)[:, 1]).all()
    assert [row.reached_level for row in phases.phase_rows(runs)] == [True, None] * 2


def test_the_gap_has_the_interval_of_the_bootstrap(tmp_path: Path) -> None:
    mine, theirs = np.arange(5.0), 10.0 + np.arange(4.0) ** 2
    write(tmp_path / "runs" / "a", *([0.0] * 20 + [x] * 20 for x in mine))
    write(tmp_path / "runs" / "b", *([0.0] * 20 + [x] * 20 for x in theirs), **RESTART)
    rows = phases.phase_rows(reading.load_runs([tmp_path / "runs"]))
    second = [row for row in rows if row.phase == 2 and row.optimizer == "adam"]
    assert len(second) == 5
    low, high = statistics.stratified_bootstrap(
        (mine, theirs), lambda x, y: statistics.iqm(x) - statistics.iqm(y)
    )
    gaps = {(row.restart_gap, row.restart_gap_low, row.restart_gap_high) for row in second}
    assert gaps == {(2.0 - 12.5, float(low), float(high))}
    assert low < -10.5 < high < 0


def test_a_run_is_compared_with_its_own_optimizer_first(tmp_path: Path) -> None:
    values = ramp(0, 10) * 2
    write(tmp_path / "runs" / "a", values, optimizer="adam")
    write(tmp_path / "runs" / "b", values, optimizer="lion", **RESTART)
    write(tmp_path / "runs" / "c", values, optimizer="adam", **RESTART)
    write(tmp_path / "runs" / "d", values, optimizer="sgd")
    write(tmp_path / "runs" / "e", values, optimizer="sgd", environment="Acrobot-v1")
    rows = phases.phase_rows(reading.load_runs([tmp_path / "runs"]))
    assert {(row.optimizer, row.environment[:4]): row.restart for row in rows} == {
        ("adam", "Cart"): "adam (restart)",
        ("lion (restart)", "Cart"): "lion (restart)",
        ("adam (restart)", "Cart"): "adam (restart)",
        ("sgd", "Cart"): "lion (restart)",
        ("sgd", "Acro"): None,
    }


def test_runs_are_compared_with_restarts_of_the_same_settings(tmp_path: Path) -> None:
    settings = {"plain": {"reward_scale": 1.0}, "scaled": {"reward_scale": 0.02}}
    for name, own in settings.items():
        for restart in (False, True):
            write_run(
                tmp_path / f"{name}-{restart}",
                flat(1.0, points=8),
                label=f"{name}{' afresh' if restart else ''}",
                # A learned optimizer has no restart of its own.
                optimizer="adam" if restart or name == "plain" else "optim4rl@flip",
                phase_steps=400,
                settings=own | {"restart": restart},
            )
    rows = phases.phase_rows(reading.load_runs([tmp_path]))
    assert {row.optimizer: row.restart for row in rows} == {
        name + own: f"{name} afresh" for name in settings for own in ("", " afresh")
    }


def test_runs_of_different_lengths_share_a_report(tmp_path: Path) -> None:
    write(tmp_path / "runs" / "a", ramp(0, 10) * 3)
    write(tmp_path / "runs" / "b", ramp(0, 20)[::2] * 2, stretch=100, **RESTART)
    rows = phases.phase_rows(reading.load_runs([tmp_path / "runs"]))
    adam = [row for row in rows if row.optimizer == "adam"]
    assert [np.isfinite(row.restart_gap) for row in adam] == [True, True, False]
    assert [row.reached_level for row in adam] == [False, False, None]
