"""Aggregates over several tasks, their scores worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
from written_runs import flat, write_run

from experiments.reports import aggregate, online, statistics
from experiments.runs import reading


def test_aggregate_by_hand(suite: list[reading.Run]) -> None:
    adam, adamo = aggregate.aggregate(suite)  # lion is not on every environment
    assert (adam.optimizer, adamo.optimizer) == ("adam:learning_rate=0.01", "adamo")
    assert adam.environments == ("Breakout-MinAtar", "Asterix-MinAtar")
    assert adam.seeds == 4
    # Adam: .8 .8 | .9 1 1 1.1 | 1.2 1.4; AdamO: .8 1.1 | 1.2 1.2 1.2 1.3 | 1.5 1.6.
    assert adam.normalised_iqm == pytest.approx(1.0)
    assert adamo.normalised_iqm == pytest.approx(1.225)
    assert adam.optimality_gap == pytest.approx(0.5 / 8)
    assert adamo.optimality_gap == pytest.approx(0.2 / 8)
    assert adamo.improvement_over == adam.optimizer
    # Breakout: 55 beats 2, 60 beats 2 and ties, 65 beats 3, 75 all four: 11.5 of 16. Asterix: 8
    # ties once, and the others beat all: 12.5 of 16.
    assert adamo.improvement_probability == pytest.approx(24 / 32)
    assert adamo.improvement_probability_low < 0.75 < adamo.improvement_probability_high
    assert np.isnan(adam.improvement_probability)
    x = np.array([[0.8, 1.0, 1.2, 1.4], [0.8, 0.9, 1.0, 1.1]]).T
    low, high = statistics.stratified_bootstrap(x, statistics.iqm)
    assert (adam.normalised_iqm_low, adam.normalised_iqm_high) == (low, high)


def test_no_aggregate_without_two_normalised_environments(suite: list[reading.Run]) -> None:
    assert aggregate.aggregate([run for run in suite if run.task[0] != "Asterix-MinAtar"]) == []


def test_aggregate_leaves_out_what_does_not_compare(tmp_path: Path) -> None:
    for environment in ("A", "B"):
        for optimizer in ("adam", "uneven", "unfinished", "silent"):
            odd = environment == "B"
            cells = flat(1.0, 2.0, *([3.0] if odd and optimizer == "uneven" else []))
            if odd and optimizer == "silent":
                cells[0] = [("", 0, 0)] * 4
            steps = 800 if odd and optimizer == "unfinished" else 400
            write_run(
                tmp_path / "runs" / environment / optimizer,
                cells,
                environment=environment,
                optimizer=optimizer,
                normaliser=2.0,
                steps=steps,
                iterations=steps // 100,
            )
    runs = reading.load_runs([tmp_path / "runs"])
    assert [row.optimizer for row in aggregate.aggregate(runs)] == ["adam"]
    online.write_report(runs, tmp_path / "out")
    text = (tmp_path / "out" / "summary.md").read_text()
    for note in (
        "Not in the aggregate: uneven (not the same number of seeds on all tasks).",
        "Not in the aggregate: unfinished (unfinished).",
        "Not in the aggregate: silent (seeds without a completed episode).",
        "Seeds differ on B: adam 0 1; silent 0 1; uneven 0 1 2; unfinished 0 1.",
        "Steps differ on B: adam 400; silent 400; uneven 400; unfinished 800.",
        "unfinished on B is unfinished: 4 of 8 points.",
    ):
        assert f"* {note}\n" in text


# What returns are divided by


def two_tasks(directory: Path, **changes: object) -> list[reading.Run]:
    """Two optimizers on two tasks for which nothing is published."""
    scores = {("A", "adam"): [1.0, 3.0], ("A", "lion"): [2.0, 5.0]}
    scores |= {("B", "adam"): [-20.0, -10.0], ("B", "lion"): [-15.0, -10.0]}
    for (environment, optimizer), values in scores.items():
        how = {"environment": environment, "optimizer": optimizer} | changes
        write_run(directory / environment / optimizer, flat(*values), **how)
    return reading.load_runs([directory])


def test_given_returns(tmp_path: Path, suite: list[reading.Run]) -> None:
    scored = aggregate.normalised_scores(two_tasks(tmp_path / "two"), {"A": 4.0, "B": 10.0})
    assert scored.scales == {"A": (0.0, 4.0), "B": (0.0, 10.0)}
    np.testing.assert_array_equal(scored.scores["adam"], [[0.25, -2.0], [0.75, -1.0]])
    given = aggregate.normalised_scores(suite, {"Breakout-MinAtar": 100.0})  # instead of 50
    assert given.scales == {"Breakout-MinAtar": (0.0, 100.0), "Asterix-MinAtar": (0.0, 10.0)}
    online.write_report(suite, tmp_path / "out", {"Breakout-MinAtar": 100.0})
    text = (tmp_path / "out" / "summary.md").read_text()
    assert (
        "Final returns divided by the return published for tuned Adam (Asterix-MinAtar 10) or by a "
        "given return (Breakout-MinAtar 100). Gap:" in text
    )


def test_min_max(tmp_path: Path) -> None:
    runs = two_tasks(tmp_path / "runs")
    scored = aggregate.normalised_scores(runs, "min-max")
    assert scored.scales == {"A": (1.0, 5.0), "B": (-20.0, -10.0)}
    np.testing.assert_array_equal(scored.scores["adam"], [[0.0, 0.0], [0.5, 1.0]])
    np.testing.assert_array_equal(scored.scores["lion"], [[0.25, 0.5], [1.0, 1.0]])
    assert [row.optimizer for row in aggregate.aggregate(runs, "min-max")] == ["adam", "lion"]
    online.write_report(runs, tmp_path / "out", "min-max")
    text = (tmp_path / "out" / "summary.md").read_text()
    assert "as a share of the range of all runs: A [1, 5], B [-20, -10]. Gap:" in text


def test_no_aggregate_is_said_with_what_would_give_one(
    tmp_path: Path, suite: list[reading.Run]
) -> None:
    runs = two_tasks(tmp_path / "two")
    assert aggregate.aggregate(runs) == []
    sentence = (
        "There is no aggregate: no return to divide by is published for A, B; give --normalisers "
        "'A=RETURN' 'B=RETURN', or --normalisers min-max."
    )
    assert aggregate.normalised_scores(runs).notes == [sentence]
    online.write_report(runs, tmp_path / "out")
    assert f"* {sentence}\n" in (tmp_path / "out" / "summary.md").read_text()
    one, *_ = aggregate.normalised_scores(suite).notes  # two of three tasks
    assert one.startswith("Not in the aggregate: Catch: no return to divide by is published for")
    alone = [run for run in runs if run.task[0] == "A"]
    assert aggregate.normalised_scores(alone).notes == []


def test_min_max_of_equal_returns(tmp_path: Path) -> None:
    write_run(tmp_path / "a", flat(2.0, 2.0))
    write_run(tmp_path / "b", flat(1.0, 2.0), environment="Catch")
    scored = aggregate.normalised_scores(reading.load_runs([tmp_path]), "min-max")
    assert scored.scores == {}
    assert scored.notes == [
        "There is no aggregate: min-max needs final returns that differ from each other on "
        "Breakout-MinAtar."
    ]


def test_no_optimizer_left(tmp_path: Path) -> None:
    write_run(tmp_path / "a", flat(1.0, 2.0), normaliser=1.0)
    write_run(tmp_path / "b", flat(1.0, 2.0), normaliser=1.0, environment="B", optimizer="lion")
    assert aggregate.normalised_scores(reading.load_runs([tmp_path])).notes == [
        "Not in the aggregate: adam, lion (no run on some of the tasks).",
        "There is no aggregate: no optimizer is left.",
    ]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], None),
        (["min-max"], "min-max"),
        (["CartPole-v1=500"], {"CartPole-v1": 500.0}),
        (
            ["CartPole-v1:gravity=5,max_steps_in_episode=50=40", "ant (spring)=4e3"],
            {"CartPole-v1:gravity=5,max_steps_in_episode=50": 40.0, "ant (spring)": 4000.0},
        ),
    ],
)
def test_normalisers_are_read(texts: list[str], expected: object) -> None:
    assert aggregate.read_normalisers(texts) == expected


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["min-max", "A=1"], "must be TASK=RETURN for one task or more, or min-max alone; got 'mi"),
        (["A"], "must be TASK=RETURN .*; got 'A'"),
        (["A="], "must be TASK=RETURN .*; got 'A='"),
        (["=3"], "must be TASK=RETURN .*; got '=3'"),
        (["A=nan"], "must be TASK=RETURN .*; got 'A=nan'"),
        (["A=1", "A=2"], "names 'A' twice"),
        (["A=-1"], "must be positive numbers, or min-max for all tasks; got -1.0 for 'A'"),
        (["A=inf"], "must be positive numbers, or min-max for all tasks; got inf for 'A'"),
        (["C=1"], "must name tasks of the runs, A, B; got 'C'"),
    ],
)
def test_normalisers_that_make_no_sense(texts: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        aggregate.normalised_scores(two_tasks(tmp_path), aggregate.read_normalisers(texts))


def test_a_published_return_is_not_used_where_it_was_not_reached(tmp_path: Path) -> None:
    """Run directories of earlier versions name it whatever the backend and the options."""
    for name, changes in {
        "positional": {"environment": "ant", "backend": "positional"},
        "named": {
            "environment": "ant",
            "backend": "positional",
            "environment_options": {"backend": "positional"},
            "seeds": [1],
        },
        "spring": {"environment": "ant", "backend": "spring"},
        "mjx": {"environment": "ant", "backend": "mjx"},
        "short": {
            "environment": "ant",
            "backend": "positional",
            "environment_options": {"max_episode_steps": 50},
        },
        "breakout": {"environment_options": {"max_steps_in_episode": 50}},
        "whole": {"environment": "Asterix-MinAtar"},
    }.items():
        write_run(tmp_path / name, flat(10.0), normaliser=5.0, **changes)
    scored = aggregate.normalised_scores(reading.load_runs([tmp_path]))
    assert list(scored.scales) == ["ant (positional)", "Asterix-MinAtar"]


def test_no_interval_where_all_seeds_diverged_on_a_task(tmp_path: Path) -> None:
    cells = [[(1.0, 5, 0), (2.0, 5, 0), (9.0, 5, 1), (9.0, 5, 1)]] * 3
    for environment in ("A", "B"):
        how = {"environment": environment, "normaliser": 10.0}
        write_run(tmp_path / environment / "adam", flat(4.0, 5.0, 6.0), **how)
        odd = cells if environment == "B" else flat(3.0, 4.0, 5.0)
        write_run(tmp_path / environment / "sgd", odd, optimizer="sgd", **how)
    adam, sgd = aggregate.aggregate(reading.load_runs([tmp_path]))
    assert adam.normalised_iqm_low < adam.normalised_iqm < adam.normalised_iqm_high
    assert np.isfinite([sgd.normalised_iqm, sgd.optimality_gap, sgd.improvement_probability]).all()
    assert np.isnan([sgd.normalised_iqm_low, sgd.optimality_gap_high]).all()
    assert np.isnan([sgd.improvement_probability_low, sgd.improvement_probability_high]).all()
