"""Settings of advantage actor-critic: what is replaced, and what is refused."""

import math

import jax
import jax.numpy as jnp
import pytest

from agents.a2c import a2c_config, check_a2c
from agents.ppo import PPOConfig

CONFIG = PPOConfig(iterations=3, num_envs=2, num_steps=4, discount=0.9)
USED = CONFIG.replace(epochs=1, minibatches=1, clip=math.inf, normalize_advantages=False)


def test_what_is_left_at_the_defaults_of_ppo_becomes_that_of_a2c():
    assert a2c_config(CONFIG) == USED
    assert a2c_config(USED) == USED
    assert a2c_config(CONFIG.replace(epochs=1, minibatches=1)) == USED


@pytest.mark.parametrize(
    ("change", "given"),
    [
        ({"epochs": 2}, "epochs=2"),
        ({"minibatches": 4}, "minibatches=4"),
        ({"clip": 0.1}, "clip=0.1"),
        ({"value_clip": 0.2}, "value_clip=0.2"),
    ],
)
def test_what_would_be_ignored_is_refused(change, given):
    with pytest.raises(ValueError, match=given) as caught:
        a2c_config(CONFIG.replace(**change))
    assert str(caught.value) == (
        f"a2c makes one epoch of one minibatch without clipping; got {given}."
    )


def test_clips_at_infinity_are_none():
    assert a2c_config(CONFIG.replace(clip=math.inf, value_clip=math.inf)) == USED


def test_numbers_may_be_traced():
    def clip_of(config):
        return jnp.float32(a2c_config(config).clip)

    configs = jax.tree.map(lambda x: jnp.asarray([x, x]), CONFIG)
    assert (jax.vmap(clip_of)(configs) == math.inf).all()


def test_what_was_not_set_is_not_judged():
    check_a2c({})
    check_a2c({"epochs": 1, "discount": 0.3})
    with pytest.raises(ValueError, match=r"got epochs=4\."):
        check_a2c({"epochs": 4})
