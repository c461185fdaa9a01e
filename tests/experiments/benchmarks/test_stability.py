"""The stability benchmark: what it counts, and that the exact test keeps its promise."""

import csv
import dataclasses

import pytest

from experiments.benchmarks import stability
from experiments.reports import figures


def row(predicted, published, seen, judged=True):
    return stability.Problem(
        index=0,
        polyak=0.01,
        discount=0.99,
        learning_rate=1e-3,
        reward_size=1.0,
        exact_radius=1.0 + predicted / stability.STEPS,
        published_radius=1.0 + published / stability.STEPS,
        predicted=predicted,
        published=published,
        seen=seen,
        judged=judged,
        exact_right=(predicted > 0) == (seen > 0),
        published_right=(published > 0) == (seen > 0),
    )


ROWS = [row(5, -4, 4), row(-5, -6, -5), row(4, 4, -1), row(1, 1, -2, judged=False)]


def test_summary_counts_judged_problems_by_what_was_seen():
    assert stability.summary(ROWS) == {
        "exact, all": (2, 3),
        "exact, grew": (1, 1),
        "exact, died": (1, 2),
        "published, all": (1, 3),
        "published, grew": (0, 1),
        "published, died": (1, 2),
    }


def test_figure_shows_both_tests():
    drawing = stability.figure(ROWS)
    assert [ax.get_title(loc="left") for ax in drawing.axes] == [
        "Target network as a state: 2 of 3",
        r"Published $S_\alpha$: 1 of 3",
    ]
    assert figures.render(drawing, "png").startswith(b"\x89PNG")


def test_command_writes_table_and_figure(tmp_path, monkeypatch, capsys):
    out = tmp_path / "deep" / "stability.csv"
    monkeypatch.setattr("sys.argv", ["stability", "--problems", "5", "--out", str(out)])
    stability.main()
    with open(out) as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 5
    assert list(rows[0]) == [field.name for field in dataclasses.fields(stability.Problem)]
    assert [float(r["polyak"]) for r in rows] == list(stability.POLYAK)
    assert out.with_suffix(".png").exists()
    assert out.with_suffix(".svg").exists()
    assert "exact, all: right in" in capsys.readouterr().out


@pytest.mark.slow
def test_exact_test_is_right_outside_the_grey_zone():
    """Both kinds of problem, so that always saying the same would not pass."""
    counts = stability.summary(stability.solve(2000, seed=0))
    for name in ("all", "grew", "died"):
        right, judged = counts[f"exact, {name}"]
        assert judged >= 60
        assert right >= 0.95 * judged
    right, judged = counts["published, grew"]
    assert right < 0.5 * judged
