"""The benchmark of installations: sizes of a wheel, and times of new processes."""

import csv
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from experiments.benchmarks import installation


def benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **starts: str
) -> dict[str, dict[str, str]]:
    """The rows, by what they measure, of a wheel with 30,000 bytes in it and starts of code."""
    wheel = tmp_path / "small.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.py", "#" * 20_000)
        archive.writestr("b.py", "#" * 10_000)
    given = {name: ("-c", code) for name, code in starts.items()}
    monkeypatch.setattr(installation, "STARTS", given)
    out = tmp_path / "installation.csv"
    arguments = ["installation", "--wheel", str(wheel), "--out", str(out), "--repeats", "3"]
    monkeypatch.setattr(sys, "argv", arguments)
    installation.main()
    with open(out, newline="") as stream:
        rows = {row["what"]: row for row in csv.DictReader(stream)}
    assert list(rows) == ["wheel", "wheel, unpacked", *starts]
    assert float(rows["wheel"]["median"]) == round(wheel.stat().st_size / 1e6, 3) < 0.03
    return rows


def test_it_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = f"open({str(tmp_path / 'starts')!r}, 'a').write('x')"
    rows = benchmark(tmp_path, monkeypatch, quick=count, slow="import time; time.sleep(1)")
    assert (rows["wheel, unpacked"]["median"], rows["wheel, unpacked"]["unit"]) == ("0.030", "MB")
    assert (tmp_path / "starts").read_text() == "xxxx"  # one uncounted
    slow = rows["slow"]
    assert slow["unit"] == "s"
    assert 1.0 <= float(slow["min"]) <= float(slow["median"]) <= float(slow["max"])


def test_what_fails_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        benchmark(tmp_path, monkeypatch, broken="raise SystemExit(1)")
    assert not (tmp_path / "installation.csv").exists()


def test_the_starts_are_what_users_type() -> None:
    for name, (option, *rest) in installation.STARTS.items():
        if name.startswith("rl-optim"):
            assert (option, rest) == ("-m", ["rl_optim", *name.split()[1:]])
        elif name.startswith("import"):
            assert (option, rest) == ("-c", [name])
