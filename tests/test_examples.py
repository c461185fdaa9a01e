"""Recipes for other people's loops run as a user runs them, quickly and without our warnings."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGE = ROOT / "docs" / "recipes.md"


def test_there_are_recipes() -> None:
    assert len(EXAMPLES) >= 7


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_recipe_is_short_and_on_the_page(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 60
    assert f"(../examples/{path.name})" in PAGE.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_recipe_runs(path: Path, tmp_path: Path) -> None:
    if "import equinox" in path.read_text():
        pytest.importorskip("equinox")
    # The tests' settings are for the tests; the path is where they found the packages.
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-W", "default::UserWarning", str(path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert not re.search(r"\boptim\b.*Warning", done.stderr), done.stderr
