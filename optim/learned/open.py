"""OPEN: a learned optimizer for reinforcement learning, with exploration and plasticity in mind."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optim._checks import check_params, check_real, check_steps_between
from optim._leaves import widest_dtype, working_dtype
from optim._noise import noise_key, normals
from optim._paths import (
    Path,
    is_actor,
    layer_positions,
    leaf_paths,
    match_leaves,
    outputs_first,
)
from optim._told import Listener, share_done
from optim._trained import on_trained_leaves
from optim.learned import _open_update
from optim.learned._blocks import unsharded
from optim.learned._recurrent import check_meta_params, check_size, init_weights, recurrent_weight


class OPENState(NamedTuple):
    """State of `OPEN.transform`."""

    momenta: optax.Updates  # like params, with a leading axis of 6; float32 at least
    carry: optax.Updates  # like params, with a leading axis of gru_features; float32 at least
    key: jax.Array  # shape=(2,), dtype=uint32
    count: jax.Array  # type: ignore[assignment]  # shape=(), dtype=int32


@dataclasses.dataclass(frozen=True)
class OPEN:
    r"""The learned optimizer OPEN (Goldie et al., 2024).

    A recurrent network, the same for all parameters, sees each parameter's gradient and its
    history and gives the parameter's update. With :math:`g` the gradient of a parameter :math:`p`
    and :math:`\beta` = 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999,

    .. math::

      \begin{align*}
        m_i &\leftarrow \beta_i m_i + (1 - \beta_i) g \\
        \phi &= \big[p, \operatorname{sign} m_i, \log(|m_i| + 10^{-13}), \operatorname{sign} g,
          \log(|g| + 10^{-13})\big], \quad
          \hat\phi = \phi \Big/ \sqrt{10^{-5} + \overline{\phi^2}} \\
        h &\leftarrow \operatorname{GRU}\big(h, [\hat\phi, t_{training}, t_{layer}, t_{batch}, d]
          \big), \qquad o = \operatorname{MLP}(h) \\
        u &= 10^{-3} \big(o_1 e^{10^{-3} o_2} + \mu\, o_3 \epsilon\big), \quad
          \epsilon \sim N(0, 1) \\
        p &\leftarrow p - (u - \overline u)
      \end{align*}

    where the mean of :math:`\phi^2` is over the leaf, feature by feature, and that of :math:`u`
    over all parameters of all networks. :math:`t_{training}` is the share of the agent's lifetime,
    :math:`t_{batch}` the share of the epochs over the present batch, :math:`t_{layer}` the layer's
    position in its network, :math:`\mu` the noise mask, and :math:`d` the dormancy of the unit that
    the parameter feeds: its mean absolute activation :math:`a` relative to its layer's average,
    :math:`(a + 10^{-11}) / \overline{a + 10^{-11}}`. The perceptron has two hidden layers with
    LayerNorm and relu. There is no learning rate, and no gradient clipping: chain it behind
    `optim.clip_by_network_norm`, as the authors do with 0.5.

    Attributes:
        hidden_size: units of the perceptron's hidden layers.
        gru_features: units of the GRU.
        feature_version: of what meta-parameters are multiplied with; files of others are refused.

    Raises:
        ValueError: if a size is no integer of at least 1.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import optax
        >>> architecture = OPEN()
        >>> meta_params = architecture.init(jax.random.key(0))
        >>> optimizer = architecture.transform(meta_params, key=1)
        >>> params = {"actor": {"Dense_0": {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}}}
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update(params, state, params, training_progress=0.5)
        >>> print(jnp.abs(sum(leaf.sum() for leaf in jax.tree.leaves(updates))) < 1e-8)
        True

    References:
        Goldie et al., `Can Learned Optimization Make Reinforcement Learning Less Difficult?
        <https://arxiv.org/abs/2407.07082>`_, NeurIPS 2024, arXiv 2407.07082.

    .. note::
      The authors count layers in the order in which a network was built; here it is the order of
      their names, since JAX sorts dictionaries. Convolutions, scalar parameters and networks of a
      single layer, which the authors' code does not take, work here.

    .. note::
      The mean that is subtracted is in the authors' code and not in their paper. It keeps the sum
      of all parameters constant.

    .. note::
      Noise comes from another generator than the authors'.
    """

    feature_version: ClassVar[int] = 1
    hidden_size: int = 16
    gru_features: int = 8

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            check_size(name, value)

    def shapes(self) -> dict[str, Any]:
        """Shapes of the meta-parameters, as a nested dict, in the order of the authors' vectors.

        Returns:
            A tuple for each array.

        Examples:
            >>> OPEN().shapes()["params"]["layers_6"]
            {'bias': (3,), 'kernel': (16, 3)}
        """
        h, n = self.hidden_size, self.gru_features
        from_input = {"bias": (n,), "kernel": (_open_update.FEATURES, n)}
        norm = {"bias": (h,), "scale": (h,)}
        return {
            "gru_params": {
                "hn": {"bias": (n,), "kernel": (n, n)},
                "hr": {"kernel": (n, n)},
                "hz": {"kernel": (n, n)},
                "in": dict(from_input),
                "ir": dict(from_input),
                "iz": dict(from_input),
            },
            "params": {
                "layers_0": {"bias": (h,), "kernel": (n, h)},
                "layers_1": dict(norm),
                "layers_3": {"bias": (h,), "kernel": (h, h)},
                "layers_4": dict(norm),
                "layers_6": {"bias": (3,), "kernel": (h, 3)},
            },
        }

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Draws meta-parameters as flax initialises the authors' networks.

        Raveled (`jax.flatten_util.ravel_pytree`), they are laid out as the authors' vectors.

        Args:
            key: random key.

        Returns:
            Nested dictionary of float32 arrays.

        Examples:
            >>> sum(leaf.size for leaf in jax.tree.leaves(OPEN().init(jax.random.key(0))))
            1211
        """
        return init_weights(key, self.shapes(), _initial_weight)

    def from_vector(self, vector: jax.typing.ArrayLike) -> dict[str, Any]:
        """Meta-parameters from a flat vector, laid out as the authors' are.

        Args:
            vector: array of shape (numbers,), e.g. what an evolution strategy proposes.

        Returns:
            Nested dictionary of float32 arrays.

        Raises:
            ValueError: if the vector has another size.

        Examples:
            >>> OPEN().from_vector(jnp.zeros(1211))["params"]["layers_6"]["kernel"].shape
            (16, 3)
        """
        shapes, treedef = jax.tree.flatten(self.shapes(), is_leaf=_is_shape)
        sizes = [math.prod(shape) for shape in shapes]
        vector = jnp.asarray(vector)
        if vector.shape != (sum(sizes),):
            raise ValueError(
                f"vector must have shape ({sum(sizes)},) for {self}, got {vector.shape}."
            )
        parts = jnp.split(vector.astype(jnp.float32), np.cumsum(sizes)[:-1].tolist())
        leaves = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
        return jax.tree.unflatten(treedef, leaves)

    @on_trained_leaves
    def transform(
        self,
        meta_params: Any,
        *,
        layer_proportion: Any = None,
        noise_mask: bool | Any = None,
        key: jax.Array | int = 0,
        subtract_mean: bool = True,
        total_updates: int | jax.Array | None = None,
    ) -> optax.GradientTransformationExtraArgs:
        """The optimizer with given meta-parameters.

        `update` needs the parameters and takes, each optional:

        - `activations`: mean absolute activation of each output unit, as a pytree that mirrors
          the parameters with one vector of shape (units,), or (1,), for each leaf. Units are on
          the last axis of a leaf, or on the first of one that is called `weight`, as equinox has
          it. Without activations, all units count as equally active.
        - `training_progress` and `batch_progress`: numbers, clipped to [0, 1], 0 by default.

        It warns once if `activations` or `training_progress` does not come: weights that were
        trained with them may do worse without. `optim.extras` helps to compute them. Any other
        extra argument is ignored. What concerns single leaves is matched to them by
        path; levels called `params` do not count.

        Args:
            meta_params: as `init` gives them; may be traced, to be batched or differentiated.
            layer_proportion: position of each leaf's layer, a pytree of scalars that mirrors the
                parameters or is a prefix of them. `None` takes it from the names: within each
                top-level entry (or the whole tree, if it has but two levels) the layers count from
                0 to 1 in the order of their names, with `Dense_10` after `Dense_9`; a parameter
                that stands beside the layers, as `log_std`, counts as a layer. `optim.explain`
                prints what comes of it.
            noise_mask: factor of the noise of each leaf, given in the same way or as a function
                from the parameters to that; False is none.
                `None` gives noise to the top-level entry `actor`, or `policy` as Brax calls it, and
                to nothing else.
            key: seed or key of the noise; may be traced. `init` mixes it with the initial
                parameters: agents that start from different parameters draw different noise, under
                `vmap` too, without being given keys of their own.
            subtract_mean: whether updates are centred over all parameters, as the authors do.
            total_updates: calls of `update` in the whole training, an integer of at least 1: where
                `update` is given no `training_progress`, it is counted from 0 to 1 over these.

        Returns:
            The optimizer. Its updates have the dtype of the parameters; the computation and the
            state are in float32 at least.

        Raises:
            ValueError: if `meta_params` are of another architecture or size; from `update`, if
                `params` is missing, gradients are complex, or a tree does not match the parameters.
        """
        check_meta_params(str(self), meta_params, self.shapes())
        if total_updates is not None:
            check_steps_between("total_updates", total_updates)
        listener = Listener("OPEN")

        def init_fn(params: optax.Params) -> OPENState:
            def rows(leaf: jax.Array, count: int) -> jax.Array:
                return jnp.stack([jnp.zeros_like(leaf, dtype=working_dtype(leaf))] * count)

            return OPENState(
                momenta=jax.tree.map(lambda p: rows(p, len(_open_update.DECAYS)), params),
                carry=jax.tree.map(lambda p: rows(p, self.gru_features), params),
                key=noise_key(key, params),
                count=jnp.zeros([], jnp.int32),
            )

        def update_fn(
            updates: optax.Updates,
            state: OPENState,
            params: optax.Params | None = None,
            *,
            activations: Any = None,
            training_progress: jax.typing.ArrayLike | None = None,
            batch_progress: jax.typing.ArrayLike | None = None,
            **extra_args: Any,
        ) -> tuple[optax.Updates, OPENState]:
            del extra_args
            check_params("OPEN", params)
            check_real("OPEN", updates)
            if training_progress is None and total_updates is not None:
                training_progress = share_done(state.count, total_updates)
            listener.check(activations=activations, training_progress=training_progress)
            treedef: Any = jax.tree.structure(params)
            leaves = jax.tree.leaves(params)
            paths = leaf_paths(params)
            momenta, carry = map(treedef.flatten_up_to, (state.momenta, state.carry))
            compute = functools.partial(_compute, meta_params, subtract_mean)
            results = unsharded(compute, (leaves, momenta, carry))(
                Inputs(
                    params=leaves,
                    grads=treedef.flatten_up_to(updates),
                    momenta=momenta,
                    carry=carry,
                    dormancies=_dormancies(activations, paths, leaves),
                    positions=_positions(layer_proportion, paths),
                    noise_factors=_noise_factors(
                        noise_mask(params) if callable(noise_mask) else noise_mask, paths
                    ),
                    progress=jnp.stack([share(training_progress), share(batch_progress)]),
                ),
                state.key,
                state.count,
            )
            updates, momenta, carry = (treedef.unflatten(result) for result in results)
            count = optax.safe_increment(state.count)
            return updates, OPENState(momenta, carry, state.key, count)

        return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def open_optimizer(
    meta_params: Any,
    *,
    layer_proportion: Any = None,
    noise_mask: bool | Any = None,
    key: jax.Array | int = 0,
    subtract_mean: bool = True,
    total_updates: int | jax.Array | None = None,
) -> optax.GradientTransformationExtraArgs:
    """OPEN with given meta-parameters, its sizes read from their shapes.

    See `OPEN.transform` for the arguments and what `update` takes. (Not called `open`,
    which would hide Python's own.)

    Args:
        meta_params: Meta-parameters of `OPEN`; may be traced.
        layer_proportion: position of each leaf's layer in its network, or None.
        noise_mask: factor of the noise of each leaf, or None.
        key: seed or key of the noise; may be traced.
        subtract_mean: whether updates are centred over all parameters.
        total_updates: calls of `update` in the whole training, in the place of a
            `training_progress` that `update` is not given; or None.

    Returns:
        The optimizer.

    Raises:
        ValueError: if `meta_params` are not OPEN's.

    Examples:
        >>> import jax
        >>> import optax
        >>> import optim
        >>> meta_params = optim.OPEN().init(jax.random.key(0))
        >>> optimizer = optax.chain(
        ...     optim.clip_by_network_norm(0.5), optim.open_optimizer(meta_params, noise_mask=False)
        ... )
    """
    try:
        gru_features, hidden_size = jnp.shape(meta_params["params"]["layers_0"]["kernel"])
    except (IndexError, KeyError, TypeError, ValueError):
        gru_features, hidden_size = OPEN.gru_features, OPEN.hidden_size
    return OPEN(hidden_size, gru_features).transform(
        meta_params,
        layer_proportion=layer_proportion,
        noise_mask=noise_mask,
        key=key,
        subtract_mean=subtract_mean,
        total_updates=total_updates,
    )


class Inputs(NamedTuple):
    """What an update is computed from, apart from meta-parameters and noise."""

    params: list[jax.Array]
    grads: list[jax.Array]
    momenta: list[jax.Array]
    carry: list[jax.Array]
    dormancies: list[jax.Array]
    positions: list[jax.Array]
    noise_factors: list[jax.Array | None]
    progress: jax.Array  # shape=(2,)


def draw_noise(
    params: Sequence[jax.Array], factors: Sequence[jax.Array | None], key: Any, count: Any
) -> list[jax.Array | None]:
    """Normal numbers for the leaves that have a factor.

    Args:
        params: leaves of the parameters.
        factors: what the noise of each leaf is multiplied by; None for no noise.
        key: the state's key.
        count: the state's count.

    Returns:
        For each leaf an array of its shape, dtype float32, or None.

    Examples:
        >>> key = jnp.zeros(2, jnp.uint32)
        >>> first, _ = draw_noise([jnp.ones((2, 3)), jnp.ones(2)], [jnp.ones(()), None], key, 0)
        >>> first.shape
        (2, 3)
    """
    sizes = [0 if factor is None else p.size for p, factor in zip(params, factors, strict=True)]
    if not sum(sizes):
        return [None] * len(sizes)
    # One stream for all leaves: a stream for each would be a program for each.
    parts = jnp.split(normals(key, count, sum(sizes)), np.cumsum(sizes)[:-1].tolist())
    return [
        part.reshape(p.shape) if size else None
        for part, p, size in zip(parts, params, sizes, strict=True)
    ]


def compute_updates(
    meta_params: Any, inputs: Inputs, draws: Sequence[jax.Array | None], subtract_mean: bool
) -> tuple[list[jax.Array], list[jax.Array], list[jax.Array]]:
    """One update, with the noise as it was drawn.

    Args:
        meta_params: Meta-parameters of `OPEN`.
        inputs: everything else.
        draws: normal numbers for each leaf; None for no noise.
        subtract_mean: whether updates are centred over all parameters.
        total_updates: calls of `update` in the whole training, in the place of a
            `training_progress` that `update` is not given; or None.

    Returns:
        Updates, momenta and carries, with the dtypes of the parameters and of the old state.

    Examples:
        >>> architecture, params = OPEN(), {"bias": jnp.ones(3)}
        >>> meta_params = architecture.init(jax.random.key(0))
        >>> state = architecture.transform(meta_params).init(params)
        >>> inputs = Inputs(
        ...     *([tree["bias"]] for tree in (params, params, state.momenta, state.carry)),
        ...     [jnp.ones(3)], [jnp.zeros(())], [None], jnp.zeros(2)
        ... )
        >>> updates, _, _ = compute_updates(meta_params, inputs, [None], False)
        >>> updates[0].shape
        (3,)
    """
    dtype = widest_dtype(inputs.params)

    def cast(x: Any) -> Any:
        return None if x is None else jnp.asarray(x).astype(dtype)

    noise = [
        None if draw is None else cast(factor) * cast(draw)
        for factor, draw in zip(inputs.noise_factors, draws, strict=True)
    ]
    given = zip(*inputs[:6], noise, strict=True)
    leaves = [_open_update.Leaf(*map(cast, leaf)) for leaf in given]
    full = [i for i, leaf in enumerate(leaves) if leaf.param.size]
    old = [(leaf.grad, leaf.momenta, leaf.carry) for leaf in leaves]
    if full:
        weights = _open_update.fold(meta_params, dtype)
        new = _open_update.update(
            weights, cast(inputs.progress), [leaves[i] for i in full], center=subtract_mean
        )
        for i, result in zip(full, new, strict=True):
            old[i] = result
    like = zip(inputs.params, inputs.momenta, inputs.carry, strict=True)
    typed = [
        [part.astype(x.dtype) for part, x in zip(leaf, xs, strict=True)]
        for leaf, xs in zip(old, like, strict=True)
    ]
    updates, momenta, carry = ([leaf[i] for leaf in typed] for i in range(3))
    return updates, momenta, carry


def _compute(meta_params: Any, subtract_mean: bool, inputs: Inputs, key: Any, count: Any) -> Any:
    draws = draw_noise(inputs.params, inputs.noise_factors, key, count)
    return compute_updates(meta_params, inputs, draws, subtract_mean)


def share(number: Any) -> jax.Array:
    """A number, clipped to [0, 1]. A caller that does not know it may pass None, which is 0.

    Examples:
        >>> print(share(None), share(1.5))
        0.0 1.0
    """
    return jnp.clip(jnp.asarray(0.0 if number is None else number, float), 0, 1)


def _positions(given: Any, paths: Sequence[Path]) -> list[jax.Array]:
    if given is None:
        return [jnp.asarray(position, float) for position in layer_positions(paths)]
    return _scalars("layer_proportion", given, paths)


def _noise_factors(given: Any, paths: Sequence[Path]) -> list[jax.Array | None]:
    """None where it is certain that there is no noise."""
    if given is None:
        return [jnp.ones([]) if is_actor(path) else None for path in paths]
    factors = _scalars("noise_mask", given, paths)
    values = match_leaves("noise_mask", given, paths)
    known = [not isinstance(value, jax.core.Tracer) for value in values]
    return [
        None if is_known and not value else factor
        for factor, value, is_known in zip(factors, values, known, strict=True)
    ]


def _scalars(name: str, given: Any, paths: Sequence[Path]) -> list[jax.Array]:
    values = match_leaves(name, given, paths)
    for value, path in zip(values, paths, strict=True):
        if jnp.ndim(value):
            raise ValueError(
                f"{name} must hold scalars, got shape {jnp.shape(value)} for {'/'.join(path)}."
            )
    return [jnp.asarray(value, float) for value in values]


def _dormancies(given: Any, paths: Sequence[Path], leaves: Sequence[jax.Array]) -> list[jax.Array]:
    """Activity of each leaf's output units relative to their mean."""
    if given is None:
        return [jnp.ones((1,) * leaf.ndim) for leaf in leaves]
    dormancies = []
    for activity, path, leaf in zip(
        match_leaves("activations", given, paths), paths, leaves, strict=True
    ):
        axis = 0 if outputs_first(path, leaf.ndim) else max(leaf.ndim - 1, 0)
        units = leaf.shape[axis] if leaf.ndim else 1
        if jnp.shape(activity) not in ((units,), (1,)):
            raise ValueError(
                f"activations must have shape ({units},) or (1,) for {'/'.join(path)} of shape "
                f"{leaf.shape}, got {jnp.shape(activity)}."
            )
        activity = activity.astype(working_dtype(activity)) + 1e-11
        relative = activity / jnp.sum(jnp.abs(activity)) * activity.size
        shape = [1] * leaf.ndim
        shape[axis : axis + 1] = [-1][: leaf.ndim]
        dormancies.append(relative.reshape(shape))
    return dormancies


def _is_shape(node: Any) -> bool:
    return isinstance(node, tuple)


def _initial_weight(name: str, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    if name.endswith("scale"):
        return jnp.ones(shape, jnp.float32)
    return recurrent_weight(name, key, shape)
