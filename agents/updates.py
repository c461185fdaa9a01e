"""One update of a learner's parameters, with all that an optimizer may ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax

from agents._promotion import relaxed_promotion
from agents.learner import Metrics
from agents.networks import Activations

LossAndAux = tuple[jax.Array, tuple[Activations, Metrics]]


def descend(
    optimizer: optax.GradientTransformationExtraArgs,
    loss: Callable[[Any], LossAndAux],
    params: Any,
    optimizer_state: optax.OptState,
    *,
    training_progress: jax.Array,
    batch_progress: jax.Array,
    num_updates: int | jax.Array,
    reset: Any,
) -> tuple[Any, optax.OptState, Metrics, jax.Array]:
    """One update of PPO or of an offline learner.

    The optimizer's `update` gets, beside gradients and parameters, these keyword arguments:

    - `value`: the loss;
    - `activations`: mean absolute activation of every unit over the batch, a tree that mirrors the
      parameters;
    - `training_progress` and `batch_progress`: how much of the lifetime, and of the passes over the
      present batch, is done, each in [0, 1];
    - `num_updates`: the number of updates in the whole lifetime;
    - `reset`: whether this is the first update on a new objective;
    - under optax's names, what its line searches and second-order optimizers take: `grad` (the
      gradient before the chain), and `value_fn` and `obj_fn`, both the Python function from
      parameters to the loss on the same batch, which costs nothing where it is not called.

    An optimizer that knows nothing of all this works unchanged.

    Args:
        optimizer: the transformation.
        loss: from parameters to the loss, and its activations and metrics.
        params: the parameters.
        optimizer_state: the optimizer's state.
        training_progress: see above.
        batch_progress: see above.
        num_updates: see above.
        reset: see above.

    Returns:
        New parameters and state, the loss's metrics, and the norm of the gradient.
    """

    def objective(params: Any) -> jax.Array:
        return loss(params)[0]

    (value, (activations, metrics)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    with relaxed_promotion():
        updates, optimizer_state = optimizer.update(
            gradients,
            optimizer_state,
            params,
            value=value,
            activations=activations,
            training_progress=training_progress,
            batch_progress=batch_progress,
            num_updates=num_updates,
            reset=reset,
            grad=gradients,
            value_fn=objective,
            obj_fn=objective,
        )
    params = optax.apply_updates(params, updates)
    return params, optimizer_state, metrics, optax.tree.norm(gradients)
