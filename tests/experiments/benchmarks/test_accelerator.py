"""The accelerator's benchmark keeps what it has, goes on from there and ends in time."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments.benchmarks import accelerator
from experiments.benchmarks.accelerator import Case


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What was prepared, of two cheap cases in place of the real ones."""
    seen: list[tuple[str, int]] = []

    def case(name: str, *sizes: int) -> Case:
        def prepare(size: int):
            seen.append((name, size))
            if size == 64:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory.")
            return lambda: jnp.ones(size), 10.0 * size

        return Case("part", name, "adam", "things/s", prepare, (1, 1000), sizes)

    monkeypatch.setattr(accelerator, "CASES", (case("a", 1, 2, 64), case("b", 4)))
    return seen


def test_it_goes_on_from_what_the_file_has(tmp_path: Path, prepared: list[tuple[str, int]]) -> None:
    path = tmp_path / "new" / "accelerator.csv"
    accelerator.run(path, minutes=1.0)
    assert prepared == [("a", 1), ("b", 4), ("a", 2), ("a", 64)]  # in turns
    rows = accelerator.read(path)
    assert [(row["task"], row["size"], row["note"]) for row in rows] == [
        *(("a", "1", "3 calls"), ("b", "4", "3 calls"), ("a", "2", "3 calls")),
        ("a", "64", "out of memory"),
    ]
    for row in rows[:3]:
        work = 10 * int(row["size"])
        assert float(row["rate"]) == pytest.approx(work / float(row["seconds"]), rel=1e-3)
        assert float(row["first_call_seconds"]) > 0
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *lines[2:]]) + "\n")  # without the first row
    accelerator.run(path, minutes=1.0)
    assert prepared[4:] == [("a", 1)]
    assert accelerator.read(path)[:3] == rows[1:]


def test_nothing_is_begun_when_the_time_is_over(
    tmp_path: Path, prepared: list[tuple[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    accelerator.run(tmp_path / "accelerator.csv", minutes=0.0)
    assert prepared == []
    assert capsys.readouterr().out.count("Left out, no time: part, ") == 4
    assert not (tmp_path / "accelerator.csv").exists()


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def prepare(size: int):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    case = Case("part", "task", "adam", "things/s", prepare, (1,), (1,))
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        accelerator.measure(case, 1)
