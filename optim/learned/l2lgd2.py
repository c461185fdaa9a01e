"""L2LGD2: learning to learn by gradient descent by gradient descent, with gated units."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim.learned import _recurrent
from optim.learned._recurrent import MetaParams, RecurrentArchitecture, Shapes


class L2LGD2State(NamedTuple):
    """State of `l2lgd2`: a tree of arrays of shape `(hidden_size, *leaf.shape)`.

    They are float32, or float64 where the parameter is.
    """

    hidden: optax.Params


@dataclasses.dataclass(frozen=True)
class L2LGD2(RecurrentArchitecture):
    """The architecture of L2LGD2.

    See `l2lgd2` for the equations and the notes.

    Attributes:
        hidden_size: units of the recurrent network.
        mlp_widths: units of the hidden layers between it and its output; the authors use none.

    Raises:
        ValueError: if a size is no whole number of at least 1.

    Examples:
        >>> import jax
        >>> architecture = L2LGD2()
        >>> meta_params = architecture.init(jax.random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(meta_params))
        281
        >>> optimizer = architecture.transform(meta_params, learning_rate=3e-4)
    """

    State = L2LGD2State

    def shapes(self) -> Shapes:
        """See `RecurrentArchitecture.shapes`."""
        return {
            "rnn": _recurrent.gru_shapes(2, self.hidden_size),
            "mlp": _recurrent.mlp_shapes(self.hidden_size, self.mlp_widths, 1),
        }

    @staticmethod
    def features(gradient: jax.Array) -> list[jax.Array]:
        """See `RecurrentArchitecture.features`."""
        return _recurrent.log_and_sign(gradient)

    @staticmethod
    def direction(
        weights: dict[str, Any],
        gradient: jax.Array,
        features: Sequence[jax.Array],
        hidden: tuple[jax.Array, ...],
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """See `RecurrentArchitecture.direction`."""
        after = _recurrent.gru(weights["rnn"], hidden[0], features)
        return jnp.exp(_recurrent.mlp(weights["mlp"], after)[0]) * gradient, (after,)


def l2lgd2(
    meta_params: MetaParams,
    learning_rate: optax.ScalarOrSchedule = 3e-4,
    grad_clip: jax.typing.ArrayLike | None = 1.0,
) -> optax.GradientTransformationExtraArgs:
    r"""The L2LGD2 optimizer, as the authors of Optim4RL compare to it.

    A recurrent network with a hidden state for each parameter sees logarithm and sign of the
    gradient and gives the logarithm of a step size. With gradient :math:`g`, for each parameter on
    its own,

    .. math::

      \begin{align*}
        g &\leftarrow \operatorname{clip}(g, \pm c), \qquad l = \log(|g| + 10^{-8}) / 10 \\
        x &= (l, \operatorname{sign} g) \ \text{ if } l \ge -1, \text{ else } (-1, e^{10} g) \\
        h &\leftarrow \operatorname{GRU}(h, x) \\
        \theta &\leftarrow \theta - \alpha\, e^{\operatorname{MLP}(h)}\, g
      \end{align*}

    and :math:`h = 0` at first.

    Args:
        meta_params: as `L2LGD2.init` gives them; sizes are read from the shapes. Tracers will
            do: the optimizer can be differentiated with respect to them, and batched over them.
        learning_rate: factor of the updates, greater than 0, or a schedule.
        grad_clip: each entry of a gradient is first held within this, greater than 0; `None` for no
            limit.

    Returns:
        The optimizer. Gradients count as constants: what is differentiated through `update` sees
        the meta-parameters and hidden states only, not how gradients depend on parameters. Extra
        arguments are ignored.

    Raises:
        ValueError: if a number is outside its range or the meta-parameters are not L2LGD2's; from
            `update`, if a gradient is complex.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> optimizer = l2lgd2(L2LGD2().init(jax.random.key(0)), learning_rate=1e-3)
        >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
        >>> updates, state = optimizer.update(params, optimizer.init(params), params)
        >>> state[0].hidden["kernel"].shape
        (8, 3, 2)

    References:
        Andrychowicz et al., `Learning to learn by gradient descent by gradient descent
        <https://arxiv.org/abs/1606.04474>`_, NeurIPS 2016, arXiv 1606.04474. In this form: Lan et
        al., `Learning to Optimize for Reinforcement Learning <https://arxiv.org/abs/2302.01470>`_,
        Reinforcement Learning Conference 2024, arXiv 2302.01470.

    .. note::
      This is the version of Optim4RL's authors. In the original two layers of LSTM units give the
      step itself; here one layer of gated units gives the logarithm of a factor of the gradient.

    .. note::
      As in the authors' code, gradients are clipped entry by entry before anything else, at 1 by
      default, so that the logarithm is never positive. Without a limit of the user's, entries are
      held within 1e15.
    """
    architecture = L2LGD2(**_recurrent.read_sizes(meta_params, "rnn", "mlp"))
    return architecture.transform(meta_params, learning_rate, grad_clip)
