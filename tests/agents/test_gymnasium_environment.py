"""Gymnasium's MuJoCo tasks as pure functions, beside Gymnasium itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents import environments
from agents.evaluation import evaluate

gymnasium = pytest.importorskip("gymnasium")
try:
    import gymnasium.envs.mujoco
except ImportError as error:
    pytest.skip(f"Gymnasium's MuJoCo tasks cannot be loaded: {error}", allow_module_level=True)


@pytest.mark.parametrize("name", ["Hopper-v5", "Humanoid-v5", "InvertedPendulum-v5"])
def test_two_episodes_side_by_side_are_gymnasiums(name):
    """Interleaved in one simulator, each step is what an undisturbed one does."""
    environment = environments.make(name)
    keys = jax.random.split(jax.random.key(0), 2)
    _, states = jax.vmap(environment.reset)(keys)
    step = jax.jit(jax.vmap(environment.step))
    originals = []
    for key in keys:
        originals.append(gymnasium.make(name).unwrapped)
        originals[-1].reset(seed=int(jax.random.bits(key, dtype=jnp.uint32)))
    actions = (
        np.random.default_rng(0)
        .uniform(-1.0, 1.0, (15, 2, environment.action_space.size))
        .astype(np.float32)
    )
    for action in actions:
        observation, states, reward, terminated, _, _ = step(keys, states, action)
        scaled = environment.action_low + (action + 1.0) / 2.0 * (
            environment.action_high - environment.action_low
        )
        for i, original in enumerate(originals):
            wanted = original.step(scaled[i])
            np.testing.assert_array_equal(observation[i], np.asarray(wanted[0], np.float32))
            assert reward[i] == np.float32(wanted[1])
            assert terminated[i] == wanted[2]


def test_an_unstable_simulation_is_logged(tmp_path, monkeypatch, caplog):
    """MuJoCo itself would write it into a file in the present folder."""
    monkeypatch.chdir(tmp_path)
    environment = environments.make("Hopper-v5")
    keys = jax.random.split(jax.random.key(0), 1)
    _, state = jax.vmap(environment.reset)(keys)
    numbers = np.array(state.physics).view(np.float64)
    numbers[:, 1:13] = 1e12  # positions and velocities
    state = state._replace(physics=jnp.asarray(numbers.view(np.uint32)))
    jax.block_until_ready(jax.vmap(environment.step)(keys, state, jnp.zeros((1, 3))))
    assert "The simulation is unstable." in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_time_limit_truncates():
    environment = environments.make("Hopper-v5", max_episode_steps=3)

    def still(key, observation):
        return jnp.zeros((*observation.shape[:-1], 3))

    _, lengths = evaluate(environment, still, jax.random.key(0), 2)
    assert lengths.tolist() == [3, 3]
    with pytest.raises(ValueError, match="has no option 'backend'"):
        environments.make("Hopper-v5", backend="spring")
