"""Trials with a fixed seed: damaged files and command lines that make no sense.

Each of them may be refused in one line, or do what was asked for; nothing else.
"""

import random
import shlex
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from run_directories import results, tiny_run

from experiments.command_line import main as cli
from experiments.command_line.compare import Plan
from experiments.command_line.meta_train import MetaTrain
from experiments.command_line.offline import Offline
from experiments.offline import collection
from experiments.online.training import train
from experiments.reports import report
from experiments.runs.directory import RunDirectory
from experiments.runs.reading import load_runs
from experiments.runs.stopping import Stopped

pytestmark = pytest.mark.slow

TINY = "--set num_envs=4 num_steps=16 minibatches=2 epochs=2 widths=8x8"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that saved a checkpoint after every point."""
    path = tmp_path_factory.mktemp("trials") / "run"
    train(tiny_run(), path, checkpoint_seconds=0.0)
    return path


# Damage


def flipped(path: Path, draw: random.Random) -> str:
    """Flips a bit of a run's files, of the checkpoints in half of the cases; says which."""
    in_checkpoints = draw.random() < 0.5
    files = [
        file
        for file in sorted(path.rglob("*"))
        if file.is_file()
        and file.stat().st_size
        and in_checkpoints == (file.relative_to(path).parts[0] == "checkpoints")
    ]
    file = draw.choice(files)
    content = bytearray(file.read_bytes())
    place, bit = draw.randrange(len(content)), draw.randrange(8)
    content[place] ^= 1 << bit
    file.write_bytes(content)
    return f"bit {bit} of byte {place} in {file.relative_to(path)}"


def test_readers_of_flipped_bits(whole: Path, tmp_path: Path) -> None:
    draw = random.Random(0)
    refused = 0
    for trial in range(300):
        path = tmp_path / str(trial)
        shutil.copytree(whole, path)
        what = flipped(path, draw)
        try:
            (run,) = load_runs([path])
            problem = None
        except ValueError as error:
            problem = str(error)
        if problem is None:
            assert run.returns.shape[1] == len(run.steps), what
        else:
            refused += 1
            assert "\n" not in problem, what
            assert str(path) in problem, what
        shutil.rmtree(path)
    assert refused > 30  # half of the bits are those of checkpoints, which are not read here


def test_resuming_with_flipped_bits(whole: Path, tmp_path: Path) -> None:
    """What is resumed is what was saved, or it is refused; nothing is ever deleted."""
    draw = random.Random(1)
    resumed = 0
    for trial in range(100):
        path = tmp_path / str(trial)
        shutil.copytree(whole, path)
        (path / "evaluation.csv").unlink()
        what = flipped(path, draw)
        before = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        try:
            train(tiny_run(), path, resume=True, on_note=lambda note: None)
            problem = None
        except (ValueError, OSError, Stopped) as error:
            problem = str(error)
        if problem is None:
            resumed += 1
            assert results(path) == results(whole), what
        else:
            assert "\n" not in problem, what
            after = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            assert after >= before, what
        shutil.rmtree(path)
    assert resumed > 50


# Command lines

VALID = [
    f"compare --envs CartPole-v1 Catch-bsuite --optimizers adam adamo:kappa=1 --out OUT {TINY}",
    "compare --preset quickstart --out OUT --seeds 2 --steps 1e4",
    f"train --env CartPole-v1:max_steps_in_episode=50 --optimizer open@small --out OUT {TINY}",
    "meta-train --optimizer optim4rl --tasks Catch-bsuite --steps 1e4 --population 4 --out OUT",
    "meta-train --optimizer optim4rl --method pipeline --preset small --out OUT",
    "offline --preset r1 --seeds 2 --steps 1e3 --out OUT",
    "collect --env Pendulum-v1 --size 1e3 --steps 1e3 --root OUT",
    "list optimizers",
    "report OUT",
]
WORDS = [
    *(
        "",
        "-",
        "--",
        "---",
        "=",
        ":",
        "@",
        "@:",
        "adam:",
        "adam@",
        ":=",
        "a=b=c",
        "0",
        "-1",
        "1e400",
    ),
    *("nan", "inf", "\N{SNOWMAN}", "x" * 300, "--out", "--resume", "--steps=", "--seeds", "--set"),
    *(
        "adam:b1=2",
        "adam:b1",
        "open@no",
        "ant:backend=no",
        "num_envs=0",
        "widths=0",
        "..",
        "/",
        "a b",
    ),
    *(
        "--help=",
        "compare",
        "list",
        "3-1",
        "0,0",
        "1e3.5",
        "0x10",
        "true",
        "none",
        "{}",
        "[]",
        "$HOME",
    ),
]


def test_command_lines_that_make_no_sense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    for command in (Plan, Offline, MetaTrain):
        monkeypatch.setattr(command, "run", lambda self: ran.append(type(self).__name__))
    monkeypatch.setattr(collection, "collect", lambda *_, **__: [])
    monkeypatch.setattr(report, "report", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)
    draw = random.Random(2)
    refused = 0
    for trial in range(200):
        arguments = shlex.split(draw.choice(VALID).replace("OUT", str(tmp_path / str(trial))))
        for _ in range(draw.randint(1, 3)):
            place = draw.randrange(len(arguments) + 1)
            match draw.randrange(3):
                case 0 if place < len(arguments):
                    del arguments[place]
                case 1 if place < len(arguments):
                    arguments[place] = draw.choice(WORDS)
                case _:
                    arguments.insert(place, draw.choice(WORDS))
        capsys.readouterr()
        code: object = 0
        try:
            cli.main(arguments)
        except SystemExit as stop:
            code = stop.code
        error = capsys.readouterr().err
        if code != 0:
            refused += 1
            assert code in (1, 2), arguments
            assert error.count("\n") == 1, (arguments, error)
            assert error.startswith("rl-optim: "), (arguments, error)
    assert refused >= 77
    assert ran


def test_the_state_that_is_resumed_is_the_one_that_was_saved(tmp_path: Path) -> None:
    """Random trees of arrays, of typed keys as well, come back bit for bit."""
    draw = random.Random(3)
    for trial in range(10):
        key = jax.random.key(trial)
        state = {
            str(i): jax.random.normal(
                jax.random.fold_in(key, i), (3, *(draw.randrange(4) for _ in range(2)))
            )
            for i in range(draw.randint(1, 5))
        } | {"key": jax.random.split(key, 3), "count": jnp.arange(3)}
        path = tmp_path / str(trial)
        config = {"seeds": [0, 1, 2], "trial": trial}
        how = {"overwrite": False, "on_note": lambda note: pytest.fail(note)}
        directory = RunDirectory.create(path, config, resume=False, **how)
        following, _ = directory.begin(state)
        assert following == 0
        rows = [{"point": 0, "step": 1, "seed": seed, "loss": 0.5} for seed in range(3)]
        directory.log(0, rows, state, 0.0)
        del directory
        again = RunDirectory.create(path, config, resume=True, **how)
        following, restored = again.begin(jax.tree.map(lambda x: x, state))
        assert following == 1
        for name, value in state.items():
            same = (
                jax.random.key_data(value) == jax.random.key_data(restored[name])
                if name == "key"
                else value == restored[name]
            )
            assert bool(jnp.all(same)), name
