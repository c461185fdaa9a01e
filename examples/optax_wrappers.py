"""Within wrappers of optax: partitions, accumulated gradients, injected numbers, bad gradients."""

import jax
import jax.numpy as jnp
import optax

import optim

LAYER = {"kernel": jnp.full((4, 4), 0.3), "bias": jnp.zeros(4)}
PARAMS = {name: {"Dense_0": LAYER, "Dense_1": LAYER} for name in ("actor", "critic")}


def loss_of(params):
    x = jnp.linspace(-1, 1, 32).reshape(8, 4)
    for network in params.values():
        for layer in network.values():
            x = jnp.tanh(x @ layer["kernel"] + layer["bias"])
    return jnp.mean((x - 0.5) ** 2)


def train(name, optimizer, steps=20):
    def step(carry, _):
        params, state = carry
        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), loss

    carry, losses = jax.lax.scan(step, (PARAMS, optimizer.init(PARAMS)), length=steps)
    print(f"{name}: loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    return carry


adamo = optim.adamo(1e-2, kappa=1.0, tau=0.05)

# AdamO on the critic, Adam on the actor; `adamo(..., matrix_mask=...)` does the same in one.
by_network = {"actor": optax.adam(1e-2, eps=1e-4), "critic": adamo}
train("multi_transform", optax.multi_transform(by_network, {"actor": "actor", "critic": "critic"}))

# Gradients of four minibatches make one update.
train("MultiSteps", optax.MultiSteps(adamo, every_k_schedule=4).gradient_transformation())

# The state shows the numbers, which may follow schedules. What is no number is static.
schedule = optax.linear_schedule(1e-2, 1e-3, 20)
injected = optax.inject_hyperparams(optim.adamo, static_args=("pull",))(schedule, kappa=1.0)
_, state = train("inject_hyperparams", injected)
print({name: round(float(state.hyperparams[name]), 4) for name in ("learning_rate", "kappa")})

# `optim.load` takes any options: say in a function which one is injected.
build = lambda learning_rate: optim.load("optim4rl@small", learning_rate=learning_rate)  # noqa: E731
train("inject_hyperparams of a learned one", optax.inject_hyperparams(build)(0.5))

# Updates from gradients that are not finite are left out, and their optimizer's state too.
guarded = optax.apply_if_finite(adamo, max_consecutive_errors=5)
train("apply_if_finite", guarded)
bad = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), PARAMS)
updates, _ = guarded.update(bad, guarded.init(PARAMS), PARAMS)
print("largest update from NaN:", float(max(jnp.max(jnp.abs(x)) for x in jax.tree.leaves(updates))))
