"""The list of our optimizers that the common tests run over.

Every name of the registry that is ours is here, and beside it the variants and wrappers whose state
or computation is of another kind. Each comes with arguments with which it converges to within 3e-2
on the four targets of optax's own tests; the learned ones with meta-parameters set by hand.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import optax
import pytest
from fixed_meta_params import FACTORIES, converging, drawn

import optim
from optim._trained import on_trained_leaves


@dataclasses.dataclass(frozen=True)
class Case:
    """One optimizer under test."""

    factory: Callable[..., optax.GradientTransformation]
    options: Mapping[str, Any]  # with which it converges
    # Further options that make it differentiable where a gradient is zero, as optax's Adam needs;
    # None if nothing does.
    differentiable: Mapping[str, Any] | None = dataclasses.field(default_factory=dict)
    needs_params: bool = True
    converges: bool = True
    takes_complex: bool = False  # Else it refuses complex parameters.
    like: str | None = None  # An optimizer of optax whose tests pass the same extra input.

    def build(self, **overrides):
        return self.factory(**{**self.options, **overrides})


def kron(learning_rate: optax.ScalarOrSchedule):
    """Its other numbers must be static, which `optax.inject_hyperparams` makes tracers."""
    return optim.kron(learning_rate)


def cautious_sgd(learning_rate: optax.ScalarOrSchedule, scale: str):
    return optim.cautious(optax.sgd(learning_rate, momentum=0.9), scale)


def reset_sgd(learning_rate: optax.ScalarOrSchedule, period: int):
    return optim.reset_state(optax.sgd(learning_rate, momentum=0.9), period)


def trac_settling(
    learning_rate: optax.ScalarOrSchedule, s_prev: float, exact_reference: bool = False
):
    """TRAC has one scale for all parameters, which is steady only once Adam's steps get short."""
    adam = optax.adam(learning_rate, eps_root=1e-8)
    decay = optax.scale_by_schedule(lambda count: 1 / (1 + jnp.asarray(count, float) / 100))
    return optim.trac(optax.chain(adam, decay), s_prev=s_prev, exact_reference=exact_reference)


# optax's factor would make numbers of the zeros of integers.
@on_trained_leaves
def open_noisy(meta_params: Any, learning_rate: optax.ScalarOrSchedule):
    """OPEN takes no learning rate; its own is 1e-3."""
    optimizer = optim.open_optimizer(meta_params, noise_mask=True)
    return optax.chain(optimizer, optax.scale_by_learning_rate(learning_rate, flip_sign=False))


@on_trained_leaves
def open_settling(meta_params: Any, learning_rate: optax.ScalarOrSchedule):
    """Without noise and mean, which keep it from any minimum, and with ever shorter steps."""
    return optax.chain(
        optim.open_optimizer(meta_params, noise_mask=False, subtract_mean=False),
        optax.scale_by_schedule(lambda count: 1e3 * jnp.exp(-jnp.asarray(count, float) / 2500)),
        optax.scale_by_learning_rate(learning_rate, flip_sign=False),
    )


def corrected_adam(meta_params: Any, learning_rate: optax.ScalarOrSchedule):
    return optim.learned_correction(meta_params, "adam", learning_rate)


def corrected_sgd(meta_params: Any, learning_rate: optax.ScalarOrSchedule):
    return optim.learned_correction(meta_params, optax.trace(0.9), learning_rate)


@on_trained_leaves
def velo_scaled(meta_params: Any, learning_rate: optax.ScalarOrSchedule):
    """VeLO takes no learning rate."""
    optimizer = optim.velo(meta_params, num_updates=30_000)
    return optax.chain(optimizer, optax.scale_by_learning_rate(learning_rate, flip_sign=False))


def drawn_velo() -> Any:
    """As drawn the bank gives logarithms of steps at which nothing moves."""
    meta_params = drawn("velo")
    for array in meta_params["ff_mod_stack"].values():
        array *= 0.05
    return meta_params


@on_trained_leaves
def velo_long(meta_params: Any, learning_rate: optax.ScalarOrSchedule):
    """A step for every two gradients."""
    optimizer = optim.velo(meta_params, num_updates=300_000, weight_decay=1e-3)
    return optax.chain(optimizer, optax.scale_by_learning_rate(learning_rate, flip_sign=False))


def pulled_sgd(learning_rate: optax.ScalarOrSchedule, strength: float, penalty: str):
    return optim.l2_init(optax.sgd(learning_rate, momentum=0.9), strength, penalty)


def parseval_sgd(learning_rate: optax.ScalarOrSchedule, strength: float):
    sgd = optax.sgd(learning_rate, momentum=0.9)
    return optim.parseval(sgd, strength, reference_width=None)


def shrinking_adam(
    learning_rate: optax.ScalarOrSchedule,
    noise: str,
    period: int,
    opt_state: str = "keep",
    eps_root: float = 0.0,
):
    adam = optax.adam(learning_rate, eps_root=eps_root)
    return optim.shrink_perturb(adam, 1e-6, 1e-6, noise, period, opt_state)


def projecting_adam(
    learning_rate: optax.ScalarOrSchedule, matrix_mask: bool | None = None, eps_root: float = 0.0
):
    adam = optax.adam(learning_rate, eps_root=eps_root)
    return optim.normalize_project(adam, matrix_mask=matrix_mask)


def fire_adam(learning_rate: optax.ScalarOrSchedule, opt_state: str, eps_root: float = 0.0):
    return optim.fire(optax.adam(learning_rate, eps_root=eps_root), opt_state=opt_state)


# Most of the trees of these tests are no networks.
def cbp_adam_gnt(learning_rate: optax.ScalarOrSchedule):
    return optim.cbp(optim.adam_gnt(learning_rate), links={})


def redo_adam_gnt(learning_rate: optax.ScalarOrSchedule):
    return optim.redo(optim.adam_gnt(learning_rate), links={})


def regrama_adam_gnt(learning_rate: optax.ScalarOrSchedule):
    return optim.regrama(optim.adam_gnt(learning_rate), links={})


def spectral_sgd(learning_rate: optax.ScalarOrSchedule, strength: float):
    return optim.spectral_regularization(optax.sgd(learning_rate, momentum=0.9), strength)


def clipping_adam(learning_rate: optax.ScalarOrSchedule, kappa: float, eps_root: float = 0.0):
    return optim.weight_clipping(optax.adam(learning_rate, eps_root=eps_root), kappa)


ROOT = {"eps_root": 1e-8}

CASES: dict[str, Case] = {
    "ada_upgd": Case(
        optim.ada_upgd,
        {"learning_rate": 1e-2, "sigma": 0.0, "weight_decay": 0.0},
        differentiable=ROOT,
    ),
    "adabound": Case(optim.adabound, {"learning_rate": 1e-2, "final_lr": 1e-2}),
    "adahessian": Case(optim.adahessian, {"learning_rate": 0.3}, like="sophia"),
    "adam_cm": Case(optim.adam_cm, {"learning_rate": 1e-3}),
    "adam_gnt": Case(optim.adam_gnt, {"learning_rate": 1e-2}, needs_params=False),
    "adam_rel": Case(
        optim.adam_rel,
        {"learning_rate": 1e-2, "period": 1000},
        differentiable=ROOT,
        needs_params=False,
        takes_complex=True,
    ),
    "adam_reset": Case(
        optim.adam_reset,
        {"learning_rate": 1e-2, "period": 1000},
        differentiable=ROOT,
        takes_complex=True,
    ),
    "adamo": Case(optim.adamo, {"learning_rate": 1e-2}, differentiable=ROOT),
    "adamo_strong": Case(
        optim.adamo, {"learning_rate": 1e-2, "kappa": 0.5, "tau": 0.05}, differentiable=ROOT
    ),
    "adamod": Case(optim.adamod, {"learning_rate": 1e-2}),
    "adamp": Case(optim.adamp, {"learning_rate": 1e-2}),
    "aegd": Case(optim.aegd, {"learning_rate": 5e-3}, like="momo"),
    "amsbound": Case(optim.amsbound, {"learning_rate": 1e-2, "final_lr": 1e-2}),
    "cautious_adamw": Case(optim.cautious_adamw, {"learning_rate": 1e-2}, differentiable=ROOT),
    "cautious_sgd": Case(
        cautious_sgd, {"learning_rate": 1e-3, "scale": "paper"}, needs_params=False
    ),
    "cbp": Case(cbp_adam_gnt, {"learning_rate": 1e-2}),
    "exadam": Case(optim.exadam, {"learning_rate": 5e-3}),
    "fire": Case(fire_adam, {"learning_rate": 1e-2, "opt_state": "reset"}, differentiable=ROOT),
    "kron": Case(kron, {"learning_rate": 1e-3}),
    "l2_init": Case(pulled_sgd, {"learning_rate": 1e-3, "strength": 1e-4, "penalty": "squared"}),
    "l2_init_norm": Case(pulled_sgd, {"learning_rate": 1e-3, "strength": 1e-4, "penalty": "norm"}),
    "mars": Case(optim.mars, {"learning_rate": 1e-3, "weight_decay_1d": 0.0}),
    "mars_exact": Case(
        optim.mars, {"learning_rate": 1e-3, "exact": True, "optimize_1d": True}, like="sophia"
    ),
    # Targets of another norm than that of the start are out of reach.
    "normalize_project": Case(
        projecting_adam, {"learning_rate": 1e-2}, differentiable=ROOT, converges=False
    ),
    "normalize_project_nothing": Case(
        projecting_adam,
        {"learning_rate": 1e-2, "matrix_mask": False},
        differentiable=ROOT,
        takes_complex=True,
    ),
    "parseval": Case(parseval_sgd, {"learning_rate": 1e-3, "strength": 1e-4}),
    "redo": Case(redo_adam_gnt, {"learning_rate": 1e-2}),
    "regrama": Case(regrama_adam_gnt, {"learning_rate": 1e-2}),
    "reset_sgd": Case(reset_sgd, {"learning_rate": 1e-3, "period": 1000}, takes_complex=True),
    "sania": Case(optim.sania, {"learning_rate": 1.0}, needs_params=False, like="momo"),
    "sgdp": Case(optim.sgdp, {"learning_rate": 1e-3, "momentum": 0.9}),
    "shrink_perturb": Case(
        shrinking_adam,
        {"learning_rate": 1e-2, "noise": "initial", "period": 1},
        differentiable=ROOT,
    ),
    "shrink_perturb_gaussian": Case(
        shrinking_adam,
        {"learning_rate": 1e-2, "noise": "gaussian", "period": 2000, "opt_state": "reset"},
        differentiable=ROOT,
    ),
    "soap": Case(optim.soap, {"learning_rate": 1e-2, "weight_decay": 0.0}),
    "spectral_regularization": Case(spectral_sgd, {"learning_rate": 1e-3, "strength": 1e-4}),
    "subset_norm": Case(optim.subset_norm, {"learning_rate": 1e-2}),
    "subset_norm_generic": Case(optim.subset_norm, {"learning_rate": 1e-2, "subsets": "generic"}),
    "subspace_momentum": Case(
        optim.subspace_momentum, {"learning_rate": 1e-3, "rank": 1}, needs_params=False
    ),
    "subspace_momentum_uniform": Case(
        optim.subspace_momentum,
        {"learning_rate": 1e-3, "rank": 1, "projection": "uniform"},
        needs_params=False,
    ),
    "swats": Case(optim.swats, {"learning_rate": 1e-2}, needs_params=False),
    "swats_switching": Case(
        optim.swats, {"learning_rate": 1e-2, "tolerance": 1e-4}, needs_params=False
    ),
    # Whatever its learning rate and first scale, after 30 000 steps of constant length the worst
    # parameter of the parabola is off by 2.2 times the tolerance, of Rosenbrock's by 1.1 times.
    "trac": Case(
        optim.trac_adam,
        {"learning_rate": 1e-3, "s_prev": 0.1},
        differentiable=ROOT,
        converges=False,
    ),
    "trac_settling": Case(trac_settling, {"learning_rate": 1e-3, "s_prev": 0.1}),
    "trac_settling_exact": Case(
        trac_settling, {"learning_rate": 1e-3, "s_prev": 0.1, "exact_reference": True}
    ),
    "tvlars": Case(
        optim.tvlars, {"learning_rate": 0.1, "trust_coefficient": 0.01, "weight_decay": 0.0}
    ),
    "weight_clipping": Case(
        clipping_adam, {"learning_rate": 1e-2, "kappa": 6.0}, differentiable=ROOT
    ),
    "upgd": Case(optim.upgd, {"learning_rate": 1e-3, "sigma": 0.0, "weight_decay": 0.0}),
}

CASES |= {
    name: Case(
        factory,
        {"meta_params": converging(name), "learning_rate": 1e-3},
        needs_params=name == "star",
    )
    for name, factory in FACTORIES.items()
}

CASES |= {
    "open": Case(open_noisy, {"meta_params": drawn("open"), "learning_rate": 1.0}, converges=False),
    "open_settling": Case(
        open_settling, {"meta_params": converging("open"), "learning_rate": 1e-2}
    ),
}

CASES |= {
    "learned_correction": Case(
        corrected_adam, {"meta_params": converging("learned_correction"), "learning_rate": 1e-2}
    ),
    "learned_correction_drawn": Case(
        corrected_adam,
        {"meta_params": drawn("learned_correction"), "learning_rate": 1e-2},
        converges=False,
    ),
    "learned_correction_sgd": Case(
        corrected_sgd,
        {"meta_params": drawn("learned_correction"), "learning_rate": 1e-3},
        converges=False,
    ),
}

CASES |= {
    "velo": Case(
        velo_scaled, {"meta_params": converging("velo"), "learning_rate": 1e-2}, like="momo"
    ),
    "velo_long": Case(
        velo_long,
        {"meta_params": drawn_velo(), "learning_rate": 1e-2},
        converges=False,
        like="momo",
    ),
}

# These run in every test, other names of the registry in the short ones; --slow runs all in all.
QUICK = ("adamo", "adamp", "cautious_adamw", "mars_exact", "trac")


def parameters(*, long: bool = False):
    """The list as parameters of a test; a long one runs on QUICK only unless --slow is given.

    Short ones leave to --slow what is no name of the registry, and what takes long to compile.
    """
    short = set(QUICK) if long else {*QUICK, *optim.optimizer_names()} - {"kron"}

    def marks(name):
        if name not in short:
            yield pytest.mark.slow

    return [pytest.param(name, marks=tuple(marks(name))) for name in CASES]
