"""Settings by name for `rl-optim meta-train --method pipeline --preset`."""

from __future__ import annotations

import dataclasses
import inspect

import optim
from experiments.meta_training.request import MetaRequest
from experiments.settings import unknown
from optim.learned.meta_params import ARCHITECTURES


@dataclasses.dataclass(frozen=True)
class PipelinePreset:
    """Settings of Optim4RL's authors; of what they swept, one of their values. Four are ours.

    Fields are the command line's. `grad_clip` is the learned optimizer's, of those that take one.
    """

    tasks: tuple[str, ...]
    learner: str
    learning_rates: tuple[str, ...]
    pipeline: tuple[str, ...]
    set: tuple[str, ...]
    generations: int
    reward_scales: tuple[str, ...] = ()
    normalisers: tuple[str, ...] = ()
    grad_clip: str = "1.0"

    @property
    def description(self) -> str:
        """One line."""
        return f"{self.learner.upper()} on {', '.join(self.tasks)}."


# Their optimizers clip gradients entry by entry; before them, nothing does.
_UNCLIPPED = "max_grad_norm=1e9"
_A2C = (
    *("num_envs=1", "num_steps=20", "minibatches=1", "epochs=1", "discount=0.995"),
    *("entropy_weight=0.01", "value_weight=1", "nonlinearity=relu", _UNCLIPPED),
)
# Networks are all as large as their critics' in meta-training, 5x64.
_BRAX = (
    *("num_envs=2048", "num_steps=20", "epochs=4", "minibatches=8", "discount=0.97", "clip=0.3"),
    *("value_weight=0.5", "widths=64x64x64x64x64", "normalize_observations=true"),
    *("normalize_rewards=false", _UNCLIPPED),
)
_SIX = (
    *("small_dense_long", "small_dense_short", "big_sparse_short"),
    *("big_dense_short", "big_sparse_long", "big_dense_long"),
)
_GRIDWORLD = ("agents=512", "window=4", "reset_interval=144", "optimizer=adam:learning_rate=3e-4")
PIPELINE_PRESETS: dict[str, PipelinePreset] = {
    # Ours, for minutes on two cores. Scaled rewards let gradients reach the GRUs at sizes that
    # these can tell apart, and the entropy bonus counts less in the meta-loss; the value loss,
    # which grows with the square, is held to the size of the policy's.
    "small": PipelinePreset(
        tasks=("Catch-bsuite", "small_dense_short", "small_dense_long"),
        learner="a2c",
        learning_rates=("1e-2",),
        pipeline=(
            *("agents=8", "window=8", "reset_interval=32", "max_norm=none", "task_norm=0.5"),
            "optimizer=adam:learning_rate=3e-4",
        ),
        set=(*_A2C, "num_envs=16", "widths=32", "value_weight=0.01"),
        generations=500,
        reward_scales=("100",),
        normalisers=("1", "2.4", "11"),  # about what a tuned Adam reaches
    ),
    # Ours too: where the learned optimizers of `compare --preset collapse` come from. A life has
    # six phases. Scaled rewards hold the value loss, and so the meta-loss, to the policy's size:
    # with rewards as they are, weights are best after 200 meta-iterations, useless after 1200.
    "flip": PipelinePreset(
        tasks=("CartPole-v1:flip=true,phase=20480",),
        learner="ppo",
        learning_rates=("1e-3",),
        pipeline=(
            *("agents=16", "window=1", "reset_interval=240", "max_norm=none", "task_norm=0.5"),
            "optimizer=adam:learning_rate=3e-4",
        ),
        set=(
            *("num_envs=8", "num_steps=64", "epochs=4", "minibatches=4", "widths=16x16"),
            *("nonlinearity=relu", _UNCLIPPED),
        ),
        generations=600,
        reward_scales=("0.02",),
    ),
    # The same for `compare --preset collapse_minatar`, with lives of four phases.
    "permute": PipelinePreset(
        tasks=("Breakout-MinAtar:permute=both,phase=102400",),
        learner="ppo",
        learning_rates=("1e-3",),
        pipeline=(
            *("agents=8", "window=1", "reset_interval=200", "max_norm=none", "task_norm=0.5"),
            "optimizer=adam:learning_rate=3e-4",
        ),
        set=(
            *("num_envs=32", "num_steps=64", "epochs=4", "minibatches=4", "widths=16x16"),
            *("nonlinearity=relu", _UNCLIPPED),
        ),
        generations=300,
    ),
    # And for `compare --preset collapse_ant`: rewards are normalised there, as for every arm.
    "friction": PipelinePreset(
        tasks=("ant:backend=spring,friction=0.02..2,phase=128000",),
        learner="ppo",
        learning_rates=("1e-3",),
        pipeline=(
            *("agents=4", "window=1", "reset_interval=200", "max_norm=none", "task_norm=0.5"),
            "optimizer=adam:learning_rate=3e-4",
        ),
        set=(
            *("num_envs=128", "num_steps=20", "epochs=4", "minibatches=8", "widths=16x16"),
            *("nonlinearity=tanh", "normalize_observations=true", "normalize_rewards=true"),
            *("entropy_weight=0", _UNCLIPPED),
        ),
        generations=200,
    ),
    "catch": PipelinePreset(
        tasks=("Catch-bsuite",),
        learner="a2c",
        learning_rates=("1e-3",),
        pipeline=(
            *("agents=64", "window=4", "reset_interval=32", "max_norm=0.5"),
            "optimizer=adam:learning_rate=1e-3",
        ),
        set=(*_A2C, "widths=256"),
        generations=78,
        grad_clip="none",
    ),
    "gridworlds": PipelinePreset(
        tasks=_SIX,
        learner="a2c",
        learning_rates=("1e-3", "3e-3", "3e-3", "3e-3", "1e-3", "3e-3"),
        pipeline=(*_GRIDWORLD, "task_norm=0.5"),
        set=(*_A2C, "widths=32"),
        generations=585,
        reward_scales=("1e3", "1e2", "1e2", "1e1", "1e1", "1e0"),
        normalisers=("1",),
    ),
    "small_dense_long": PipelinePreset(
        tasks=("small_dense_long",),
        learner="a2c",
        learning_rates=("0.03",),
        pipeline=_GRIDWORLD,
        set=(*_A2C, "widths=32"),
        generations=585,
    ),
    "big_dense_long": PipelinePreset(
        tasks=("big_dense_long",),
        learner="a2c",
        learning_rates=("0.003",),
        pipeline=_GRIDWORLD,
        set=(*_A2C, "widths=32"),
        generations=585,
    ),
    "ant": PipelinePreset(
        tasks=("ant:backend=spring",),
        learner="ppo",
        learning_rates=("3e-4",),
        pipeline=(
            *("agents=4", "agents_at_once=1", "window=4", "meta_steps=5", "reset_interval=32"),
            "optimizer=adam:learning_rate=1e-4",
        ),
        set=(*_BRAX, "entropy_weight=0.01"),
        generations=610,
        reward_scales=("10",),
    ),
    "humanoid": PipelinePreset(
        tasks=("humanoid:backend=spring",),
        learner="ppo",
        learning_rates=("3e-4",),
        pipeline=(
            *("agents=4", "agents_at_once=1", "window=4", "meta_steps=5", "reset_interval=32"),
            "optimizer=adam:learning_rate=1e-4",
        ),
        set=(*_BRAX, "entropy_weight=0.001"),
        generations=610,
        reward_scales=("0.1",),
    ),
}


def with_preset(request: MetaRequest) -> MetaRequest:
    """The request with everything that it does not say filled in.

    Of `--pipeline` and `--set`, each key on its own: what the request says comes last, and counts.

    Raises:
        ValueError: if there is no such preset, or the method is not the preset's.
    """
    assert request.preset is not None
    if request.preset not in PIPELINE_PRESETS:
        raise unknown("preset", request.preset, PIPELINE_PRESETS)
    if request.method != "pipeline":
        raise ValueError("--preset needs --method pipeline.")
    preset = PIPELINE_PRESETS[request.preset]
    spec = optim.OptimizerSpec.parse(request.optimizer)
    known = ARCHITECTURES.get(spec.name)
    taken = inspect.signature(known.transform).parameters if known else {}
    optimizer = request.optimizer.strip()
    if "grad_clip" in taken and "grad_clip" not in dict(spec.options):
        options = (*spec.options, ("grad_clip", preset.grad_clip))
        optimizer = str(dataclasses.replace(spec, options=options))
    settings = list(preset.pipeline)
    if request.steps:
        settings = [text for text in settings if not text.startswith("reset_interval=")]
    return dataclasses.replace(
        request,
        optimizer=optimizer,
        tasks=request.tasks or preset.tasks,
        learner=request.learner or preset.learner,
        learning_rates=request.learning_rates
        or (preset.learning_rates if "learning_rate" in taken else ()),
        pipeline=(*settings, *request.pipeline),
        set=(*preset.set, *request.set),
        generations=request.generations or preset.generations,
        reward_scales=request.reward_scales or preset.reward_scales,
        normalisers=request.normalisers or preset.normalisers,
    )
