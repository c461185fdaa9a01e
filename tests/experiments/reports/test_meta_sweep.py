"""What a sweep of meta-training found, from runs that are written by hand."""

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from rich.console import Console

from experiments.reports import heat_maps, meta_sweep, statistics, sweep
from experiments.reports.meta_sweep import MetaSweep, last_evaluation, tried
from experiments.reports.summary import estimate

GRID = {"meta_learning_rate": ["1e-4", "1e-3", "1e-2"], "reset_interval": ["8", "32"]}
EVALUATIONS = [
    ["0.1", "0.3"],
    ["0.5", "0.3"],
    ["0.9", "0.7"],
    ["0.8", "0.78"],
    ["0.7", None],  # the second was stopped
    ["nan", None],
]


def written(path: Path, last: str | None, generations: int = 3) -> Path:
    """A run; without a last evaluation it ended a generation early, after a good one."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"generations": generations}))
    rows = [(0, ""), (1, "0.99"), *([(2, last)] if last is not None else [])]
    lines = [f"{number},{64 * number},{evaluation}\n" for number, evaluation in rows]
    (path / "meta_metrics.csv").write_text("generation,env_steps,evaluation\n" + "".join(lines))
    return path


def found(tmp_path: Path, floor: float | None = None) -> MetaSweep:
    combinations = [(a, b) for a in GRID["meta_learning_rate"] for b in GRID["reset_interval"]]
    return MetaSweep(
        title="optim4rl on Catch-bsuite",
        method="pipeline, 3 meta-iterations",
        axes=GRID,
        tried=[
            tried(
                values,
                "optim4rl",
                [
                    written(tmp_path / "-".join(values) / f"seed-{seed}", evaluation)
                    for seed, evaluation in zip((0, 5), evaluations, strict=True)
                ],
            )
            for values, evaluations in zip(combinations, EVALUATIONS, strict=True)
        ],
        seeds=(0, 5),
        generations=3,
        floor=floor,
    )


def test_the_last_evaluation_of_a_run(tmp_path: Path) -> None:
    assert last_evaluation(written(tmp_path / "whole", "-0.25")) == -0.25
    for name, last in {"nan": "nan", "infinite": "-inf", "stopped": None}.items():
        assert math.isnan(last_evaluation(written(tmp_path / name, last)))
    (tmp_path / "whole" / "meta_metrics.csv").write_text("generation,loss\n0,1\n")
    with pytest.raises(ValueError, match=r"meta_metrics\.csv must have the columns evaluation"):
        last_evaluation(tmp_path / "whole")
    (tmp_path / "nan" / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"nan/config\.json is missing or damaged\."):
        last_evaluation(tmp_path / "nan")


def test_scores_share_and_best_as_worked_out_by_hand(tmp_path: Path) -> None:
    one = found(tmp_path)
    # The lowest last evaluation is 0.1: the one that was stopped scores it.
    np.testing.assert_allclose(one.scores, [0.2, 0.4, 0.8, 0.79, 0.4, 0.1])
    assert one.diverged.sum(axis=1).tolist() == [0, 0, 0, 0, 1, 2]
    assert one.best == 2
    # At least 0.8 - 0.1 * (0.8 - 0.1) = 0.73.
    assert one.within.tolist() == [False, False, True, True, False, False]
    assert one.within.tolist() == sweep.within(one.scores).tolist()
    wide = MetaSweep(**vars_of(one) | {"floor": -10.0})
    assert wide.within.tolist() == [True] * 5 + [False]  # never one all of whose runs diverged


def vars_of(one: MetaSweep) -> dict[str, object]:
    names = ("title", "method", "axes", "tried", "seeds", "generations", "floor")
    return {name: getattr(one, name) for name in names}


def test_files_and_words(tmp_path: Path) -> None:
    one, out = found(tmp_path), tmp_path / "out"
    names = {path.name for path in meta_sweep.write_sweep(one, out, "rl-optim meta-train again")}
    assert names == {f"meta_sweep.{end}" for end in ("csv", "md", "png", "svg", "pdf")}
    with (out / "meta_sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["within_10_percent"] for row in rows] == ["0", "0", "1", "1", "0", "0"]
    assert [row["best"] for row in rows] == ["0", "0", "1", "0", "0", "0"]
    assert [row["diverged_seeds"] for row in rows] == ["0", "0", "0", "0", "1", "2"]
    assert [row["evaluation_seed_0"] for row in rows] == ["0.1", "0.5", "0.9", "0.8", "0.7", ""]
    assert [row["evaluation_seed_5"] for row in rows] == ["0.3", "0.3", "0.7", "0.78", "", ""]
    assert [rows[2][key] for key in ("optimizer", *GRID)] == ["optim4rl", "1e-3", "8"]
    assert rows[2]["run_directory"] == "../1e-3-8/seed-0; ../1e-3-8/seed-5"
    score, low, high = estimate((np.array([0.9, 0.7]),), statistics.mean)
    assert [float(rows[2][f"score{end}"]) for end in ("", "_low", "_high")] == [score, low, high]
    assert (rows[5]["score_low"], float(rows[5]["score"])) == ("", 0.1)
    text = (out / "meta_sweep.md").read_text()
    assert "# Sweep: optim4rl on Catch-bsuite, pipeline, 3 meta-iterations, 2 seeds\n" in text
    assert "Share of settings within 10 % of the best: 0.33 (2 of 6)." in text
    assert "| `meta_learning_rate=1e-3,reset_interval=8` | **0.800** |" in text
    assert "| 0.700 \N{EN DASH} | 1 | no |" in text
    assert "3 of 12 runs diverged" in text
    assert "too high by luck" in text
    assert "rl-optim meta-train again" in text
    assert "seeds that are used for nothing else" in text
    assert sweep.SHARE_RULE in text
    console = Console(width=100, file=io.StringIO(), record=True)
    meta_sweep.print_sweep(one, console)
    printed = console.export_text()
    assert "0.33 (2 of 6)" in printed
    assert "0.900 0.700" in printed


def test_the_heat_map_is_the_one_of_sweeps(tmp_path: Path) -> None:
    figure = heat_maps.sweep_figure(meta_sweep._drawn(found(tmp_path)))
    ax = figure.axes[0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("reset_interval", "meta_learning_rate")
    shown = np.asarray(ax.images[0].get_array())
    np.testing.assert_allclose(shown, [[0.2, 0.4], [0.8, 0.79], [0.4, 0.1]])
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["0.200", "0.400", "0.800", "0.790", "0.400\n1 div.", "0.100\n2 div."]
    assert sum(isinstance(patch, Rectangle) for patch in ax.patches) == 2
    assert figure.axes[1].get_ylabel() == "Evaluation"
    assert figure.get_suptitle().splitlines() == [
        *("optim4rl on Catch-bsuite", "pipeline, 3 meta-iterations, 2 seeds"),
        "2 of 6 within 10 % of the best",
    ]


def test_without_a_run_that_ended_well_there_is_no_best(tmp_path: Path) -> None:
    paths = [written(tmp_path / value, None) for value in ("1", "2")]
    none = MetaSweep(
        title="optim4rl",
        method="es, 3 generations",
        axes={"sigma": ["1", "2"]},
        tried=[tried([path.name], "optim4rl", [path]) for path in paths],
        seeds=(0,),
        generations=3,
    )
    assert none.best is None
    assert not none.within.any()
    assert meta_sweep.notes(none) == ["No setting has a score: all runs diverged."]
    assert len(meta_sweep.write_sweep(none, tmp_path / "out", None)) == 5
    meta_sweep.print_sweep(none, Console(file=io.StringIO()))
