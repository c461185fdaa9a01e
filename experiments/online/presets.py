"""Comparisons by name, for `rl-optim compare --preset`."""

from __future__ import annotations

import dataclasses
import re

NETWORKS = ("actor", "critic")  # of an agent's parameters


@dataclasses.dataclass(frozen=True)
class Arm:
    """One of the things that a comparison compares.

    Attributes:
        label: what it is called in reports, and its directory after it; None for the optimizer's
            text.
        optimizer: `NAME[@WEIGHTS][:key=value,...]`.
        settings: changes to the tasks' settings, `key=value`. They are what the arm is, and count
            before those of the comparison.
    """

    label: str | None
    optimizer: str
    settings: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Arm:
        """Reads `[LABEL=]OPTIMIZER`.

        No optimizer has an = before its first @ or colon, but those of networks, which are no
        labels: `actor=OPTIMIZER+critic=OPTIMIZER`.

        Raises:
            ValueError: if the label or the optimizer is empty, or one network has none.

        Examples:
            >>> Arm.parse("actor=adam+critic=adamo:kappa=1").label is None
            True
            >>> Arm.parse("mine=actor=adam+critic=adamo:kappa=1").label
            'mine'
            >>> Arm.parse("equal betas=adam:b1=0.99,b2=0.99")
            Arm(label='equal betas', optimizer='adam:b1=0.99,b2=0.99', settings=())
            >>> Arm.parse("open@a=b.safetensors").label is None
            True
        """
        before, equals, after = text.partition("=")
        if not equals or "@" in before or ":" in before or "|" in before:
            return cls(None, text)
        if before.strip() in NETWORKS:
            other = NETWORKS[1 - NETWORKS.index(before.strip())]
            if not re.search(rf"\+\s*{other}\s*=", after):
                raise ValueError(
                    f"the {before.strip()}'s optimizer must have the {other}'s in the same text, "
                    f"{text}+{other}=OPTIMIZER; as a label, take another word."
                )
            return cls(None, text)
        if not (before.strip() and after.strip()):
            raise ValueError(
                f"an optimizer with a label must have the form LABEL=OPTIMIZER; got {text!r}."
            )
        return cls(before.strip(), after.strip())

    @property
    def name(self) -> str:
        """What it is called."""
        return self.optimizer if self.label is None else self.label


@dataclasses.dataclass(frozen=True)
class Preset:
    """What a comparison trains; each field can be replaced on the command line.

    Attributes:
        description: one line.
        envs: environments, `NAME[:key=value,...]`.
        optimizers: what is compared: optimizers, `NAME[@WEIGHTS][:key=value,...]`, or arms.
        steps: environment steps of each seed.
        seeds: number of seeds.
        settings: changes to the tasks' settings, `key=value`.
    """

    description: str
    envs: tuple[str, ...]
    optimizers: tuple[str | Arm, ...]
    steps: int
    seeds: int
    settings: tuple[str, ...] = ()


_SMALL = ("epochs=4", "minibatches=4", "nonlinearity=relu", "anneal=false")
_CARTPOLE = ("num_envs=8", "num_steps=64", "widths=64x64", *_SMALL)
_BREAKOUT = ("num_envs=32", "num_steps=64", "widths=32x32", *_SMALL)
_ANT = ("num_envs=256", "num_steps=20", "minibatches=8", "anneal=false")
# How the weights of `optim4rl@flip` and its kin were trained, and how they are used.
_AS_TRAINED = ("reward_scale=0.02", "max_grad_norm=1e9")
_UNCLIPPED = ("max_grad_norm=1e9",)  # the same of `permute`, `friction` and kin
PRESETS = {
    "quickstart": Preset(
        "Breakout under four optimizers, one of them learned, in minutes on two cores.",
        ("Breakout-MinAtar",),
        ("adam", "rmsprop", "adamo", "open@breakout"),
        steps=500_000,
        seeds=4,
    ),
    "minatar": Preset(
        "PPO with tuned Adam on the four MinAtar games with published returns.",
        ("Breakout-MinAtar", "Asterix-MinAtar", "Freeway-MinAtar", "SpaceInvaders-MinAtar"),
        ("adam",),
        steps=10_000_000,
        seeds=4,
    ),
    "ant": Preset(
        "Brax's ant on the spring pipeline, the quickest on a CPU.",
        ("ant:backend=spring",),
        ("adam",),
        steps=3_000_000,
        seeds=2,
    ),
    "collapse": Preset(
        "Adam, Optim4RL, and what is said to keep them learning, on a CartPole that changes.",
        (
            "CartPole-v1:flip=true,phase=20480",
            "CartPole-v1:flip=false,phase=20480",
        ),
        (
            Arm("adam", "adam:learning_rate=1e-3"),
            Arm("tuned adam", "adam:learning_rate=1e-2"),
            Arm("equal betas", "adam:learning_rate=1e-3,b1=0.99,b2=0.99"),
            Arm("l2", "adam:learning_rate=1e-3,l2=1e-3"),
            Arm("equal betas, l2", "adam:learning_rate=1e-3,b1=0.99,b2=0.99,l2=1e-3"),
            Arm("trac", "trac:learning_rate=1e-2"),
            Arm("adam_rel", "adam_rel:learning_rate=1e-3"),
            Arm("adam_reset", "adam_reset:learning_rate=1e-3"),
            Arm("from scratch", "adam:learning_rate=1e-3", ("restart=true",)),
            Arm("from scratch, tuned", "adam:learning_rate=1e-2", ("restart=true",)),
            Arm("optim4rl", "optim4rl@flip", _AS_TRAINED),
            Arm("optim4rl, l2", "optim4rl@flip_l2", _AS_TRAINED),
            Arm("optim4rl, transfer", "optim4rl@cartpole", _AS_TRAINED),
            Arm("optim4rl, curriculum", "optim4rl@cartpole_flip", _AS_TRAINED),
            # What of it is due to the rewards' scale.
            Arm("adam, scaled rewards", "adam:learning_rate=1e-3", _AS_TRAINED),
            Arm(
                "from scratch, scaled rewards",
                "adam:learning_rate=1e-3",
                (*_AS_TRAINED, "restart=true"),
            ),
        ),
        steps=409_600,
        seeds=8,
        settings=_CARTPOLE,
    ),
    "collapse_minatar": Preset(
        "The arms of collapse on a Breakout whose observation channels and actions are permuted.",
        (
            "Breakout-MinAtar:permute=both,phase=102400",
            "Breakout-MinAtar:permute=none,phase=102400",
        ),
        (
            Arm("adam", "adam:learning_rate=1e-3"),
            Arm("tuned adam", "adam:learning_rate=3e-3"),
            Arm("equal betas", "adam:learning_rate=3e-3,b1=0.99,b2=0.99"),
            Arm("l2", "adam:learning_rate=3e-3,l2=1e-3"),
            Arm("equal betas, l2", "adam:learning_rate=3e-3,b1=0.99,b2=0.99,l2=1e-3"),
            Arm("trac", "trac:learning_rate=3e-3"),
            Arm("adam_rel", "adam_rel:learning_rate=3e-3"),
            Arm("adam_reset", "adam_reset:learning_rate=3e-3"),
            Arm("from scratch, tuned", "adam:learning_rate=3e-3", ("restart=true",)),
            Arm("optim4rl", "optim4rl@permute", _UNCLIPPED),
            Arm("optim4rl, l2", "optim4rl@permute_l2", _UNCLIPPED),
            Arm("optim4rl, transfer", "optim4rl@breakout", _UNCLIPPED),
            Arm("optim4rl, curriculum", "optim4rl@breakout_permute", _UNCLIPPED),
        ),
        steps=512_000,
        seeds=8,
        settings=_BREAKOUT,
    ),
    "collapse_ant": Preset(
        "Arms of collapse on Brax's ant (spring), whose floor is another one in each phase.",
        ("ant:backend=spring,friction=0.02..2,phase=1e6",),
        (
            Arm("adam", "adam:learning_rate=3e-4"),
            Arm("tuned adam", "adam:learning_rate=1e-3"),
            Arm("equal betas", "adam:learning_rate=1e-3,b1=0.99,b2=0.99"),
            Arm("l2", "adam:learning_rate=1e-3,l2=1e-3"),
            Arm("from scratch, tuned", "adam:learning_rate=1e-3", ("restart=true",)),
            Arm("optim4rl", "optim4rl@friction", _UNCLIPPED),
            Arm("optim4rl, l2", "optim4rl@friction_l2", _UNCLIPPED),
            Arm("optim4rl, transfer", "optim4rl@ant", _UNCLIPPED),
            Arm("optim4rl, curriculum", "optim4rl@ant_friction", _UNCLIPPED),
        ),
        steps=3_000_000,
        seeds=2,
        settings=_ANT,
    ),
    "clipping": Preset(
        "PPO without its clips of ratio, value and gradient, on a CartPole that changes.",
        ("CartPole-v1:flip=true,phase=20480",),
        (
            Arm("all clips", "adam"),
            Arm("no ratio clip", "adam", ("clip=inf", "value_clip=0.2")),
            Arm("no value clip", "adam", ("value_clip=inf",)),
            Arm("no gradient clip", "adam", ("max_grad_norm=inf",)),
            Arm("no clips", "adam", ("clip=inf", "max_grad_norm=inf")),
        ),
        steps=409_600,
        seeds=8,
        settings=_CARTPOLE,
    ),
}
