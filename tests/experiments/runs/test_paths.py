"""Names of run directories."""

import doctest
from pathlib import Path

import pytest

from experiments.runs import paths as module
from experiments.runs.paths import run_paths


def test_names_of_directories() -> None:
    paths = run_paths(Path("out"), ["ant:backend=spring"], ["a@b/c.safetensors:x=1e-3,y=2", "d"])
    assert list(paths.values()) == [
        Path("out/ant-backend=spring/a-b-c.safetensors-x=1e-3,y=2"),
        Path("out/ant-backend=spring/d"),
    ]
    with pytest.raises(ValueError, match="'a' is given twice"):
        run_paths(Path("out"), ["a", "b", "a"], [])
    with pytest.raises(ValueError, match="'a/b' and another would share the directory 'a-b'"):
        run_paths(Path("out"), [], ["a:b", "a/b"])


def test_doctests() -> None:
    results = doctest.testmod(module)
    assert (results.attempted, results.failed) == (1, 0)
