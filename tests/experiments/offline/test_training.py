"""Offline comparisons from the command line: files, interruptions, collapse, refusals."""

import csv
import dataclasses
import hashlib
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
import quick
from run_directories import results

import agents
import optim
from agents.offline.pars import PARSConfig
from experiments.command_line.main import _parse, main
from experiments.command_line.offline import Offline
from experiments.offline import training
from experiments.offline.algorithms import (
    ALGORITHMS,
    adam_numbers,
    make_learner,
    resolve,
    settings_of,
)
from experiments.offline.datasets import Data
from experiments.offline.presets import OFFLINE_PRESETS
from experiments.offline.references import D4RL_RETURNS
from experiments.offline.training import OfflineRun, train_offline
from experiments.reports.offline import critic_of, critic_panels, summarise_offline
from experiments.runs.directory import RunDirectory
from experiments.runs.reading import load_runs

h5py = pytest.importorskip("h5py")

PENDULUM = "Pendulum-v1:max_steps_in_episode=5"
TINY = "actor_widths=8x8 critic_widths=8x8 batch_size=8"
OFFLINE = (
    "offline --algorithm td3_bc --dataset {data} --env Pendulum-v1:max_steps_in_episode=5 "
    "--critic-optimizer adam --critic-optimizer sgd:learning_rate=1e4 --seeds 3 --steps 24 "
    f"--evaluations 4 --evaluation-episodes 2 --no-cache --set {TINY}"
)


def write(path: Path, **changes: np.ndarray) -> Path:
    """Random transitions of Pendulum's sizes in D4RL's layout."""
    draw = np.random.default_rng(0)
    arrays = {
        "observations": draw.normal(size=(60, 3)),
        "actions": draw.uniform(-1, 1, (60, 1)),
        "rewards": draw.normal(size=60),
        "terminals": np.arange(60) % 20 == 19,
        "timeouts": np.zeros(60, bool),
    } | changes
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file[key] = array
    return path


@pytest.fixture(scope="module", autouse=True)
def quick_compilation() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "jit", quick.quick_jit)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "toy.hdf5")


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("offline") / "runs"
    main([*shlex.split(OFFLINE.format(data=data)), "--out", str(out)])
    return out


def run_of(
    data: Path,
    algorithm: str = "td3_bc",
    assignments: str = "",
    env: str | None = None,
    **changes: object,
) -> OfflineRun:
    settings = settings_of(algorithm, [*TINY.split(), *assignments.split()])
    given = {"steps": 4, "seeds": (0, 1), "critic_optimizer": "adam"} | changes
    where = Data(str(data), environment=env)
    return OfflineRun(algorithm, where, settings=settings, **given)  # type: ignore[arg-type]


def run_from(command: str) -> OfflineRun:
    """The run of the first optimizer that a command asks for."""
    parsed = _parse(shlex.split(command))
    assert isinstance(parsed, Offline)
    return parsed.filled().run_of(parsed.critic_optimizer[0])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def fails(capsys: pytest.CaptureFixture[str], command: str) -> str:
    """The one line that a command which is refused prints."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(command))
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("rl-optim: ")


# Files


def test_files(finished: Path, data: Path) -> None:
    path = finished / "td3_bc" / "adam"
    logged = rows(path / "metrics.csv")
    assert [int(row["step"]) for row in logged[::3]] == list(range(2, 25, 2))
    assert [row["seed"] for row in logged[:3]] == ["0", "1", "2"]
    judged = [bool(row["episode_return"]) for row in logged[::3]]
    assert judged == [False, False, True] * 4
    assert all(np.isfinite(float(row["critic_loss"])) for row in logged)
    config = json.loads((path / "config.json").read_text())
    assert config["resolved_optimizer"] == "adam:learning_rate=0.0003,eps=0.0001"
    assert config["other_optimizers"] == {"actor": "adam:learning_rate=0.0003"}
    assert config["collapse_line"] == pytest.approx(
        200.0 * np.abs(Data(str(data)).transitions.reward).max()
    )
    assert config["transitions"] == 60
    assert config["dataset"] == "toy"
    assert len(rows(path / "evaluation.csv")) == 3


def test_collapse_is_named(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["report", str(finished)])
    shown = capsys.readouterr().out
    summary = {row["optimizer"]: row for row in rows(finished / "summary.csv")}
    assert summary["adam"]["collapsed_seeds"] == "0"
    exploded = summary["sgd:learning_rate=1e4"]
    assert exploded["collapsed_seeds"] == "3"
    sentence = "Collapsed: sgd:learning_rate=1e4 with td3_bc on toy, 3 of 3 seeds, the first at"
    assert sentence in " ".join(shown.split())
    assert sentence in (finished / "summary.md").read_text()
    runs = load_runs([finished])
    quantity, loss = critic_panels(runs)
    assert (quantity.y_label, loss.y_label) == ("Mean |Q|", "Critic loss")
    assert quantity.reference == float(exploded["collapse_line"])
    assert quantity.reference_name == "collapse line"
    labels = [curve.label for curve in quantity.curves]
    assert labels == ["adam", "sgd:learning_rate=1e4 (collapsed 3 of 3)"]
    assert "collapse line" in (finished / "critic.svg").read_text()
    assert (finished / "curves.png").exists()


def test_numbers_of_the_summary(finished: Path) -> None:
    (run,) = (run for run in load_runs([finished]) if run.label == "adam")
    (row,) = summarise_offline([run])
    final = [float(r["mean_abs_q"]) for r in rows(run.path / "metrics.csv")[-3:]]
    assert row.mean_abs_q_iqm == pytest.approx(np.mean(final))
    assert row.mean_abs_q_iqm_low <= row.mean_abs_q_iqm <= row.mean_abs_q_iqm_high
    last = [float(r["episode_return"]) for r in rows(run.path / "metrics.csv")[-3:]]
    assert row.return_iqm == pytest.approx(np.mean(last))
    assert np.isnan(row.score_iqm)  # no reference returns
    critic = critic_of(run)
    assert critic.mean_abs_q.shape == (3, 12)
    assert not critic.collapsed.any()


def test_a_seed_is_the_same_whatever_the_optimizer_or_company(data: Path, tmp_path: Path) -> None:
    for name, seeds in (("alone", (1,)), ("together", (0, 1, 2))):
        train_offline(run_of(data, seeds=seeds), tmp_path / name, on_note=lambda note: None)
    alone = rows(tmp_path / "alone" / "metrics.csv")
    together = [r for r in rows(tmp_path / "together" / "metrics.csv") if r["seed"] == "1"]
    for one, two in zip(alone, together, strict=True):
        for key in ("mean_abs_q", "critic_loss", "actor_loss"):
            np.testing.assert_allclose(float(one[key]), float(two[key]), rtol=1e-5)


@pytest.mark.parametrize(
    "algorithm",
    ["iql", *(pytest.param(name, marks=pytest.mark.slow) for name in ("pars", "rebrac", "sqog"))],
)
def test_every_algorithm_runs(algorithm: str, data: Path, tmp_path: Path) -> None:
    said: list[str] = []
    train_offline(run_of(data, algorithm), tmp_path / "run", on_note=said.append)
    assert said == ["no returns, only the critic: toy names no environment; give one with --env."]
    logged = rows(tmp_path / "run" / "metrics.csv")
    assert all(np.isfinite(float(row["mean_abs_q"])) for row in logged)
    assert rows(tmp_path / "run" / "evaluation.csv")[0]["episode_return"] == ""
    (row,) = summarise_offline(load_runs([tmp_path]))
    assert row.finished
    assert np.isnan(row.return_iqm)


def test_diagnostics_on_request(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "jit", quick._jit)  # the other one cannot be differentiated
    run = run_of(data, critic_optimizer="adamo", steps=6, seeds=(0,), diagnostics_every=4)
    train_offline(run, tmp_path / "run", on_note=lambda note: None)
    logged = rows(tmp_path / "run" / "metrics.csv")
    layers = {name for name in logged[0] if name.startswith("orthogonality ")}
    assert len(layers) == 6  # of two critics
    for name in {"exact_radius", "gram_bound", "step_margin", *layers}:
        assert [bool(row[name]) for row in logged] == [False, True, False]
        assert float(logged[1][name]) > 0
    assert 0.9 < float(logged[1]["exact_radius"]) < 1.1


def test_settings_and_defaults() -> None:
    assert settings_of("td3_bc")["normalize_observations"] is True
    assert settings_of("rebrac", ["critic_layer_norm=false"])["critic_layer_norm"] is False
    assert str(resolve("adamo:kappa=1", 1e-3, critic=True)).endswith("eps=0.0001,kappa=1")
    assert adam_numbers(resolve("adamw:b1=0.5", 1e-3, critic=True))["b1"] == 0.5


# Actions, rewards, reference returns


@pytest.mark.parametrize(
    ("environment", "observations", "bounds", "actions"),
    [
        # The environment takes [-2, 2].
        ("Pendulum-v1", 3, (-0.5, 1.5), [-0.5, 0.5, 1.5]),
        ("Pendulum-v1", 3, (-4.0, 4.0), [-2.0, 0.0, 2.0]),
        ("Pendulum-v1", 3, (-2.0, 2.0), [-2.0, 0.0, 2.0]),
        # It takes [-3, 3], and is given them scaled to [-1, 1].
        ("InvertedPendulum-v5", 4, (-1.5, 0.0), [-0.5, -0.25, 0.0]),
        ("InvertedPendulum-v5", 4, (0.0, 6.0), [0.0, 1.0, 1.0]),
        ("InvertedPendulum-v5", 4, (-3.0, 3.0), [-1.0, 0.0, 1.0]),
    ],
)
def test_actions_are_taken_back_by_the_bounds_of_the_data(
    environment: str,
    observations: int,
    bounds: tuple[float, float],
    actions: list[float],
    tmp_path: Path,
) -> None:
    if environment == "InvertedPendulum-v5":
        pytest.importorskip("gymnasium.envs.mujoco")
    path = write(
        tmp_path / "toy.hdf5",
        observations=np.zeros((60, observations)),
        actions=np.full((60, 1), sum(bounds) / 2.0),
    )
    found = Data(str(path), environment=environment, action_bounds=bounds)
    policy = found.acting(lambda key, observation: jax.numpy.array([[-1.0], [0.0], [1.0]]))
    given = policy(jax.random.key(0), jax.numpy.zeros((3, observations)))
    np.testing.assert_array_equal(np.asarray(given)[:, 0], np.float32(actions))


def test_action_bounds_from_the_command_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = write(tmp_path / "wide.hdf5", actions=np.full((60, 1), 1.5))
    command = OFFLINE.format(data=wide) + f" --out {tmp_path / 'x'}"
    assert fails(capsys, command) == (
        f"{wide}: actions must be in [-1, 1], got 1.5 in transition 0, dimension 0; give "
        "--action-bounds LOW HIGH if the bounds are others, or --clip-actions to clip."
    )
    line = fails(capsys, f"{command} --action-bounds -1.2 1.2")
    assert "actions must be in [-1.2, 1.2], got 1.5" in line
    run = run_from(f"{command} --action-bounds -2 2")
    np.testing.assert_array_equal(run.data.transitions.action, 0.75)
    run = run_from(f"{command} --clip-actions")
    np.testing.assert_array_equal(run.data.transitions.action, 1.0)
    unbounded = tmp_path / "unbounded" / "main_data.hdf5"
    unbounded.parent.mkdir()
    with h5py.File(unbounded, "w") as file:
        arrays = {"observations": np.zeros((3, 3)), "actions": np.zeros((2, 1))}
        arrays |= {key: np.zeros(2) for key in ("rewards", "terminations", "truncations")}
        for key, array in arrays.items():
            file[f"episode_0/{key}"] = array
    space = {"type": "Box", "low": [-np.inf], "high": [np.inf]}
    (unbounded.parent / "metadata.json").write_text(json.dumps({"action_space": space}))
    line = fails(capsys, OFFLINE.format(data=unbounded) + f" --out {tmp_path / 'x'}")
    assert line.endswith("got low [-inf] and high [inf]; give --action-bounds LOW HIGH.")


def test_rewards_are_changed_for_every_algorithm(data: Path) -> None:
    reward = np.asarray(Data(str(data)).transitions.reward)
    for algorithm in ("td3_bc", "iql", "pars"):
        run = run_of(data, algorithm, "reward_scale=3 reward_shift=-0.5 discount=0.9")
        np.testing.assert_allclose(run.transitions.reward, 3.0 * reward - 0.5, rtol=1e-6)
        assert run.collapse_line == pytest.approx(20.0 * np.abs(3.0 * reward - 0.5).max())
        assert run.config()["settings"]["reward_shift"] == -0.5
        np.testing.assert_array_equal(run.data.transitions.reward, reward)
    assert run_of(data).transitions.reward is Data(str(data)).transitions.reward
    assert run_of(data, "pars").transitions.reward[0] == np.float32(100.0) * reward[0]


def test_rewards_normalised_by_returns(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reward = np.asarray(Data(str(data)).transitions.reward)
    returns = reward.reshape(3, 20).sum(axis=1)
    change = 1000.0 / (returns.max() - returns.min())
    run = run_of(data, "iql", "reward_normalisation=returns")
    np.testing.assert_allclose(run.transitions.reward, change * reward, rtol=1e-5)
    unknown = write(tmp_path / "unknown.hdf5", terminals=np.zeros(60, bool))
    alike = write(tmp_path / "alike.hdf5", rewards=np.ones(60))
    for path in (unknown, alike):
        command = (
            OFFLINE.format(data=path) + f" reward_normalisation=returns --out {tmp_path / 'x'}"
        )
        assert fails(capsys, command) == (
            "setting 'reward_normalisation' must be none unless the data hold whole episodes of "
            "different returns; got returns."
        )


def test_pars_is_given_rewards_that_are_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own scaling would be a second one; the smallest reward is changed as all are."""
    settings = settings_of("pars", ["reward_scale=50", "reward_shift=3", "min_reward=-2"])
    specs = {name: resolve("adam", 1e-3, critic=False) for name in ("actor", "critic")}
    configs: list[PARSConfig] = []
    entry = dataclasses.replace(ALGORITHMS["pars"], build=lambda *args: configs.append(args[2]))
    monkeypatch.setitem(ALGORITHMS, "pars", entry)
    make_learner("pars", 3, 1, settings, specs, 1, 2, None)
    assert [(config.reward_scale, config.min_reward) for config in configs] == [(1.0, -97.0)]


def test_reference_returns(data: Path, tmp_path: Path) -> None:
    command = OFFLINE.format(data=data) + f" --out {tmp_path / 'x'} --reference-returns"
    assert np.isnan(Data(str(data)).normalised(50.0))
    run = run_from(f"{command} -20 80")
    assert run.config()["reference_returns"] == [-20.0, 80.0]
    assert run.data.normalised(30.0) == 50.0
    run = run_from(f"{command} hopper")
    assert run.config()["reference_returns"] == [-20.272305, 3234.3]
    assert all(low < high for low, high in D4RL_RETURNS.values())


# Optimizers


def test_a_learned_optimizer_sets_its_own_steps() -> None:
    """No learning rate from outside unless its text names one."""
    for text in ("open@breakout", "optim4rl@small", "optim4rl@small:learning_rate=0.1"):
        for critic in (True, False):
            assert str(resolve(text, 3e-4, critic)) == text


@pytest.mark.parametrize("optimizer", ["open@breakout", "optim4rl@small"])
def test_learned_optimizers_of_every_network(optimizer: str, data: Path, tmp_path: Path) -> None:
    run = run_of(
        data,
        "iql",
        critic_optimizer=optimizer,
        actor_optimizer=optimizer,
        value_optimizer=optimizer,
        steps=1,
        seeds=(0,),
        learning_rate=1.0,  # of critic optimizers that take one
    )
    config = run.config()
    assert config["resolved_optimizer"] == optimizer
    assert config["learning_rate"] is None
    assert config["other_optimizers"] == {"actor": optimizer, "value": optimizer}
    train_offline(run, tmp_path / "run", on_note=lambda note: None)
    logged = rows(tmp_path / "run" / "metrics.csv")
    assert all(np.isfinite(float(row["critic_loss"])) for row in logged)
    assert {row["diverged"] for row in logged} == {"0"}


def test_other_weights_are_not_resumed(data: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    configs = []
    for seed in (0, 1):
        meta_params = quick.quick_jit(optim.OPEN().init)(jax.random.key(seed))
        optim.save_meta_params(
            weights, meta_params, {"architecture": "open", "training_tasks": "none"}
        )
        configs.append(run_of(data, actor_optimizer=f"open@{weights}").config())
    differing = {key for key in configs[0] if configs[0][key] != configs[1][key]}
    assert differing == {"actor_weights_sha256"}


# Presets


def test_zero_is_not_taken_for_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    command = Offline(preset="r1", critic_learning_rate=0.0, steps=0, seeds=0, subset=0).filled()
    given = (command.critic_learning_rate, command.steps, command.seeds, command.subset)
    assert given == (0.0, 0, 0, 0)
    line = fails(capsys, "offline --preset r1 --critic-learning-rate 0")
    assert line == "--critic-learning-rate must be a number above 0; got '0'."


@pytest.mark.parametrize("name", OFFLINE_PRESETS)
def test_presets_are_valid(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    command = Offline(preset=name).filled()
    preset = OFFLINE_PRESETS[name]
    assert list(command.paths().values()) == list(preset.critic_optimizers)
    settings_of(preset.algorithm, preset.settings)
    assert command.dataset == f"runs/{name}/data/{preset.collection.name}"


def test_policies_are_kept_with_the_bounds_of_the_data(data: Path, tmp_path: Path) -> None:
    run = run_of(data)
    train_offline(run, tmp_path / "run", on_note=lambda note: None)
    low, high = run.data.dataset.action_low, run.data.dataset.action_high
    for seed in run.seeds:
        policy = agents.load_policy(tmp_path / "run", seed)
        assert policy.low == tuple(map(float, low))
        assert policy.high == tuple(map(float, high))
        observations = run.data.transitions.observation
        np.testing.assert_allclose(
            policy.act(observations),
            low + (np.asarray(policy(None, observations)) + 1) / 2 * (high - low),
            atol=1e-6,  # float32, of numbers up to 1
        )


# Interruptions


def test_resumed_run_is_the_same(finished: Path, data: Path, tmp_path: Path) -> None:
    run = run_of(data, steps=24, seeds=(0, 1, 2))
    train_offline(run, tmp_path / "whole", on_note=lambda note: None)
    for points in (1, 5, 12):

        def stop(point: object, points: int = points) -> None:
            if getattr(point, "number", 0) + 1 == points:
                raise KeyboardInterrupt

        path = tmp_path / f"cut-{points}"
        with pytest.raises(KeyboardInterrupt):
            train_offline(
                run, path, on_point=stop, on_note=lambda note: None, checkpoint_seconds=0.0
            )
        train_offline(run, path, resume=True, on_note=lambda note: None)
        assert results(path) == results(tmp_path / "whole")


def test_other_data_are_not_resumed(
    finished: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs"
    shutil.copytree(finished, out)
    other = write(tmp_path / "toy.hdf5", rewards=np.ones(60))
    shutil.copy(data, tmp_path / "backup")
    command = OFFLINE.format(data=other) + f" --out {out} --resume"
    assert "cannot resume" in fails(capsys, command)


def test_the_same_data_by_another_path_are_resumed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_offline(run_of(data), tmp_path / "run", on_note=lambda note: None)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    copy = Path(shutil.copy(data, tmp_path / "copy.hdf5"))
    monkeypatch.chdir(tmp_path)
    for name in (copy, Path("copy.hdf5"), data.parent / ".." / data.parent.name / data.name):
        train_offline(run_of(name), tmp_path / "run", resume=True)
    assert {p: p.read_bytes() for p in before} == before


def test_prolonged_run_is_the_longer_one(data: Path, tmp_path: Path) -> None:
    longer_run = run_of(data, steps=16, seeds=(0,))
    train_offline(longer_run, tmp_path / "longer", on_note=lambda note: None)
    path, starts = tmp_path / "run", list[int]()
    train_offline(run_of(data, steps=8, seeds=(0,)), path, on_note=lambda note: None)
    for _ in range(2):
        run = run_of(data, steps=15, seeds=(0,))  # whole stretches of two are done
        train_offline(run, path, resume=True, on_note=lambda note: None, on_start=starts.append)
    assert starts == [8, 16]
    assert results(path) == results(tmp_path / "longer")
    config = json.loads((path / "config.json").read_text())
    longer = json.loads((tmp_path / "longer" / "config.json").read_text())
    assert config == longer | {"prolonged_at": [8]}


def test_prolonged_run_keeps_its_stretches_and_intervals(data: Path, tmp_path: Path) -> None:
    first = run_of(data, env=PENDULUM, steps=990, evaluations=33)
    assert (first.stretch, first.points) == (10, 99)
    assert [point for point in range(99) if first.is_evaluated(point)] == list(range(2, 99, 3))
    path = tmp_path / "run"
    RunDirectory.create(path, first.config(), resume=False, overwrite=False, on_note=pytest.fail)
    run = run_of(data, env=PENDULUM, steps=5001, evaluations=33).as_begun(path)
    assert (run.stretch, run.points, run.config()["steps"]) == (10, 501, 5010)
    assert [point for point in range(501) if run.is_evaluated(point)] == list(range(2, 501, 3))
    assert run.learner is not first.learner
    RunDirectory.check(path, run.config(), resume=True, overwrite=False)
    assert first.as_begun(path) is first


def test_learned_optimizers_are_told_by_their_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each network; the files are read once, and copies stay with the run."""

    def save(name: str, seed: int) -> Path:
        architecture = optim.LinearOptim()
        metadata = {"architecture": architecture, "training_tasks": "none"}
        weights = architecture.init(jax.random.key(seed))
        optim.save_meta_params(tmp_path / name, weights, metadata)
        return tmp_path / name

    def run_with(critic: Path, actor: Path) -> OfflineRun:
        texts = [f"linear_optim@{path}" for path in (critic, actor)]
        return run_of(data, critic_optimizer=texts[0], actor_optimizer=texts[1])

    files = [save(f"{seed}.safetensors", seed) for seed in range(2)]
    contents = [file.read_bytes() for file in files]
    digests = [hashlib.sha256(content).hexdigest() for content in contents]
    run = run_with(*files)
    copies = [Path(shutil.copy(file, tmp_path / f"copy-{file.name}")) for file in files]
    for file in files:
        file.unlink()
    config = run.config()
    assert [config[f"{name}_weights_sha256"] for name in ("critic", "actor")] == digests
    given: dict[str, bytes] = {}
    with monkeypatch.context() as patch:
        patch.setattr(training, "train_seeds", lambda *_, **how: given.update(how["files"]))
        train_offline(run, tmp_path / "run")
    names = ["weights.safetensors", "actor_weights.safetensors"]
    assert given == dict(zip(names, contents, strict=True))
    assert jax.tree.leaves(run.learner.init(jax.random.key(0)).optimizer_state["critic"])
    how = {"resume": False, "overwrite": False, "on_note": pytest.fail, "files": given}
    RunDirectory.create(tmp_path / "run", config, **how)
    assert (tmp_path / "run" / names[1]).read_bytes() == contents[1]
    same = run_with(*copies).config()
    RunDirectory.check(tmp_path / "run", same, resume=True, overwrite=False)
    for other, name in ((run_with(copies[1], copies[1]), "critic"),
                        (run_with(copies[0], copies[0]), "actor")):  # fmt: skip
        with pytest.raises(ValueError, match=f"run with {name}_weights_sha256 "):
            RunDirectory.check(tmp_path / "run", other.config(), resume=True, overwrite=False)


@pytest.mark.slow
def test_killed_at_any_moment(data: Path, tmp_path: Path) -> None:
    """kill -9 three times, then the end: the same bytes as without."""
    command = OFFLINE.format(data=data).replace("--steps 24", "--steps 4000")
    program = "from experiments.command_line.main import main; import sys; main(sys.argv[1:])"

    def start(out: Path, *more: str) -> subprocess.Popen[bytes]:
        arguments = [*shlex.split(command), "--out", str(out), *more]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        return subprocess.Popen([sys.executable, "-c", program, *arguments], env=environment)

    assert start(tmp_path / "whole").wait() == 0
    draw = random.Random(0)
    for more in ((), ("--resume",), ("--resume",)):
        process = start(tmp_path / "killed", *more)
        time.sleep(draw.uniform(8.0, 20.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(tmp_path / "killed", "--resume").wait() == 0
    for name in ("adam", "sgd-learning_rate=1e4"):
        whole, killed = (tmp_path / one / "td3_bc" / name for one in ("whole", "killed"))
        assert results(whole) == results(killed)


@pytest.mark.parametrize("points", [1, 7, 10, 77, 100])
@pytest.mark.parametrize("times", [0, 1, 3, 10])
def test_policy_is_evaluated_as_often_as_asked(points: int, times: int, data: Path) -> None:
    run = run_of(data, env=PENDULUM, steps=2 * points, evaluations=times)
    assert run.points == points
    evaluated = [run.is_evaluated(point) for point in range(points)]
    assert sum(evaluated) == min(times, points)
    assert evaluated[-1] == bool(times)


# Refusals


@pytest.mark.parametrize("seeds", [(), (0, 0), (-1,)])
def test_what_are_no_seeds(seeds: tuple[int, ...], data: Path) -> None:
    with pytest.raises(ValueError, match="seeds must be different whole numbers in"):
        run_of(data, seeds=seeds)


def test_learning_rate_of_zero_is_no_default(data: Path) -> None:
    with pytest.raises(ValueError, match=r"learning_rate must be in \(0, inf\), got 0"):
        run_of(data, learning_rate=0.0)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("td3_bc -> td3bc", "unknown algorithm 'td3bc'; the nearest is 'td3_bc'."),
        ("adam -> adma", "unknown optimizer 'adma'"),
        ("adam -> adam_rel", "period must be set for an optimizer that waits for"),
        ("--seeds 3 -> --seeds 3 --subset 61", "--subset must be in [1, 60]"),
        ("batch_size=8 -> alhpa=1", "unknown setting of td3_bc 'alhpa'; the nearest is 'alpha'."),
        ("batch_size=8 -> discount=1", "setting 'discount' must be in [0, 1); got 1.0."),
        (
            "batch_size=8 -> actor_period=0",
            "setting 'actor_period' must be in [1, 1048576]; got 0.",
        ),
        ("batch_size=8 -> reward_scale=0", "setting 'reward_scale' must be in (0, inf); got 0.0."),
        (
            "batch_size=8 -> reward_shift=nan",
            "setting 'reward_shift' must be a finite number; got nan.",
        ),
        (
            "batch_size=8 -> reward_normalisation=iql",
            "setting 'reward_normalisation' must be none or returns; got iql.",
        ),
        (
            "batch_size=8 -> reward_scale=1e39",
            "the reward settings give rewards that are not finite",
        ),
        (
            "--evaluations 4 -> --evaluations -1",
            "--evaluations must be a whole number, at least 0; got '-1'.",
        ),
        (
            "--seeds 3 -> --seeds 3 --subset-seed -1",
            "--subset-seed must be a whole number, at least 0; got '-1'.",
        ),
        (
            "--seeds 3 -> --seeds 3 --critic-learning-rate x",
            "--critic-learning-rate must be a number above 0; got 'x'.",
        ),
        (
            "--seeds 3 -> --seeds 3 --action-bounds 1 1",
            "--action-bounds must be two numbers, LOW below HIGH; got '1 1'.",
        ),
        (
            "--seeds 3 -> --seeds 3 --action-bounds 1",
            "--action-bounds must be two numbers, LOW below HIGH; got '1'.",
        ),
        (
            "--seeds 3 -> --seeds 3 --reference-returns 0 nan",
            "--reference-returns must be two numbers, RANDOM below EXPERT, or a D4RL environment; "
            "got '0 nan'.",
        ),
        (
            "--seeds 3 -> --seeds 3 --reference-returns hoper",
            "unknown D4RL environment 'hoper'; the nearest is 'hopper'.",
        ),
        ("batch_size=8 -> polyak=2", "polyak must be in [0, 1]; got 2.0."),
        ("Pendulum-v1:max_steps_in_episode=5 -> Pendulum", "unknown environment 'Pendulum'"),
        ("Pendulum-v1:max_steps_in_episode=5 -> CartPole-v1", "observations and actions of other"),
        ("--seeds 3 -> --seeds 3 --diagnostics-every 2", "needs a critic optimizer with Adam's"),
    ],
)
def test_arguments_that_make_no_sense(
    change: str, line: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = change.split(" -> ")
    assert old in OFFLINE
    command = OFFLINE.replace(old, new).format(data=data) + f" --out {tmp_path / 'x'}"
    assert line in fails(capsys, command)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"rewards": np.full(60, np.nan)}, "rewards must be finite in float32, got nan in row 0."),
        ({"actions": np.full((60, 1), 1.5)}, "actions must be in [-1, 1], got 1.5"),
        (
            {key: np.zeros((0, 3))[:, :width] for key, width in (("observations", 3),)}
            | {"actions": np.zeros((0, 1)), "rewards": np.zeros(0), "terminals": np.zeros(0, bool)}
            | {"timeouts": np.zeros(0, bool)},
            "is empty.",
        ),
    ],
)
def test_data_that_cannot_be_learned_from(
    changes: dict[str, np.ndarray], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "bad.hdf5", **changes)
    assert line in fails(capsys, OFFLINE.format(data=path) + f" --out {tmp_path / 'x'}")


def test_no_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = f" --out {tmp_path / 'x'}"
    (tmp_path / "text").write_text("no data")
    line = fails(capsys, OFFLINE.format(data=tmp_path / "text") + out)
    assert "is not an HDF5 file" in line
    line = fails(capsys, OFFLINE.format(data=tmp_path / "nothing") + out)
    assert "is neither a file, nor a folder, nor a Minari data set" in line
    line = fails(capsys, "offline --preset r2")
    assert line == "unknown preset 'r2'; the nearest is 'r1'."
    line = fails(capsys, "offline --algorithm td3_bc" + out)
    assert line == "offline needs --dataset and --critic-optimizer, or a --preset."


def test_presets_say_what_they_lack(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium.envs.mujoco", None)
    commands_made = fails(capsys, f"collect --env Swimmer-v5 --root {tmp_path}")
    assert "Swimmer-v5 needs Gymnasium's MuJoCo environments" in commands_made
    assert "pip install '.[offline]'" in commands_made
