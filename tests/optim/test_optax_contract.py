"""optax's own generic tests, run on our optimizers.

Their lists of optimizers are fixed when their classes are made. The bodies are not: each is taken
out of its decorators and decorated again with our list.
"""

import importlib.util
import inspect
from unittest import mock

import jax
import jax.numpy as jnp
import optax
import pytest
from absl.testing import parameterized
from fixed_meta_params import FACTORIES, converging
from optax._src import sharding_test
from optax.contrib import _common_test

import optim


def kron(learning_rate: optax.ScalarOrSchedule):
    """Its other numbers must be static, which one of the tests makes tracers."""
    return optim.kron(learning_rate)


def cautious_sgd(learning_rate: optax.ScalarOrSchedule, scale: str):
    return optim.cautious(optax.sgd(learning_rate, momentum=0.9), scale)


def reset_sgd(learning_rate: optax.ScalarOrSchedule, period: int):
    return optim.reset_state(optax.sgd(learning_rate, momentum=0.9), period)


# One line for each optimizer: name, factory, arguments with which it converges.
OPTIMIZERS = {
    "adabound": (optim.adabound, {"learning_rate": 1e-2, "final_lr": 1e-2}),
    "adahessian": (optim.adahessian, {"learning_rate": 0.3}),
    "adam_cm": (optim.adam_cm, {"learning_rate": 1e-3}),
    "adam_rel": (optim.adam_rel, {"learning_rate": 1e-2, "period": 1000}),
    "adam_reset": (optim.adam_reset, {"learning_rate": 1e-2, "period": 1000}),
    "adamo": (optim.adamo, {"learning_rate": 1e-2}),
    "adamo_strong": (optim.adamo, {"learning_rate": 1e-2, "kappa": 0.5, "tau": 0.05}),
    "adamod": (optim.adamod, {"learning_rate": 1e-2}),
    "adamp": (optim.adamp, {"learning_rate": 1e-2}),
    "aegd": (optim.aegd, {"learning_rate": 5e-3}),
    "amsbound": (optim.amsbound, {"learning_rate": 1e-2, "final_lr": 1e-2}),
    "cautious_adamw": (optim.cautious_adamw, {"learning_rate": 1e-2}),
    "cautious_sgd": (cautious_sgd, {"learning_rate": 1e-3, "scale": "paper"}),
    "exadam": (optim.exadam, {"learning_rate": 5e-3}),
    "mars": (optim.mars, {"learning_rate": 1e-3, "weight_decay_1d": 0.0}),
    "mars_exact": (
        optim.mars,
        {"learning_rate": 1e-3, "exact": True, "optimize_1d": True},
    ),
    "reset_sgd": (reset_sgd, {"learning_rate": 1e-3, "period": 1000}),
    "sania": (optim.sania, {"learning_rate": 1.0}),
    "sgdp": (optim.sgdp, {"learning_rate": 1e-3, "momentum": 0.9}),
    "subset_norm": (optim.subset_norm, {"learning_rate": 1e-2}),
    "subset_norm_generic": (optim.subset_norm, {"learning_rate": 1e-2, "subsets": "generic"}),
    "subspace_momentum": (optim.subspace_momentum, {"learning_rate": 1e-3, "rank": 1}),
    "swats": (optim.swats, {"learning_rate": 1e-2}),
    "trac": (optim.trac_adam, {"learning_rate": 1e-2}),
    "trac_exact": (
        optim.trac_adam,
        {"learning_rate": 1e-2, "s_prev": 1e-2, "exact_reference": True},
    ),
    "tvlars": (optim.tvlars, {"learning_rate": 1.0, "floor": 1.0}),
}

# Learned ones, with meta-parameters that were set by hand.
OPTIMIZERS |= {
    name: (factory, {"meta_params": converging(name), "learning_rate": 1e-3})
    for name, factory in FACTORIES.items()
}

if importlib.util.find_spec("psgdax"):
    OPTIMIZERS["kron"] = (kron, {"learning_rate": 1e-3})

# What needs more than gradients and parameters, and an optimizer of optax that needs the same.
ALIKE = {"adahessian": "sophia", "aegd": "momo", "mars_exact": "sophia", "sania": "momo"}


class Alike(str):
    """A name that also equals that of an alike optimizer: optax's tests pass extras by name."""

    __hash__ = str.__hash__

    def __eq__(self, other):
        return str(self) == other or ALIKE.get(str(self)) == other


def given(name, optimizer):
    """The optimizer with what it needs bound, for tests that pass nothing."""
    if name not in ALIKE:
        return optimizer

    def loss(params):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))

    extra = {"value": 1.0, "obj_fn": loss}
    update = lambda *args, **kwargs: optimizer.update(*args, **kwargs, **extra)  # noqa: E731
    return optax.GradientTransformationExtraArgs(optimizer.init, update)


CASES = tuple(
    {"opt_name": Alike(name), "opt_kwargs": kwargs, "wrapper_name": None, "wrapper_kwargs": None}
    for name, (_, kwargs) in OPTIMIZERS.items()
)
NAMED = tuple(
    (name, given(name, factory(**kwargs))) for name, (factory, kwargs) in OPTIMIZERS.items()
)

EXPECTED = {
    "test_gradient_accumulation",
    "test_optimizers",
    "test_optimizers_accept_extra_args",
    "test_optimizers_accept_learning_rate_schedule_if_type_annotated_as_such",
    "test_optimizers_can_be_wrapped_in_inject_hyperparams",
    "test_preserve_dtype",
    "test_state_shape_dtype_shard_stability",
}
EXPECTED_SHARDING = {
    "test_init_with_abstract_input",
    "test_state_sharding_type_init_match_update",
    "test_state_sharding_type_preserved_with_jit",
}


def bodies(case):
    """The undecorated tests of one of optax's classes that are about an optimizer."""
    tests = [inspect.unwrap(getattr(case, name)) for name in dir(case) if name.startswith("test")]
    return {
        test.__name__: test
        for test in tests
        if {"opt_name", "optimizer"} & set(inspect.signature(test).parameters)
    }


CONTRIB = bodies(_common_test.ContribTest)
SHARDING = bodies(sharding_test.ShardingTest)


def test_optax_has_the_tests_known_here():
    assert set(CONTRIB) == EXPECTED
    assert set(SHARDING) == EXPECTED_SHARDING


# With one scale for all parameters, some of them are still on their way after 30 000 steps.
ON_THE_WAY = ("trac", "trac_exact")


def converges(self, opt_name, **kwargs):
    """optax's test of convergence, with a wider tolerance where ON_THE_WAY says so."""
    if opt_name in ON_THE_WAY:
        close = _common_test.test_utils.assert_trees_all_close
        wide = lambda a, b, **_: close(a, b, rtol=0, atol=0.3)  # noqa: E731
        self.enterContext(mock.patch.object(_common_test.test_utils, close.__name__, wide))
    CONTRIB["test_optimizers"](self, opt_name=opt_name, **kwargs)


class OptaxTest(parameterized.TestCase):
    """Relaxes our strict settings, which optax's tests do not meet, and refuses to skip."""

    def setUp(self):
        super().setUp()
        self.enterContext(jax.numpy_dtype_promotion("standard"))
        self.enterContext(jax.numpy_rank_promotion("allow"))

    def skipTest(self, reason):  # noqa: N802
        self.fail(f"must run, but would be skipped: {reason}")


class ContribTest(OptaxTest):
    def setUp(self):
        super().setUp()
        factories = {name: factory for name, (factory, _) in OPTIMIZERS.items()}
        self.enterContext(
            mock.patch.object(_common_test, "_get_opt_factory", factories.__getitem__)
        )

    test_gradient_accumulation = parameterized.product(CASES, dtype=("bfloat16", "float32"))(
        CONTRIB["test_gradient_accumulation"]
    )
    test_optimizers = parameterized.product(
        CASES,
        target=(
            _common_test._setup_parabola,
            _common_test._setup_rosenbrock,
            _common_test._setup_matrix_parabola,
            _common_test._setup_mixed_tensor_target,
        ),
        dtype=("float32",),
    )(converges)
    test_optimizers_accept_extra_args = parameterized.product(CASES, wrap=[True, False])(
        CONTRIB["test_optimizers_accept_extra_args"]
    )
    test_optimizers_accept_learning_rate_schedule = parameterized.product(CASES)(
        CONTRIB["test_optimizers_accept_learning_rate_schedule_if_type_annotated_as_such"]
    )
    test_optimizers_can_be_wrapped_in_inject_hyperparams = parameterized.product(CASES)(
        CONTRIB["test_optimizers_can_be_wrapped_in_inject_hyperparams"]
    )
    test_preserve_dtype = parameterized.product(CASES, dtype=("bfloat16", "float32"))(
        CONTRIB["test_preserve_dtype"]
    )
    test_state_shape_dtype_shard_stability = parameterized.product(
        CASES, dtype=(jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)
    )(CONTRIB["test_state_shape_dtype_shard_stability"])


# Of the learned ones that share their code one is quick; the others run with --slow.
for _name, _test in vars(ContribTest).items():
    shown = getattr(_test, "__x_params_repr__", "")
    if any(f"opt_name='{name}'" in shown for name in ("linear_optim", "l2lgd2", "star")):
        pytest.mark.slow(_test)


class ShardingTest(OptaxTest):
    def setUp(self):
        super().setUp()
        assert len(jax.devices()) == 8
        # optax 0.2.8 compares versions as strings, in which 0.10 comes before 0.7.2.
        if jax.__version_info__ >= (0, 7, 2):
            self.enterContext(mock.patch.object(jax, "__version__", "0.9.9"))

    test_init_with_abstract_input = parameterized.named_parameters(*NAMED)(
        SHARDING["test_init_with_abstract_input"]
    )
    test_state_sharding_type_init_match_update = parameterized.named_parameters(*NAMED)(
        SHARDING["test_state_sharding_type_init_match_update"]
    )
    test_state_sharding_type_preserved_with_jit = parameterized.named_parameters(*NAMED)(
        SHARDING["test_state_sharding_type_preserved_with_jit"]
    )


@pytest.mark.parametrize(("case", "count"), [(ContribTest, 16), (ShardingTest, 3)])
def test_every_body_runs_on_every_optimizer(case, count):
    cases = [name for name in dir(case) if name.startswith("test")]
    assert len(cases) == count * len(OPTIMIZERS)
