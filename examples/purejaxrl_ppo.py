"""PPO as PureJaxRL and rejax have it, one function of a key, but with names for the networks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from gymnax import make

import optim

ENVS, STEPS, EPOCHS, ITERATIONS, UPDATES = 16, 64, 2, 30, 60


class ActorCritic(nn.Module):
    @nn.compact
    def __call__(self, x):  # not Dense_0, Dense_1, ... of both in a row
        actor = nn.Sequential(
            [nn.Dense(32), nn.tanh, nn.Dense(2), jax.nn.log_softmax], name="actor"
        )
        critic = nn.Sequential([nn.Dense(32), nn.tanh, nn.Dense(1)], name="critic")
        return actor(x), critic(x)[..., 0]


network, (env, _) = ActorCritic(), make("CartPole-v1")
tx = optax.chain(optim.clip_by_network_norm(0.5), optim.load("open@small", total_updates=UPDATES))


def train(key):
    def act(carry, key):
        params, (obs, state) = carry
        keys, logs = jax.random.split(key, ENVS + 1), network.apply(params, obs)[0]
        step = jax.vmap(env.step)(keys[1:], state, action := jax.random.categorical(keys[0], logs))
        taken, go_on = jax.nn.one_hot(action, 2), 1.0 - (step[3] | step[4])
        return (params, step[:2]), (obs, taken, (logs * taken).sum(1), step[2], go_on)

    def iteration(carry, keys):
        def loss_of(params):
            logs, new = network.apply(params, obs)
            ratio = jnp.exp((logs * taken).sum(-1) - old)
            policy = jnp.minimum(ratio * gain, jnp.clip(ratio, 0.8, 1.2) * gain).mean()
            return 0.5 * jnp.mean((new - target) ** 2) - policy

        params, opt_state, now = carry
        (_, now), (obs, taken, old, *rest) = jax.lax.scan(act, (params, now), keys)
        back = lambda v, x: (x[0] + 0.99 * x[1] * v,) * 2  # noqa: E731
        target = jax.lax.scan(back, network.apply(params, now[0])[1], rest, reverse=True)[1]
        gain = jax.nn.standardize(target - network.apply(params, obs)[1], axis=(0, 1))
        for _ in range(EPOCHS):
            told, grads = optim.extras.activations(network, obs, params=params), jax.grad(loss_of)
            updates, opt_state = tx.update(grads(params), opt_state, params, activations=told)
            params = optax.apply_updates(params, updates)
        return (params, opt_state, now), rest[1].size / jnp.maximum((1 - rest[1]).sum(), 1)

    keys = jax.random.split(key, (ITERATIONS + 1, STEPS))
    params = network.init(keys[0, -1], (now := jax.vmap(env.reset)(keys[0, :ENVS]))[0])
    return jax.lax.scan(iteration, (params, tx.init(params), now), keys[1:])[1]


print("episode length:", jax.vmap(train)(jax.random.split(jax.random.key(0), 2))[:, [0, -1]])
