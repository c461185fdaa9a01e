r"""Plasticity of a learner's networks, from one fresh rollout and the updates that it leads to.

A network that has been trained for long may lose what lets it learn on: units fall silent, features
collapse onto few directions, weights grow until an update changes little. `diagnose` measures the
signs of it at a state of a learner. It plays one rollout and learns from it, which is just what the
next iteration would do, and throws both away. On the rollout's n samples, for each network:

* `dormant`: `dormant_share` of its hidden layers;
* `rank`: `effective_rank` of its last hidden layer;
* `weight_norm`: :math:`\lVert\theta\rVert`, over all of its parameters;
* `update_norm`: :math:`\lVert\theta' - \theta\rVert`, with :math:`\theta'` after the iteration;
* `relative_update`: the latter divided by the former;
* `distance`: `distance` from the parameters that it began with;
* `cosine`: `cosine` of :math:`\theta' - \theta` and the negative gradient at :math:`\theta` of the
  loss on all samples, before any clipping.

And for both together:

* `clipped_share`: `clipped_share` of the policy after the iteration;
* `updated_kl`: the divergence of the rollout's policy from it, the mean of
  :math:`\rho - 1 - \log\rho` with the probability ratios :math:`\rho`;
* `value_error`: the root of the mean square of value minus target, before the iteration: of
  experience that the critic has not learned from.

All functions are pure, and take their place under `jax.jit` and `jax.vmap`. What cannot be computed
because something is not finite is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from agents.learner import Learner

NETWORKS = ("actor", "critic")
OF_EACH = (
    "dormant",
    "rank",
    "weight_norm",
    "update_norm",
    "relative_update",
    "distance",
    "cosine",
)
OF_BOTH = ("clipped_share", "updated_kl", "value_error")
MEASURES = (*(f"{network}_{name}" for name in OF_EACH for network in NETWORKS), *OF_BOTH)
"""Names of what `diagnose` measures, in order."""


def dormant_share(layers: Sequence[jax.Array], threshold: float | jax.Array = 0.025) -> jax.Array:
    r"""Share of the units that hardly respond, the mean over layers of each layer's share.

    A unit i is dormant where its score is at most the threshold:

    .. math:: s_i = \frac{\overline{|h_i|}}{\operatorname{mean}_k \overline{|h_k|} + 10^{-9}}

    with means over the samples first, and over the units k of its layer then. A layer in which
    nothing responds is all dormant.

    Args:
        layers: activations of each hidden layer after the nonlinearity, of shape (..., units).
        threshold: the score up to which a unit counts as dormant.

    Returns:
        The share, a scalar.

    Raises:
        ValueError: if there is no layer.

    Examples:
        >>> import jax.numpy as jnp
        >>> float(dormant_share([jnp.array([[0.0, 0.02, -1.0, 3.0]])]))
        0.5

    References:
        Sokar et al., The Dormant Neuron Phenomenon in Deep Reinforcement Learning, ICML 2023,
        `arXiv:2302.12902 <https://arxiv.org/abs/2302.12902>`_, whose code takes the share of all
        units together; the mean over layers is that of the toolkit Plasticine.
    """
    if not layers:
        raise ValueError("layers must hold at least one hidden layer; got none.")

    def share(layer: jax.Array) -> jax.Array:
        activity = jnp.mean(jnp.abs(layer), axis=tuple(range(layer.ndim - 1)))
        mean = jnp.mean(activity)
        dormant = jnp.mean(activity / (mean + 1e-9) <= threshold, dtype=jnp.float32)
        return jnp.where(jnp.isfinite(mean), dormant, jnp.nan)

    return jnp.mean(jnp.stack([share(layer) for layer in layers]))


def effective_rank(features: jax.Array) -> jax.Array:
    r"""Number of directions that features use, each weighed by how much.

    .. math:: \exp\Big(-\sum_i p_i \log p_i\Big), \qquad p_i = \frac{\sigma_i}{\sum_k \sigma_k}

    with the singular values :math:`\sigma` of the features, which are not centred. It is between 1
    and the number of units, and 0 where all features are zero.

    Args:
        features: shape (samples, units).

    Returns:
        The rank, a scalar.

    Examples:
        >>> import jax.numpy as jnp
        >>> print(f"{effective_rank(jnp.diag(jnp.array([10.0, 1.0, 1.0, 1.0]))):.2f}")
        2.21

    References:
        Roy and Vetterli, The Effective Rank, EUSIPCO 2007.
    """
    finite = jnp.all(jnp.isfinite(features))
    features = jnp.where(finite, features, 0.0)  # LAPACK is given numbers only
    largest = jnp.max(jnp.abs(features), initial=0.0)
    features = features / jnp.where(largest > 0.0, largest, 1.0)  # so that no square overflows
    # The eigenvectors of the Gram matrix instead of a decomposition of all samples, which takes ten
    # times as long. Its eigenvalues would know a singular value to the root of the precision only,
    # relative to the largest; the lengths of the features' columns in this basis are good to the
    # precision itself.
    gram = jnp.matmul(features.T, features, precision="highest")
    rotated = jnp.matmul(features, _eigenvectors(gram), precision="highest")
    singular = jnp.linalg.norm(rotated, axis=0)
    total = jnp.sum(singular)
    share = singular / jnp.where(total > 0.0, total, 1.0)
    entropy = -jnp.sum(share * jnp.log(jnp.where(share > 0.0, share, 1.0)))
    rank = jnp.where(total > 0.0, jnp.exp(entropy), 0.0)
    return jnp.where(finite, rank, jnp.nan)


@jax.custom_batching.sequential_vmap
def _eigenvectors(symmetric: jax.Array) -> jax.Array:
    """Never batched: two batched decompositions at once can deadlock XLA on a CPU."""
    return jnp.linalg.eigh(symmetric)[1]


def distance(params: Any, initial: Any) -> jax.Array:
    r"""How far n parameters have moved, :math:`\lVert\theta - \theta_0\rVert / \sqrt n`.

    Args:
        params: a tree of parameters.
        initial: a tree of the same shapes.

    Returns:
        The root of the mean square of the differences, a scalar.

    Examples:
        >>> import jax.numpy as jnp
        >>> float(distance({"w": jnp.array([3.0, 1.0])}, {"w": jnp.array([1.0, 3.0])}))
        2.0
    """
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    return optax.tree.norm(optax.tree.sub(params, initial)) / size**0.5


def cosine(one: Any, other: Any) -> jax.Array:
    """Cosine of the angle between two trees; NaN where either is zero.

    Args:
        one: a tree of arrays.
        other: a tree of the same shapes.

    Returns:
        A scalar in [-1, 1].

    Examples:
        >>> import jax.numpy as jnp
        >>> float(cosine({"w": jnp.array([2.0, 0.0])}, {"w": jnp.array([-3.0, 0.0])}))
        -1.0
    """

    def direction(tree: Any) -> Any:
        norm = optax.tree.norm(tree)
        return optax.tree.scale(jnp.where(jnp.isfinite(norm), 1.0 / norm, jnp.nan), tree)

    # Each is scaled on its own: the product of two small norms would be zero.
    return jnp.clip(optax.tree.vdot(direction(one), direction(other)), -1.0, 1.0)


def clipped_share(log_ratio: jax.Array, clip: float | jax.Array) -> jax.Array:
    r"""Share of the probability ratios that PPO would clip, :math:`|\rho - 1| > c`.

    Args:
        log_ratio: logarithms of the ratios.
        clip: the distance from 1 up to which a ratio is left as it is.

    Returns:
        The share, a scalar.

    Examples:
        >>> import jax.numpy as jnp
        >>> float(clipped_share(jnp.log(jnp.array([0.7, 0.9, 1.1, 1.3])), 0.2))
        0.5
    """
    is_clipped = jnp.abs(jnp.exp(log_ratio) - 1.0) > clip
    return jnp.mean(jnp.where(jnp.isnan(log_ratio), jnp.nan, is_clipped.astype(jnp.float32)))


def diagnose(
    learner: Learner, state: Any, initial_params: Any, clip: float | jax.Array
) -> dict[str, jax.Array]:
    """Measures a learner's state; see the module.

    Args:
        learner: such as PPO.
        state: of the learner. What it would learn next is learned, and forgotten.
        initial_params: the parameters that it began with.
        clip: the learner's, see `clipped_share`.

    Returns:
        Scalars by name, those of `MEASURES` in this order.

    Examples:
        >>> import jax, optax
        >>> from agents import environments
        >>> from agents.ppo import PPOConfig, ppo
        >>> config = PPOConfig(iterations=2, num_envs=4, num_steps=16, minibatches=2)
        >>> learner = ppo(environments.make("CartPole-v1"), config, optax.adam(1e-3))
        >>> state = learner.init(jax.random.key(0))
        >>> found = diagnose(learner, state, state.params, config.clip)
        >>> tuple(found) == MEASURES, float(found["actor_distance"])
        (True, 0.0)
    """
    params = state.params
    played, samples = learner.play(state)
    learned, _ = learner.learn(played, samples)
    update = optax.tree.sub(learned.params, params)
    gradient = jax.grad(lambda params: learner.loss(params, samples)[0])(params)
    before, after = (learner.inspect(each, samples) for each in (params, learned.params))

    found: dict[str, jax.Array] = {}
    for network in NETWORKS:
        own = params[network]
        weight_norm, update_norm = optax.tree.norm(own), optax.tree.norm(update[network])
        values = (
            dormant_share(before.hidden[network]),
            effective_rank(before.hidden[network][-1]),
            weight_norm,
            update_norm,
            update_norm / weight_norm,
            distance(own, initial_params[network]),
            -cosine(update[network], gradient[network]),
        )
        names = (f"{network}_{name}" for name in OF_EACH)
        found |= dict(zip(names, values, strict=True))
    found["clipped_share"] = clipped_share(after.log_ratio, clip)
    found["updated_kl"] = jnp.mean(jnp.exp(after.log_ratio) - 1.0 - after.log_ratio)
    found["value_error"] = jnp.sqrt(jnp.mean(jnp.square(before.value_error)))
    return {name: found[name] for name in MEASURES}
