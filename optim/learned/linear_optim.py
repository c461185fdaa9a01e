"""LinearOptim: a learned gradient descent, with a learned rate and a learned offset."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim.learned import _recurrent
from optim.learned._recurrent import MetaParams, RecurrentArchitecture, Shapes


class LinearOptimState(NamedTuple):
    """State of `linear_optim`: a tree of arrays of shape `(hidden_size, *leaf.shape)`.

    They are float32, or float64 where the parameter is.
    """

    hidden: optax.Params


@dataclasses.dataclass(frozen=True)
class LinearOptim(RecurrentArchitecture):
    """The architecture of LinearOptim.

    See `linear_optim` for the equations and the notes.

    Attributes:
        hidden_size: units of the recurrent network.
        mlp_widths: units of the hidden layers between it and its outputs; the authors use none.

    Raises:
        ValueError: if a size is no whole number of at least 1.

    Examples:
        >>> import jax
        >>> architecture = LinearOptim()
        >>> meta_params = architecture.init(jax.random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(meta_params))
        275
        >>> optimizer = architecture.transform(meta_params, learning_rate=3e-4)
    """

    State = LinearOptimState

    def shapes(self) -> Shapes:
        """See `RecurrentArchitecture.shapes`."""
        return {
            "rnn": _recurrent.gru_shapes(1, self.hidden_size),
            "mlp": _recurrent.mlp_shapes(self.hidden_size, self.mlp_widths, 3),
        }

    @staticmethod
    def direction(
        weights: dict[str, Any],
        gradient: jax.Array,
        features: Sequence[jax.Array],
        hidden: tuple[jax.Array, ...],
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """See `RecurrentArchitecture.direction`."""
        after = _recurrent.gru(weights["rnn"], hidden[0], features)
        rate, scale, offset = _recurrent.mlp(weights["mlp"], after)
        return jnp.exp(rate) * gradient + jnp.exp(scale) * offset, (after,)


def linear_optim(
    meta_params: MetaParams,
    learning_rate: optax.ScalarOrSchedule = 3e-4,
    grad_clip: jax.typing.ArrayLike | None = 1.0,
) -> optax.GradientTransformationExtraArgs:
    r"""The LinearOptim optimizer, to which the authors of Optim4RL compare it.

    A recurrent network with a hidden state for each parameter gives the coefficients of a function
    that is linear in the gradient. With gradient :math:`g`, for each parameter on its own,

    .. math::

      \begin{align*}
        g &\leftarrow \operatorname{clip}(g, \pm c) \\
        h &\leftarrow \operatorname{GRU}(h, g), \qquad (o_1, o_2, o_3) = \operatorname{MLP}(h) \\
        \theta &\leftarrow \theta - \alpha\, (e^{o_1} g + e^{o_2} o_3)
      \end{align*}

    and :math:`h = 0` at first.

    Args:
        meta_params: as `LinearOptim.init` gives them; sizes are read from the shapes. Tracers will
            do: the optimizer can be differentiated with respect to them, and batched over them.
        learning_rate: factor of the updates, greater than 0, or a schedule.
        grad_clip: each entry of a gradient is first held within this, greater than 0; `None` for no
            limit.

    Returns:
        The optimizer. Gradients count as constants: what is differentiated through `update` sees
        the meta-parameters and hidden states only, not how gradients depend on parameters. Extra
        arguments are ignored.

    Raises:
        ValueError: if a number is outside its range or the meta-parameters are not LinearOptim's;
            from `update`, if a gradient is complex.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> optimizer = linear_optim(LinearOptim().init(jax.random.key(0)), learning_rate=1e-3)
        >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
        >>> updates, state = optimizer.update(params, optimizer.init(params), params)
        >>> state[0].hidden["kernel"].shape
        (8, 3, 2)

    References:
        Lan et al., `Learning to Optimize for Reinforcement Learning
        <https://arxiv.org/abs/2302.01470>`_, Reinforcement Learning Conference 2024, arXiv
        2302.01470.

    .. note::
      As in the authors' code, gradients are clipped entry by entry by the optimizer itself, at 1 by
      default. Without a limit of the user's, entries are held within 1e15.

    .. note::
      The third output moves a parameter even where its gradient is 0.
    """
    architecture = LinearOptim(**_recurrent.read_sizes(meta_params, "rnn", "mlp"))
    return architecture.transform(meta_params, learning_rate, grad_clip)
