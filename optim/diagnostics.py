r"""Will the temporal-difference error of a critic under Adam die out or explode?

Close to where it stands, a critic :math:`Q_\theta` that chases a target
:math:`y = r + \gamma Q_{\bar\theta}(x')` is a linear dynamical system, and linear systems can be
tested for stability. This module builds that system from a live critic and Adam's live state.
Everything here is computed on the host in float64 with NumPy; none of it can be called inside
`jax.jit`.

With M rows, P parameters, :math:`Z = \partial Q(x) / \partial\theta` of shape (M, P),
:math:`Z' = \partial Q(x') / \partial\bar\theta` at the target network's parameters,
:math:`D = 1 / (\sqrt{\hat v} + \varepsilon)` Adam's diagonal, :math:`c` the factor with which an
error enters the loss's gradient (2 / M for a mean of squares) and :math:`\alpha` the rate of Polyak
averaging,

.. math::

  K = c Z D Z^T, \qquad K' = c Z' D Z^T, \qquad S = \gamma K' - K, \qquad
  S_\alpha = \alpha \gamma K' - K.

Three tests come out of `stability`:

* `radius`, from S: without a target network. The error obeys
  :math:`e_{t+1} = ((1 + \beta_1) I + \eta (1 - \beta_1) S)\, e_t - \beta_1 e_{t-1}`.
* `published_radius`: the same recursion with :math:`S_\alpha`, as the paper has it.
* `exact_radius`: the recursion of online parameters x, momentum n and target parameters
  :math:`\bar x`, the target network being a state of its own. With the singular value
  decomposition :math:`Z D^{1/2} = U \Sigma V^T` cut at rank R, each of the three is a vector in the
  R coordinates :math:`V^T D^{-1/2} \theta`, and with :math:`B = Z' D^{1/2} V`

  .. math::

    n \leftarrow \beta_1 n + (1 - \beta_1)\, c\, \Sigma U^T (U \Sigma x - \gamma B \bar x), \qquad
    x \leftarrow x - \eta n, \qquad \bar x \leftarrow (1 - \alpha) \bar x + \alpha x

  At full rank its spectrum is that of the recursion of the M errors and M target values.

**Which to trust.** With a target network, `exact_radius`. Averaging delays the target; it does
not shrink it. A real mode that grows by a factor r a step sees the target with gain
:math:`\alpha r / (r - 1 + \alpha)`, which is 1 at r = 1 whatever :math:`\alpha` is: averaging slows
a real mode down and cannot stabilise it, while :math:`S_\alpha` treats the target as if it were
multiplied by :math:`\alpha` for ever and often calls a growing system stable. An oscillating mode
it can stabilise, so that `radius` may call unstable what a target network holds. With
:math:`\alpha = 1` all three agree. `python -m experiments.benchmarks.stability` compares the
tests with what live Adam does.

All three are statements about an infinitesimal neighbourhood in which Z, Z' and D stand still. They
hold for a linear critic for as long as :math:`\hat v` keeps its size, and for a network over short
stretches only: over hundreds of updates Z turns, and the actor moves x'. A radius close to 1 says
nothing about a short run, hence the grey zone of `Stability.verdict`. Being Hurwitz (every
eigenvalue of S in the left half plane) is not enough either: :math:`\eta |s|` must also stay below
:math:`2 (1 + \beta_1) / (1 - \beta_1)`, see `step_margin`. The optimizer is taken to be Adam; of
AdamO, this covers the part that is Adam.

References:
    Qiao et al., `A Collapse-Suppressed Optimizer for Offline RL
    <https://arxiv.org/abs/2605.01968>`_, ICML 2026, arXiv 2605.01968. The operator with the target
    network as a state is this project's.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike, NDArray

from optim._checks import check_range
from optim._paths import leaf_paths

Verdict = Literal["stable", "unstable", "undecided"]
Matrix = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Stability:
    """What `stability` finds; R is the rank of the Jacobian, M its number of rows."""

    kernel: Matrix
    """K, shape (M, M), with the loss's factor c in it."""

    next_kernel: Matrix
    """K', shape (M, M), likewise; the discount is not in it."""

    matrix: Matrix
    """S, shape (M, M)."""

    published_matrix: Matrix
    """S_alpha, shape (M, M)."""

    operator: Matrix
    """One period of the recursion of momentum, online and target parameters, in this order, shape
    (3 R, 3 R). A period is one step unless `polyak_period` says otherwise."""

    rank: int
    """R. The M - R directions that no parameter can reach are left out of everything below: an
    error in them stays as it is, a radius of exactly 1 that says nothing about growth."""

    eigenvalues: NDArray[np.complex128]
    """Of S in the reachable directions, shape (R,)."""

    published_eigenvalues: NDArray[np.complex128]
    """Of S_alpha, likewise."""

    growth: Matrix
    """Growth factor a step of each mode of S, in the order of `eigenvalues`, shape (R,)."""

    radius: float
    """Spectral radius without a target network: the largest growth factor of S."""

    published_radius: float
    """The same of S_alpha."""

    exact_radius: float
    """Spectral radius a step with momentum and target network as states."""

    hurwitz_margin: float
    """Largest real part among `eigenvalues`; negative means Hurwitz."""

    published_hurwitz_margin: float
    """The same of S_alpha."""

    step_margin: float
    """Largest `eta |s|` over `2 (1 + b1) / (1 - b1)`. At 1 or more a Hurwitz S with real
    eigenvalues is unstable all the same, because the step is too long for it."""

    gram_bound: float
    """Left-hand side of the paper's Proposition 5.1, `discount |F| |F'| + |F^T F - I|` in spectral
    norms, with F = (c D)^(1/2) Z^T and F' likewise of Z'. Below 1 it implies Hurwitz; it is 1 or
    more wherever an error is out of reach, and says nothing there."""

    def verdict(self, steps: float, test: str = "exact_radius", grey: float = 3.0) -> Verdict:
        """Says what a run of some length will show.

        Args:
            steps: length of the run, in critic steps.
            test: the radius to go by: 'exact_radius', 'radius' or 'published_radius'.
            grey: least number of e-foldings within the run that makes a decision.

        Returns:
            'stable', 'unstable', or 'undecided' where `abs(log(radius)) * steps < grey`.

        Raises:
            ValueError: if the test is unknown or a number is not positive.
        """
        return verdict(getattr(self, _known_test(test)), steps, grey)


TESTS = ("exact_radius", "radius", "published_radius")


def verdict(radius: float, steps: float, grey: float = 3.0) -> Verdict:
    """Says what a spectral radius means for a run of some length.

    Args:
        radius: growth factor of the error a step.
        steps: length of the run.
        grey: least number of e-foldings within the run that makes a decision.

    Returns:
        'stable', 'unstable' or 'undecided'.

    Raises:
        ValueError: if a number is not positive.

    Examples:
        >>> verdict(0.99, 1000), verdict(1.01, 1000), verdict(1.001, 1000)
        ('stable', 'unstable', 'undecided')
    """
    check_range("radius", radius, 0.0)
    check_range("steps", steps, 0.0, open_low=True)
    check_range("grey", grey, 0.0, open_low=True)
    e_foldings = math.log(radius) * steps if radius > 0 else -math.inf
    if abs(e_foldings) < grey:
        return "undecided"
    return "unstable" if e_foldings > 0 else "stable"


def jacobian(function: Callable[[Any], jax.Array], params: Any) -> Matrix:
    r"""Derivatives of a batch of values with respect to all parameters, in float64.

    The parameters are widened to float64 and the function is differentiated there, whether or not
    JAX's 64-bit mode is on; arrays that the function closes over should be wide already (NumPy
    arrays are, JAX's are float32 by default), or the derivatives are as exact as they are.

    Args:
        function: takes parameters, returns values of shape (M,). For twin critics, concatenate the
            values of both; for a target with a minimum, take it inside; for terminal transitions,
            return 0 for the next value.
        params: pytree of real arrays, P numbers in all.

    Returns:
        Z of shape (M, P); columns in the order of `jax.flatten_util.ravel_pytree`.

    Raises:
        ValueError: if the values have another shape than (M,), or a derivative is not finite.

    Examples:
        >>> import jax.numpy as jnp
        >>> features = np.arange(6.0).reshape(3, 2)
        >>> print(jacobian(lambda p: features @ p["w"], {"w": jnp.ones(2)}))
        [[0. 1.]
         [2. 3.]
         [4. 5.]]
    """
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), params)
        values = jax.eval_shape(function, wide)
        if values.ndim != 1:
            raise ValueError(f"function must return values of shape (M,), got {values.shape}.")
        # Row by row: a reverse pass over the whole batch would hold M copies of the activations.
        _, pullback = jax.vjp(jax.jit(function), wide)
        row = jax.jit(lambda direction: jax.flatten_util.ravel_pytree(pullback(direction)[0])[0])
        rows = [np.asarray(row(unit)) for unit in np.eye(values.shape[0], dtype=values.dtype)]
    result = np.stack(rows).astype(np.float64)
    if not np.isfinite(result).all():
        raise ValueError("function must have finite derivatives at params, got nan or inf.")
    return result


def adam_preconditioner(
    optimizer_state: optax.OptState, b2: float = 0.999, eps: float = 1e-4, eps_root: float = 0.0
) -> Matrix:
    r"""Adam's diagonal :math:`1 / (\sqrt{\hat v + \bar\varepsilon} + \varepsilon)`, live.

    Args:
        optimizer_state: state of a chain that holds one `optax.ScaleByAdamState`: that of
            `optax.adam`, `optax.adamw`, `optim.adamo` and others.
        b2: decay rate of the second moment that the optimizer was made with, in [0, 1).
        eps: its epsilon outside the root.
        eps_root: its epsilon inside the root.

    Returns:
        D of shape (P,), in the order of `jacobian`'s columns. Before the first update it is
        that of a second moment of 0.

    Raises:
        ValueError: if there is not exactly one such state, or D is not finite (a second moment of 0
            with an epsilon of 0).

    Examples:
        >>> import jax.numpy as jnp
        >>> import optim
        >>> adamo = optim.adamo(1e-3, eps=0.5)
        >>> params = jnp.zeros(2)
        >>> _, state = adamo.update(jnp.asarray([1.5, 0.5]), adamo.init(params), params)
        >>> print(adam_preconditioner(state, eps=0.5).round(4))
        [0.5 1. ]
    """
    check_range("b2", b2, 0.0, 1.0)
    check_range("eps", eps, 0.0)
    check_range("eps_root", eps_root, 0.0)
    is_adam = lambda node: isinstance(node, optax.ScaleByAdamState)  # noqa: E731
    states = [s for s in jax.tree.leaves(optimizer_state, is_leaf=is_adam) if is_adam(s)]
    if len(states) != 1:
        raise ValueError(
            f"optimizer_state must hold one optax.ScaleByAdamState, got {len(states)} of them."
        )
    leaves = [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(states[0].nu)]
    count = int(states[0].count)
    correction = 1.0 - b2**count if count else 1.0
    with np.errstate(divide="ignore"):
        diagonal = 1.0 / (np.sqrt(np.concatenate(leaves) / correction + eps_root) + eps)
    if not np.isfinite(diagonal).all():
        raise ValueError(f"eps must be positive where a second moment is 0, got {eps!r}.")
    return diagonal


def stability(
    jacobian: ArrayLike,
    next_jacobian: ArrayLike,
    preconditioner: ArrayLike,
    *,
    discount: float,
    learning_rate: float,
    b1: float = 0.9,
    polyak: float = 1.0,
    polyak_period: int = 1,
    loss_factor: float | None = None,
    rank_tolerance: float | None = None,
) -> Stability:
    """Tests whether the TD error of a critic under Adam dies out, three ways.

    The module's docstring has the equations, and says which test can be trusted when. The rows
    stand for the whole data: the loss is taken to be on these rows at every step.

    Args:
        jacobian: Z of shape (M, P), see `jacobian`, at the online parameters.
        next_jacobian: Z' of shape (M, P), at the target network's. A row of zeros is a terminal
            transition.
        preconditioner: D of shape (P,), positive, see `adam_preconditioner`.
        discount: gamma, at least 0.
        learning_rate: of the critic, positive.
        b1: Adam's decay rate of the first moment, in [0, 1).
        polyak: rate of the target network in (0, 1]; 1 is no target network.
        polyak_period: critic steps from one averaging to the next (TD3: 2). It enters
            `exact_radius` alone.
        loss_factor: c, the factor of an error in the gradient of the loss. None is 2 / M, for a
            mean of squares over the rows. With twin critics and a sum of two means over a batch, M
            is twice the batch and c is 2 / batch, so it must be given.
        rank_tolerance: singular values of Z D^(1/2) below this share of the largest count as 0.
            None is max(M, P) times float64's epsilon; give about 1e-5 where the Jacobian was
            computed in float32.

    Returns:
        Matrices, eigenvalues, radii and margins.

    Raises:
        ValueError: if shapes do not fit, a number is out of its range or not finite, or the
            Jacobian is 0.

    Examples:
        >>> test = stability(
        ...     [[1.0]], [[1.5]], [1.0], discount=0.99, learning_rate=1e-2, polyak=0.05
        ... )
        >>> print(test.exact_radius > 1.0, test.published_radius < 1.0, test.verdict(5000))
        True True unstable
    """
    Z, Z_next, D = _arrays(jacobian, next_jacobian, preconditioner)
    _check_numbers(discount, learning_rate, b1, polyak, polyak_period)
    if loss_factor is None:
        loss_factor = 2.0 / len(Z)
    if rank_tolerance is None:
        rank_tolerance = max(Z.shape) * float(np.finfo(np.float64).eps)
    check_range("loss_factor", loss_factor, 0.0, open_low=True)
    check_range("rank_tolerance", rank_tolerance, 0.0, 1.0)
    parts = _parts(Z, Z_next, D, loss_factor, rank_tolerance)
    own = (parts.left * parts.singular) @ np.diag(parts.singular) @ parts.left.T
    kernel = parts.factor * own
    next_kernel = parts.factor * (parts.next_coordinates * parts.singular) @ parts.left.T
    # Nonzero eigenvalues of (a B - U Sigma)(Sigma U^T) are those of the R x R product reversed.
    reversed_own = parts.factor * np.diag(parts.singular**2)
    reversed_next = parts.factor * (parts.singular[:, None] * parts.left.T) @ parts.next_coordinates
    eigenvalues = np.linalg.eigvals(discount * reversed_next - reversed_own).astype(complex)
    published = np.linalg.eigvals(polyak * discount * reversed_next - reversed_own).astype(complex)
    growth = _growth(eigenvalues, learning_rate, b1)
    operator = _operator(parts, discount, learning_rate, b1, polyak, polyak_period)
    return Stability(
        kernel=kernel,
        next_kernel=next_kernel,
        matrix=discount * next_kernel - kernel,
        published_matrix=polyak * discount * next_kernel - kernel,
        operator=operator,
        rank=len(parts.singular),
        eigenvalues=eigenvalues,
        published_eigenvalues=published,
        growth=growth,
        radius=float(growth.max()),
        published_radius=float(_growth(published, learning_rate, b1).max()),
        exact_radius=float(np.abs(np.linalg.eigvals(operator)).max() ** (1.0 / polyak_period)),
        hurwitz_margin=float(eigenvalues.real.max()),
        published_hurwitz_margin=float(published.real.max()),
        step_margin=float(
            learning_rate * np.abs(eigenvalues).max() * (1.0 - b1) / (2.0 * (1.0 + b1))
        ),
        gram_bound=float(
            discount * loss_factor * parts.singular[0] * np.linalg.norm(Z_next * np.sqrt(D), 2)
            + np.linalg.norm(kernel - np.eye(len(kernel)), 2)
        ),
    )


def orthogonality(params: Any) -> dict[str, float]:
    r"""How far each kernel is from an orthogonal matrix: R(W), which AdamO descends.

    :math:`R(W) = \|W^T W - I\|_F^2 / 4` with the smaller of the two Gram matrices, in float64.
    Of kernels with more than two axes, those before the last one are joined, as a convolution's.

    Args:
        params: pytree of arrays, one network's.

    Returns:
        A number for each leaf with two or more axes, by its path, as `Dense_0/kernel`.

    Examples:
        >>> orthogonality({"Dense_0": {"kernel": 2.0 * np.eye(2), "bias": np.ones(2)}})
        {'Dense_0/kernel': 4.5}
    """
    found = {}
    for path, leaf in zip(leaf_paths(params), jax.tree.leaves(params), strict=True):
        if np.ndim(leaf) >= 2:
            matrix = np.asarray(leaf, np.float64).reshape(-1, leaf.shape[-1])
            gram = matrix.T @ matrix if len(matrix) >= len(matrix.T) else matrix @ matrix.T
            found["/".join(path)] = float(np.sum((gram - np.eye(len(gram))) ** 2)) / 4
    return found


@dataclasses.dataclass(frozen=True)
class _Parts:
    """The problem in the R directions that gradients can move the parameters in."""

    left: Matrix  # U, shape=(M, R)
    singular: Matrix  # diagonal of Sigma, shape=(R,)
    next_coordinates: Matrix  # B, shape=(M, R)
    factor: float  # c


def _arrays(
    jacobian: ArrayLike, next_jacobian: ArrayLike, preconditioner: ArrayLike
) -> tuple[Matrix, Matrix, Matrix]:
    Z, Z_next, D = (
        np.asarray(array, np.float64) for array in (jacobian, next_jacobian, preconditioner)
    )
    if Z.ndim != 2 or Z.size == 0:
        raise ValueError(f"jacobian must have shape (M, P), got {Z.shape}.")
    if Z_next.shape != Z.shape:
        raise ValueError(
            f"next_jacobian must have the jacobian's shape {Z.shape}, got {Z_next.shape}."
        )
    if D.shape != Z.shape[1:]:
        raise ValueError(f"preconditioner must have shape {Z.shape[1:]}, got {D.shape}.")
    for name, array in (("jacobian", Z), ("next_jacobian", Z_next), ("preconditioner", D)):
        if not np.isfinite(array).all():
            raise ValueError(f"{name} must be finite, got nan or inf.")
    if (D <= 0).any():
        raise ValueError(f"preconditioner must be positive, got {D.min()}.")
    return Z, Z_next, D


def _check_numbers(
    discount: float, learning_rate: float, b1: float, polyak: float, polyak_period: int
) -> None:
    check_range("discount", discount, 0.0)
    check_range("learning_rate", learning_rate, 0.0, open_low=True)
    check_range("b1", b1, 0.0, 1.0)
    if isinstance(polyak, bool) or not 0.0 < polyak <= 1.0:
        raise ValueError(f"polyak must be in (0, 1], got {polyak!r}.")
    if isinstance(polyak_period, bool) or polyak_period != int(polyak_period) or polyak_period < 1:
        raise ValueError(f"polyak_period must be a whole number from 1, got {polyak_period!r}.")


def _parts(Z: Matrix, Z_next: Matrix, D: Matrix, factor: float, tolerance: float) -> _Parts:
    root = np.sqrt(D)
    left, singular, right = np.linalg.svd(Z * root, full_matrices=False)
    kept = singular > tolerance * singular[0]
    if not kept.any():
        raise ValueError("jacobian must not be 0.")
    return _Parts(
        left=left[:, kept],
        singular=singular[kept],
        next_coordinates=(Z_next * root) @ right[kept].T,
        factor=factor,
    )


def _operator(
    parts: _Parts, discount: float, learning_rate: float, b1: float, polyak: float, period: int
) -> Matrix:
    rank = len(parts.singular)
    identity = np.eye(rank)
    weight = (1.0 - b1) * parts.factor
    from_online = weight * np.diag(parts.singular**2)
    from_target = (
        -weight * discount * (parts.singular[:, None] * parts.left.T) @ parts.next_coordinates
    )
    momentum = np.hstack([b1 * identity, from_online, from_target])
    online = np.hstack([np.zeros_like(identity), identity, np.zeros_like(identity)])
    online = online - learning_rate * momentum
    frozen = np.hstack([np.zeros((rank, 2 * rank)), identity])
    step = np.vstack([momentum, online, frozen])
    averaging = np.vstack([momentum, online, (1.0 - polyak) * frozen + polyak * online])
    return averaging @ np.linalg.matrix_power(step, period - 1)


def _growth(eigenvalues: NDArray[np.complex128], learning_rate: float, b1: float) -> Matrix:
    """Larger modulus of the roots of r^2 - (1 + b1 + eta (1 - b1) s) r + b1, for each s."""
    half = (1.0 + b1 + learning_rate * (1.0 - b1) * eigenvalues) / 2.0
    root = np.sqrt(half**2 - b1)
    # The sign without cancellation; the other root is b1 over this one.
    return np.maximum(np.abs(half + root), np.abs(half - root))


def _known_test(name: str) -> str:
    if name not in TESTS:
        raise ValueError(f"test must be one of {', '.join(TESTS)}, got {name!r}.")
    return name
