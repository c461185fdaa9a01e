"""PSGD-Kron: whitening of the momentum by a Kronecker product learned with it."""

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optim._batching import in_turn
from optim._checks import check_learning_rate, check_range, check_real
from optim._leaves import bounded, key_of_seed
from optim._paths import as_mask
from optim._promotion import with_standard_promotion
from optim._trained import on_trained_leaves


@on_trained_leaves
def scale_by_kron(
    b1: float = 0.9,
    preconditioner_rate: jax.typing.ArrayLike = 0.1,
    max_size: int = 8192,
    max_rms: jax.typing.ArrayLike = 1.1,
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    """Rescales updates as PSGD-Kron does, without learning rate and weight decay.

    See `kron` for the equations and the notes.

    Args:
        b1: decay rate of the momentum, in (0, 1).
        preconditioner_rate: step size of the preconditioner, greater than 0.
        max_size: longest axis that gets a triangular factor; longer ones get a diagonal.
        max_rms: largest root mean square of the direction of a tensor, greater than 0.
        seed: seeds the noise of the preconditioner's updates; `init` mixes it with the initial
            parameters.

    Returns:
        The transformation. Its state is that of `psgdax`.

    Raises:
        ImportError: if `psgdax` is not installed.
        ValueError: if a number is outside its range; from `init`, if a parameter is complex.

    Examples:
        >>> import importlib.util
        >>> import jax.numpy as jnp
        >>> if importlib.util.find_spec("psgdax"):
        ...     direction = scale_by_kron(max_size=16)
        ...     updates, _ = direction.update(jnp.ones(3), direction.init(jnp.ones(3)))

    References:
        Li, `Preconditioned Stochastic Gradient Descent <https://arxiv.org/abs/1512.04202>`_, 2015,
        arXiv 1512.04202.
    """
    check_range("b1", b1, 0.0, 1.0, open_low=True)
    check_range("preconditioner_rate", preconditioner_rate, 0.0, open_low=True)
    check_range("max_rms", max_rms, 0.0, open_low=True)
    package = _psgdax()

    def direction(**key: jax.Array) -> optax.GradientTransformation:
        return package.scale_by_kron(
            b1=b1,
            max_size_triangular=max_size,
            max_skew_triangular=float("inf"),
            whiten_grad=False,
            preconditioner_lr=preconditioner_rate,
            preconditioner_init_scale=1.0,
            mu_dtype="float32",
            precond_dtype="float32",
            precond_update_precision="float32",
            precond_grads_precision="float32",
            preconditioner_mode="EQ",
            track_lipschitz=False,
            grad_clip_max_amp=max_rms,
            **key,
        )

    def init_fn(params: optax.Params) -> optax.OptState:
        check_real("kron", params)
        # A key made here is nobody else's buffer, so the state can be donated.
        key = key_of_seed(seed, params)
        with _at_ease():
            return direction(key=key).init(
                optax.tree.zeros_like(_with_entries(params), dtype=jnp.float32)
            )

    def next_direction(leaves: list[jax.Array], state: optax.OptState) -> tuple[Any, Any]:
        with _at_ease():
            return direction().update(leaves, state)

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        del params, extra_args
        treedef: Any
        leaves, treedef = jax.tree.flatten(_with_entries(updates))
        # The preconditioner is learned from squares of the momentum.
        leaves = [bounded(leaf, jnp.float32) for leaf in leaves]
        if not leaves:
            return updates, state
        # The package is given plain lists: flax nnx brings lists back as nodes of its own.
        mu, factors = map(treedef.flatten_up_to, (state.mu, state.Qs_preconditioners))
        plain = state._replace(mu=mu, Qs_preconditioners=list(map(jax.tree.leaves, factors)))
        directions, plain = in_turn(next_direction)(leaves, plain)
        mu, factors = map(treedef.unflatten, (plain.mu, plain.Qs_preconditioners))
        return jax.tree.map(
            lambda g, d: g if d is None else d.astype(g.dtype),
            updates,
            treedef.unflatten(directions),
        ), plain._replace(mu=mu, Qs_preconditioners=factors)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@on_trained_leaves
def kron(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    weight_decay: jax.typing.ArrayLike = 0.0,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    preconditioner_rate: jax.typing.ArrayLike = 0.1,
    max_size: int = 8192,
    max_rms: jax.typing.ArrayLike = 1.1,
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""PSGD with a Kronecker-factored preconditioner, Kron for short.

    The computation is that of the package `psgdax` (`pip install rl-optim[kron]`), with the
    settings that come nearest to the Kron of deep RL at scale: equivariant updates of triangular
    factors that whiten the momentum.

    A tensor with k axes has one upper triangular factor :math:`Q_i` for each, starting at the
    identity. With momentum :math:`m`, noise :math:`V \sim N(0, I)`, :math:`A` the momentum times
    all :math:`Q_i` along their axes and :math:`B` the noise times all :math:`Q_i^{-\top}`, now and
    then

    .. math::

      Q_i \leftarrow Q_i - \mu\, \operatorname{triu}(A_i A_i^\top - B_i B_i^\top)\, Q_i
        / \|A_i A_i^\top + B_i B_i^\top\|

    where :math:`A_i` is unfolded along axis i and the norm is a lower bound of the spectral one;
    and at every update, with d the momentum times :math:`Q_i^\top Q_i` along every axis,

    .. math::

      \theta \leftarrow \theta - \alpha\, (d \min(1, \rho / \operatorname{rms}(d))
        + \lambda \theta).

    The preconditioner is updated always in the first 500 updates, then ever less, down to 3 of 100.

    Args:
        learning_rate: step size, greater than 0, or a schedule. In deep RL a third of Adam's has
            been used.
        b1: decay rate of the momentum, in (0, 1).
        weight_decay: strength :math:`\lambda` of the decoupled weight decay, at least 0.
        weight_decay_mask: booleans that select the decayed leaves: a pytree that mirrors the
            parameters or is a prefix of them, or a function from parameters to one. `None` selects
            those with two axes or more.
        preconditioner_rate: step size :math:`\mu` of the preconditioner, greater than 0.
        max_size: longest axis that gets a triangular factor; longer ones get a diagonal.
        max_rms: largest root mean square :math:`\rho` of the direction of a tensor, greater than 0.
        seed: seeds the noise of the preconditioner's updates; `init` mixes it with the initial
            parameters.

    Returns:
        The optimizer. It computes in float32; `update` needs the parameters and ignores extra
        arguments.

    Raises:
        ImportError: if `psgdax` is not installed.
        ValueError: if a number is outside its range; from `init`, if a parameter is complex.

    Examples:
        >>> import importlib.util
        >>> import jax
        >>> import jax.numpy as jnp
        >>> if importlib.util.find_spec("psgdax"):
        ...     optimizer = kron(learning_rate=1e-3)
        ...     params = {"kernel": jnp.ones((8, 4)), "bias": jnp.zeros(4)}
        ...     updates, state = jax.jit(optimizer.update)(params, optimizer.init(params), params)

    References:
        Li, `Preconditioned Stochastic Gradient Descent <https://arxiv.org/abs/1512.04202>`_, 2015,
        arXiv 1512.04202; Castanyer et al., `Stable Gradients for Stable Learning at Scale in Deep
        Reinforcement Learning <https://arxiv.org/abs/2506.15544>`_, 2025, arXiv 2506.15544.

    .. note::
      It differs from the PyTorch Kron of those experiments: the preconditioner is updated at random
      with the scheduled probability instead of at set times; the momentum starts as a plain mean
      instead of being corrected; kernels of convolutions keep all their axes.

    .. note::
      Entries of the gradient are held within :math:`\pm 10^{15}`, far beyond what a learner meets,
      so that their squares stay finite.

    .. note::
      Under `jax.vmap` members are updated in turn, so that a preconditioner is computed only when
      it is due. Members that start from different parameters draw different noise. Members of an
      ensemble on a leading axis share factors unless the optimizer is vmapped over that axis.

    .. note::
      It is not differentiable where all gradients of a tensor have been zero: the package takes the
      root of their mean square.

    .. note::
      `b1`, `max_size` and the size of the state must be known when the program is compiled:
      name `b1` and `max_size` in `static_args` of `optax.inject_hyperparams`.

    .. note::
      With bfloat16 parameters, `optax.inject_hyperparams` rounds all numbers to three digits:
      give it `hyperparam_dtype=jnp.float32`.
    """
    check_learning_rate(learning_rate)
    check_range("weight_decay", weight_decay, 0.0)
    chosen = _matrices if weight_decay_mask is None else weight_decay_mask
    mask = as_mask("weight_decay_mask", chosen)
    return optax.chain(
        scale_by_kron(
            b1=b1,
            preconditioner_rate=preconditioner_rate,
            max_size=max_size,
            max_rms=max_rms,
            seed=seed,
        ),
        with_standard_promotion(optax.add_decayed_weights(weight_decay, mask)),
        optax.scale_by_learning_rate(learning_rate),
    )


@contextlib.contextmanager
def _at_ease() -> Iterator[None]:
    """Bears what the package does: it prints its sizes and promotes dtypes and ranks."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


def _psgdax() -> Any:
    try:
        # The module makes a random key at import, which must not become a tracer.
        with jax.ensure_compile_time_eval():
            import psgdax
    except ImportError as error:
        raise ImportError("kron needs the package psgdax: pip install rl-optim[kron].") from error
    return psgdax


def _matrices(params: optax.Params) -> Any:
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) >= 2, params)


def _with_entries(tree: Any) -> Any:
    """Without the leaves of size 0, of which the package would take a largest entry."""
    return jax.tree.map(lambda leaf: leaf if leaf.size else None, tree)
