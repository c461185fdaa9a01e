"""A flax linen TrainState that tells OPEN what it asks for: activations and progress."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState

import optim

UPDATES = 40


class Network(nn.Module):
    outputs: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.outputs)(nn.tanh(nn.Dense(16)(x)))


class TellingState(TrainState):
    """`TrainState.apply_gradients` keeps extra arguments for itself; this one passes them on."""

    def apply_gradients(self, *, grads, **extra):
        updates, opt_state = self.tx.update(grads, self.opt_state, self.params, **extra)
        params = optax.apply_updates(self.params, updates)
        return self.replace(step=self.step + 1, params=params, opt_state=opt_state)


actor, critic = Network(2), Network(1)
x = jax.random.normal(jax.random.key(0), (64, 4))
params = {"actor": actor.init(jax.random.key(1), x), "critic": critic.init(jax.random.key(2), x)}
tx = optax.chain(optim.clip_by_network_norm(0.5), optim.load("open@small"))
state = TellingState.create(apply_fn=None, params=params, tx=tx)


def loss_of(params):
    """Stands for PPO's loss."""
    log_probabilities = jax.nn.log_softmax(actor.apply(params["actor"], x))
    value = critic.apply(params["critic"], x)[:, 0]
    return jnp.mean((value - x.sum(axis=1)) ** 2) - jnp.mean(log_probabilities[:, 0])


@jax.jit
def step(state, _):
    loss, grads = jax.value_and_grad(loss_of)(state.params)
    activations = {
        name: optim.extras.activations(network, x, params=state.params[name])
        for name, network in (("actor", actor), ("critic", critic))
    }
    progress = optim.extras.progress(state.step, iterations=UPDATES)
    return state.apply_gradients(grads=grads, activations=activations, **progress), loss


state, losses = jax.lax.scan(step, state, length=UPDATES)
print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}")
