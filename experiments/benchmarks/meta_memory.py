"""Memory and time of a meta-gradient through 128 inner updates of PPO, plain and rematerialised.

Optim4RL on 2x64 tanh networks: 4 iterations of 32 updates each, on batches of 256 samples of a
stand-in for an environment with Ant's sizes (27 numbers observed, 8 acted), whose own cost is next
to nothing. Memory is what the compiler says of the compiled program, for one agent; times are
medians of rounds in which both take turns. With `--ant`, only memory: of one meta-iteration of
Optim4RL on Brax's Ant with the preset of the authors' settings.

    python -m experiments.benchmarks.meta_memory [--ant] [--repeats 5] [--out FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import optim
from agents.environment import Box, Environment, Info
from agents.ppo import PPOConfig
from experiments.benchmarks.timing import circumstances, interleaved, median_ratio, write
from experiments.meta_training.methods import meta_run
from experiments.meta_training.request import MetaRequest
from meta.task import Task
from meta.windows import windows

_WINDOW, _EPOCHS, _MINIBATCHES, _BATCH = 4, 4, 8, 256


class Noise(Environment):
    """Observes noise and pays for actions near the observation: as little to compute as can be."""

    name = "noise"
    observation_shape = (27,)
    action_space = Box(8, -1.0, 1.0)
    max_episode_steps = 1000

    def reset(self, key: jax.Array) -> tuple[jax.Array, Any]:
        """Draws an observation."""
        observation = jax.random.normal(key, (27,))
        return observation, (observation, jnp.zeros((), jnp.int32))

    def step(
        self, key: jax.Array, state: Any, action: jax.Array
    ) -> tuple[jax.Array, Any, jax.Array, jax.Array, jax.Array, Info]:
        """Draws another."""
        old, time = state
        reward = -jnp.mean(jnp.square(old[:8] - action))
        observation = jax.random.normal(key, (27,))
        truncated = time + 1 >= self.max_episode_steps
        info = {"final_observation": observation}
        state = (observation, time + 1)
        return observation, state, reward, jnp.zeros((), bool), truncated, info


def inner_updates(repeats: int) -> list[dict[str, Any]]:
    """One row for each way: temporary memory of an agent, and seconds of a meta-gradient."""
    config = PPOConfig(
        iterations=_WINDOW,
        num_envs=_BATCH,
        num_steps=_MINIBATCHES,
        epochs=_EPOCHS,
        minibatches=_MINIBATCHES,
        widths=(64, 64),
        nonlinearity="tanh",
    )
    architecture = optim.Optim4RL()
    meta_params = architecture.init(jax.random.key(0))
    programs, needs = {}, {}
    for name in ("plain", "rematerialised"):
        lives = windows(
            Task(Noise(), config),
            architecture.transform,
            _WINDOW,
            rematerialise=name == "rematerialised",
        )
        life = jax.jit(lives.init)(meta_params, jax.random.key(1))
        compiled = jax.jit(jax.grad(lives.loss, has_aux=True)).lower(meta_params, life).compile()
        analysis = compiled.memory_analysis()
        assert analysis is not None, "this backend does not say what it needs"
        needs[name] = analysis.temp_size_in_bytes / 2**20
        programs[name] = lambda compiled=compiled, life=life: compiled(meta_params, life)
    seconds = interleaved(programs, repeats)
    slower = median_ratio(seconds["rematerialised"], seconds["plain"])
    return [
        {
            "program": name,
            "inner_updates": _WINDOW * config.updates_per_iteration,
            "temporary_mib": f"{needs[name]:.1f}",
            "of_plain": f"{needs[name] / needs['plain']:.3f}",
            "seconds": f"{sorted(seconds[name])[repeats // 2]:.3f}",
            "time_of_plain": f"{slower if name == 'rematerialised' else 1.0:.2f}",
        }
        for name in programs
    ]


def ant() -> list[dict[str, Any]]:
    """What a device needs for a meta-iteration on Ant with the preset, as the run would say."""
    run = meta_run(MetaRequest(optimizer="optim4rl", method="pipeline", preset="ant"))
    state = jax.eval_shape(run.trainer.init, jax.random.key(0))  # nothing is played
    assert run.trainer.memory is not None
    return [{"program": "ant preset", "device_mib": f"{run.trainer.memory(state) / 2**20:.0f}"}]


def main() -> None:
    """Runs the benchmark and writes its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ant", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    facts = circumstances()
    rows = ant() if arguments.ant else inner_updates(arguments.repeats)
    default = "meta_memory_ant.csv" if arguments.ant else "meta_memory.csv"
    out = arguments.out or Path(__file__).parents[1] / "results" / "benchmarks" / default
    write(out, [row | facts for row in rows])


if __name__ == "__main__":
    main()
