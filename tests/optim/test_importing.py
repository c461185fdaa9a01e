"""Users' own optimizers by `MODULE:NAME`: what they are given, and what errors say."""

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optim
from optim.importing import imported

OWN = '''
"""A module of a user."""

from __future__ import annotations

import optax

number = 3


def signed(learning_rate, scale: float = 1.0, steps: int = 1, nesterov=False, decay=0.5):
    """Steps of one size.

    More about them.
    """
    assert isinstance(steps, int)
    return optax.chain(optax.scale_by_sign(), optax.scale_by_learning_rate(learning_rate * scale))


def by_schedule(learning_rate):
    return optax.sgd(learning_rate)


def without_rate(factor: float):
    return optax.scale(-factor)


def needing(learning_rate, factor: int):
    return optax.sgd(learning_rate * factor)


def pair(learning_rate):
    return optax.sgd(learning_rate), 3


class Sgd:
    def __new__(cls, learning_rate):
        return optax.sgd(learning_rate)
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module in the present folder, which is not on `sys.path`."""
    (tmp_path / "own_optimizers.py").write_text(OWN)
    (tmp_path / "lacking.py").write_text("import nowhere_to_be_found\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(tmp_path)])
    for name in ("own_optimizers", "lacking"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "own_optimizers"


def step(text: str, learning_rate: float | None = None) -> float:
    """The update of a parameter of 1 whose gradient is 2."""
    optimizer = optim.make(text, learning_rate)
    params = jnp.ones(())
    updates, _ = optimizer.update(2 * params, optimizer.init(params), params, anything=1)
    return float(updates)


def test_an_own_optimizer_is_made_like_ours(module: str) -> None:
    assert step(f"{module}:signed", 0.5) == -0.5
    assert step(f"{module}:signed:learning_rate=0.25,scale=2", 9.0) == -0.5
    assert step(f"{module}:signed:l2=5,learning_rate=0.5") == -0.5  # of the gradient's sign
    assert step(f"{module}:signed:decoupled_decay=0.5", 0.5) == -0.75
    assert step(f"{module}:without_rate:factor=3") == -6.0
    assert step(f"{module}:without_rate:factor=3,decoupled_decay=1") == -7.0
    assert step(f"{module}:Sgd", 0.5) == -1.0
    assert step(f"weight_clipping:base={module}:by_schedule", 0.25) == -0.5
    assert optim.option_names(f"{module}:signed")[:2] == ["learning_rate", "scale"]
    assert optim.describe(f"{module}:signed") == "Steps of one size."
    assert optim.details(f"{module}:signed") is None


def test_learning_rates_of_own_optimizers(module: str) -> None:
    optimizer = optim.make(f"{module}:by_schedule", lambda count: 1.0 / (1 + count))
    state = optimizer.init(jnp.ones(()))
    taken = []
    for _ in range(2):
        updates, state = optimizer.update(jnp.ones(()), state, jnp.ones(()))
        taken.append(float(updates))
    np.testing.assert_allclose(taken, [-1.0, -0.5])
    assert optim.accepts_schedule(f"{module}:by_schedule")
    assert not optim.sets_own_steps(f"{module}:by_schedule")
    for text in (f"{module}:without_rate:factor=1", f"parseval:base={module}:without_rate"):
        assert optim.sets_own_steps(text)
        assert not optim.accepts_schedule(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere:f", "optimizer 'nowhere:f' needs a module 'nowhere', which is neither in the "
         "present folder, {folder}, nor installed."),
        ("own_optimizers.py:signed", "optimizer 'own_optimizers.py:signed' needs a module "
         "'own_optimizers.py', which is neither in the present folder, {folder}, nor installed; "
         "leave out .py: own_optimizers:signed."),
        ("optax.nowhere:f", "optimizer 'optax.nowhere:f' needs a module 'optax.nowhere', which"),
        ("own_optimizers:sinned", "optimizer 'own_optimizers:sinned' must name something in "
         "{folder}/own_optimizers.py, which has no 'sinned'; the nearest is 'signed'."),
        ("own_optimizers:number", "optimizer 'own_optimizers:number' must be a function or class "
         "that makes one, got a value of type int in {folder}/own_optimizers.py."),
        ("own_optimizers:pair", "optimizer 'own_optimizers:pair' must return an "
         "optax.GradientTransformation, got a value of type tuple."),
        ("own_optimizers:needing", "'own_optimizers:needing' must be given the option 'factor', "
         "which has no default."),
        ("own_optimizers:signed:scal=1", "'own_optimizers:signed' has no option 'scal'; the "
         "nearest is 'scale'."),
        ("own_optimizers:signed:steps=1.5", "steps must be an integer, got 1.5."),
        ("own_optimizers:signed@x", "'own_optimizers:signed' has no learned weights, got weights "),
        ("adam:b1", "options of 'adam' must have the form key=value, got 'b1'."),
        ("open:b1", "options of 'open' must have the form key=value, got 'b1'."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(text: str, message: str, module: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        optim.make(text, 0.1)
    assert str(caught.value).startswith(message.format(folder=tmp_path))


def test_a_rate_that_nobody_takes_is_refused(module: str) -> None:
    with pytest.raises(ValueError, match="learning_rate must be None for 'own_optimizers:without_"):
        optim.make(f"{module}:without_rate:factor=1", 0.1)
    with pytest.raises(ValueError, match="'own_optimizers:signed' must be given the option 'learn"):
        optim.make(f"{module}:signed")


def test_what_the_module_itself_lacks_is_its_own_error(module: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="nowhere_to_be_found"):
        imported("optimizer", "lacking:f")


def test_what_is_installed_comes_before_the_present_folder(module: str, tmp_path: Path) -> None:
    (tmp_path / "optax.py").write_text("def sgd(): pass\n")
    assert imported("optimizer", "optax:sgd") is optax.sgd
    assert sys.path[-1] == str(tmp_path)
