"""Pipeline training from the command line: files, interruptions, the end of runs that fail."""

import csv
import json
import math
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hills import Tiny, task
from safetensors.numpy import load_file

from experiments.command_line import main as cli
from experiments.command_line.meta_train import MetaTrain
from experiments.command_line.progress import MetaGradientProgress
from experiments.meta_training import architectures
from experiments.meta_training.methods import meta_run
from experiments.meta_training.pipeline import PipelineOptions, PipelineRunConfig, returns_by_age
from experiments.meta_training.presets import PIPELINE_PRESETS
from experiments.meta_training.training import Generation, meta_train
from experiments.runs.directory import RunDirectory
from meta.task import Lifetimes
from meta.windows import Windows

RUN = (
    "meta-train --optimizer tiny:scale=2 --method pipeline --tasks CartPole-v1 Acrobot-v1 "
    "--normalisers 10 500 --generations 7 --evaluate-every 3 --evaluation-seeds 2 --seed 5 "
    "--no-cache --pipeline agents=4 window=2 reset_interval=4 age_bins=2 most_skipped=2 "
    "optimizer=adam:learning_rate=0.1 --learner a2c --reward-scales 1 10 "
    "--set num_envs=4 num_steps=16 widths=8x8"
)


def height(meta_params: Any) -> Any:
    return -jnp.square(meta_params["rate"]) - jnp.square(meta_params["sign"][0] + 1.0)


def lifetimes(run: PipelineRunConfig, stretches: int) -> list[Lifetimes]:
    return [task(lambda meta_params, key: height(meta_params), stretches)] * len(run.tasks)


def lives(run: PipelineRunConfig, worst: float = math.inf) -> list[Windows]:
    """A hill in the place of learners, with ages for returns, and a cliff."""

    def grow(meta_params: Any, life: Any) -> Any:
        return life | {"age": life["age"] + 1.0}

    def loss(meta_params: Any, life: Any) -> Any:
        metrics = {"episodes": jnp.ones((), jnp.int32), "return_sum": life["age"]}
        value = -height(meta_params) * (1.0 + 0.1 * life["luck"])
        value *= jnp.where(meta_params["rate"] > worst, jnp.nan, 1.0)
        return value, (grow(meta_params, life), metrics)

    def init(meta_params: Any, key: jax.Array) -> Any:
        return {"age": jnp.zeros(()), "luck": jax.random.normal(key)}

    return [Windows(init, grow, loss, 4)] * len(run.tasks)


WINDOWS = PipelineRunConfig.windows


@pytest.fixture(scope="module", autouse=True)
def tiny() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(architectures.ARCHITECTURES, "tiny", Tiny)
        patch.setattr(PipelineRunConfig, "lifetimes", lifetimes)
        patch.setattr(PipelineRunConfig, "windows", lives)
        yield


def parsed(text: str) -> PipelineRunConfig:
    command = cli._parse(shlex.split(f"{text} --out x"))
    assert isinstance(command, MetaTrain)
    run = meta_run(command)
    assert isinstance(run, PipelineRunConfig)
    return run


@pytest.fixture(scope="module")
def run() -> PipelineRunConfig:
    """Its trainer is compiled once for all tests."""
    return parsed(RUN)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, run: PipelineRunConfig) -> Path:
    """A run that nothing interrupted."""
    path = tmp_path_factory.mktemp("meta") / "run"
    notes: list[str] = []
    meta_train(run, path, on_note=notes.append)
    (note,) = notes
    assert note.startswith("a meta-iteration needs ")
    assert note.endswith(" MiB on each device.")
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same(path: Path, other: Path) -> None:
    for name in ("meta_metrics.csv", "returns_by_age.csv"):
        assert (path / name).read_bytes() == (other / name).read_bytes()
    for weights in ("meta_params.safetensors", "best_meta_params.safetensors"):
        one, two = (load_file(run / weights) for run in (path, other))
        assert one.keys() == two.keys()
        assert all(one[name].tobytes() == two[name].tobytes() for name in one)


def test_files(finished: Path) -> None:
    logged = rows(finished / "meta_metrics.csv")
    assert [int(row["generation"]) for row in logged] == list(range(7))
    # 4 agents on each of 2 tasks, 2 rollouts of 64 steps and a fresh one.
    assert [int(row["env_steps"]) for row in logged] == [4 * 2 * 3 * 64 * (i + 1) for i in range(7)]
    assert [bool(row["evaluation"]) for row in logged] == [False, False, True] * 2 + [True]
    losses = [float(row["meta_loss"]) for row in logged]
    assert losses[-1] < losses[0]
    for row in logged:
        assert row["skipped"] == "0"
        parts = [float(row[f"task_loss_{i}"]) for i in range(2)]
        np.testing.assert_allclose(float(row["meta_loss"]), np.mean(parts), rtol=1e-5)
        # All four ages in each, two in a bin.
        assert [row[f"episodes_by_age_{i}_{j}"] for i in "01" for j in "01"] == ["2"] * 4
        assert [float(row[f"return_by_age_0_{j}"]) for j in "01"] == [0.5, 2.5]
    config = json.loads((finished / "config.json").read_text())
    assert config["method"] == "pipeline"
    assert config["pipeline"]["optimizer"] == "adam:learning_rate=0.1"
    assert [config["tasks"][i]["iterations"] for i in "01"] == [8, 8]
    assert [config["tasks"][i]["reward_scale"] for i in "01"] == [1.0, 10.0]
    assert config["tasks"]["0"]["learner"] == "a2c"
    settings = config["tasks"]["0"]["settings"]
    assert [settings[key] for key in ("epochs", "minibatches", "clip")] == [1, 1, None]
    assert load_file(finished / "meta_params.safetensors").keys() == {"rate", "sign"}


def test_returns_by_age(finished: Path, tmp_path: Path) -> None:
    table = rows(finished / "returns_by_age.csv")
    assert len(table) == 2 * 4 * 2  # tasks, parts of the training, ages
    assert [row["environment"] for row in table] == ["CartPole-v1"] * 8 + ["Acrobot-v1"] * 8
    first = [table[0][key] for key in ("first_generation", "last_generation", "age_to", "episodes")]
    assert first == ["0", "1", "4.0", "4"]
    assert [float(row["return_mean"]) for row in table] == [0.5, 2.5] * 8
    cli.main(["report", str(finished), "--out", str(tmp_path / "report")])
    assert (tmp_path / "report" / "returns_by_age.png").read_bytes()[:4] == b"\x89PNG"
    assert "CartPole-v1" in (tmp_path / "report" / "returns_by_age.svg").read_text()

    drawn = (tmp_path / "report" / "meta_gradient.svg").read_text()
    assert "Signal to noise" in drawn
    assert "Cosine between tasks" in drawn

    # Means are over episodes, where there were any.
    metrics = tmp_path / "metrics.csv"
    header = "generation,episodes_by_age_0_0,return_by_age_0_0"
    metrics.write_text(f"{header}\n0,1,5.0\n1,3,1.0\n2,0,nan\n3,2,4.0\n4,0,nan\n")
    means = [row[-1] for row in returns_by_age(metrics, tasks=1, bins=1)]
    np.testing.assert_array_equal(means, [2.0, math.nan, 4.0, math.nan])


def test_ages_in_the_table_are_rounded_once(tmp_path: Path) -> None:
    """Ten bins of a life of 24 iterations: 7.2, not 7.199999999999999."""
    text = RUN.replace("reset_interval=4 age_bins=2", "reset_interval=12 age_bins=10")
    names = [f"{name}_by_age_{i}_{b}" for name in ("episodes", "return") for i in "01"
             for b in range(10)]  # fmt: skip
    header = ",".join(["generation", *names])
    (tmp_path / "meta_metrics.csv").write_text(f"{header}\n0{',1' * len(names)}\n")
    parsed(text).on_point(tmp_path)
    table = rows(tmp_path / "returns_by_age.csv")[:10]
    assert [row["age_from"] for row in table] == [repr(24 * b / 10) for b in range(10)]
    assert [row["age_to"] for row in table] == [repr(24 * b / 10) for b in range(1, 11)]


def test_what_the_meta_gradient_is_worth_is_logged(finished: Path) -> None:
    """The tasks are the same but for luck: their gradients agree, and luck is the noise."""
    for row in rows(finished / "meta_metrics.csv"):
        for name in ("gradient_snr", "task_gradient_snr_0", "task_gradient_snr_1"):
            assert float(row[name]) > 1.0
        assert float(row["gradient_snr_over_tasks"]) > 1.0
        for name in ("task_cosine_mean", "task_cosine_least"):
            np.testing.assert_allclose(float(row[name]), 1.0, atol=1e-6)


class Interruption(BaseException):
    """Stands for a signal: nothing on the way up catches it."""


@pytest.mark.parametrize("after", [1, 5])
def test_interrupted_run_ends_as_if_it_had_not_been(
    after: int, run: PipelineRunConfig, finished: Path, tmp_path: Path
) -> None:
    def stop(generation: Generation) -> None:
        if generation.number + 1 == after:
            raise Interruption

    path, starts = tmp_path / "run", list[int]()
    with pytest.raises(Interruption):
        meta_train(run, path, on_generation=stop, on_note=lambda n: None, checkpoint_seconds=0.0)
    meta_train(run, path, resume=True, on_note=lambda n: None, on_start=starts.append)
    assert starts == [after]
    assert_same(path, finished)


CURRICULUM = RUN.replace("--generations 7", "--generations 7 --curriculum 4")


@pytest.fixture(scope="module")
def by_curriculum(tmp_path_factory: pytest.TempPathFactory) -> tuple[PipelineRunConfig, Path]:
    """A run of one task after the other."""
    run, path = parsed(CURRICULUM), tmp_path_factory.mktemp("meta") / "run"
    meta_train(run, path, on_note=lambda note: None)
    return run, path


def test_files_of_a_curriculum(by_curriculum: tuple[PipelineRunConfig, Path]) -> None:
    _, path = by_curriculum
    assert json.loads((path / "config.json").read_text())["curriculum"] == [4]
    for number, row in enumerate(rows(path / "meta_metrics.csv")):
        now = int(number >= 4)
        for name in ("task_loss", "task_gradient_norm", "task_gradient_snr", "return_by_age"):
            tail = "_0" if name == "return_by_age" else ""
            known = [math.isfinite(float(row[f"{name}_{task}{tail}"])) for task in (0, 1)]
            assert known == [now == 0, now == 1]
        assert row["meta_loss"] == row[f"task_loss_{now}"]
        assert int(row["env_steps"]) == 4 * 3 * 64 * (number + 1)
        if row["evaluation"]:  # of all tasks in any case
            assert all(math.isfinite(float(row[f"evaluation_{task}"])) for task in (0, 1))
    table = rows(path / "returns_by_age.csv")
    assert [row["episodes"] for row in table if row["task"] == "0"][-2:] == ["0", "0"]
    assert [row["episodes"] for row in table if row["task"] == "1"][:2] == ["0", "0"]


@pytest.mark.parametrize("after", [3, 4, 5])
def test_a_curriculum_is_resumed_across_its_change(
    after: int, by_curriculum: tuple[PipelineRunConfig, Path], tmp_path: Path
) -> None:
    run, whole = by_curriculum
    path, starts = tmp_path / "run", list[int]()

    def stop(generation: Generation) -> None:
        if generation.number + 1 == after:
            raise Interruption

    with pytest.raises(Interruption):
        meta_train(run, path, on_generation=stop, on_note=lambda n: None, checkpoint_seconds=0.0)
    meta_train(run, path, resume=True, on_note=lambda n: None, on_start=starts.append)
    assert starts == [after]
    assert_same(path, whole)


def test_runs_of_earlier_versions_are_resumed(
    run: PipelineRunConfig, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They know nothing of a curriculum, and keep the columns that they began with."""
    new = ("gradient_snr", "gradient_snr_over_tasks", "task_gradient_snr", "task_cosine_mean",
           "task_cosine_least")  # fmt: skip
    path = tmp_path / "run"

    def stop(generation: Generation) -> None:
        if generation.number + 1 == 4:
            raise Interruption

    def step(state: Any) -> Any:
        state, metrics = run.trainer.step(state)
        return state, {name: value for name, value in metrics.items() if name not in new}

    old = parsed(RUN)
    vars(old)["trainer"] = run.trainer._replace(step=step)
    with pytest.raises(Interruption):
        meta_train(old, path, on_generation=stop, on_note=lambda n: None, checkpoint_seconds=0.0)
    config = json.loads((path / "config.json").read_text())
    assert config.pop("curriculum") is None
    (path / "config.json").write_text(json.dumps(config))
    meta_train(run, path, resume=True, on_note=lambda n: None)
    ours, theirs = (rows(where / "meta_metrics.csv") for where in (path, finished))
    assert not set(ours[0]) & {"gradient_snr", "task_gradient_snr_0", "task_cosine_mean"}
    assert ours == [{name: row[name] for name in ours[0]} for row in theirs]
    with pytest.raises(ValueError, match=r"with curriculum none, you asked for 4\.$"):
        meta_train(parsed(CURRICULUM), path, resume=True)


def test_windows_of_several_lengths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A life is cut by the longest; each has a rollout of its own."""
    texts = RUN.replace("window=2", "window=1,2,4"), RUN.replace("window=2", "window=4")
    run, longest = map(parsed, texts)
    assert run.options.window == (1, 2, 4)
    assert [task.iterations(run.parts) for task in run.tasks] == [16, 16]
    assert run.env_steps == 4 * 2 * (4 + 3) * 64
    assert run.config()["pipeline"]["window"] == [1, 2, 4]
    assert longest.config()["pipeline"]["window"] == 4
    monkeypatch.undo()
    monkeypatch.setattr(PipelineRunConfig, "windows", WINDOWS)
    monkeypatch.setitem(architectures.ARCHITECTURES, "tiny", Tiny)
    assert [life.number for life in run.windows()] == [4, 4]
    with RunDirectory.create(
        tmp_path / "run", run.config(), resume=False, overwrite=False, on_note=print
    ):
        pass
    with pytest.raises(SystemExit):
        cli.main(shlex.split(f"{texts[1]} --out {tmp_path / 'run'} --resume"))
    assert "with pipeline.window 1,2,4, you asked for 4." in capsys.readouterr().err


def test_finished_run_is_left_alone(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(shutil.copytree(finished, tmp_path / "run"))
    cli.main(shlex.split(f"{RUN} --out {path} --resume"))
    printed = capsys.readouterr()
    assert "tiny:scale=2 pipeline: done, meta-iteration 7 of 7" in printed.err
    assert_same(path, finished)


def test_run_without_finite_gradients_is_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rate climbs from -3 by 0.1 in each step, to where there are no gradients."""
    monkeypatch.setattr(PipelineRunConfig, "windows", lambda run: lives(run, worst=-2.85))
    path = tmp_path / "run"
    with pytest.raises(SystemExit) as stop:
        cli.main(shlex.split(f"{RUN} --out {path}"))
    assert stop.value.code == 1
    printed = capsys.readouterr().err
    assert printed.splitlines()[-1] == (
        "rl-optim: the meta-gradient was not finite 2 times in a row; the meta-parameters from "
        f"before are in {path}/meta_params.safetensors; first_order=true or a shorter window may "
        "help."
    )
    assert "pipeline: stopped, meta-iteration" in printed
    logged = rows(path / "meta_metrics.csv")
    assert [row["skipped"] for row in logged] == ["0"] * (len(logged) - 2) + ["1", "2"]
    rate = load_file(path / "meta_params.safetensors")["rate"]
    assert -2.85 < rate < -2.7


def test_display() -> None:
    progress = MetaGradientProgress(
        optimizer="optim4rl", method="pipeline", steps=10, done=3, state="training"
    )
    nothing = "\N{EN DASH}"
    assert progress.cells()[2:6] == ["3 of 10", nothing, nothing, nothing]
    metrics = {
        "meta_loss": np.float32(0.5),
        "gradient_norm": np.float32(0.25),
        "skipped": np.int32(2),
        "episodes_by_age": np.array([[1, 0, 2], [1, 0, 0]]),
        "return_by_age": np.array([[1.0, math.nan, 3.0], [2.0, math.nan, math.nan]]),
    }
    progress.take_metrics(metrics)
    assert progress.by_age() == f"1.5 {nothing} 3"
    progress.take_metrics(metrics | {"return_by_age": np.array([[3.0, math.nan, 3.0]] * 2)})
    assert progress.by_age() == f"{np.mean([3.9 / 1.9, 4.8 / 1.9]):.3g} {nothing} 3"
    assert progress.line() == (
        "optim4rl pipeline: training, meta-iteration 3 of 10, meta-loss 0.5, gradient norm 0.25, "
        f"return by age {progress.by_age()}, 2 skipped, evaluation {nothing}"
    )


def test_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Environment steps of a meta-iteration are those of the authors."""
    start = "meta-train --optimizer {} --method pipeline --preset "
    catch = parsed(start.format("optim4rl") + "catch --pipeline agents=32 --set widths=32")
    assert (catch.env_steps, catch.generations) == (3_200, 78)
    assert catch.optimizer == "optim4rl:grad_clip=none"
    assert [t.iterations(catch.parts) for t in catch.tasks] == [128]
    assert (catch.tasks[0].learning_rate, catch.tasks[0].settings.widths) == (1e-3, (32,))
    six = parsed(start.format("open") + "gridworlds --steps 800")
    assert (six.env_steps, six.generations) == (6 * 51_200, 585)
    assert (six.optimizer, six.tasks[0].learning_rate) == ("open", None)
    assert [t.reward_scale for t in six.tasks] == [1e3, 1e2, 1e2, 1e1, 1e1, 1.0]
    assert [t.iterations(six.parts) for t in six.tasks] == [40] * 6
    assert {t.learner for t in six.tasks} == {"a2c"}
    ppo = parsed(start.format("open") + "gridworlds --learner ppo")
    assert {t.learner for t in ppo.tasks} == {"ppo"}
    task = six.tasks[3].task(six.parts)
    assert (task.config.clip, task.config.normalize_advantages) == (math.inf, False)
    assert task.config.reward_scale == 10.0
    assert set(PIPELINE_PRESETS) == {
        *("flip", "permute", "friction"),
        *("small", "catch", "gridworlds", "small_dense_long", "big_dense_long", "ant", "humanoid"),
    }
    small = parsed(start.format("optim4rl") + "small")
    assert [(t.environment, t.normaliser) for t in small.tasks] == [
        ("Catch-bsuite", 1.0), ("small_dense_short", 2.4), ("small_dense_long", 11.0)
    ]  # fmt: skip
    assert [t.iterations(small.parts) for t in small.tasks] == [256] * 3
    for given in small.tasks:
        assert (given.reward_scale, given.learning_rate) == (100.0, 0.01)
        assert (given.settings.value_weight, given.settings.num_envs) == (0.01, 16)


@pytest.mark.parametrize("name", PIPELINE_PRESETS)
def test_every_preset_is_a_run(name: str) -> None:
    preset = PIPELINE_PRESETS[name]
    run = parsed(f"meta-train --optimizer star --method pipeline --preset {name}")
    assert [task.environment for task in run.tasks] == list(preset.tasks)
    assert run.generations == preset.generations
    assert str(run.tasks[0].learning_rate) == str(float(preset.learning_rates[0]))


def test_options() -> None:
    texts = ["agents=1e2", "max_norm=none", "first_order=true", "schedule=newborn", "meta_steps=5"]
    assert PipelineOptions.parse(texts) == PipelineOptions(
        agents=100, max_norm=None, first_order=True, schedule="newborn", meta_steps=5
    )


@pytest.mark.parametrize(
    ("replaced", "by", "line"),
    [
        ("agents=4", "agent=4",
         "unknown setting of --pipeline 'agent'; the nearest is 'agents'."),
        ("agents=4", "agents", "a setting of --pipeline must have the form key=value; "
         "got 'agents'."),
        ("agents=4", "agents=x", "setting 'agents' of --pipeline must be a whole number; got 'x'."),
        ("window=2", "window=0", "window must be at least 1; got 0."),
        ("window=2", "window=4,x", "setting 'window' of --pipeline must be a whole number or "
         "several joined by commas, e.g. 4,8; got '4,x'."),
        ("window=2", "window=2,0", "window must be at least 1; got 2,0."),
        ("window=2", "window=4,2", "window must be one length or several that rise; got 4,2."),
        ("--seed 5", "--curriculum 3 5", "--curriculum must be one number for each of the 2 tasks "
         "but the first, rising from at least 1; got 3 5."),
        ("--seed 5", "--curriculum x", "--curriculum must be whole numbers; got 'x'."),
        ("window=2", "max_norm=x",
         "setting 'max_norm' of --pipeline must be a number or none; got 'x'."),
        ("optimizer=adam:learning_rate=0.1", "optimizer=adm:learning_rate=0.1",
         "unknown optimizer 'adm'"),
        ("--learner a2c", "--learner a3c", "unknown learner 'a3c'; the nearest is 'a2c'."),
        ("--learner a2c", "--steps 100",
         "--steps and the reset_interval of --pipeline cannot be used together."),
        ("--learner a2c", "--learning-rates 1e-3",
         "'tiny' takes no learning rate; leave it out."),
        ("--set ", "--set epochs=4 ",
         "a2c makes one epoch of one minibatch without clipping; got epochs=4."),
        ("--set ", "--set epochs=1 minibatches=4 ",
         "a2c makes one epoch of one minibatch without clipping; got minibatches=4."),
        ("--set ", "--set clip=0.2 ",
         "a2c makes one epoch of one minibatch without clipping; got clip=0.2."),
        ("--learner a2c", "--preset cath", "unknown preset 'cath'; the nearest is 'catch'."),
        ("--method pipeline", "--preset catch", "--preset needs --method pipeline."),
        ("--method pipeline", "", "--pipeline needs --method pipeline."),
        ("--reward-scales 1 10", "--reward-scales 0",
         "--reward-scales must be in (0, inf); got 0.0."),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    replaced: str, by: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replaced in RUN
    with pytest.raises(SystemExit) as stop:
        cli.main(shlex.split(f"{RUN.replace(replaced, by, 1)} --out {tmp_path / 'run'}"))
    assert stop.value.code == 2
    (printed,) = capsys.readouterr().err.splitlines()
    assert printed.removeprefix("rl-optim: ").startswith(line)
    assert not (tmp_path / "run").exists()
