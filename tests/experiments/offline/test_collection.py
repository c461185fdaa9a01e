"""Data sets made here: what is in them, and that they are read back."""

import json
import math
import shlex
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from quick import quick_jit

from agents.offline import loading
from experiments.command_line.main import main
from experiments.offline import collection
from experiments.offline.datasets import Data

minari = pytest.importorskip("minari")
pytest.importorskip("h5py")

PENDULUM = "Pendulum-v1:max_steps_in_episode=10"
SMALL = "num_envs=2 num_steps=10 minibatches=2 epochs=1 widths=8x8"
COLLECT = (
    f"collect --env {PENDULUM} --datasets {' '.join(collection.KINDS)} --size 64 --steps 60 "
    f"--seed 3 --no-cache --set {SMALL}"
)


WRITTEN: list[collection.Collected] = []  # by the command of `root`


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("datasets")
    collect = collection.collect

    def remembering(*arguments: Any, **options: Any) -> list[collection.Collected]:
        WRITTEN[:] = collect(*arguments, **options)
        return WRITTEN

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "jit", quick_jit)
        patch.setattr(collection, "SNAPSHOTS", 2)
        patch.setattr(collection, "collect", remembering)
        main([*shlex.split(COLLECT), "--root", str(root)])
    return root


def metadata(root: Path, kind: str) -> dict[str, Any]:
    path = root / "rl-optim" / "pendulum-10" / f"{kind}-v0" / "data" / "metadata.json"
    return dict(json.loads(path.read_text()))


@pytest.mark.parametrize("kind", collection.KINDS)
def test_what_was_written_is_read(kind: str, root: Path) -> None:
    data = loading.load(root / "rl-optim" / "pendulum-10" / f"{kind}-v0")
    transitions = data.transitions
    assert transitions.reward.shape == (64,)
    assert transitions.observation.shape == (64, 3)
    assert np.abs(transitions.action).max() <= 1.0
    assert data.action_low.tolist() == [-2.0]
    assert data.environment == PENDULUM
    assert data.title == f"rl-optim/pendulum-10/{kind}-v0"
    assert not transitions.terminated.any()  # a pendulum's episodes are cut off
    found = metadata(root, kind)
    references = found["ref_min_score"], found["ref_max_score"]
    assert data.reference_returns == (references if references[0] < references[1] else None)
    assert f"random {references[0]:.6g}, expert {references[1]:.6g}" in str(found["description"])
    assert (found["rl_optim_kind"], found["rl_optim_seed"]) == (kind, 3)
    # The next observation follows from the observation and the action, as Pendulum has it.
    _, sine, velocity = transitions.observation.T
    torque = 2.0 * transitions.action[:, 0]
    following = np.clip(velocity + (15.0 * sine + 3.0 * torque) * 0.05, -8, 8)
    np.testing.assert_allclose(transitions.next_observation[:, 2], following, atol=1e-4)
    episodes = np.asarray(data.episode_returns)
    assert len(episodes) >= 5  # of 10 steps each; what is left of each stream just stops
    np.testing.assert_allclose(episodes[0], transitions.reward[:10].sum(), rtol=1e-5)


def test_environment_to_evaluate_in(root: Path) -> None:
    data = Data(str(root / "rl-optim" / "pendulum-10" / "medium-v0"), subset=20)
    environment, name = data.evaluation
    assert environment is not None
    assert name == PENDULUM
    assert environment.max_episode_steps == 10
    act = data.acting(lambda key, observation: np.ones((1,)))
    assert act(jax.random.key(0), np.zeros(3)) == 2.0
    again = Data(data.text, subset=20)
    assert again.checksum == data.checksum
    assert Data(data.text, subset=20, subset_seed=1).checksum != data.checksum


def test_what_a_name_promises(root: Path) -> None:
    """At least a third of the way from random to expert; an expert is no worse than medium."""
    facts = metadata(root, "medium")
    low, best = facts["ref_min_score"], facts["rl_optim_expert_snapshot_return"]
    level = max(low, low + (best - low) / 3.0)
    kinds = dict(zip(collection.KINDS, WRITTEN, strict=True))
    promised = {kind: one.promised_return for kind, one in kinds.items()}
    assert promised == {
        "random": -np.inf,
        "medium": pytest.approx(level),
        "medium-replay": -np.inf,
        "expert": pytest.approx(max(level, kinds["medium"].mean_return)),
        "medium-expert": pytest.approx(level),
    }


@pytest.mark.parametrize(
    ("returns", "position", "promised"),
    [
        ([10.0, 20.0, 40.0], 1, 20.0),
        ([10.0, 19.0, 40.0], 2, 20.0),
        ([8.0, 9.0, 5.0], 1, 10.0),  # never as good as random actions
        ([-np.inf, -np.inf], 0, 10.0),
    ],
)
def test_medium_snapshot(returns: list[float], position: int, promised: float) -> None:
    assert collection._medium(returns, 10.0) == (position, promised)


@pytest.mark.parametrize(
    ("means", "notes"),
    [
        ((24.2, 50.0), []),
        ((math.nan, math.nan), []),
        (
            (14.63, 50.0),
            [
                "Note: a/medium-v0 has a mean return of 14.63, but its name promises at least "
                "24.1: it is worse than random actions, which have 18.3. Snapshots are chosen by "
                "their mean actions, but the data also contain the policy's noise. More --steps or "
                "a small --noise may help."
            ],
        ),
        ((20.0, 3.0), ["of 20, but its name promises at least 24.1; a/expert-v0 has a mean ret"]),
    ],
)
def test_data_that_are_worse_than_their_names(
    means: tuple[float, float],
    notes: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = [
        collection.Collected(f"a/{kind}-v0", 100, 5, mean, 24.1, 18.3)
        for kind, mean in zip(("medium", "expert"), means, strict=True)
    ]
    monkeypatch.setattr(collection, "collect", lambda *_, **__: written)
    main(shlex.split(f"{COLLECT} --root nowhere"))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == len(notes)
    assert all(note in line for note, line in zip(notes, said, strict=True))


def test_nothing_is_left_in_the_present_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MuJoCo finds this model old-fashioned, and would say so in a file there."""
    pytest.importorskip("gymnasium.envs.mujoco")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(jax, "jit", quick_jit)
    for name in ("SNAPSHOTS", "_SNAPSHOT_EPISODES", "_REFERENCE_EPISODES"):
        monkeypatch.setattr(collection, name, 1)
    command = (
        "collect --env HalfCheetah-v5 --datasets random --size 20 --steps 20 --no-cache "
        "--set num_envs=2 num_steps=10 minibatches=1 epochs=1 widths=8x8 "
        f"--root {tmp_path / 'root'}"
    )
    main(shlex.split(command))
    assert (tmp_path / "root" / "rl-optim" / "halfcheetah" / "random-v0").is_dir()
    assert list(here.iterdir()) == []


def test_minari_reads_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    dataset = minari.load_dataset("rl-optim/pendulum-10/expert-v0")
    assert dataset.total_steps == 64
    assert dataset[0].observations.shape == (11, 3)
    assert dataset[0].truncations.tolist() == [False] * 9 + [True]
    assert "rl-optim/pendulum-10/random-v0" in minari.list_local_datasets()
    assert loading.load("rl-optim/pendulum-10/expert-v0").title == "rl-optim/pendulum-10/expert-v0"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (f"{PENDULUM} -> CartPole-v1", "CartPole-v1 has discrete actions"),
        (f"{PENDULUM} -> Hoper-v5", "unknown environment 'Hoper-v5'; the nearest is 'Hopper-v5'."),
        ("medium-replay -> replay", "unknown kind of data set 'replay'"),
        ("--seed 3 -> --seed -1", "--seed must be in [0, 4294967295]; got -1."),
        ("--seed 3 -> --noise -0.1", "--noise must be at least 0; got -0.1."),
        ("--seed 3 -> --size 0", "--size must be a whole number, at least 1; got '0'."),
        (f"{SMALL} -> restart=true", "setting 'restart' must be false where data are "),
        (f"{SMALL} -> learner=a2c", "setting 'learner' must be ppo where data are coll"),
        ("none -> none", "exists already; use --overwrite to replace it."),
    ],
)
def test_refusals(change: str, line: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = change.split(" -> ")
    command = COLLECT.replace(old, new)
    if "--size 0" in new:
        command = command.replace("--size 64", "")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([*shlex.split(command), "--root", str(root)])
    assert stop.value.code == 2
    assert line in capsys.readouterr().err


@pytest.mark.slow
def test_brax_agent_learns_and_its_data_are_learned_from(tmp_path: Path) -> None:
    """Expert beats medium beats random, and TD3+BC on the expert's data balances the pendulum."""
    command = (
        "collect --env inverted_pendulum:backend=spring --datasets random medium expert "
        "--size 4000 --steps 2e5 --seed 0 --no-cache --noise 0.1 "
        f"--set num_envs=64 num_steps=32 minibatches=8 --root {tmp_path}"
    )
    main(shlex.split(command))
    returns = {
        kind: loading.load(tmp_path / f"rl-optim/inverted-pendulum-spring/{kind}-v0")
        for kind in ("random", "medium", "expert")
    }
    means = [data.episode_returns.mean() for data in returns.values() if len(data.episode_returns)]
    assert means == sorted(means)
    low, high = returns["expert"].reference_returns or (0.0, 0.0)
    assert high > 3.0 * low
