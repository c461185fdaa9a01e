"""Chains in texts: the order of what they do, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optim
from optim import NetworkSpecs, OptimizerSpec, parse_spec

PARAMS = {"actor": jnp.array([2.0, 0.0]), "critic": jnp.array([0.0, 1.0])}
GRADS = {"actor": jnp.array([3.0, 4.0]), "critic": jnp.array([0.0, 0.5])}


def step(text, learning_rate=0.1):
    optimizer = optim.make(text, learning_rate)
    updates, _ = optimizer.update(GRADS, optimizer.init(PARAMS), PARAMS, anything=1)
    return np.concatenate([updates["actor"], updates["critic"]])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("clip:1|sgd", [-0.06, -0.08, 0.0, -0.05]),
        ("clip:inf|sgd", [-0.3, -0.4, 0.0, -0.05]),
        # The gradient of l2 is added after the clipping, or clipped with the other.
        ("clip:1|l2:0.5|sgd", [-0.16, -0.08, 0.0, -0.1]),
        ("l2:0.5|clip:1|sgd", [-0.1 / 2**0.5, -0.1 / 2**0.5, 0.0, -0.1]),
        ("sgd|decoupled_decay:0.5", [-0.4, -0.4, 0.0, -0.1]),
        ("sgd:learning_rate=1|decoupled_decay:0.5", [-4.0, -4.0, 0.0, -1.0]),
        ("sgd|clip:0.25", [-0.15, -0.2, 0.0, -0.05]),
        ("sgd|decoupled_decay:0.5|clip:0.25", [-0.25 / 2**0.5, -0.25 / 2**0.5, 0.0, -0.1]),
        ("clip:1|sgd|decoupled_decay:0.5", [-0.16, -0.08, 0.0, -0.1]),
        ("weight_clipping:base=sgd,kappa=9|decoupled_decay:0.5", [-0.4, -0.4, 0.0, -0.1]),
        ("actor=clip:1|sgd+critic=sgd:learning_rate=1", [-0.06, -0.08, 0.0, -0.5]),
        ("critic=l2:1|sgd+actor=sgd|clip:0.25", [-0.15, -0.2, 0.0, -0.15]),
    ],
)
def test_pieces_act_in_their_order(text, expected):
    np.testing.assert_allclose(step(text), expected, rtol=1e-5)


def test_a_chain_is_what_optax_makes_of_its_pieces():
    """Over several updates, with a schedule that the decay follows."""
    chain = optim.make("clip:1|l2:0.1|adam:eps=1e-3|decoupled_decay:0.5", schedule)
    same = optax.chain(
        optim.clip_by_network_norm(1.0),
        optax.add_decayed_weights(0.1),
        optax.scale_by_adam(eps=1e-3),
        optax.add_decayed_weights(0.5),
        optax.scale_by_learning_rate(schedule),
    )
    results = []
    for optimizer in (chain, same):
        params, state = PARAMS, optimizer.init(PARAMS)
        for i in range(4):
            grads = {name: leaf * (i - 1.5) + params[name] for name, leaf in GRADS.items()}
            with jax.numpy_dtype_promotion("standard"):
                updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        results.append(np.concatenate([params["actor"], params["critic"]]))
    np.testing.assert_allclose(*results, rtol=1e-5)


def schedule(count):
    return 0.1 / (1.0 + jnp.float32(count))


@pytest.mark.slow
def test_learned_optimizers_and_their_decay_without_a_rate():
    plain, decayed = step("open@breakout", None), step("open@breakout|decoupled_decay:0.5", None)
    params = np.concatenate([PARAMS["actor"], PARAMS["critic"]])
    np.testing.assert_allclose(decayed, plain - 0.5 * params, rtol=1e-5)
    both = step("actor=sgd+critic=open@breakout")  # which is given no rate
    np.testing.assert_allclose(both[:2], [-0.3, -0.4], rtol=1e-6)
    assert 0 < np.abs(both[3]) < 0.01


@pytest.mark.parametrize(
    "text",
    [
        "clip:0.5|adam",
        "adam|decoupled_decay:0.0001|clip:inf",
        "clip:0.5|l2:0.001|clip:1.0|adamo:kappa=1,tau=none|clip:2.0",
        "l2:0.1|open@a|b.safetensors",
        "open@a|clip:1:",
        "open@a|clip:1:|clip:1.0",
        "open@a|clip:1:key=2|clip:1.0",
        "clip:0.5|my_module:my_optimizer:decay=0.5",
    ],
)
def test_texts_of_chains_are_read_as_they_are_written(text):
    spec = OptimizerSpec.parse(text)
    assert str(spec) == text
    assert OptimizerSpec.parse(str(spec)) == spec
    specs = NetworkSpecs((("actor", spec), ("critic", OptimizerSpec.parse("adam:b1=0.5"))))
    assert str(specs) == f"actor={text}+critic=adam:b1=0.5"
    assert parse_spec(str(specs)) == specs


def test_numbers_and_masks_are_no_networks():
    specs = parse_spec("actor=adam:eps=1e+5+critic=adamo:matrix_mask=actor+critic,b1=0.5")
    assert {name: dict(spec.options) for name, spec in specs.specs} == {
        "actor": {"eps": 1e5},
        "critic": {"matrix_mask": "actor+critic", "b1": 0.5},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adam|l2:1e-4", "l2 must stand before the optimizer, whose gradient it changes, got "),
        ("decoupled_decay:1|adam", "decoupled_decay must stand after the optimizer, beside whose "),
        ("adam|sgd", "a chain must have the form [clip:NORM|][l2:FACTOR|]OPTIMIZER[|decoupled_"),
        ("clip:1|adam|sgd|clip:1", "a chain must have the form "),
        ("clip:1|clop:2|adam", "a chain must have the form "),
        ("clip:1", "a chain must have the form "),
        ("l2:1|clip:1", "a chain must have the form "),
        ("clip:x|adam", "clip in a chain must be given a number, e.g. clip:0.5, got 'x'."),
        ("clip:0|adam", "clip must be in (0, inf], got 0.0."),
        ("l2:-1|adam", "l2 must be in [0, inf), got -1.0."),
        ("adam|decoupled_decay:inf", "decoupled_decay must be in [0, inf), got inf."),
        ("trac|decoupled_decay:1", "decoupled_decay must not stand after 'trac', which works out"),
        ("weight_clipping:base=sgd|clip:nan", "clip must be in (0, inf], got nan."),
        ("actor=adam+actor=sgd", "network 'actor' must be given one optimizer."),
        ("actor=adam+critic", "optimizer must have the form NAME"),
        ("actor=+critic=adam", "optimizers of networks must have the form NETWORK=OPTIMIZER+"),
        ("actor=adm+critic=adam", "unknown optimizer 'adm'; the nearest is 'adam'."),
    ],
)  # fmt: skip
def test_errors(text, message):
    with pytest.raises(ValueError, match=r".") as caught:
        optim.make(text, 0.1)
    assert str(caught.value).startswith(message)
