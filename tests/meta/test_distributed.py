"""Two processes that know of each other come to what one comes to alone."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = """
import sys
import jax
path, address, processes, index = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
if processes > 1:
    jax.distributed.initialize(address, processes, index)
import numpy as np
import probes
from hills import Tiny, leaves
from agents.ppo import PPOConfig
from meta.evolution import evolution
from meta.population import evaluation
from meta.strategies import EvolutionConfig
from meta.task import Task, lifetimes

config = PPOConfig(
    iterations=4, num_envs=4, num_steps=4, epochs=1, minibatches=1, widths=(8,)
)
task = Task(probes.ActionReward(), config)
results = []
for strategy, stretches in (("openai_es", 1), ("noise_reuse_es", 2)):
    tasks = [lifetimes(task, Tiny().transform, stretches)] * 2
    trainer = evolution(Tiny().init, tasks, EvolutionConfig(strategy, population=8, sigma=2.0))
    state = trainer.init(jax.random.key(1))
    for _ in range(3):
        state, metrics = trainer.step(state)
        results += leaves(metrics)
    results += leaves(trainer.meta_params(state))
    if stretches > 1:
        assert len(state.lives[0].key.sharding.device_set) == jax.device_count()
evaluate = evaluation([lifetimes(task, Tiny().transform)], seeds=8)
results.append(evaluate(trainer.meta_params(state), jax.random.key(2)))
assert jax.process_count() == processes
np.savez(f"{path}/{processes}-{index}-{jax.device_count()}.npz", *results)
"""


@pytest.mark.slow
def test_two_processes_come_to_what_one_does(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    script = f"import sys; sys.path[:0] = {sys.path!r}\n{SCRIPT}"

    def start(processes: int, index: int) -> subprocess.Popen[bytes]:
        # Two devices in each of two processes, against one device in one.
        flags = (
            f"--xla_force_host_platform_device_count={processes} "
            "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
        )
        arguments = [str(tmp_path), address, str(processes), str(index)]
        return subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        )

    running = [start(2, 0), start(2, 1), start(1, 0)]
    try:
        assert [process.wait(timeout=500) for process in running] == [0, 0, 0]
    finally:
        for process in running:
            process.kill()
    alone = np.load(tmp_path / "1-0-1.npz")
    assert len(alone.files) > 40
    for index in (0, 1):
        together = np.load(tmp_path / f"2-{index}-4.npz")
        for name in alone.files:
            np.testing.assert_array_equal(alone[name], together[name])
