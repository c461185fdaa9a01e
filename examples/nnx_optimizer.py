"""flax nnx: `nnx.Optimizer.update` passes extra arguments on, and masks are told by name."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import optim


class Network(nnx.Module):
    def __init__(self, outputs, rngs):
        self.hidden = nnx.Linear(4, 16, rngs=rngs)
        self.out = nnx.Linear(16, outputs, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.tanh(self.hidden(x)))


class ActorCritic(nnx.Module):
    def __init__(self, rngs):
        self.actor, self.critic = Network(2, rngs), Network(1, rngs)

    def __call__(self, x):
        return self.actor(x), self.critic(x)


model = ActorCritic(nnx.Rngs(0))
x = jax.random.normal(jax.random.key(0), (64, 4))
tx = optax.chain(
    optim.clip_by_network_norm(0.5),
    optim.redo(  # renews dormant units, for which it has to be told how active they are
        optim.adamo(1e-2, kappa=1.0, tau=0.05, matrix_mask={"actor": False, "critic": True}),
        period=10,
    ),
)
optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
print(optim.explain(nnx.state(model, nnx.Param), matrix_mask={"actor": False, "critic": True}))


def loss_of(model):
    """Stands for PPO's loss."""
    logits, value = model(x)
    return jnp.mean((value[:, 0] - x.sum(axis=1)) ** 2) - jax.nn.log_softmax(logits)[:, 0].mean()


@nnx.jit
def step(model, optimizer):
    loss, grads = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, grads, activations=optim.extras.activations(model, x))
    return loss


losses = [step(model, optimizer) for _ in range(40)]
print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f}")
