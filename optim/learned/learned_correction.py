"""A learned correction of a hand-crafted optimizer, which starts exactly as that optimizer."""

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optim import _by_name
from optim._checks import (
    check_learning_rate,
    check_optimizer,
    check_params,
    check_range,
    check_real,
    check_steps_between,
)
from optim._leaves import at_count, working_dtype, working_zeros
from optim._noise import noise_key
from optim._parameter_map import initial_copy
from optim._paths import ACTORS, CRITICS, Path, is_actor, layer_positions, leaf_paths, match_leaves
from optim._promotion import with_standard_promotion
from optim._told import Listener, share_done
from optim._trained import on_trained_leaves
from optim.learned import _correction, _recurrent
from optim.learned._blocks import unsharded
from optim.learned._correction import FEATURES, OUTPUTS, Adam, Leaf
from optim.learned._recurrent import MetaParams, Shapes, check_meta_params, check_size, init_weights
from optim.learned.open import draw_noise, share
from optim.spec import OptimizerSpec

_RATE = 1e-3  # of a base that is named, unless one is given
# Optimizers whose updates are in proportion to their learning rate. It is multiplied with at the
# very end, as they do: compilers may fuse that with the sum of parameter and update.
_PROPORTIONAL = frozenset({"adamo", "adamw", "lion", "muon", "nadam", "rmsprop", "sgd"})
_ROLES = dict.fromkeys(ACTORS, 1) | dict.fromkeys(CRITICS, -1)
_DORMANT = 0.025  # share of the layer's mean activation up to which a unit counts as dormant


class LearnedCorrectionState(NamedTuple):
    """State of `learned_correction`; moments and start are float32 at least."""

    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32
    first: optax.Updates  # like params, moving average of gradients; Adam's own if that is the base
    second: optax.Updates  # the same, of their squares
    start: optax.Params  # like params, as they were at first
    base: optax.OptState  # of another base than Adam
    key: jax.Array | None  # shape=(2,), dtype=uint32; None without noise


@dataclasses.dataclass(frozen=True)
class LearnedCorrection:
    """The architecture of a learned correction.

    See `learned_correction` for the equations and the notes.

    Attributes:
        mlp_widths: units of the hidden layers of the network; with none it is linear.
        feature_version: of what meta-parameters are multiplied with; files of others are refused.

    Raises:
        ValueError: if a size is no whole number of at least 1.

    Examples:
        >>> import jax
        >>> architecture = LearnedCorrection()
        >>> meta_params = architecture.init(jax.random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(meta_params))
        125
        >>> optimizer = architecture.transform(meta_params, "adam", learning_rate=1e-2, b1=0.8)
    """

    feature_version: ClassVar[int] = 1
    mlp_widths: tuple[int, ...] = (6,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mlp_widths", tuple(self.mlp_widths))
        for width in self.mlp_widths:
            check_size("mlp_widths", width)

    def shapes(self) -> Shapes:
        """Shapes of the meta-parameters, as a nested dict.

        Returns:
            A tuple for each array. Rows of `step` and `decay` are actor and critic; columns, and
            the entries of `noise`, are the start and the end of training; `betas` are b1 and b2.

        Examples:
            >>> LearnedCorrection().shapes()["plain"]["step"]
            (2, 2)
        """
        return {
            "plain": {"betas": (2,), "decay": (2, 2), "noise": (2,), "step": (2, 2)},
            "mlp": _recurrent.mlp_shapes(len(FEATURES), self.mlp_widths, OUTPUTS),
        }

    def init(self, key: jax.Array) -> MetaParams:
        """Draws the hidden layers by LeCun's rule; all else is 0, with which it is the base.

        Args:
            key: a key.

        Returns:
            Nested dict of float32 arrays, shaped as `shapes` says.

        Examples:
            >>> print(LearnedCorrection().init(jax.random.key(0))["plain"]["betas"])
            [0. 0.]
        """
        last = f"mlp/layers_{2 * len(self.mlp_widths)}/kernel"

        def weight(name: str, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            if name.endswith("kernel") and name != last:
                return _recurrent.recurrent_weight(name, key, shape)
            return jnp.zeros(shape, jnp.float32)

        return init_weights(key, self.shapes(), weight)

    @staticmethod
    def further_options(base: Any = None) -> dict[str, inspect.Parameter]:
        """What `transform` takes as further options: truth values of features, and the base's.

        Args:
            base: name of the base; None for Adam. A transformation has no options here.

        Returns:
            Names and parameters.

        Raises:
            ValueError: if it is a name, but not of an optimizer that can be corrected.

        Examples:
            >>> [name in LearnedCorrection.further_options() for name in ("dormancy", "b1")]
            [True, True]
        """
        kind = inspect.Parameter.KEYWORD_ONLY
        seen = {name: inspect.Parameter(name, kind, default=True) for name in FEATURES}
        if base is not None and not isinstance(base, str):
            return seen
        return _by_name.names().base_parameters("learned_correction", base or "adam") | seen

    @on_trained_leaves
    def transform(
        self,
        meta_params: MetaParams,
        base: str | optax.GradientTransformation = "adam",
        learning_rate: optax.ScalarOrSchedule | None = None,
        *,
        noise: bool = False,
        key: jax.Array | int = 0,
        total_updates: int | jax.Array | None = None,
        **options: Any,
    ) -> optax.GradientTransformationExtraArgs:
        """Builds the optimizer with given meta-parameters.

        Args:
            meta_params: as `init` gives them; may be traced, to be batched or differentiated.
            base: the optimizer that is corrected: a name as `optim.make` takes it, or a
                transformation whose updates are to be added.
            learning_rate: factor of the updates, greater than 0, or a schedule. `None` is 1e-3 for
                a base that is named and 1 for a transformation, which has one of its own.
            noise: whether noise is drawn for the top-level entry `actor` or `policy`.
            key: seed or key of the noise; may be traced. It is mixed with the initial parameters.
            total_updates: calls of `update` in the whole training, an integer of at least 1: where
                `update` is given no `training_progress`, it is counted from 0 to 1 over these.
            **options: names of features with False, which the network then sees as 0; all others
                are the base's, if that is a name.

        Returns:
            The optimizer.

        Raises:
            ValueError: if the meta-parameters are not this architecture's, an option is unknown or
                out of range; from `update`, if `params` is missing, a gradient is complex or
                activations do not match the parameters.
        """
        check_meta_params(str(self), meta_params, self.shapes())
        seen = [name for name in FEATURES if options.pop(name, True)]
        inner, adam, rate = _base(base, learning_rate, options)
        if total_updates is not None:
            check_steps_between("total_updates", total_updates)
        listener = Listener("LearnedCorrection")

        def init_fn(params: optax.Params) -> LearnedCorrectionState:
            return LearnedCorrectionState(
                count=jnp.zeros([], jnp.int32),
                first=working_zeros(params),
                second=working_zeros(params),
                # Copies: buffers that two arrays share could not be donated.
                start=jax.tree.map(
                    lambda leaf: initial_copy(leaf).astype(working_dtype(leaf)), params
                ),
                base=inner.init(params),
                key=noise_key(key, params) if noise else None,
            )

        def update_fn(
            updates: optax.Updates,
            state: LearnedCorrectionState,
            params: optax.Params | None = None,
            *,
            activations: Any = None,
            training_progress: jax.typing.ArrayLike | None = None,
            batch_progress: jax.typing.ArrayLike | None = None,
            **extra_args: Any,
        ) -> tuple[optax.Updates, LearnedCorrectionState]:
            check_params("LearnedCorrection", params)
            check_real("LearnedCorrection", updates)
            if training_progress is None and total_updates is not None:
                training_progress = share_done(state.count, total_updates)
            wanted = {"training_progress": training_progress}
            if "dormancy" in seen:
                wanted = {"activations": activations} | wanted
            listener.check(**wanted)
            shares = {"training_progress": training_progress, "batch_progress": batch_progress}
            steps, base_state = inner.update(
                updates, state.base, params, activations=activations, **shares, **extra_args
            )
            treedef: Any = jax.tree.structure(params)
            leaves, paths = jax.tree.leaves(params), leaf_paths(params)
            known = {
                "layer": jnp.array(layer_positions(paths), float),
                "role": jnp.array([_ROLES.get(path[0], 0) if path else 0 for path in paths], float),
                "matrix": jnp.array([1 if leaf.ndim > 1 else -1 for leaf in leaves], float),
                "dormancy": _dormancy(activations, paths),
                **{name: jnp.full(len(leaves), share(given)) for name, given in shares.items()},
            }
            noisy = [jnp.ones([]) if noise and is_actor(path) else None for path in paths]

            def compute(known: Any, count: Any, key: Any, *trees: Any) -> Any:
                draws = draw_noise(trees[0], noisy, key, count)
                return _correction.update(
                    meta_params,
                    [Leaf(*leaf) for leaf in zip(*trees, draws, strict=True)],
                    known,
                    count,
                    at_count(rate, count),
                    adam=Adam() if adam is None else adam,
                    is_adam=adam is not None,
                    seen=seen,
                )

            if leaves:
                trees = [leaves, *map(treedef.flatten_up_to, (updates, *state[1:4], steps))]
                results = unsharded(compute, (leaves, leaves, leaves))(
                    known, state.count, state.key, *trees
                )
                updates, first, second = (treedef.unflatten(part) for part in results)
                state = state._replace(first=first, second=second)
            count = optax.safe_increment(state.count)
            return updates, state._replace(count=count, base=base_state)

        return with_standard_promotion(optax.GradientTransformationExtraArgs(init_fn, update_fn))


def _dormancy(activations: Any, paths: Sequence[Path]) -> jax.Array:
    """The share of each leaf's output units that are dormant; 0 if that is not known."""
    if activations is None or not paths:
        return jnp.zeros(len(paths))
    units = [jnp.asarray(a, float) for a in match_leaves("activations", activations, paths)]
    return jnp.stack([jnp.mean(a <= _DORMANT * jnp.mean(a), dtype=float) for a in units])


def _base(
    base: Any, learning_rate: optax.ScalarOrSchedule | None, options: dict[str, Any]
) -> tuple[optax.GradientTransformationExtraArgs, Adam | None, optax.ScalarOrSchedule]:
    """A transformation, Adam's numbers if it is Adam instead, and what to multiply with."""
    if not isinstance(base, str):
        if options:
            raise ValueError(
                f"options must be given to the base itself if that is no name, got {list(options)}."
            )
        rate: optax.ScalarOrSchedule = 1.0 if learning_rate is None else learning_rate
        check_learning_rate(rate)
        check_optimizer("base", base)
        return with_standard_promotion(base), None, rate
    rate = _RATE if learning_rate is None else learning_rate
    check_learning_rate(rate)
    if base == "adam" and set(options) <= set(Adam._fields):
        adam = Adam(**options)
        check_range("b1", adam.b1, 0.0, 1.0)
        check_range("b2", adam.b2, 0.0, 1.0)
        check_range("eps", adam.eps, 0.0)
        check_range("eps_root", adam.eps_root, 0.0)
        return optax.with_extra_args_support(optax.identity()), adam, rate
    optimizers = _by_name.names()
    optimizers.check_base("learned_correction", base)
    spec = OptimizerSpec(base, None, tuple(options.items()))
    if base in _PROPORTIONAL and "adam_learning_rate" not in options:
        return optimizers.make(spec, 1.0), None, rate
    return optimizers.make(spec, rate), None, 1.0


def learned_correction(
    meta_params: MetaParams,
    base: str | optax.GradientTransformation = "adam",
    learning_rate: optax.ScalarOrSchedule | None = None,
    *,
    noise: bool = False,
    key: jax.Array | int = 0,
    total_updates: int | jax.Array | None = None,
    **options: Any,
) -> optax.GradientTransformationExtraArgs:
    r"""A learned correction of a hand-crafted optimizer, which starts exactly as that optimizer.

    A small network sees each leaf (tensor) of the parameters through a few numbers that do not
    depend on scale, and changes what the base does with it; twelve plain numbers beside it change
    actor and critic as wholes. With :math:`g` the gradient, :math:`x` the base's direction,
    :math:`\theta_0` the parameters at the start, :math:`\alpha` the learning rate,
    :math:`\lVert\cdot\rVert` the root mean square over the leaf and
    :math:`a = \operatorname{sign}(g) \operatorname{sign}(x)`, for each leaf

    .. math::

      \begin{align*}
        o &= \tfrac{1}{2} \operatorname{MLP}(\phi) +
          (s_{r,t},\, 0,\, d_{r,t},\, 0,\, n_t), \qquad
          \rho = \tfrac{1}{5} \lVert x \rVert \\
        x' &= e^{o_1} (1 + a \tanh o_2)\, x
          + \rho\, o_3 \frac{\theta}{\lVert \theta \rVert}
          + \rho\, o_4 \frac{\theta - \theta_0}{\sqrt{\lVert\theta\rVert^2 +
          \lVert\theta - \theta_0\rVert^2}} + \rho\, o_5\, \epsilon \\
        \theta &\leftarrow \theta - \alpha\, x'
      \end{align*}

    where :math:`s_{r,t}` is a plain number of the leaf's role r, actor or critic, that moves
    linearly in training progress from one meta-parameter to another, as do :math:`d_{r,t}` and
    :math:`n_t`; a leaf of neither role has the mean of both. Noise :math:`\epsilon` is for the
    actor alone, and only if asked for. If the base is Adam, :math:`x = \hat m / (\sqrt{\hat v +
    \bar\varepsilon} + \varepsilon)` and the last two plain numbers :math:`c_i` change its decay
    rates, :math:`1 - \beta_i' = (1 - \beta_i)\, e^{c_i}`. Decays may be negative.

    The network has tanh between its layers and sees, each in [-1, 1],

    - `signal`: :math:`\lVert \hat m \rVert / \sqrt{\operatorname{mean} \hat v}`, at most 1;
    - `agreement`: the cosine of gradient and first moment, and `path`: that of descent and the way
      from the start, the longest time scale of all;
    - `radius`: the cosine of descent and parameter: does the gradient ask for growth?
    - `growth`: :math:`(\lVert\theta\rVert^2 - \lVert\theta_0\rVert^2) / (\lVert\theta\rVert^2 +
      \lVert\theta_0\rVert^2)`, the hyperbolic tangent of the logarithm of the ratio;
    - `distance`: :math:`\lVert\theta - \theta_0\rVert / \sqrt{\lVert\theta\rVert^2 +
      \lVert\theta - \theta_0\rVert^2}`;
    - `layer`: the position in its network, as in `OPEN`; `role`: 1 for the top-level entry `actor`
      or `policy`, -1 for `critic` or `value`; `matrix`: 1, or -1 for what has fewer than two axes;
    - `dormancy`: the share of its output units whose mean activation is at most 0.025 of the
      layer's; `training_progress` and `batch_progress`. Each is 0 if it is not passed to `update`.

    Args:
        meta_params: as `LearnedCorrection.init` gives them; sizes are read from the shapes. May be
            traced, to be batched or differentiated.
        base: the optimizer that is corrected: a name as `optim.make` takes it, or a
            transformation whose updates are to be added.
        learning_rate: :math:`\alpha`, greater than 0, or a schedule. `None` is 1e-3 for a base that
            is named and 1 for a transformation, which has one of its own.
        noise: whether noise is drawn; it takes longer than all the rest.
        key: seed or key of the noise; may be traced. It is mixed with the initial parameters, as
            OPEN's is.
        total_updates: calls of `update` in the whole training, an integer of at least 1: where
            `update` is given no `training_progress`, it is counted from 0 to 1 over these.
        **options: names of features with False, which the network then sees as 0; all others are
            those of the base, if that is a name.

    Returns:
        The optimizer. `update` needs the parameters and takes `activations`, `training_progress`
        and `batch_progress` as `OPEN.transform` says, each optional, and warns as it does; the base
        is given all extra arguments. Updates have the dtype of the parameters; moments are kept in
        float32 at least.

    Raises:
        ValueError: if the meta-parameters are not those of `LearnedCorrection`, an option is
            unknown or out of range; from `update`, if `params` is missing, a gradient is complex or
            activations do not match the parameters.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> meta_params = LearnedCorrection().init(jax.random.key(0))
        >>> meta_params["plain"]["step"] += jnp.log(2.0)
        >>> optimizer = learned_correction(meta_params, "sgd", learning_rate=0.1)
        >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
        >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
        >>> print(updates["kernel"][0].round(3))  # With zeros -0.1, as the base.
        [-0.2 -0.2]

    References:
        The features are of the kind that OPEN sees, Goldie et al., `Can Learned Optimization Make
        Reinforcement Learning Less Difficult? <https://arxiv.org/abs/2407.07082>`_, NeurIPS 2024,
        arXiv 2407.07082; the factor :math:`1 + a \tanh o_2` has at its end that of Liang et al.,
        `Cautious Optimizers <https://arxiv.org/abs/2411.16085>`_, arXiv 2411.16085.

    .. note::
      Meta-parameters as they are drawn give the base's updates bit for bit; compiled programs in
      which a compiler contracts the last product, with the learning rate, and the sum of parameter
      and update agree too if the learning rate is this function's. Give a transformation a learning
      rate of 1, and its own here. Of the names, `adamo`, `adamw`, `lion`, `muon`, `nadam`,
      `rmsprop` and `sgd` are treated so, and Adam; others are given the learning rate themselves.

    .. note::
      Means over a leaf of 8192 or more entries are over every k-th of its rows, 4096 entries or
      more. An update takes 2 to 3 times as long as Adam's.

    .. note::
      A unit of a decay or of noise is a fifth of the base's step, one of the step a factor of e:
      meta-parameters are to be perturbed by about 0.25.
    """
    try:
        layers = meta_params["mlp"]
        widths = tuple(
            jnp.shape(layers[f"layers_{2 * i}"]["kernel"])[1] for i in range(len(layers) - 1)
        )
    except (AttributeError, IndexError, KeyError, TypeError):
        widths = LearnedCorrection.mlp_widths
    architecture = LearnedCorrection(widths)
    return architecture.transform(
        meta_params,
        base,
        learning_rate,
        noise=noise,
        key=key,
        total_updates=total_updates,
        **options,
    )
