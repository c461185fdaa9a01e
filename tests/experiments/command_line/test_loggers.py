"""What is logged beside the run directories: that it arrives, and that it changes nothing."""

import csv
import importlib.util
import shlex
import struct
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.command_line import main as cli
from experiments.command_line.loggers import Loggers, check_loggers
from experiments.meta_training.training import Generation
from experiments.runs.training import Point

COMPARE = (
    "compare --envs CartPole-v1 --optimizers adam --seeds 3 --steps 1200 --no-cache "
    "--set num_envs=4 num_steps=16 minibatches=2 epochs=2 widths=8x8 --log tensorboard --out"
)
MODULE = "experiments.command_line.log_wandb"


def point(number: int, *returns: str) -> Point:
    step = 100 * (number + 1)
    rows = [
        {"point": number, "step": step, "seed": seed, "episode_return": value, "loss": "0.5"}
        for seed, value in enumerate(returns)
    ]
    return Point(number, step, 2.0, rows)


def events(folder: Path) -> Iterator[tuple[int, str, float]]:
    """Step, tag and value of what event files hold: records with their lengths and checksums."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    for file in sorted(folder.glob("events.out.tfevents.*")):
        content = file.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = event_pb2.Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            for value in event.summary.value:
                yield event.step, value.tag, value.simple_value


def test_tensorboard_gets_what_is_logged(tmp_path: Path) -> None:
    with Loggers(["tensorboard"], tmp_path, "adam", {}) as loggers:
        loggers.begin(0)
        loggers.point(point(0, "1.0", "3.0"))
        loggers.point(point(1, "", "5.0"))
        loggers.point(point(2, "", ""))
    found = list(events(tmp_path / "tensorboard"))
    assert [(step, x) for step, tag, x in found if tag == "episode_return"] == [(100, 2), (200, 5)]
    assert [(step, x) for step, tag, x in found if tag == "episode_return/seed_1"] == [
        (100, 3),
        (200, 5),
    ]
    assert [step for step, tag, _ in found if tag == "loss"] == [100, 200, 300]
    assert not {tag for _, tag, _ in found} & {"step", "seed", "point"}


def test_a_resumed_run_adds_and_a_new_one_replaces(tmp_path: Path) -> None:
    for done, number in ((0, 0), (100, 1)):
        with Loggers(["tensorboard"], tmp_path, "adam", {}) as loggers:
            loggers.begin(done)
            loggers.point(point(number, "1.0"))
    assert {step for step, _, _ in events(tmp_path / "tensorboard")} == {100, 200}
    with Loggers(["tensorboard"], tmp_path, "adam", {}) as loggers:
        loggers.begin(0)
        loggers.point(point(4, "1.0"))
    assert {step for step, _, _ in events(tmp_path / "tensorboard")} == {500}


def test_a_finished_run_opens_nothing(tmp_path: Path) -> None:
    with Loggers(["tensorboard"], tmp_path, "adam", {}) as loggers:
        loggers.begin(1000)
    assert list(tmp_path.iterdir()) == []


def test_generations_are_logged_with_their_arrays(tmp_path: Path) -> None:
    metrics = {"fitness_mean": np.float32(0.5), "task_fitness": np.array([0.25, np.nan])}
    with Loggers(["tensorboard"], tmp_path, "open", {}) as loggers:
        loggers.generation(Generation(4, 1.0, metrics, 0.75))
    found = {(step, tag): value for step, tag, value in events(tmp_path / "tensorboard")}
    assert found == {
        (5, "seconds"): 1.0,
        (5, "evaluation"): 0.75,
        (5, "fitness_mean"): 0.5,
        (5, "task_fitness_0"): 0.25,
    }


def test_logging_leaves_a_run_as_it_is(comparison: Path, tmp_path: Path) -> None:
    cli.main([*shlex.split(COMPARE), str(tmp_path / "out")])
    run, plain = (top / "CartPole-v1" / "adam" for top in (tmp_path / "out", comparison))
    for name in ("metrics.csv", "evaluation.csv"):
        assert (run / name).read_bytes() == (plain / name).read_bytes()
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["loss"]) for row in rows if row["step"] == "1216"]
    logged = {(step, tag): value for step, tag, value in events(run / "tensorboard")}
    assert logged[1216, "loss"] == pytest.approx(np.mean(losses), rel=1e-6)


class Wandb(types.ModuleType):
    """In the place of the package: it notes what it is called with."""

    class Error(Exception):
        """As in the package."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.begun: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = 0
        self.fails = False

    def init(self, **how: Any) -> "Wandb":
        if self.fails:
            raise self.Error("no API key")
        self.begun.append(how)
        return self

    def log(self, numbers: dict[str, float], step: int) -> None:
        self.logged.append((step, numbers))

    def finish(self) -> None:
        self.finished += 1


def test_weights_and_biases_goes_on_with_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", package)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    for done, number in ((0, 0), (100, 1), (0, 0)):
        with Loggers(["wandb"], tmp_path, "adam on ant", {"steps": 9}) as loggers:
            loggers.begin(done)
            loggers.point(point(number, "1.0"))
    first, resumed, new = package.begun
    assert first["id"] == resumed["id"] != new["id"]
    assert (first["name"], first["config"], first["project"]) == (
        "adam on ant",
        {"steps": 9},
        "mine",
    )
    assert "mode" not in first  # WANDB_MODE says it
    assert [step for step, _ in package.logged] == [100, 200, 100]
    assert package.logged[0][1]["episode_return"] == 1.0
    assert package.finished == 3
    package.fails = True
    with pytest.raises(ValueError, match=r"no API key.*WANDB_MODE=offline"):
        Loggers(["wandb"], tmp_path, "adam", {}).point(point(0, "1.0"))
    del sys.modules[MODULE]  # it holds this package


def test_weights_and_biases_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with Loggers(["wandb"], tmp_path, "adam", {}) as loggers:
        loggers.point(point(0, "1.0"))
    assert list((tmp_path / "wandb").glob("offline-run-*"))


def test_what_cannot_be_logged_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs tensorboardX, .*: pip install 'rl-optim\[tensorb"):
        check_loggers(["tensorboard"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    check_loggers(["tensorboard", "wandb"])
    with pytest.raises(ValueError, match="unknown logger 'tensorbord'; the nearest is 'tensorbo"):
        check_loggers(["tensorbord"])
    with pytest.raises(ValueError, match="names 'wandb' twice"):
        check_loggers(["wandb", "wandb"])
