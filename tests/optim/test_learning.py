"""Every optimizer of ours trains PPO on a small task: a ball caught is worth 1, missed -1."""

import jax
import jax.numpy as jnp
import pytest
from quick import quick_jit

import optim
from agents import environments
from agents.ppo import PPOConfig, ppo

NAMES = [name for name in optim.optimizer_names() if optim.details(name)]
QUICK = ("adam_rel", "adamo", "mars_exact")

CONFIG = PPOConfig(
    iterations=60, num_envs=16, num_steps=32, epochs=4, minibatches=2, widths=(32,), discount=0.95
)
SEEDS = 2
# An untrained policy catches about one ball in five; the margin is three more of ten.
MARGIN = 0.6

# What each is given where a learning rate of 5e-3 alone is not what suits it.
SPECS = {name: name for name in NAMES} | {
    "adabound": "adabound:final_lr=1",
    "adahessian": "adahessian:learning_rate=0.05",
    "aegd": "aegd:learning_rate=2",
    "amsbound": "amsbound:final_lr=1",
    "exadam": "exadam:learning_rate=2.5e-3",
    "kron": "kron:learning_rate=2e-3",
    "mars_exact": "mars:exact=true",
    # PPO's loss may be negative.
    "sania": "sania:learning_rate=0.3,f_min=-5",
    "sgdp": "sgdp:learning_rate=0.1,momentum=0.9",
    "sophia": "sophia",
    "subset_norm": "subset_norm:learning_rate=2e-2",
    "subspace_momentum": "subspace_momentum:learning_rate=2",
    "trac": "trac:learning_rate=5e-2",
    "tvlars": "tvlars:learning_rate=10,floor=1",
    "upgd": "upgd:learning_rate=1",
}


def returns(spec):
    """Mean return over seeds before training and over the last five iterations."""
    optimizer = optim.make(spec, learning_rate=5e-3)
    learner = ppo(environments.make("Catch-bsuite"), CONFIG, optimizer)

    def lifetime(key):
        def iterate(state, _):
            state, metrics = learner.iterate(state)
            return state, (metrics["episode_return_sum"], metrics["episodes"])

        return jax.lax.scan(iterate, learner.init(key), length=CONFIG.iterations)[1]

    total, episodes = quick_jit(jax.vmap(lifetime))(jax.random.split(jax.random.key(0), SEEDS))
    mean = lambda part: float(total[part].sum()) / float(episodes[part].sum())  # noqa: E731
    return mean(jnp.s_[:, :1]), mean(jnp.s_[:, -5:])


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SPECS]
)
def test_it_learns(name):
    untrained, trained = returns(SPECS[name])
    assert -1 <= untrained < -0.2
    assert trained > untrained + MARGIN


def test_names_are_known():
    assert set(QUICK) <= set(SPECS)
    names = {optim.OptimizerSpec.parse(spec).name for spec in SPECS.values()}
    assert set(NAMES) <= names <= set(optim.optimizer_names())
