"""What loops do not tell learned optimizers, or misspell, is said once; what stands in for it."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fixed_meta_params import drawn
from quick import quick_jit

import optim

LAYER = {"kernel": jnp.full((2, 3), 0.5), "bias": jnp.ones(3)}
PARAMS = {"actor": {"Dense_0": LAYER}, "critic": {"Dense_0": LAYER}}
ACTIVITY = {"actor": {"Dense_0": jnp.arange(3.0)}, "critic": {"Dense_0": jnp.ones(3)}}
LEARNED = {"open": optim.open_optimizer, "learned_correction": optim.learned_correction}


@pytest.fixture(params=LEARNED)
def build(request):
    meta_params = drawn(request.param)
    return lambda **options: LEARNED[request.param](meta_params, **options)


def messages(optimizer, *calls):
    """What is warned of while `update` is traced with some extra arguments, call by call."""
    state = optimizer.init(PARAMS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for extra in calls:
            jax.eval_shape(lambda extra=extra: optimizer.update(PARAMS, state, PARAMS, **extra))
    return [str(each.message) for each in caught if each.category is UserWarning]


def test_what_is_not_told_is_said_once(build):
    both = {"activations": ACTIVITY, "training_progress": 0.5}
    chained = optax.chain(optim.clip_by_network_norm(0.5), build())
    (text,) = messages(chained, {}, {}, {"activations": ACTIVITY})
    assert "is not told activations and training_progress;" in text
    assert "activations=..., training_progress=...), or give the optimizer total_updates=," in text
    (text,) = messages(build(), {"training_progress": 0.5})
    assert "is not told activations;" in text
    assert "total_updates" not in text
    (text,) = messages(build(), {"activations": ACTIVITY})
    assert "is not told training_progress;" in text
    assert not messages(build(), both)
    assert not messages(build(total_updates=10), {"activations": ACTIVITY})
    # One that was told everything, and then is not, as when it is tried out at last.
    assert len(messages(build(), both, {})) == 1


def test_a_feature_that_is_hidden_is_not_missed():
    optimizer = optim.learned_correction(drawn("learned_correction"), dormancy=False)
    assert not messages(optimizer, {"training_progress": 0.5})


def test_total_updates_count_the_progress(build):
    total = 5

    def walk(optimizer, told):
        def step(state, i):
            extra = {"training_progress": jnp.minimum(i / 4, 1.0)} if told else {}
            updates, state = optimizer.update(PARAMS, state, PARAMS, **extra)
            return state, updates

        return jax.lax.scan(step, optimizer.init(PARAMS), jnp.arange(7.0))[1]

    @quick_jit
    def both():
        options = [walk(build(), True), walk(build(total_updates=total), False)]
        # What a loop says comes first.
        return [*options, walk(build(total_updates=1000), True), walk(build(), False)]

    expected, counted, told, without = both()
    for other in (counted, told):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-8), other, expected)
    changes = jax.tree.map(lambda a, b: np.abs(a[-1] - b[-1]).max(), without, expected)
    assert max(jax.tree.leaves(changes)) > 1e-7


@pytest.mark.parametrize("number", [0, -1, 2.5, "many"])
def test_total_updates_out_of_range(build, number):
    with pytest.raises(ValueError, match="total_updates must be an integer of at least 1, got"):
        build(total_updates=number)


def test_total_updates_in_a_spec():
    optimizer = optim.make("open@small:total_updates=10")
    assert not messages(optimizer, {"activations": ACTIVITY})
    optimizer = optim.load("open@small", total_updates=10)
    assert not messages(optimizer, {"activations": ACTIVITY})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("activation", "activations"),
        ("training_progres", "training_progress"),
        ("Value", "value"),
        ("resets", "reset"),
    ],
)
def test_misspelled_names_are_named(name, meant):
    optimizer = optim.adamo(0.1)
    (text,) = set(messages(optimizer, {name: 1.0}, {name: 1.0}))
    assert f"was given {name!r}" in text
    assert f"did you mean {meant!r}?" in text


def test_other_names_are_let_through():
    every = dict.fromkeys(
        ("value", "grad", "value_fn", "obj_fn", "hvp", "num_updates", "reset", "batch_progress"),
    )
    assert not messages(optim.adamo(0.1), every | {"temperature": 1.0, "loss": 2.0, "key": 3})
