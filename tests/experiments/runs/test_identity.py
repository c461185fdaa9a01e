"""What counts as the same run: content, not names; and a longer one where that means the same."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from run_directories import create

from experiments.runs.circumstances import numerics
from experiments.runs.directory import RunDirectory
from experiments.runs.identity import check_same, earlier_ends
from experiments.settings import LATER

ONLINE = {
    "optimizer": "adam",
    "resolved_optimizer": "adam:learning_rate=0.1",
    "annealed": False,
    "steps": 100,
    "iterations": 10,
    "settings": {"clip": 0.2},
}
OFFLINE = {
    "environment": "toy, iql",
    "dataset": "toy",
    "dataset_sha256": "a",
    "optimizer": "adam",
    "resolved_optimizer": "adam:learning_rate=0.1",
    "other_optimizers": {"actor": "adam:learning_rate=0.1"},
    "steps": 100,
    "iterations": 10,
    "settings": {"cosine_actor": False},
}
LEARNED = {"optimizer": "star@w", "resolved_optimizer": "star@w", "weights_sha256": "x"}
META = {"optimizer": "open@a/w:key=1", "generations": 7, "start_sha256": "x"}


def difference(given: dict[str, Any], found: dict[str, Any]) -> str | None:
    try:
        check_same(Path("run"), given, found)
    except ValueError as error:
        return str(error).removeprefix("cannot resume run: it was run with ").removesuffix(".")
    return None


@pytest.mark.parametrize(
    ("given", "found", "expected"),
    [
        # The same weights by another path.
        (LEARNED | {"optimizer": "star@./w", "resolved_optimizer": "star@./w"}, LEARNED, None),
        (
            LEARNED | {"optimizer": "star@w:step_size=1"},
            LEARNED,
            "optimizer star@w, you asked for star@w:step_size=1",
        ),
        (LEARNED | {"optimizer": "open@w"}, LEARNED, "optimizer star@w, you asked for open@w"),
        (LEARNED | {"weights_sha256": "y"}, LEARNED, "weights_sha256 x, you asked for y"),
        (META | {"optimizer": "open@b:key=1"}, META, None),
        (
            META | {"optimizer": "open@b:key=2"},
            META,
            "optimizer open@a/w:key=1, you asked for open@b",
        ),
        (META | {"start_sha256": "y"}, META, "start_sha256 x, you asked for y"),
        (
            {"other_optimizers": {"actor": "star@./w"}, "actor_weights_sha256": "x"},
            {"other_optimizers": {"actor": "star@w"}, "actor_weights_sha256": "x"},
            None,
        ),
        (
            OFFLINE | {"optimizer": "star@./w", "critic_weights_sha256": "x"},
            OFFLINE | {"optimizer": "star@w", "critic_weights_sha256": "x"},
            None,
        ),
        (
            OFFLINE | {"critic_weights_sha256": "x"},
            OFFLINE | {"critic_weights_sha256": "y"},
            "critic_weights_sha256 y, you asked for x",
        ),
        # A run that kept no digest is told by what it was called.
        ({"optimizer": "star@w", "weights_sha256": "x"}, {"optimizer": "star@w"}, None),
        (
            {"optimizer": "star@./w", "weights_sha256": "x"},
            {"optimizer": "star@w"},
            "optimizer star@w, you asked for star@./w",
        ),
        # The same data under another name.
        (OFFLINE | {"dataset": "copy", "environment": "copy, iql"}, OFFLINE, None),
        (OFFLINE | {"dataset_sha256": "b"}, OFFLINE, "dataset_sha256 a, you asked for b"),
        # Earlier versions made no diagnoses of online runs, and did not say so.
        (ONLINE | {"diagnostics_every": None}, ONLINE, None),
        (ONLINE, ONLINE | {"diagnostics_every": None}, None),
        (
            ONLINE | {"diagnostics_every": 50},
            ONLINE,
            "diagnostics_every none, you asked for 50",
        ),
        # Longer runs.
        (ONLINE | {"steps": 200, "iterations": 20}, ONLINE, None),
        (ONLINE | {"steps": 200, "iterations": 20, "prolonged_at": [100]}, ONLINE, None),
        (ONLINE, ONLINE | {"steps": 200, "iterations": 20}, "steps 200, you asked for 100"),
        (
            ONLINE | {"steps": 200, "settings": {"clip": 0.3}},
            ONLINE,
            "settings.clip 0.2, you asked for 0.3",
        ),
        (
            ONLINE | {"annealed": True, "steps": 200},
            ONLINE | {"annealed": True},
            "steps 100, you asked for 200, and it cannot be prolonged: "
            "its learning rate falls to 0 over the whole run",
        ),
        (
            ONLINE | {"resolved_optimizer": "open@w", "steps": 200},
            ONLINE | {"resolved_optimizer": "open@w"},
            "steps 100, you asked for 200, and it cannot be prolonged: "
            "open is told how much of the run is over",
        ),
        (
            ONLINE | {"resolved_optimizer": "velo@w", "steps": 200},
            ONLINE | {"resolved_optimizer": "velo@w"},
            "steps 100, you asked for 200, and it cannot be prolonged: "
            "velo is told how much of the run is over",
        ),
        (
            ONLINE | {"annealed": True, "steps": 200, "settings": {"clip": 0.2, "restart": True}},
            ONLINE | {"annealed": True, "settings": {"clip": 0.2, "restart": True}},
            None,  # it falls over each phase
        ),
        (ONLINE | LEARNED | {"steps": 200}, ONLINE | LEARNED, None),
        # What earlier versions did not have.
        (ONLINE | {"label": None, "settings": LATER | {"clip": 0.2}}, ONLINE, None),
        (ONLINE, ONLINE | {"label": None, "settings": LATER | {"clip": 0.2}}, None),
        (ONLINE | {"label": "mine"}, ONLINE, "label none, you asked for mine"),
        (
            ONLINE | {"settings": LATER | {"clip": 0.2, "reward_scale": 10.0}},
            ONLINE,
            "settings.reward_scale 1.0, you asked for 10.0",
        ),
        (
            ONLINE | {"settings": LATER | {"clip": 0.2, "restart": True}},
            ONLINE,
            "settings.restart false, you asked for true",
        ),
        (
            META | {"tasks": {"0": {"settings": {"clip": 0.2, "value_clip": None}}}},
            META | {"tasks": {"0": {"settings": {"clip": 0.2}}}},
            None,
        ),
        (OFFLINE | {"steps": 200}, OFFLINE, None),
        (
            OFFLINE | {"steps": 200, "settings": {"cosine_actor": True}},
            OFFLINE | {"settings": {"cosine_actor": True}},
            "steps 100, you asked for 200, and it cannot be prolonged: "
            "its actor's learning rate falls to 0 over the whole run",
        ),
        (
            OFFLINE | {"steps": 200, "other_optimizers": {"actor": "open@w"}},
            OFFLINE | {"other_optimizers": {"actor": "open@w"}},
            "steps 100, you asked for 200, and it cannot be prolonged: "
            "open is told how much of the run is over",
        ),
        (META | {"generations": 9}, META, None),
        (META | {"generations": 5}, META, "generations 7, you asked for 5"),
    ],
)
def test_what_is_the_same_run(
    given: dict[str, Any], found: dict[str, Any], expected: str | None
) -> None:
    said = difference(given, found)
    assert said == expected or (expected and said and said.startswith(expected))


@pytest.mark.parametrize(
    "found", [{"steps": "x"}, {"steps": None}, {"resolved_optimizer": "?", "steps": 50}]
)
def test_damaged_configuration_is_named(found: dict[str, Any]) -> None:
    given = ONLINE | {key: value for key, value in found.items() if key != "steps"}
    with pytest.raises(ValueError, match=r"^cannot resume run: its config.json is damaged; use"):
        check_same(Path("run"), given, ONLINE | found)
    with pytest.raises(ValueError, match="damaged"):
        check_same(
            Path("run"), given, {key: value for key, value in given.items() if key != "steps"}
        )


def test_settings_that_change_numbers_are_compared(tmp_path: Path) -> None:
    path, config = tmp_path / "run", {"environment": "Catch", "seeds": [0]}
    create(path, config)
    written = json.loads((path / "config.json").read_text())
    assert written["numerics"] == numerics()
    assert {"x64", "prng", "threefry_partitionable", "matmul_precision"} <= set(numerics())
    for change, words in (
        (jax.enable_x64(True), "numerics.x64 false, you asked for true"),
        (jax.default_prng_impl("rbg"), "numerics.prng threefry2x32, you asked for rbg"),
        (
            jax.default_matmul_precision("highest"),
            "numerics.matmul_precision none, you asked for highest",
        ),
    ):
        with (
            change,
            pytest.raises(ValueError, match=f"^cannot resume {path}: it was run with {words}.$"),
        ):
            create(path, config, resume=True)
    create(path, config, resume=True)
    for known in ({}, {"numerics": {"prng": "threefry2x32"}}):  # of earlier versions
        old = {key: value for key, value in written.items() if key != "numerics"} | known
        (path / "config.json").write_text(json.dumps(old))
        with jax.enable_x64(True):
            create(path, config, resume=True)


def test_prolonged_run_says_so(tmp_path: Path) -> None:
    path, config = tmp_path / "run", ONLINE | {"seeds": [0]}
    with create(path, config) as directory:
        directory.write("evaluation.csv", [{"seed": 0, "episode_return": 1.0}])
    begun = json.loads((path / "config.json").read_text())
    longer = config | {"steps": 250, "iterations": 25}
    RunDirectory.check(path, longer, resume=True, overwrite=False)
    assert (path / "evaluation.csv").exists()
    with create(path, longer, resume=True) as directory:
        assert (path / "evaluation.csv").exists()
        directory.begin(jnp.zeros(1))
    assert not (path / "evaluation.csv").exists()  # it was the shorter run's
    expected = begun | {"steps": 250, "iterations": 25, "prolonged_at": [100]}
    assert json.loads((path / "config.json").read_text()) == expected
    with create(path, config | {"steps": 300, "iterations": 30}, resume=True) as directory:
        directory.begin(jnp.zeros(1))
    assert json.loads((path / "config.json").read_text())["prolonged_at"] == [100, 250]
    assert earlier_ends(path, 400) == (100, 250, 300)
    assert earlier_ends(path, 300) == (100, 250)
    assert earlier_ends(path, 100) == ()
    assert earlier_ends(tmp_path, 100) == ()
    (path / "config.json").write_text("[]")
    assert earlier_ends(path, 400) == ()
