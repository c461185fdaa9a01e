"""Learned optimizers on the command line: conversion, training with weights from a file."""

import json
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization
from quick import quick_jit
from run_directories import tiny_run

import optim
from agents.ppo import PPOConfig
from experiments.command_line import main as cli
from experiments.online import training
from experiments.online.tasks import make_environment
from experiments.runs.directory import RunDirectory

CPU = "--set num_envs=4 num_steps=16 minibatches=2 epochs=2 widths=8x8 --no-cache"


def save(path: Path, seed: int = 0) -> Path:
    meta_params = quick_jit(optim.OPEN().init)(jax.random.key(seed))
    metadata = {"architecture": "open", "training_tasks": "none"}
    optim.save_meta_params(path, meta_params, metadata)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("weights") / "open.safetensors")


def fails(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int = 2) -> str:
    """The one line that a command which is refused prints."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("rl-optim: ")


# Conversion


@pytest.mark.parametrize(("size", "sizes"), [(1211, ()), (3571, ()), (917, ("--hidden-size", "9"))])
def test_converted_vector_is_the_same_numbers(
    size: int, sizes: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vector = np.random.default_rng(0).normal(size=size).astype(np.float32)
    np.save(tmp_path / "w.npy", vector)
    out = tmp_path / "w.safetensors"
    arguments = ["convert", str(tmp_path / "w.npy"), str(out), "--training-tasks", "two of them"]
    cli.main([*arguments, *sizes, "--licence", "MIT"])
    assert capsys.readouterr().out == f"Written: {out}; use it as open@{out}\n"
    flat, _ = jax.flatten_util.ravel_pytree(optim.load_meta_params(out))
    np.testing.assert_array_equal(flat, vector)
    metadata = optim.load_metadata(out)
    assert metadata["training_tasks"] == "two of them"
    assert metadata["converted_from"] == "w.npy"
    assert (metadata["licence"], metadata["origin"]) == ("MIT", "unknown")
    optim.make(f"open@{out}")


def test_what_cannot_be_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vector, out = tmp_path / "w.npy", tmp_path / "w.safetensors"

    def line(source: Path = vector, to: Path = out) -> str:
        return fails(capsys, ["convert", str(source), str(to)])

    np.save(vector, np.zeros(1210, np.float32))
    assert line() == (
        f"{vector} must hold a float32 vector of size 1211 (OPEN(hidden_size=16, gru_features=8)) "
        "or 3571 (OPEN(hidden_size=32, gru_features=16)), got float32 of shape (1210,)."
    )
    np.save(vector, np.zeros(1211))
    assert line().endswith("got float64 of shape (1211,).")
    np.save(vector, np.full(1211, np.inf, np.float32))
    assert line() == f"{vector} must hold finite numbers, got inf."
    unread = f"{vector} must be a .npy file of float32 numbers, got {{}}, which is not read."
    np.save(vector, np.array([{}], dtype=object), allow_pickle=True)
    assert line() == unread.format("Python objects")
    vector.write_bytes(pickle.dumps(np.zeros(1211)))
    assert line() == unread.format("a pickle")
    save(vector)
    assert line() == unread.format("a safetensors file")
    np.save(vector, np.zeros(1211, np.float32))
    assert line(to=tmp_path / "w").startswith(
        "OUT.safetensors must be a name that ends in .safetensors; got"
    )
    assert line(to=tmp_path / "no" / "w.safetensors").endswith("no is not a directory.")
    missing = fails(capsys, ["convert", str(tmp_path / "no.npy"), str(out)], code=1)
    assert missing == f"No such file or directory: {tmp_path / 'no.npy'}."
    assert fails(capsys, ["convert"]) == "convert needs WEIGHTS.npy and OUT.safetensors."
    assert list(tmp_path.iterdir()) == [vector]
    out.write_text("precious")
    assert line() == f"{out} exists already; use --overwrite to replace it."
    assert out.read_text() == "precious"
    cli.main(["convert", str(vector), str(out), "--overwrite"])
    assert optim.load_metadata(out)["training_tasks"] == "unknown"


def test_converted_checkpoint_of_velo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meta_params = jax.device_get(quick_jit(optim.VeLO(3, 2).init)(jax.random.key(0)))
    theirs = meta_params | {"ff_mod_stack": {"~": meta_params["ff_mod_stack"]}}
    weights, out = tmp_path / "params", tmp_path / "w.safetensors"
    weights.write_bytes(serialization.msgpack_serialize({"0": theirs, "1": "", "2": 0}))
    command = ["convert", str(weights), str(out), "--architecture", "velo"]
    refused = fails(capsys, [*command, "--hidden-size", "9"])
    assert refused == "--hidden-size and --gru-features are of OPEN; VeLO's file tells them."
    cli.main(command)
    assert capsys.readouterr().out == f"Written: {out}; use it as velo@{out}\n"
    jax.tree.map(np.testing.assert_array_equal, optim.load_meta_params(out), meta_params)
    assert json.loads(optim.load_metadata(out)["options"]) == {
        "use_bugged_loss_features": True,
        "use_bugged_next_lstm_state": True,
    }
    weights.write_bytes(pickle.dumps(theirs))
    assert fails(capsys, [*command, "--overwrite"]).startswith(f"{weights} must be a checkpoint of")


# Runs


def test_configuration(weights: Path, tmp_path: Path) -> None:
    """No learning rate, nothing annealed, and a run is not resumed with other weights."""
    text = f"open@{weights}:key=3"
    run = tiny_run(text)
    assert run.settings.anneal
    config = run.config()
    assert json.loads(json.dumps(config)) == config
    assert config["optimizer"] == config["resolved_optimizer"] == text
    assert config["learning_rate"] is None
    assert config["annealed"] is False
    assert "weights_sha256" not in tiny_run("adam").config()
    moving = tmp_path / "moving.safetensors"
    run = tiny_run(f"open@{save(moving)}")
    RunDirectory.create(
        tmp_path / "run", run.config(), resume=False, overwrite=False, on_note=print
    )
    RunDirectory.check(tmp_path / "run", run.config(), resume=True, overwrite=False)
    save(moving, seed=1)
    RunDirectory.check(tmp_path / "run", run.config(), resume=True, overwrite=False)  # read before
    config = tiny_run(f"open@{moving}").config()
    with pytest.raises(ValueError, match=r"cannot resume .* with weights_sha256 "):
        RunDirectory.check(tmp_path / "run", config, resume=True, overwrite=False)


@pytest.mark.parametrize(
    ("optimizer", "line"),
    [
        ("open", "'open' is learned and needs weights: open@WEIGHTS, with a file or one of: "),
        ("open@no/such.safetensors", "meta-parameters must be in a file that exists, got 'no/such"),
        ("open@nowhere", "'open' has no packaged meta-parameters 'nowhere', it has "),
        ("star@{}", "{} must hold meta-parameters of 'star', got those of 'open'."),
        ("open@{}:learning_rate=1", "'open' sets its own steps and has no option 'learning_rate'"),
    ],
)
def test_refusals(
    optimizer: str, line: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = ["train", "--env", "CartPole-v1", "--out", str(out), *CPU.split()]
    arguments += ["--optimizer", optimizer.format(weights)]
    assert fails(capsys, arguments).startswith(line.format(weights))
    assert not out.exists()


def test_chain_is_clipping_and_the_optimizer(weights: Path) -> None:
    """Each network on its own, whatever the settings say of a learning rate."""
    run = tiny_run(f"open@{weights}")
    clip = optim.clip_by_network_norm(run.settings.max_grad_norm)
    architecture, meta_params = optim.OPEN(), optim.load_meta_params(weights)
    expected = optax.chain(clip, architecture.transform(meta_params))
    chain = training.chain(run.spec, run.settings, PPOConfig(iterations=2), 1.0)
    params = {
        name: {"Dense_0": {"kernel": jnp.arange(6.0).reshape(3, 2)}} for name in ("actor", "critic")
    }
    grads = jax.tree.map(lambda leaf: 30 * jnp.cos(leaf), params)

    def first(optimizer: optax.GradientTransformation) -> optax.Updates:
        return optimizer.update(grads, optimizer.init(params), params)[0]

    jax.tree.map(
        np.testing.assert_array_equal, *quick_jit(lambda: (first(chain), first(expected)))()
    )


@pytest.mark.slow
def test_comparison_with_adam(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run from a file; another program for other weights in a file of the same name."""
    make_environment("CartPole-v1")
    monkeypatch.setattr(jax, "jit", quick_jit)
    moving = tmp_path / "open.safetensors"
    moving.write_bytes(weights.read_bytes())

    def compare(out: Path) -> None:
        arguments = f"compare --envs CartPole-v1 --optimizers adam open@{moving} --seeds 3"
        cli.main([*arguments.split(), "--steps", "500", *CPU.split(), "--out", str(out)])

    compare(tmp_path / "first")
    save(moving, seed=1)
    compare(tmp_path / "second")
    assert "open@" in (tmp_path / "first" / "summary.md").read_text()
    runs = [next((tmp_path / out).glob("*/open*/metrics.csv")) for out in ("first", "second")]
    rows = [run.read_text().splitlines() for run in runs]
    assert rows[0] != rows[1]
    assert len(set(rows[0])) == len(rows[0])  # every seed has numbers of its own
