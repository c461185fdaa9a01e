"""A comparison that many tests look at and none changes."""

from pathlib import Path

import pytest

from experiments.command_line.main import main

COMPARE = (
    "compare --envs CartPole-v1 --optimizers adam sgd:learning_rate=1e30 --seeds 3 --steps 1.2e3 "
    "--set num_envs=4 num_steps=16 minibatches=2 epochs=2 widths=8x8 --no-cache --out"
)


@pytest.fixture(scope="session")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adam and an optimizer that diverges, three seeds each."""
    out = tmp_path_factory.mktemp("comparison") / "runs"
    main([*COMPARE.split(), str(out)])
    return out
