"""Optimizers and masks by the names of networks."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quick import quick_jit

import optim

KEYS = jax.random.split(jax.random.key(3), 4)
PARAMS = {
    name: {"Dense_0": {"kernel": jax.random.normal(key, (3, 2)), "bias": jnp.ones(2)}}
    for name, key in zip(("actor", "critic"), KEYS[:2], strict=True)
}
TARGET = jax.tree.map(lambda leaf: leaf + 1.0, PARAMS)


def loss(params):
    """Of both networks: each one's gradient depends on that network alone."""
    parts = jax.tree.map(lambda p, t: jnp.sum((p - t) ** 4), params, TARGET)
    return sum(jax.tree.leaves(parts))


def trained(optimizer, params=PARAMS, loss=loss, steps=3, **extra_args):
    @quick_jit
    def run(params):
        state = optimizer.init(params)
        for _ in range(steps):
            value, grads = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(
                grads, state, params, value=value, grad=grads, value_fn=loss, obj_fn=loss,
                activations=jax.tree.map(lambda leaf: jnp.arange(1.0, 3.0), params),
                training_progress=jnp.float32(0.5), **extra_args,
            )  # fmt: skip
            params = optax.apply_updates(params, updates)
        return params

    return run(params)


def assert_same(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


@pytest.mark.parametrize(
    ("text", "same", "other"),
    [
        ("adamo:kappa=1,tau=none,matrix_mask=critic", "critic", "actor"),
        ("adamo:kappa=1,tau=none,matrix_mask=actor", "actor", "critic"),
        ("weight_clipping:kappa=0.1,matrix_mask=critic,eps=1e-4", "critic", "actor"),
        ("adamw:weight_decay=9,mask=critic,eps=1e-4", "critic", "actor"),
        ("subset_norm:weight_decay=9,weight_decay_mask=critic", "critic", "actor"),
    ],
)
def test_masks_name_networks(text, same, other):
    """What the mask selects is as without a mask, the rest as without what is masked."""
    name = text.partition(":")[0]
    masked = trained(optim.make(text, 0.1))
    everywhere = trained(optim.make(re.sub(r",\w*mask=\w+", "", text), 0.1))
    assert_same(masked[same], everywhere[same])
    plain = name if name == "subset_norm" else "adam:eps=1e-4"
    nowhere = trained(optim.make(plain, 0.1))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), masked[other], nowhere[other]
    )
    kernel = masked[same]["Dense_0"]["kernel"]
    assert np.abs(kernel - nowhere[same]["Dense_0"]["kernel"]).max() > 1e-2


def test_masks_of_several_networks_and_of_learned_optimizers():
    both = optim.make("adamo:kappa=1,tau=none,matrix_mask=critic+actor", 0.1)
    assert_same(trained(both), trained(optim.make("adamo:kappa=1,tau=none", 0.1)))
    actor, critic = (
        trained(optim.make(f"open@breakout:noise_mask={name}"), steps=1)
        for name in ("actor", "critic")
    )
    assert_same(actor, trained(optim.make("open@breakout"), steps=1))
    for network in ("actor", "critic"):
        kernels = [tree[network]["Dense_0"]["kernel"] for tree in (actor, critic)]
        # Updates are centred over all parameters: what noise moves is not a constant apart.
        assert np.std(kernels[0] - kernels[1]) > 1e-6


def test_masks_are_by_name_whatever_holds_the_networks():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Networks:
        actor: dict
        critic: dict

    found = trained(
        optim.make("adamo:kappa=1,matrix_mask=critic", 0.1),
        Networks(**PARAMS),
        lambda params: loss(vars(params)),
    )
    expected = trained(optim.make("adamo:kappa=1,matrix_mask=critic", 0.1))
    assert_same(vars(found), expected)


@pytest.mark.parametrize("network", ["critics", "Dense_0"])
def test_a_mask_of_a_network_that_is_not_there(network):
    optimizer = optim.make(f"adamo:matrix_mask={network}", 0.1)
    message = f"matrix_mask must name networks of the parameters, actor, critic, got '{network}'."
    with pytest.raises(ValueError, match=re.escape(message)):
        optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)


@pytest.mark.parametrize(
    ("actor", "critic"),
    [
        ("adam", "adamo:kappa=1,tau=none"),
        ("lion", "adahessian"),  # which takes a function of the parameters
        ("sgd:l2=0.1", "adam:decoupled_decay=0.1,l2=0.5"),
        pytest.param("open@breakout", "parseval", marks=pytest.mark.slow),  # takes activations
    ],
)
def test_each_network_is_trained_as_if_it_were_alone(actor, critic):
    texts = {"actor": actor, "critic": critic}
    rates = {name: None if "@" in text else 0.1 for name, text in texts.items()}
    parts = {name: optim.make(text, rates[name]) for name, text in texts.items()}
    together = trained(optim.by_network(parts))
    for name, part in parts.items():
        alone = trained(
            part,
            {name: PARAMS[name]},
            lambda params: loss(PARAMS | params),
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5),
            together[name],
            alone[name],
        )


def test_states_with_other_parameters_are_found():
    """A schedule-free optimizer of one network."""
    optimizer = optim.by_network({
        "actor": optax.sgd(0.1), "critic": optim.make("schedule_free_sgd", 0.1)
    })  # fmt: skip
    state, params = optimizer.init(PARAMS), PARAMS
    for _ in range(2):
        updates, state = optimizer.update(PARAMS, state, params)
        params = optax.apply_updates(params, updates)
    used = optim.evaluation_params(state, params)
    assert_same(used["actor"], params["actor"])
    assert np.abs(used["critic"]["Dense_0"]["bias"] - params["critic"]["Dense_0"]["bias"]).max() > 0


@pytest.mark.parametrize("names", [("actor",), ("actor", "value"), ("actor", "critic", "value")])
def test_networks_without_an_optimizer(names):
    optimizer = optim.by_network(dict.fromkeys(names, optax.sgd(0.1)))
    message = (
        "optimizers must be one for each network of the parameters, actor, critic, got them for "
        f"{', '.join(names)}."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        optimizer.init(PARAMS)
