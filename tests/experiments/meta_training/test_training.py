"""Meta-training from the command line: files, interruptions, refusals."""

import csv
import dataclasses
import hashlib
import json
import math
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hills import Tiny, task
from run_directories import cut_in_half, flip_bit
from safetensors import safe_open
from safetensors.numpy import load_file

import optim
from experiments.command_line import main as cli
from experiments.command_line.meta_train import MetaTrain
from experiments.meta_training import architectures
from experiments.meta_training.architectures import LearnedOptimizer
from experiments.meta_training.evolution import EvolutionRunConfig
from experiments.meta_training.methods import meta_run
from experiments.meta_training.training import Generation, meta_train
from experiments.reports.report import report
from experiments.runs.identity import check_same
from experiments.runs.stopping import Stopped
from meta.task import Lifetimes

QUICK_XLA = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=2"
META = (
    "meta-train --optimizer tiny:scale=2 --tasks CartPole-v1 Acrobot-v1 --normalisers 10 500 "
    "--steps 128 256 --population 4 --generations 7 --evaluate-every 3 --evaluation-seeds 2 "
    "--seed 5 --no-cache --strategy openai_es:sigma=0.5,learning_rate=0.1 "
    "--set num_envs=4 num_steps=16 minibatches=2 epochs=2 widths=8x8"
)


LIFETIMES = EvolutionRunConfig.lifetimes


def functions(run: EvolutionRunConfig, stretches: int, **how: Any) -> list[Lifetimes]:
    """Functions of the meta-parameters and of luck, in the place of lifetimes."""

    def fitness(meta_params: Any, key: jax.Array) -> jax.Array:
        height = -jnp.square(meta_params["rate"]) - jnp.square(meta_params["sign"][0] + 1.0)
        return height + 0.1 * jax.random.normal(key)

    return [task(fitness, stretches)] * len(run.tasks)


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(architectures.ARCHITECTURES, "tiny", Tiny)
        patch.setattr(EvolutionRunConfig, "lifetimes", functions)
        yield


def parsed(text: str) -> EvolutionRunConfig:
    command = cli._parse(shlex.split(f"{text} --out x"))
    assert isinstance(command, MetaTrain)
    return meta_run(command)


@pytest.fixture(scope="module")
def run() -> EvolutionRunConfig:
    """Its trainer is compiled once for all tests."""
    return parsed(META)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from the command line that nothing interrupted."""
    path = tmp_path_factory.mktemp("meta") / "run"
    cli.main(shlex.split(f"{META} --out {path}"))
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with (path / "meta_metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same(path: Path, other: Path) -> None:
    assert (path / "meta_metrics.csv").read_bytes() == (other / "meta_metrics.csv").read_bytes()
    for weights in ("meta_params.safetensors", "best_meta_params.safetensors"):
        one, two = (load_file(run / weights) for run in (path, other))
        assert one.keys() == two.keys()
        assert all(one[name].tobytes() == two[name].tobytes() for name in one)


def fails(capsys: pytest.CaptureFixture[str], command: str) -> str:
    """The one line that a command which is refused prints."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main(shlex.split(command))
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("rl-optim: ")


# Files


def test_files(finished: Path) -> None:
    logged = rows(finished)
    assert [int(row["generation"]) for row in logged] == list(range(7))
    # 4 members on 128 steps of one task and 256 of the other, in rollouts of 64.
    assert [int(row["env_steps"]) for row in logged] == [1536 * (i + 1) for i in range(7)]
    judged = [bool(row["evaluation"]) for row in logged]
    assert judged == [False, False, True, False, False, True, True]
    for row in logged:
        for name in ("fitness_mean", "fitness_best", "sigma", "mean_norm", "task_fitness_0"):
            assert np.isfinite(float(row[name]))
        assert row["failed"] == "0"
        if row["evaluation"]:
            parts = [float(row[f"evaluation_{i}"]) for i in range(2)]
            np.testing.assert_allclose(float(row["evaluation"]), np.mean(parts), rtol=1e-5)
    assert (finished / "timing.csv").read_text().startswith("point,seconds\n0,")
    config = json.loads((finished / "config.json").read_text())
    assert config["versions"]["evosax"]
    assert config["evolution"]["sigma"] == 0.5
    assert [config["tasks"][i]["iterations"] for i in "01"] == [2, 4]
    assert [config["tasks"][i]["normaliser"] for i in "01"] == [10.0, 500.0]
    assert config["tasks"]["0"]["settings"]["anneal"] is False

    weights = load_file(finished / "meta_params.safetensors")
    assert {name: x.shape for name, x in weights.items()} == {"rate": (), "sign": (1,)}
    assert {x.dtype for x in weights.values()} == {np.dtype(np.float32)}
    with safe_open(finished / "meta_params.safetensors", framework="numpy") as file:
        metadata = file.metadata()
        assert len(metadata.pop("sha256")) == 64
        assert metadata == {
            "format": "rl-optim meta-parameters",
            "architecture": "tiny",
            "sizes": '{"noise": 0.1}',
            "options": '{"scale": 2}',
            "feature_version": "1",
            "optimizer": "tiny:scale=2",
            "training_tasks": "CartPole-v1 Acrobot-v1",
            "origin": "rl-optim meta-train, method es, seed 5",
            "generations": "7",
        }


def test_report(finished: Path, tmp_path: Path) -> None:
    report([finished], tmp_path)
    with (tmp_path / "meta_training.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    logged = rows(finished)
    assert (row["method"], row["generations"], row["seed"]) == ("es", "7", "5")
    assert row["last_objective"] == logged[-1]["fitness_mean"]
    best = max(float(each["evaluation"]) for each in logged if each["evaluation"])
    assert float(row["best_evaluation"]) == pytest.approx(best)


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.0, 0.1, 0.5, 0.2, 0.5, 0.3], 2),  # the first of equal ones
        ([math.nan, math.nan, -2.0, math.nan, -1.0, -3.0], 4),
        ([0.5, 0.1, 0.5, 0.2, 0.5, 0.3], 0),  # where training starts
        ([math.nan] * 6, 0),
    ],
)
def test_best_weights_are_kept(
    scores: list[float],
    best: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also when the run is interrupted after them, and killed before it had written them."""
    run = parsed(META.replace("--generations 7", "--generations 5"))
    run = dataclasses.replace(run, evaluate_every=1)
    left, seen = list(scores), dict[int, bytes]()
    monkeypatch.setattr(
        EvolutionRunConfig, "evaluate", lambda run, meta_params: np.array([left.pop(0)] * 2)
    )
    path = tmp_path / "run"

    def look(generation: Generation) -> None:
        seen[generation.number + 1] = load_file(path / "meta_params.safetensors")["rate"].tobytes()
        if generation.number + 1 == 4:
            raise Interruption

    with pytest.raises(Interruption):
        meta_train(run, path, on_generation=look, checkpoint_seconds=0.0)
    (path / "best_meta_params.safetensors").unlink()
    meta_train(run, path, resume=True, on_generation=look)
    assert not left
    assert optim.load_metadata(path / "meta_params.safetensors")["generations"] == "5"
    kept = path / "best_meta_params.safetensors"
    assert optim.load_metadata(kept)["generations"] == str(best)
    first = run.trainer.meta_params(run.trainer.init(jax.random.key(run.seed)))
    seen[0] = np.asarray(first["rate"]).tobytes()
    assert load_file(kept)["rate"].tobytes() == seen[best]
    assert len(set(seen.values())) == 6


@pytest.mark.parametrize("after", [None, 3, 8])
def test_training_ends_where_evaluations_get_no_better(
    after: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After two in a row, also when it was interrupted on the way or is asked for again."""
    run = parsed(META.replace("--generations 7", "--generations 30 --patience 2"))
    run = dataclasses.replace(run, evaluate_every=2)
    left = [0.2, 0.1, 0.5, 0.5, math.nan, 0.9]
    monkeypatch.setattr(
        EvolutionRunConfig, "evaluate", lambda run, meta_params: np.array([left.pop(0)] * 2)
    )
    path, notes = tmp_path / "run", list[str]()
    if after is not None:
        interrupt(run, path, after, checkpoint_seconds=0.0)
    for _ in range(2):
        meta_train(run, path, resume=True, on_note=notes.append)
    said = "training ends after generation 8: the best evaluation was after generation 4."
    assert notes == [said, said]
    assert left == [0.9]
    assert [int(row["generation"]) for row in rows(path)] == list(range(8))
    generations = [
        optim.load_metadata(path / name)["generations"]
        for name in ("meta_params.safetensors", "best_meta_params.safetensors")
    ]
    assert generations == ["8", "4"]
    assert json.loads((path / "config.json").read_text())["patience"] == 2


def test_weights_make_the_optimizer_that_was_trained(finished: Path) -> None:
    """With the options it was trained with, unless others are given."""
    path = finished / "meta_params.safetensors"
    trained = LearnedOptimizer.parse("tiny:scale=2").transform(optim.load_meta_params(path))
    other = LearnedOptimizer.parse("tiny:scale=3").transform(optim.load_meta_params(path))
    grads = {"actor": jnp.array([0.3, -2.0])}
    pairs = [(optim.make(f"tiny@{path}"), trained), (optim.load(f"tiny@{path}", scale=3), other)]
    for made, expected in pairs:
        ours, theirs = (tx.update(grads, tx.init(grads), grads)[0] for tx in (made, expected))
        np.testing.assert_array_equal(ours["actor"], theirs["actor"])


def test_lifetimes_are_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EvolutionRunConfig, "lifetimes", LIFETIMES)
    strategy = "noise_reuse_es --stretches 3"
    run = parsed(META.replace("openai_es:sigma=0.5,learning_rate=0.1", strategy))
    assert [t.iterations(run.stretches) for t in run.tasks] == [3, 6]
    assert run.env_steps == 4 * (3 + 6) * 64 // 3
    lives = run.lifetimes(3)
    assert [life.stretches for life in lives] == [3, 3]
    meta_params = Tiny().init(jax.random.key(0))
    start = jax.eval_shape(lives[0].init, meta_params, jax.random.key(0))
    assert start.observation.shape == (4, 4)
    assert start.params["actor"]["Dense_0"]["kernel"].shape == (4, 8)
    end, fitness = jax.eval_shape(lives[0].advance, meta_params, start)
    assert (fitness.shape, fitness.dtype) == ((), jnp.float32)
    assert jax.tree.structure(end) == jax.tree.structure(start)
    # An evaluation is of whole lifetimes.
    assert [life.stretches for life in run.lifetimes(1)] == [1, 1]
    pairs = parsed(META.replace("--seed 5", "--sampling pairs --lives 3"))
    assert pairs.env_steps == 3 * 2 * (2 + 4) * 64


def test_fitness_is_of_what_is_trained_on_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations are of the final return; runs of earlier versions were of it too."""
    asked: list[dict[str, Any]] = []

    def record(run: EvolutionRunConfig, stretches: int, **how: Any) -> list[Lifetimes]:
        asked.append(how)
        return functions(run, stretches)

    monkeypatch.setattr(EvolutionRunConfig, "lifetimes", record)
    run = parsed(f"{META} --fitness area")
    assert asked == [{"fitness": "area"}]
    assert callable(run.evaluate)
    assert asked[1:] == [{}]
    config = json.loads(json.dumps(run.config()))
    assert config.pop("fitness") == "area"
    check_same(Path("x"), parsed(META).config(), config)
    with pytest.raises(ValueError, match="it was run with fitness final, you asked for area"):
        check_same(Path("x"), run.config(), config)


def test_settings_may_be_drawn_for_each_life() -> None:
    text = META.replace("tiny:scale=2", "optim4rl:learning_rate=1e-3")
    text += " --randomise reward_scale=0.5..2 learning_rate=1e-3..1e-2"
    run = parsed(text)
    lives = run._trained_lifetimes()
    meta_params = run.learned.init(jax.random.key(0))
    drawn, learner = jax.eval_shape(lives[0].init, meta_params, jax.random.key(0))
    assert sorted(drawn) == ["learning_rate", "reward_scale"]
    (_, _), fitness = jax.eval_shape(lives[0].advance, meta_params, (drawn, learner))
    assert (fitness.shape, fitness.dtype) == ((), jnp.float32)
    config = json.loads(json.dumps(run.config()))
    assert config["randomised"] == {"reward_scale": [0.5, 2.0], "learning_rate": [1e-3, 1e-2]}
    assert parsed(META).config()["randomised"] is None


def test_published_returns_normalise() -> None:
    text = META.replace("--normalisers 10 500", "").replace("CartPole-v1 Acrobot-v1", "{}")
    both = parsed(text.format("Breakout-MinAtar Asterix-MinAtar"))
    assert [t.normaliser for t in both.tasks] == [50.08, 15.04]
    alone = parsed(text.format("CartPole-v1").replace("128 256", "128"))
    assert [t.normaliser for t in alone.tasks] == [1.0]
    changed = parsed(
        text.format("Breakout-MinAtar:max_steps_in_episode=50").replace("128 256", "128")
    )
    assert [t.normaliser for t in changed.tasks] == [1.0]


# Interruptions


class Interruption(BaseException):
    """Stands for a signal: nothing on the way up catches it."""


def interrupt(run: EvolutionRunConfig, path: Path, after: int, checkpoint_seconds: float) -> None:
    """Leaves a run that was interrupted after so many generations."""

    def stop(generation: Generation) -> None:
        if generation.number + 1 == after:
            raise Interruption

    with pytest.raises(Interruption):
        meta_train(run, path, on_generation=stop, checkpoint_seconds=checkpoint_seconds)


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9])
@pytest.mark.parametrize("after", [2, 6, 7])
def test_interrupted_run_ends_as_if_it_had_not_been(
    after: int, checkpoint_seconds: float, run: EvolutionRunConfig, finished: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    interrupt(run, path, after, checkpoint_seconds)
    if after == 7:  # killed before the weights were written
        (path / "meta_params.safetensors").unlink()
    notes: list[str] = []
    starts: list[int] = []
    meta_train(run, path, resume=True, on_note=notes.append, on_start=starts.append)
    assert_same(path, finished)
    assert starts == [after if checkpoint_seconds == 0.0 or after == 7 else 0]
    assert [note for note in notes if "starts again" not in note] == []


@pytest.mark.parametrize("damage", [flip_bit, cut_in_half])
def test_damaged_checkpoint_gives_way_to_the_one_before(
    damage: Callable[[Path], None], run: EvolutionRunConfig, finished: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    interrupt(run, path, 5, checkpoint_seconds=0.0)
    checkpoint = path / "checkpoints" / "4"
    files = [p for p in (checkpoint / "state").rglob("*") if p.is_file()]
    damage(max(files, key=lambda p: p.stat().st_size))
    notes: list[str] = []
    starts: list[int] = []
    meta_train(run, path, resume=True, on_note=notes.append, on_start=starts.append)
    assert notes == [
        f"the checkpoint {checkpoint} cannot be used: its checksum does not match; it is kept as "
        "damaged-4."
    ]
    assert starts == [4]
    assert_same(path, finished)


def test_damaged_results_are_made_again(
    run: EvolutionRunConfig, finished: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    meta_train(run, path, checkpoint_seconds=0.0)
    for name in ("meta_metrics.csv", "meta_params.safetensors", "best_meta_params.safetensors"):
        file = path / name
        file.write_bytes(file.read_bytes()[:-5])
        meta_train(run, path, resume=True, on_note=lambda note: None)
        assert_same(path, finished)


def test_results_that_were_changed_are_not_believed(
    run: EvolutionRunConfig, finished: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(finished, tmp_path / "run"))
    text = (path / "meta_metrics.csv").read_text()
    (path / "meta_metrics.csv").write_text(text.replace("1536,", "1537,"))
    with pytest.raises(Stopped, match=r"its meta_metrics.csv is not as it was logged"):
        meta_train(run, path, resume=True)


@pytest.mark.parametrize("strategy", ["openai_es", "persistent_es --stretches 2"])
def test_run_goes_on_with_any_number_of_devices(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where lifetimes that are cut lie spread over devices."""
    text = META.replace("openai_es:sigma=0.5,learning_rate=0.1", strategy)
    everything = jax.devices()

    def run_on(devices: int) -> EvolutionRunConfig:  # its trainer is made when it is used
        monkeypatch.setattr(jax, "devices", lambda *_: everything[:devices])
        return parsed(text)

    meta_train(run_on(2), tmp_path / "whole")
    interrupt(run_on(2), tmp_path / "cut", 4, checkpoint_seconds=0.0)
    for devices in (1, 4):
        path, starts = Path(shutil.copytree(tmp_path / "cut", tmp_path / f"{devices}")), list[int]()
        meta_train(run_on(devices), path, resume=True, on_start=starts.append, on_note=pytest.fail)
        assert starts == [4]
        for ours, theirs in zip(rows(path), rows(tmp_path / "whole"), strict=True):
            for name, value in theirs.items():
                one, two = (float(x or "nan") for x in (ours[name], value))
                np.testing.assert_allclose(one, two, rtol=1e-4, err_msg=name)


def test_prolonged_run_is_the_longer_one(
    run: EvolutionRunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, short = tmp_path / "run", META.replace("--generations 7", "--generations 3")
    cli.main(shlex.split(f"{short} --out {path}"))
    longer = META.replace("--generations 7", "--generations 6")
    cli.main(shlex.split(f"{longer} --out {tmp_path / 'longer'}"))
    cli.main(shlex.split(f"{longer} --out {path} --resume"))
    assert_same(path, tmp_path / "longer")
    config = json.loads((path / "config.json").read_text())
    assert (config["generations"], config["prolonged_at"]) == (6, [3])
    assert fails(capsys, f"{short} --out {path} --resume") == (
        f"cannot resume {path}: it was run with generations 6, you asked for 3."
    )


@pytest.mark.parametrize("strategy", ["openai_es", "persistent_es --stretches 2"])
def test_a_curriculum_is_resumed_across_its_change(strategy: str, tmp_path: Path) -> None:
    text = META.replace("openai_es:sigma=0.5,learning_rate=0.1", strategy)
    run = parsed(f"{text} --curriculum 4")
    meta_train(run, tmp_path / "whole")
    logged = rows(tmp_path / "whole")
    known = [[math.isfinite(float(row[f"task_fitness_{i}"])) for i in "01"] for row in logged]
    assert known == [[True, False]] * 4 + [[False, True]] * 3
    # 4 members on 128 steps of the first task, then on 256 of the second; or on half of each.
    each = np.array([512] * 4 + [1024] * 3) // run.stretches
    assert [int(row["env_steps"]) for row in logged] == np.cumsum(each).tolist()
    assert all(row["evaluation_1"] for row in logged if row["evaluation"])
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["curriculum"] == [4]
    for after in (3, 4, 5):
        path, starts = tmp_path / str(after), list[int]()
        interrupt(run, path, after, checkpoint_seconds=0.0)
        meta_train(run, path, resume=True, on_start=starts.append)
        assert starts == [after]
        assert_same(path, tmp_path / "whole")


def test_start_is_read_once(finished: Path, tmp_path: Path) -> None:
    """It may go while the run goes on; what it was stays with the run, and tells it."""
    start, path = tmp_path / "start.safetensors", tmp_path / "run"
    shutil.copy(finished / "meta_params.safetensors", start)
    content = start.read_bytes()
    text = META.replace("tiny:scale=2", f"tiny@{start}").replace(
        "--generations 7", "--generations 1"
    )
    run = parsed(text)
    start.unlink()
    meta_train(run, path)
    assert (path / "start.safetensors").read_bytes() == content
    config = json.loads((path / "config.json").read_text())
    assert config["start_sha256"] == hashlib.sha256(content).hexdigest()
    meta_train(parsed(text.replace(str(start), str(path / "start.safetensors"))), path, resume=True)
    others = jax.tree.map(lambda x: x + 1.0, optim.load_meta_params(path / "start.safetensors"))
    metadata = optim.load_metadata(path / "start.safetensors")
    optim.save_meta_params(tmp_path / "other.safetensors", others, metadata)
    other = text.replace(str(start), str(tmp_path / "other.safetensors"))
    with pytest.raises(ValueError, match="it was run with start_sha256 "):
        meta_train(parsed(other), path, resume=True)


def test_finished_run_is_left_alone(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    cli.main(shlex.split(f"{META} --out {finished} --resume"))
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*")} == before
    printed = capsys.readouterr()
    assert "tiny:scale=2 openai_es:sigma=0.5,learning_rate=0.1: done, generation 7 of 7" in (
        printed.err
    )
    assert printed.out == (
        f"Written: {finished}/meta_params.safetensors (last), best_meta_params.safetensors (best "
        "evaluated)\n"
    )


KILLED = """
import optim
from experiments.meta_training import architectures
from experiments.command_line import main as cli
from experiments.meta_training import training as meta_training
from hills import Tiny
architectures.ARCHITECTURES["tiny"] = Tiny
meta_training.meta_train.__kwdefaults__["checkpoint_seconds"] = 0.0
cli.main(sys.argv[1:])
"""


@pytest.mark.slow
def test_killed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Real learners, real kills, and now and then a checkpoint that is damaged as well."""
    strategy = "persistent_es:sigma=2 --stretches 2"  # whose checkpoints hold lives too
    text = META.replace("openai_es:sigma=0.5,learning_rate=0.1", strategy)
    text = text.replace("--generations 7", "--generations 120").replace(" --no-cache", "")
    text = text.replace("--steps 128 256", "--steps 1280")
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "XLA_FLAGS": QUICK_XLA}

    def start(path: Path) -> subprocess.Popen[str]:
        script = f"import sys; sys.path[:0] = {sys.path!r}\n{KILLED}"
        arguments = [*shlex.split(text), "--out", str(path), "--resume"]
        return subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    straight, killed = tmp_path / "straight", tmp_path / "killed"
    start(straight).communicate(timeout=500)
    draw, seen, damaged = random.Random(0), 0, None

    def count() -> int:
        file = killed / "meta_metrics.csv"
        return file.read_text().count("\n") if file.exists() else 0

    for kill in range(4):
        process = start(killed)
        # From its first new rows on, each with a checkpoint, the run takes some seconds.
        while process.poll() is None and count() < seen + 3:
            time.sleep(0.01)
        time.sleep(draw.uniform(0.0, 0.5))
        process.kill()
        _, errors = process.communicate(timeout=60)
        seen = count()
        assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
        # A kill may come before a checkpoint's checksum; then nothing says that it is damaged.
        points = [p for p in (killed / "checkpoints").iterdir() if p.name.isdecimal()]
        newest = max(points, key=lambda p: int(p.name))
        if kill == 2 and newest.name in json.loads((killed / "checkpoints.json").read_text()):
            damaged = newest
            files = [p for p in (damaged / "state").rglob("*") if p.is_file()]
            cut_in_half(max(files, key=lambda p: p.stat().st_size))
        if kill == 3 and damaged:
            assert f"{damaged} cannot be used: " in errors
    _, errors = start(killed).communicate(timeout=500)
    assert "generation 120 of 120" in errors
    logged = rows(killed)
    assert len(logged) == 120
    assert sum(float(row["fitness_best"]) > float(row["fitness_worst"]) for row in logged) > 90
    assert len({row["mean_norm"] for row in logged}) > 90
    assert_same(killed, straight)


# Refusals


@pytest.mark.parametrize(
    ("replaced", "by", "line"),
    [
        ("tiny:scale=2", "tinny", "unknown learned optimizer 'tinny'; the nearest is 'tiny'."),
        ("tiny:scale=2", "tiny:scal=2", "'tiny' has no option 'scal'; the nearest is 'scale'."),
        ("tiny:scale=2", "tiny:noise=0,scale=-2", "scale must not be negative, got -2."),
        ("tiny:scale=2", "tiny@breakout",
         "'tiny' has no packaged meta-parameters 'breakout', it has none; or give the path of a "
         "file."),
        ("--tasks CartPole-v1", "--tasks cartpol",
         "unknown environment 'cartpol'; the nearest is 'CartPole-v1'."),
        ("--tasks CartPole-v1 Acrobot-v1", "--tasks",
         "--tasks must name at least one environment."),
        ("--normalisers 10 500", "",
         "no return is published for 'CartPole-v1'; several tasks need --normalisers, "
         "one for each."),
        ("--normalisers 10 500", "--normalisers 10 500 1",
         "--normalisers must be one, or one for each of the 2 tasks; got 3."),
        ("--normalisers 10 500", "--normalisers 10 x",
         "--normalisers must be numbers; got '10 x'."),
        ("--normalisers 10 500", "--normalisers 10 0",
         "--normalisers must be in (0, inf); got 0.0."),
        ("--steps 128 256", "--steps 1.5", "--steps must be whole numbers; got '1.5'."),
        ("--steps 128 256", "--steps 0",
         "--steps must be in [1, 2147483647]; got 0."),
        ("--population 4", "--population 5", "--population must be even for openai_es; got 5."),
        ("--population 4", "--population x",
         "--population must be a whole number, at least 1; got 'x'."),
        ("--seed 5", "--seed -1", "--seed must be a whole number, from 0 to 4294967295; got '-1'."),
        ("--seed 5", "--method pipelin", "unknown method 'pipelin'; the nearest is 'pipeline'."),
        ("--seed 5", "--stretches 2",
         "--stretches must be 1 for openai_es; got 2."),
        ("--seed 5", "--randomise reward_scale=1",
         "--randomise must have the form KEY=LOW..HIGH; got 'reward_scale=1'."),
        ("--seed 5", "--randomise reward_scale=1..2 reward_scale=1..3",
         "--randomise must give reward_scale one range; got 'reward_scale=1..2 "
         "reward_scale=1..3'."),
        ("--seed 5", "--randomise reward_scale=2..1",
         "the range of reward_scale must be from above 0 to at least that; got 2..1."),
        ("--seed 5", "--randomise learning_rate=1e-3..1e-2",
         "'tiny' takes no learning rate; leave it out."),
        ("--seed 5", "--patience 0",
         "--patience must be a whole number, at least 1; got '0'."),
        ("--seed 5", "--fitness areas", "unknown fitness 'areas'; the nearest is 'area'."),
        ("--seed 5", "--sampling some", "--sampling must be one of all, pairs; got 'some'."),
        ("openai_es:sigma=0.5", "open_es:sigma=0.5",
         "unknown strategy 'open_es'; the nearest is 'openai_es'."),
        ("openai_es:sigma=0.5", "openai_es:sigm=0.5",
         "'openai_es' has no option 'sigm'; the nearest is 'sigma'."),
        ("openai_es:sigma=0.5", "openai_es:sigma=x", "sigma must be in (0, inf); got 'x'."),
        ("--seed 5", "--curriculum 0",
         "--curriculum must be one number for each of the 2 tasks but the first, rising from at "
         "least 1; got 0."),
        ("--seed 5", "--curriculum 1.5", "--curriculum must be whole numbers; got '1.5'."),
        ("--strategy openai_es:sigma=0.5,learning_rate=0.1",
         "--strategy persistent_es --stretches 2 --curriculum 3",
         "--curriculum must be multiples of the 2 stretches of a lifetime for persistent_es; "
         "got 3."),
        ("--strategy openai_es:sigma=0.5,learning_rate=0.1",
         "--method imitation --target adam --curriculum 3",
         "--curriculum must be left out where an optimizer is imitated; got 3."),
        ("num_envs=4", "anneal=true",
         "setting 'anneal' must be false: a learned optimizer sets its own steps."),
        ("num_envs=4", "num_env=4", "unknown setting 'num_env'; the nearest is 'num_envs'."),
        ("--seed 5", "--evaluate-evry 3",
         "unknown option '--evaluate-evry'; the nearest is '--evaluate-every'."),
        ("--seed 5", "--resume --overwrite", "--resume and --overwrite cannot be used together."),
        ("--optimizer tiny:scale=2", "", "meta-train needs --optimizer."),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    replaced: str, by: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replaced in META
    command = META.replace(replaced, by, 1)
    assert fails(capsys, f"{command} --out {tmp_path / 'run'}") == line
    assert not (tmp_path / "run").exists()


def test_another_run_is_not_resumed(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hint = f"{finished} exists already; use --resume to continue it or --overwrite to replace it."
    assert fails(capsys, f"{META} --out {finished}") == hint
    for old, new, difference in [
        ("sigma=0.5", "sigma=0.25", "evolution.sigma 0.5, you asked for 0.25"),
        ("128 256", "128 512", "tasks.1.steps 256, you asked for 512"),
    ]:
        other = META.replace(old, new)
        assert fails(capsys, f"{other} --out {finished} --resume") == (
            f"cannot resume {finished}: it was run with {difference}."
        )


def test_learned_optimizers_by_name() -> None:
    learned = LearnedOptimizer.parse("tiny:noise=0,scale=3")
    assert learned.architecture == Tiny(noise=0)
    assert learned.options == {"scale": 3}
    meta_params = {"rate": jnp.zeros(()), "sign": jnp.full((1,), -jnp.inf)}
    optimizer = learned.transform(meta_params)
    updates, _ = optimizer.update({"w": jnp.ones(2)}, optimizer.init({"w": jnp.ones(2)}))
    np.testing.assert_allclose(updates["w"], -3.0)
    optim4rl = LearnedOptimizer.parse("optim4rl:mlp_widths=4x6,learning_rate=1e-3")
    assert optim4rl.architecture == optim.Optim4RL(mlp_widths=(4, 6))
    with pytest.raises(ValueError, match="mlp_widths must be whole numbers joined by x"):
        LearnedOptimizer.parse("optim4rl:mlp_widths=x")
