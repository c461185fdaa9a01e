"""Learned optimizers by name: where weights come from, and their learning rates."""

import dataclasses
import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from file_names import file_names
from fixed_meta_params import drawn
from quick import quick_jit

import optim
from experiments.meta_training.architectures import LearnedOptimizer
from experiments.meta_training.request import MetaRequest
from experiments.meta_training.tasks import MetaTask
from experiments.meta_training.training import MetaRun, meta_train
from experiments.settings import Settings
from meta.trainer import MetaParams, Trainer

SIZES = {"hidden_size": 2, "mlp_widths": (3,)}
SETTINGS = Settings(num_envs=4, num_steps=16, minibatches=2, epochs=2, widths=(8,), anneal=False)


def save(path: Path, **others: Any) -> Any:
    meta_params = drawn("optim4rl", **SIZES)
    metadata = {"architecture": optim.Optim4RL(**SIZES), "training_tasks": "x"} | others
    optim.save_meta_params(path, meta_params, metadata)
    return meta_params


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(file_names(), file_names())
def test_training_starts_from_files_of_any_name(folder: str, name: str) -> None:
    """With sizes and options of the file, and those of the text before these."""
    with tempfile.TemporaryDirectory() as above:
        path = Path(above, folder, name)
        path.parent.mkdir()
        meta_params = save(path, options={"learning_rate": 0.5, "grad_clip": None})
        for options in ({}, {"learning_rate": 0.25}):
            text = str(optim.OptimizerSpec("optim4rl", str(path), options))
            learned = LearnedOptimizer.parse(text)
            assert learned.architecture == optim.Optim4RL(**SIZES)
            assert learned.options == {"learning_rate": 0.5, "grad_clip": None} | options
            jax.tree.map(
                np.testing.assert_array_equal, learned.init(jax.random.key(0)), meta_params
            )


def test_weight_decay_is_part_of_what_is_trained(tmp_path: Path) -> None:
    """Agents have it in training, and so do those that use the weights."""
    save(tmp_path / "w.safetensors", options={"l2": 0.5})
    learned = LearnedOptimizer.parse(f"optim4rl@{tmp_path / 'w.safetensors'}:decoupled_decay=0.1")
    assert learned.options == {"l2": 0.5, "decoupled_decay": 0.1}
    task = MetaTask("CartPole-v1", 64, 1.0, dataclasses.replace(SETTINGS, max_grad_norm=np.inf))
    params = {"actor": jnp.ones((2, 2)), "critic": jnp.full(2, 3.0)}

    def update(build: Callable[[MetaParams], Any], grads: Any) -> Any:
        optimizer = build(learned.init(jax.random.key(0)))
        return quick_jit(optimizer.update)(grads, optimizer.init(params), params)[0]

    plain = LearnedOptimizer.parse(f"optim4rl@{tmp_path / 'w.safetensors'}:l2=0")
    grads = jax.tree.map(jnp.cos, params)
    penalised = jax.tree.map(lambda g, p: g + 0.5 * p, grads, params)
    jax.tree.map(
        lambda a, b, p: np.testing.assert_allclose(a, b - 0.1 * p, rtol=1e-5),
        update(task.build(learned), grads),
        update(task.build(plain), penalised),
        params,
    )
    for text in ("optim4rl:l2=-1", "optim4rl:decoupled_decay=inf"):
        with pytest.raises(ValueError, match=r"must be in \[0, inf\), got"):
            LearnedOptimizer.parse(text)


# Learning rates of the tasks


class StandingStill(MetaRun):
    """Meta-training that leaves the first meta-parameters as they are."""

    method = "none"
    parts = 1
    task_env_steps = ()

    @classmethod
    def from_request(cls, request: MetaRequest) -> "StandingStill":
        raise AssertionError("it has no name to ask for")

    @functools.cached_property
    def trainer(self) -> Trainer:
        learned = LearnedOptimizer.parse(self.optimizer)
        first = jax.tree.map(jnp.asarray, learned.start or drawn(learned.name))
        return Trainer(lambda key: first, lambda state: (state, {}), lambda state: state)

    @functools.cached_property
    def evaluate(self) -> Callable[[MetaParams], np.ndarray]:
        return lambda meta_params: np.zeros(len(self.tasks))


@pytest.fixture
def trained(tmp_path: Path) -> Callable[..., Path]:
    """Gives the file of weights of a run whose tasks have these learning rates."""

    def train(optimizer: str, *rates: float | None) -> Path:
        tasks = tuple(MetaTask("CartPole-v1", 64, 1.0, SETTINGS, learning_rate=r) for r in rates)
        run = StandingStill(optimizer=optimizer, tasks=tasks, generations=1)
        meta_train(run, tmp_path / "run", overwrite=True)
        return tmp_path / "run" / "meta_params.safetensors"

    return train


@pytest.mark.parametrize(
    ("optimizer", "rates", "options", "several"),
    [
        ("optim4rl", (0.1, 0.1), {"learning_rate": 0.1}, None),
        ("optim4rl", (None, None), {}, None),
        ("optim4rl:learning_rate=0.2", (None, None), {"learning_rate": 0.2}, None),
        ("optim4rl:learning_rate=0.2", (0.1, 0.1), {"learning_rate": 0.1}, None),
        ("optim4rl:learning_rate=0.1", (0.1, None), {"learning_rate": 0.1}, None),
        ("optim4rl:grad_clip=1", (0.1, 0.3), {"grad_clip": 1}, "0.1 0.3"),
        ("optim4rl:learning_rate=0.2", (0.1, 0.3), {}, "0.1 0.3"),
        ("optim4rl:learning_rate=0.2", (0.1, None), {}, "0.1 0.2"),
        ("optim4rl", (0.1, None), {}, "0.1 default"),
        ("optim4rl@small", (0.1, 0.3), {}, "0.1 0.3"),
        ("open", (None, None), {}, None),
        (
            "optim4rl:l2=0.5,decoupled_decay=0.1",
            (0.1, 0.1),
            {"l2": 0.5, "decoupled_decay": 0.1, "learning_rate": 0.1},
            None,
        ),
    ],
)
def test_weights_carry_a_learning_rate_or_ask_for_one(
    optimizer: str,
    rates: tuple[float | None, ...],
    options: dict[str, float],
    several: str | None,
    trained: Callable[..., Path],
) -> None:
    path = trained(optimizer, *rates)
    metadata = optim.load_metadata(path)
    assert json.loads(metadata["options"]) == options
    assert metadata.get("learning_rates") == several
    if several is None:
        optim.load(str(path))
        return
    with pytest.raises(ValueError, match=f"{path} was trained at several .* {several}, and needs"):
        optim.load(str(path))
    optim.load(str(path), learning_rate=0.2)
    optim.make(f"optim4rl@{path}:learning_rate=0.2")


def test_training_goes_on_at_the_tasks_learning_rates(
    trained: Callable[..., Path], tmp_path: Path
) -> None:
    first = tmp_path / "first.safetensors"
    first.write_bytes(trained("optim4rl", 0.1, 0.3).read_bytes())
    again = trained(f"optim4rl@{first}", 0.2, 0.4)
    assert optim.load_metadata(again)["learning_rates"] == "0.2 0.4"
    again = trained(f"optim4rl@{first}", 0.2, 0.2)
    assert json.loads(optim.load_metadata(again)["options"]) == {"learning_rate": 0.2}
    optim.load(str(again))
    again = trained(f"optim4rl@{first}:learning_rate=0.5", None, None)
    assert json.loads(optim.load_metadata(again)["options"]) == {"learning_rate": 0.5}

    learned = LearnedOptimizer.parse(f"optim4rl@{first}")
    without = MetaTask("CartPole-v1", 64, 1.0, SETTINGS)
    meta_params = learned.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"'optim4rl' were trained at several .* 0.1 0.3, and to"):
        without.build(learned)(meta_params)
    dataclasses.replace(without, learning_rate=0.1).build(learned)(meta_params)
    without.build(LearnedOptimizer.parse(f"optim4rl@{first}:learning_rate=0.1"))(meta_params)
