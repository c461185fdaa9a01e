import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quick import quick_jit

import optim

LINE_SEARCH = ("value", "grad", "value_fn")


def loss(params):
    return jnp.sum((params - 3.0) ** 2)


def descend(optimizer, steps=3):
    """Parameters after some steps in which the optimizer gets all that a learner has."""
    params = jnp.zeros(2)
    state = optimizer.init(params)
    for _ in range(steps):
        value, grads = jax.value_and_grad(loss)(params)
        extras = {"value": value, "grad": grads, "value_fn": loss, "obj_fn": loss}
        extras |= {"activations": params, "training_progress": value, "reset": value > 0}
        updates, state = optimizer.update(grads, state, params, **extras)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("factory", [optax.lbfgs, optax.contrib.schedule_free_sgd, optax.sgd])
def test_line_searches_take_a_learners_arguments(factory):
    optimizer = optim.with_only_extra_args(factory(0.5), LINE_SEARCH)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        params = quick_jit(lambda: descend(optimizer))()
    assert loss(params) < loss(jnp.zeros(2))


def test_without_it_line_searches_fail():
    with (
        jax.numpy_dtype_promotion("standard"),
        pytest.raises(TypeError, match="nexpected keyword argument"),
    ):
        descend(optax.lbfgs(), steps=1)


def test_only_the_named_are_passed_and_only_if_they_are_there():
    seen = []

    def update(updates, state, params=None, **extra_args):
        seen.append(extra_args)
        return updates, state

    inner = optax.GradientTransformationExtraArgs(lambda params: (), update)
    optimizer = optim.with_only_extra_args(inner, {"value", "reset"})
    assert optimizer.init(0) == ()
    optimizer.update(0, (), 0, value=1, values=2)
    optimizer.update(0, (), obj_fn=1)
    assert seen == [{"value": 1}, {}]
    # What takes no extra arguments at all takes none of these either.
    plain = optim.with_only_extra_args(
        optax.GradientTransformation(inner.init, lambda updates, state, params: (updates, state)),
        ("value",),
    )
    assert plain.update(0, (), 0, value=1, reset=2) == (0, ())


def test_names_are_several():
    with pytest.raises(ValueError, match=r"names must be several texts, e.g. \('value',\), got 'v"):
        optim.with_only_extra_args(optax.lbfgs(), "value")


def test_by_name_it_is_the_same():
    made = optim.make("lbfgs", 0.5)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        direct = optim.with_only_extra_args(optax.lbfgs(0.5), LINE_SEARCH)
        ours, theirs = quick_jit(lambda: (descend(made), descend(direct)))()
    np.testing.assert_array_equal(ours, theirs)
