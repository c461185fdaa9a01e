"""Optimizers and environments of a user's own module on the command line."""

import json
import shlex
import sys
from pathlib import Path

import pytest

from experiments.command_line import main as cli
from experiments.command_line.progress import TrainingProgress
from experiments.online.tasks import make_environment, parse_environment, task_of
from experiments.runs.training import Point

OWN = '''
import jax.numpy as jnp
import optax

from agents.environment import Box, Discrete, Environment


def my_adam(learning_rate, b2: float = 0.9):
    """Adam."""
    return optax.adam(learning_rate, b2=b2)


class Corridor(Environment):
    name = "Corridor"
    observation_shape = (1,)
    action_space = Discrete(2)
    max_episode_steps = 20

    def __init__(self, length: int = 5):
        self.length = length

    def reset(self, key):
        place = jnp.zeros((), jnp.float32)
        return place[None], (place, jnp.zeros((), jnp.int32))

    def step(self, key, state, action):
        place, steps = state
        place, steps = place + 2.0 * action.astype(jnp.float32) - 1.0, steps + 1
        terminated = jnp.abs(place) >= self.length
        truncated = (steps >= self.max_episode_steps) & ~terminated
        reward = (place >= self.length).astype(jnp.float32)
        info = {"final_observation": place[None]}
        return place[None], (place, steps), reward, terminated, truncated, info


class Pushed(Corridor):
    action_space = Box(1, -1.0, 1.0)


class Shapeless(Environment):
    name = "Shapeless"
    reset = step = None


def number():
    return 3
'''
TINY = "--set num_envs=4 num_steps=16 minibatches=2 epochs=2 widths=8x8"
COMPARE = (
    "compare --envs my_things:Corridor:length=3 --optimizers "
    "my_things:my_adam:b2=0.99 adam:learning_rate=1e-3,b2=0.99 "
    f"--steps 640 --seeds 2 {TINY} --no-cache"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, which holds the module."""
    (tmp_path / "my_things.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(tmp_path)])
    monkeypatch.delitem(sys.modules, "my_things", raising=False)
    make_environment.cache_clear()
    return tmp_path


def test_own_environments_are_made_like_ours(folder: Path) -> None:
    assert parse_environment("my_things:Corridor:length=3") == ("my_things:Corridor", {"length": 3})
    assert vars(make_environment("my_things:Corridor:length=3"))["length"] == 3
    assert task_of("my_things:Corridor").settings == task_of("CartPole-v1").settings
    assert task_of("my_things:Pushed").settings == task_of("Pendulum-v1").settings
    assert task_of("my_things:Corridor").normaliser({}) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere:Env", "environment 'nowhere:Env' needs a module 'nowhere', which is neither in "),
        ("my_things:Coridor", "environment 'my_things:Coridor' must name something in "),
        ("my_things:number", "environment 'my_things:number' must return an agents.Environment, "
         "got a value of type int."),
        ("my_things:Shapeless", "environment 'my_things:Shapeless' must have name, "
         "observation_shape, action_space, max_episode_steps; got no observation_shape."),
        ("my_things:Corridor:len=1", "'my_things:Corridor' has no option 'len'; the nearest is "
         "'length'."),
        ("my_things:Corridor:length=x", "length must be an integer, got x."),
        ("my_things:Corridor:", "environment must have the form "),
        ("my_things:Corridor:3", "options of 'environment' must have the form key=value, got '3'."),
        ("ant:backend", "options of 'environment' must have the form key=value, got 'backend'."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(text: str, message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        make_environment(text)
    assert str(caught.value).startswith(message)


def test_an_own_comparison_is_run_resumed_and_reported(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam as an own optimizer gives what ours gives, bit for bit, also after an interruption."""

    def stop(progress: TrainingProgress, point: Point) -> None:
        if point.number == 4:
            raise KeyboardInterrupt

    command = shlex.split(f"{COMPARE} --out {folder / 'runs'}")
    with monkeypatch.context() as patched:
        patched.setattr(TrainingProgress, "take", stop)
        with pytest.raises(SystemExit):
            cli.main(command)
    own, ours = (
        folder / "runs" / "my_things-Corridor-length=3" / name
        for name in ("my_things-my_adam-b2=0.99", "adam-learning_rate=1e-3,b2=0.99")
    )
    config = json.loads((own / "config.json").read_text())
    assert config["environment"] == "my_things:Corridor"
    assert config["environment_options"] == {"length": 3}
    assert config["optimizer"] == "my_things:my_adam:b2=0.99"
    assert config["resolved_optimizer"] == "my_things:my_adam:learning_rate=0.001,b2=0.99"
    assert config["annealed"]

    (folder / "elsewhere").mkdir()
    with monkeypatch.context() as patched:
        patched.chdir(folder / "elsewhere")
        patched.setattr(sys, "path", [path for path in sys.path if path != str(folder)])
        patched.delitem(sys.modules, "my_things")
        make_environment.cache_clear()
        capsys.readouterr()
        with pytest.raises(SystemExit):
            cli.main([*command, "--resume"])
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("rl-optim: environment 'my_things:Corridor' needs a module ")

    cli.main([*command, "--resume"])
    for file in ("metrics.csv", "evaluation.csv"):
        assert (own / file).read_bytes() == (ours / file).read_bytes()
    assert len((own / "metrics.csv").read_text().splitlines()) == 1 + 2 * 10
    assert "my_things:Corridor:length=3, 640 steps" in capsys.readouterr().out
    assert "my_things:my_adam:b2=0.99" in (folder / "runs" / "summary.csv").read_text()
