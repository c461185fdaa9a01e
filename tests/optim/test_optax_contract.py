"""optax's own generic tests, run on our optimizers.

Their lists of optimizers are fixed when their classes are made. The bodies are not: each is taken
out of its decorators and called with ours.
"""

import inspect
from unittest import mock

import jax
import jax.numpy as jnp
import optax
import pytest
import suite
from absl.testing import parameterized
from optax._src import sharding_test
from optax.contrib import _common_test
from quick import quick_jit

HALF_AND_FULL = ("bfloat16", "float32")
TARGETS = ("parabola", "rosenbrock", "matrix_parabola", "mixed_tensor_target")

# Every body, and the arguments besides the optimizer with which optax runs it. A wrapper is never
# given, hence `wrap` makes no difference.
CONTRIB = {
    "test_gradient_accumulation": [{"dtype": dtype} for dtype in HALF_AND_FULL],
    "test_optimizers": [
        {"target": getattr(_common_test, f"_setup_{target}"), "dtype": "float32"}
        for target in TARGETS
    ],
    "test_optimizers_accept_extra_args": [{"wrap": False}],
    "test_optimizers_accept_learning_rate_schedule_if_type_annotated_as_such": [{}],
    "test_optimizers_can_be_wrapped_in_inject_hyperparams": [{}],
    "test_preserve_dtype": [{"dtype": dtype} for dtype in HALF_AND_FULL],
    "test_state_shape_dtype_shard_stability": [
        {"dtype": dtype} for dtype in (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)
    ],
}
# Not compiled as a whole, or often.
LONG = {
    "test_optimizers_accept_learning_rate_schedule_if_type_annotated_as_such",
    "test_state_shape_dtype_shard_stability",
}
SHARDING = (
    "test_init_with_abstract_input",
    "test_state_sharding_type_init_match_update",
    "test_state_sharding_type_preserved_with_jit",
)


class Unskippable(parameterized.TestCase):
    """What optax's tests take for themselves."""

    __test__ = False

    def runTest(self):  # noqa: N802
        """Not a test: unittest wants one to make an instance."""

    def skipTest(self, reason):  # noqa: N802
        self.fail(f"must run, but would be skipped: {reason}")


class Alike(str):
    """A name that also equals that of an alike optimizer: optax's tests pass extras by name."""

    __hash__ = str.__hash__

    def __eq__(self, other):
        return str(self) == other or suite.CASES[str(self)].like == other


def at_top(quick, plain):
    """Only the outermost program may be told how it is to be compiled."""

    def call(*args, **kwargs):
        leaves = jax.tree.leaves((args, kwargs))
        is_inside = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
        return (plain if is_inside else quick)(*args, **kwargs)

    return call


@pytest.fixture
def at_ease(monkeypatch):
    """Without our strict settings, which optax's tests do not meet, and with a quick compiler."""
    jit, scan = jax.jit, jax.lax.scan
    quick_scan = lambda *args, **kwargs: quick_jit(lambda: scan(*args, **kwargs))()  # noqa: E731
    monkeypatch.setattr(jax, "jit", lambda f, **kw: at_top(quick_jit(f, **kw), jit(f, **kw)))
    monkeypatch.setattr(jax.lax, "scan", at_top(quick_scan, scan))
    monkeypatch.setattr(_common_test, "_get_opt_factory", lambda name: suite.CASES[name].factory)
    # optax 0.2.8 compares versions as strings, in which 0.10 comes before 0.7.2.
    if jax.__version_info__ >= (0, 7, 2):
        monkeypatch.setattr(jax, "__version__", "0.9.9")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def bodies(case):
    """The undecorated tests of one of optax's classes that are about an optimizer."""
    tests = [inspect.unwrap(getattr(case, name)) for name in dir(case) if name.startswith("test")]
    return {
        test.__name__: test
        for test in tests
        if {"opt_name", "optimizer"} & set(inspect.signature(test).parameters)
    }


CONTRIB_BODIES = bodies(_common_test.ContribTest)
SHARDING_BODIES = bodies(sharding_test.ShardingTest)


def test_optax_has_the_tests_known_here():
    assert set(CONTRIB_BODIES) == set(CONTRIB)
    assert set(SHARDING_BODIES) == set(SHARDING)


def words(argument):
    name = getattr(argument, "__name__", str(argument))
    return name.removeprefix("test_").removeprefix("_setup_")


def check_contrib(body, arguments, name):
    CONTRIB_BODIES[body](
        Unskippable(),
        opt_name=Alike(name),
        opt_kwargs=dict(suite.CASES[name].options),
        wrapper_name=None,
        wrapper_kwargs=None,
        **arguments,
    )


def combinations():
    """Every body with every optimizer, but convergence with those that do not converge."""
    for body, several in CONTRIB.items():
        for arguments in several:
            for parameter in suite.parameters(long=body in LONG):
                (name,) = parameter.values
                if body == "test_optimizers" and not suite.CASES[name].converges:
                    continue
                label = "-".join(map(words, (body, *arguments.values(), name)))
                yield pytest.param(body, arguments, name, marks=parameter.marks, id=label)


@pytest.mark.usefixtures("at_ease")
@pytest.mark.parametrize(("body", "arguments", "name"), list(combinations()))
def test_contrib(body, arguments, name):
    check_contrib(body, arguments, name)


def test_what_does_not_converge_has_a_variant_that_does():
    exceptions = {name for name, case in suite.CASES.items() if not case.converges}
    assert exceptions == {
        "learned_correction_drawn",
        "learned_correction_sgd",
        "normalize_project",
        "open",
        "trac",
        "velo_long",
    }
    assert suite.CASES["learned_correction"].converges
    assert suite.CASES["normalize_project_nothing"].converges
    assert suite.CASES["open_settling"].converges
    assert suite.CASES["trac_settling"].converges
    assert suite.CASES["velo"].converges


def given(name):
    """The optimizer with what it needs bound, for tests that pass nothing."""
    case = suite.CASES[name]
    optimizer = case.build()
    if case.like is None:
        return optimizer

    def loss(params):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))

    extra = {"value": 1.0, "obj_fn": loss}
    update = lambda *args, **kwargs: optimizer.update(*args, **kwargs, **extra)  # noqa: E731
    return optax.GradientTransformationExtraArgs(optimizer.init, update)


@pytest.mark.usefixtures("at_ease")
@pytest.mark.parametrize("name", suite.parameters(long=True))
@pytest.mark.parametrize("body", SHARDING)
def test_sharding(body, name):
    assert len(jax.devices()) == 8
    SHARDING_BODIES[body](Unskippable(), optimizer=given(name))


@pytest.mark.usefixtures("at_ease")
def test_a_failure_of_optaxs_tests_is_one_here():
    """No tolerance is loosened and nothing is swallowed: too small a learning rate is found."""
    wrong = {"adamo": suite.Case(suite.CASES["adamo"].factory, {"learning_rate": 1e-6})}
    with mock.patch.object(suite, "CASES", wrong), pytest.raises(AssertionError):
        check_contrib("test_optimizers", CONTRIB["test_optimizers"][0], "adamo")
