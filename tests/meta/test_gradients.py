"""Signal, noise and cosines of meta-gradients against a transcription in NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hills import leaves, start
from jax.sharding import AxisType, Mesh
from probes import quick_jit

from meta.gradients import cosines, signal_to_noise
from meta.pipeline import PipelineConfig, pipeline
from meta.population import MEMBERS
from meta.windows import Windows

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """These programs take longer to compile than to run."""
    monkeypatch.setattr(jax, "jit", quick_jit)


def slopes(direction, noise):
    """Lives whose loss has a known gradient: a direction, plus noise of their own."""
    direction = jnp.asarray(direction, jnp.float32)

    def init(meta_params, key):
        return {"slope": direction + noise * jax.random.normal(key, (3,))}

    def loss(meta_params, life):
        flat = jnp.concatenate([x.ravel() for x in jax.tree.leaves(meta_params)])
        metrics = {"episodes": jnp.zeros((), jnp.int32), "return_sum": jnp.zeros(())}
        return jnp.sum(life["slope"] * flat), (life, metrics)

    return Windows(init, lambda meta_params, life: life, loss, 5)


def after_one_step(tasks, devices=1, **options):
    """What agents' gradients were, in float64, and the metrics of the step."""
    mesh = Mesh(np.array(jax.devices()[:devices]), (MEMBERS,), axis_types=(AxisType.Auto,))
    trainer = pipeline(start, tasks, PipelineConfig(**options), mesh)
    state, metrics = trainer.step(trainer.init(KEY))
    gradients = [np.array(life["slope"], np.float64) for life in state.lives]
    return gradients, jax.device_get(metrics)


def numpy_ratio(samples):
    """The transcription of the equation, of one mean over samples."""
    n = len(samples)
    mean = samples.mean(axis=0)
    noise = np.trace(np.cov(samples.T)) / n
    return (mean @ mean - noise) / noise


TASKS = [([1.0, -2.0, 0.5], 1.0), ([0.5, 1.0, 0.0], 3.0), ([-1.0, 0.5, 2.0], 0.5)]


@pytest.mark.parametrize("task_norm", [None, 0.5])
@pytest.mark.parametrize(("devices", "at_once"), [(1, None), (1, 2), (2, 3), (4, 1)])
def test_ratios_and_cosines_are_those_of_numpy(devices, at_once, task_norm):
    """However agents are spread over devices and batches."""
    tasks = [slopes(*task) for task in TASKS]
    options = {"agents": 12, "agents_at_once": at_once, "task_norm": task_norm}
    gradients, metrics = after_one_step(tasks, devices, **options)
    expected = [numpy_ratio(x) for x in gradients]
    np.testing.assert_allclose(metrics["task_gradient_snr"], expected, rtol=1e-4)
    assert min(expected) < 3.0
    assert max(expected) > 30.0

    means = np.stack([x.mean(axis=0) for x in gradients])
    norms = np.linalg.norm(means, axis=1)
    factors = np.ones(3) if task_norm is None else task_norm / norms
    scaled = factors[:, None] * means
    whole = scaled.mean(axis=0)
    noise = sum(f**2 * np.trace(np.cov(x.T)) / 12 for f, x in zip(factors, gradients, strict=True))
    noise /= 3**2
    np.testing.assert_allclose(metrics["gradient_snr"], whole @ whole / noise - 1.0, rtol=1e-4)
    np.testing.assert_allclose(metrics["gradient_snr_over_tasks"], numpy_ratio(scaled), rtol=1e-3)

    pairs = [x @ y for x, y in itertools.combinations(means / norms[:, None], 2)]
    np.testing.assert_allclose(metrics["task_cosine_mean"], np.mean(pairs), rtol=1e-3)
    np.testing.assert_allclose(metrics["task_cosine_least"], np.min(pairs), rtol=1e-3)


def test_ratio_is_without_bias():
    """Of noise alone it is 0 on average, and of a signal what the signal's power is to noise's."""
    draws = np.random.default_rng(0).normal(size=(20000, 16, 8))
    for power in (0.0, 2.0):
        samples = draws + np.sqrt(power / 16) * np.ones(8)
        means = samples.mean(axis=1)
        variances = samples.var(axis=1, ddof=1).sum(axis=1) / 16
        ratios = signal_to_noise(
            jnp.asarray(np.linalg.norm(means, axis=1), jnp.float32),
            jnp.asarray(variances, jnp.float32),
        )
        # 120 degrees of freedom: a mean of ratios is larger by 1 / 59 than the ratio of means.
        np.testing.assert_allclose(np.mean(ratios), (1 + power) * 120 / 118 - 1, atol=0.02)


@pytest.mark.parametrize(("devices", "at_once"), [(1, None), (1, 3), (2, 1)])
def test_agents_that_agree_leave_no_noise(devices, at_once):
    """Not even that of rounding."""
    options = {"agents": 6, "agents_at_once": at_once}
    _, metrics = after_one_step([slopes([0.1, 0.3, 0.7], 0.0)], devices, **options)
    assert metrics["task_gradient_snr"].tolist() == [np.inf]
    assert metrics["gradient_snr"] == np.inf
    assert not any("cosine" in name or "over_tasks" in name for name in metrics)


def test_what_has_no_ratio_is_nan():
    _, alone = after_one_step([slopes([1.0, 0.0, 0.0], 1.0)], agents=1)
    _, flat = after_one_step([slopes([0.0, 0.0, 0.0], 0.0)], agents=4)
    _, broken = after_one_step([slopes([np.nan, 0.0, 0.0], 1.0)], agents=4)
    _, steep = after_one_step([slopes([1e25, 0.0, 0.0], 1.0)], agents=4)
    for metrics in (alone, flat, broken, steep):
        assert np.isnan(metrics["gradient_snr"])
        assert np.isnan(metrics["task_gradient_snr"]).tolist() == [True]


def test_tasks_against_each_other_and_at_right_angles():
    for direction, cosine in (([-2.0, 4.0, 0.0], -1.0), ([2.0, 1.0, 0.0], 0.0)):
        tasks = [slopes([1.0, -2.0, 0.0], 0.0), slopes(direction, 0.0)]
        _, metrics = after_one_step(tasks, agents=2)
        for name in ("task_cosine_mean", "task_cosine_least"):
            np.testing.assert_allclose(metrics[name], cosine, atol=1e-6)
            assert metrics[name] >= -1.0
    # Two tasks that cancel each other: less than no signal.
    tasks = [slopes([1.0, -2.0, 0.0], 0.0), slopes([-1.0, 2.0, 0.0], 0.0)]
    assert after_one_step(tasks, agents=2)[1]["gradient_snr_over_tasks"] == -1.0


def test_tasks_without_a_direction_are_left_out():
    one, other = jnp.array([1.0, 0.0]), jnp.array([1.0, 1.0])
    for nothing in (0.0, jnp.nan, jnp.inf, 1e25):
        mean, least = cosines([one, jnp.full(2, nothing), other])
        np.testing.assert_allclose([mean, least], np.sqrt(0.5), rtol=1e-6)
    assert np.isnan(cosines([one, jnp.zeros(2)])).all()
    assert leaves(cosines([one, other])) == leaves(cosines([other, one]))
