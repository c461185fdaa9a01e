"""Grids of settings: how they are read, and what each key is of."""

import doctest

import pytest

from experiments.runs import grid as module
from experiments.runs.grid import folders, grid, named, parse_axes, places


def test_every_combination_has_a_name_and_a_folder() -> None:
    axes = parse_axes(["optimizer=adam,a/b", "num_envs=4,8", "eps=1e-5"])
    combinations = [("adam", "4", "1e-5"), ("adam", "8", "1e-5")]
    combinations += [("a/b", "4", "1e-5"), ("a/b", "8", "1e-5")]
    assert grid(axes) == list(folders(axes)) == combinations
    assert named(axes, combinations[-1]) == "optimizer=a/b,num_envs=8,eps=1e-5"
    assert folders(axes)[combinations[-1]] == "optimizer=a-b,num_envs=8,eps=1e-5"


def test_two_combinations_never_share_a_folder() -> None:
    with pytest.raises(ValueError, match=r"^'f=a/b' and another would share the directory 'f=a-b'"):
        folders(parse_axes(["f=a:b,a/b"]))


@pytest.mark.parametrize(
    ("texts", "line"),
    [
        ([], "--over must make at least two settings; got 0."),
        (["eps=1"], "--over must make at least two settings; got 1."),
        (["eps"], "--over must have the form KEY=VALUE,VALUE,...; got 'eps'."),
        (["eps="], "--over must have the form KEY=VALUE,VALUE,...; got 'eps='."),
        (["eps=1,"], "--over must have the form KEY=VALUE,VALUE,...; got 'eps=1,'."),
        (["=1,2"], "--over must have the form KEY=VALUE,VALUE,...; got '=1,2'."),
        (["eps=1,2", "eps=3"], "--over must name each key once; got 'eps' twice."),
        (["eps=1e-3,0.001"], "--over must give each value of 'eps' once; got 1e-3 and 0.001."),
        (["anneal=true,True"], "--over must give each value of 'anneal' once; got true and True."),
    ],
)
def test_texts_that_are_no_grid(texts: list[str], line: str) -> None:
    with pytest.raises(ValueError, match=r"^--over") as error:
        parse_axes(texts)
    assert str(error.value) == line


KNOWN = {"trainer": ["rate", "agents"], "optimizer": ["rate", "eps"], "set": ["clip"]}
WORDS = {"meta_rate": ("trainer", "rate")}


def test_keys_are_found_by_place_or_word() -> None:
    axes = parse_axes(["agents=1,2", "optimizer.rate=1", "meta_rate=1", "set.clip=1"])
    found = [("trainer", "agents"), ("optimizer", "rate"), ("trainer", "rate"), ("set", "clip")]
    assert places(axes, KNOWN, {}, WORDS) == found


@pytest.mark.parametrize(
    ("texts", "line"),
    [
        (["rate=1,2"], "key 'rate' of --over could be of --trainer or --optimizer; write "
         "trainer.rate or optimizer.rate."),
        (["agent=1,2"], "unknown key of --over 'agent'; the nearest is 'agents'."),
        (["meta_rat=1,2"], "unknown key of --over 'meta_rat'; the nearest is 'meta_rate'."),
        (["set.eps=1,2"], "unknown key of --over 'set.eps'; the nearest is 'set.clip'."),
        (["clip=1,2"], "'clip' is given twice, by --over and by --set."),
        (["meta_rate=1,2", "trainer.rate=3"], "--over must name each key once; got 'rate' twice."),
    ],
)  # fmt: skip
def test_keys_that_nothing_has(texts: list[str], line: str) -> None:
    with pytest.raises(ValueError, match="--over") as error:
        places(parse_axes(texts), KNOWN, {"set": ["clip"]}, WORDS)
    assert str(error.value) == line


def test_doctests() -> None:
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
