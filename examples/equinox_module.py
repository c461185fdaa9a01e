"""equinox: the optimizer sees the module's arrays, and masks are told by the fields' names."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import optim

UPDATES = 40


class ActorCritic(eqx.Module):
    actor: eqx.nn.MLP
    critic: eqx.nn.MLP

    def __init__(self, key):
        keys = jax.random.split(key)
        self.actor = eqx.nn.MLP(4, 2, 16, 1, key=keys[0])
        self.critic = eqx.nn.MLP(4, 1, 16, 1, key=keys[1])

    def __call__(self, x):
        return self.actor(x), self.critic(x)


model = ActorCritic(jax.random.key(0))
x = jax.random.normal(jax.random.key(1), (64, 4))
optimizer = optax.chain(
    optim.clip_by_network_norm(0.5),
    optim.load("open@small", noise_mask={"actor": True, "critic": False}),
)
state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))


def loss_of(model):
    """Stands for PPO's loss."""
    logits, value = jax.vmap(model)(x)
    return jnp.mean((value[:, 0] - x.sum(axis=1)) ** 2) - jax.nn.log_softmax(logits)[:, 0].mean()


@eqx.filter_jit
def step(model, state, count):
    loss, grads = eqx.filter_value_and_grad(loss_of)(model)
    updates, state = optimizer.update(
        grads,
        state,
        model,  # Adam would do without the parameters, most optimizers here do not
        activations=optim.extras.activations(model, x),
        **optim.extras.progress(count, iterations=UPDATES),
    )
    return eqx.apply_updates(model, updates), state, loss


losses = []
for i in range(UPDATES):
    model, state, loss = step(model, state, jnp.int32(i))
    losses.append(loss)
print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}")
