"""What an optimizer that is wrapped is told of the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import optax


def _tell(updates, state, params, **extra):
    gradients = jax.grad(extra["obj_fn"])(params), jax.grad(extra["value_fn"])(params)
    return (updates, extra["grad"], *gradients, extra["value"], extra["obj_fn"](params)), state


def check_told_of_penalty(wrap, params, initial=None, rtol=1e-5):
    """The gradients that it is given, and those of the functions, agree; so do the values.

    Returns by how much value and gradient are more than those of the loss.
    """
    optimizer = wrap(optax.GradientTransformationExtraArgs(lambda params: None, _tell))
    loss = lambda params: sum(jnp.sum(leaf**3) for leaf in jax.tree.leaves(params))  # noqa: E731
    state = optimizer.init(params if initial is None else initial)
    value, grads = jax.value_and_grad(loss)(params)
    extra = {"value": value, "grad": grads, "obj_fn": loss, "value_fn": loss}
    with jax.numpy_dtype_promotion("standard"):
        found, _ = optimizer.update(grads, state, params, **extra)
    check = lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-5)  # noqa: E731
    for other in found[1:4]:
        jax.tree.map(check, other, found[0])
    check(found[4], found[5])
    return found[4] - value, jax.tree.map(lambda a, b: a - b, found[0], grads)
