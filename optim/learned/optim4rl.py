"""Optim4RL: Adam's structure with two small recurrent networks in place of its moments."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim.learned import _recurrent
from optim.learned._recurrent import MetaParams, RecurrentArchitecture, Shapes


class Optim4RLState(NamedTuple):
    """State of `optim4rl`: trees of arrays of shape `(hidden_size, *leaf.shape)`.

    They are float32, or float64 where the parameter is.
    """

    first: optax.Params  # hidden state of the network that sees the gradient
    second: optax.Params  # hidden state of the network that sees its square


@dataclasses.dataclass(frozen=True)
class Optim4RL(RecurrentArchitecture):
    """The architecture of Optim4RL.

    See `optim4rl` for the equations and the notes.

    Attributes:
        hidden_size: units of each of the two recurrent networks.
        mlp_widths: units of the hidden layers between these and their outputs; the authors use
            none.

    Raises:
        ValueError: if a size is no whole number of at least 1.

    Examples:
        >>> import jax
        >>> architecture = Optim4RL()
        >>> meta_params = architecture.init(jax.random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(meta_params))
        514
        >>> optimizer = architecture.transform(meta_params, learning_rate=3e-4)
    """

    State = Optim4RLState

    def shapes(self) -> Shapes:
        """See `RecurrentArchitecture.shapes`."""
        shapes = {}
        for i in ("1", "2"):
            shapes["rnn" + i] = _recurrent.gru_shapes(1, self.hidden_size)
            shapes["mlp" + i] = _recurrent.mlp_shapes(self.hidden_size, self.mlp_widths, 1)
        return shapes

    @staticmethod
    def features(gradient: jax.Array) -> list[jax.Array]:
        """See `RecurrentArchitecture.features`."""
        return [gradient, gradient**2]

    @staticmethod
    def direction(
        weights: dict[str, Any],
        gradient: jax.Array,
        features: Sequence[jax.Array],
        hidden: tuple[jax.Array, ...],
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """See `RecurrentArchitecture.direction`."""
        first = _recurrent.gru(weights["rnn1"], hidden[0], features[:1])
        second = _recurrent.gru(weights["rnn2"], hidden[1], features[1:])
        numerator = jnp.exp(_recurrent.mlp(weights["mlp1"], first)[0])
        denominator = jnp.sqrt(jnp.exp(_recurrent.mlp(weights["mlp2"], second)[0]) + 1e-8)
        return jnp.sign(gradient) * numerator / denominator, (first, second)


def optim4rl(
    meta_params: MetaParams,
    learning_rate: optax.ScalarOrSchedule = 3e-4,
    grad_clip: jax.typing.ArrayLike | None = 1.0,
) -> optax.GradientTransformationExtraArgs:
    r"""The Optim4RL optimizer, learned for reinforcement learning.

    Optim4RL keeps the structure of Adam, a first moment over the root of a second, and lets two
    recurrent networks with a hidden state for each parameter produce the logarithms of the two.
    The sign of a step is that of the present gradient. With gradient :math:`g`, for each parameter
    on its own,

    .. math::

      \begin{align*}
        g &\leftarrow \operatorname{clip}(g, \pm c) \\
        h_1 &\leftarrow \operatorname{GRU}_1(h_1, g), \qquad
        h_2 \leftarrow \operatorname{GRU}_2(h_2, g^2) \\
        o_1 &= \operatorname{MLP}_1(h_1), \qquad o_2 = \operatorname{MLP}_2(h_2) \\
        \theta &\leftarrow \theta - \alpha\,
          \frac{\operatorname{sign}(g)\, e^{o_1}}{\sqrt{e^{o_2} + 10^{-8}}}
      \end{align*}

    and :math:`h_1 = h_2 = 0` at first. Where a gradient is exactly 0 the parameter stays, while
    its hidden states move on.

    Args:
        meta_params: as `Optim4RL.init` gives them; sizes are read from the shapes. Tracers will do:
            the optimizer can be differentiated with respect to them, and batched over them.
        learning_rate: factor of the updates, greater than 0, or a schedule. The authors use 3e-4 on
            most tasks of Brax, 1e-3 to 3e-2 on gridworlds and Catch.
        grad_clip: each entry of a gradient is first held within this, greater than 0; `None` for no
            limit.

    Returns:
        The optimizer. Gradients count as constants: what is differentiated through `update` sees
        the meta-parameters and hidden states only, not how gradients depend on parameters. Extra
        arguments are ignored.

    Raises:
        ValueError: if a number is outside its range or the meta-parameters are not Optim4RL's; from
            `update`, if a gradient is complex.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax
        >>> meta_params = Optim4RL().init(jax.random.key(0))
        >>> optimizer = optax.chain(optax.add_decayed_weights(1e-4), optim4rl(meta_params))
        >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
        >>> updates, state = optimizer.update(params, optimizer.init(params), params)
        >>> state[1][0].first["kernel"].shape
        (8, 3, 2)

    References:
        Lan et al., `Learning to Optimize for Reinforcement Learning
        <https://arxiv.org/abs/2302.01470>`_, Reinforcement Learning Conference 2024, arXiv
        2302.01470.

    .. note::
      Chained before this optimizer, `optax.add_decayed_weights` is L2 regularisation. Chained
      after it, the decay is decoupled, and being added to the step itself it has to be negative:
      `optax.add_decayed_weights(-1e-4)`.

    .. note::
      As in the authors' code, gradients are clipped entry by entry by the optimizer itself, at 1 by
      default (they turn this off on Catch, `grad_clip=None`). Without a limit of the user's,
      entries are held within 1e15, so that their squares stay finite.
    """
    architecture = Optim4RL(**_recurrent.read_sizes(meta_params, "rnn1", "mlp1"))
    return architecture.transform(meta_params, learning_rate, grad_clip)
