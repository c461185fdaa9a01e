"""Pipeline training on lives whose losses are known: ages, steps, failures, devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import probes
import pytest
from hills import Tiny, distance, height, leaves, start
from jax.sharding import AxisType, Mesh
from probes import quick_jit

import optim
from agents.a2c import a2c_config
from agents.ppo import PPOConfig
from meta.pipeline import PipelineConfig, pipeline, reset_offsets
from meta.population import MEMBERS
from meta.task import Task
from meta.windows import Windows, windows

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    """These programs take longer to compile than to run."""
    monkeypatch.setattr(jax, "jit", quick_jit)


def on(devices):
    """A mesh of so many devices."""
    return Mesh(np.array(jax.devices()[:devices]), (MEMBERS,), axis_types=(AxisType.Auto,))


def lives(number, loss=lambda meta_params, life: -height(meta_params)):
    """Lives that count their windows, and remember who they are."""

    def init(meta_params, key):
        identity = jax.random.bits(key, (), jnp.uint32)
        return {"age": jnp.zeros((), jnp.float32), "identity": identity}

    def grow(meta_params, life):
        return life | {"age": life["age"] + 1.0}

    def window(meta_params, life):
        life = grow(meta_params, life)
        metrics = {"episodes": jnp.ones((), jnp.int32), "return_sum": life["age"]}
        return loss(meta_params, life), (life, metrics)

    return Windows(init, grow, window, number)


def after(trainer, steps):
    """The states after each step, and the metrics."""
    states, metrics = [trainer.init(KEY)], []
    for _ in range(steps):
        state, now = trainer.step(states[-1])
        states.append(state)
        metrics.append(jax.device_get(now))
    return states[1:], metrics


# Ages


def test_offsets_are_the_authors():
    """Of 512 agents in 72 places the last place has one; of 576 places 64 stay empty."""
    counts = np.bincount(reset_offsets(72, 512))
    assert (len(counts), counts.min(), counts.max(), counts[-1]) == (72, 1, 8, 1)
    assert len(np.unique(reset_offsets(576, 512))) == 512
    counts = np.bincount(reset_offsets(32, 64))
    assert (counts.min(), counts.max()) == (1, 3)


def test_offsets_are_floored_exactly():
    """Where the quotient is whole, a product of floating point numbers may lie just below it."""
    for interval, agents in [(31, 23), (3, 99), (46, 34), (1, 5), (7, 1)]:
        exact = [j * (interval - 1) // max(agents - 1, 1) for j in range(agents)]
        assert reset_offsets(interval, agents).tolist() == exact


@pytest.mark.parametrize("devices", [1, 4])
def test_all_ages_are_there_from_the_first_iteration_on(devices):
    offsets = reset_offsets(5, 8)
    assert offsets.tolist() == [0, 0, 1, 1, 2, 2, 3, 4]
    config = PipelineConfig(agents=8, age_bins=5)
    trainer = pipeline(start, [lives(5)], config, on(devices))
    states, metrics = after(trainer, 12)
    identities = np.array([state.lives[0]["identity"] for state in states])
    for t, state in enumerate(states):
        np.testing.assert_array_equal(state.lives[0]["age"], (t - offsets) % 5 + 1)
        # Replaced at the known times, and at no others.
        if t:
            changed = identities[t] != identities[t - 1]
            np.testing.assert_array_equal(changed, t % 5 == offsets)
        # Returns are the ages in windows here, the present one included; bins count those before.
        assert metrics[t]["episodes_by_age"].shape == (1, 5)
        np.testing.assert_array_equal(
            metrics[t]["episodes_by_age"][0], np.bincount((t - offsets) % 5, minlength=5)
        )
        np.testing.assert_array_equal(metrics[t]["return_by_age"][0], [1, 2, 3, 4, 5])
        assert metrics[t]["failed"] == 0
    assert len(np.unique(identities)) == 8 + np.sum(identities[1:] != identities[:-1])


def test_newborn_schedule_is_the_authors():
    """All begin newborn, and are replaced at the same times: spread after one interval."""
    offsets = reset_offsets(5, 8)
    config = PipelineConfig(agents=8, schedule="newborn")
    states, _ = after(pipeline(start, [lives(5)], config, on(1)), 11)
    for t, state in enumerate(states):
        age = np.where(t >= offsets, (t - offsets) % 5, t) + 1
        np.testing.assert_array_equal(state.lives[0]["age"], age)


# Steps


def test_descends_to_the_bottom_in_chunks_and_on_devices():
    """The same, but for rounding, however agents are spread."""
    noisy = lives(3, lambda x, life: -height(x) + x["a"][0] * jnp.sin(life["age"]))
    config = {"agents": 12, "optimizer": "adam:learning_rate=0.1"}
    tasks = [lives(4), noisy]
    ends = []
    for at_once, devices in ((None, 1), (3, 1), (2, 2)):
        trainer = pipeline(
            start, tasks, PipelineConfig(agents_at_once=at_once, **config), on(devices)
        )
        states, metrics = after(trainer, 60)
        assert distance(trainer.meta_params(states[-1])) < 0.2
        assert metrics[0]["meta_loss"] == pytest.approx(5.25)
        assert metrics[-1]["meta_loss"] == pytest.approx(np.mean(metrics[-1]["task_loss"]))
        ends.append(leaves((states[-1], metrics)))
    for other in ends[1:]:
        for x, y in zip(ends[0], other, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "norm"),
    [({}, 0.5), ({"max_norm": None}, None), ({"max_norm": None, "task_norm": 3.0}, 3.0),
     ({"max_norm": None, "max_entry": 0.25}, 0.5)],
)  # fmt: skip
def test_clipping(options, norm):
    """Two equal tasks; a step of SGD is minus the clipped gradient."""
    config = PipelineConfig(agents=2, optimizer="sgd:learning_rate=1.0", **options)
    trainer = pipeline(start, [lives(2), lives(2)], config, on(1))
    states, metrics = after(trainer, 1)
    step = np.concatenate([x.ravel() for x in leaves(trainer.meta_params(states[0]))])
    full = np.array([2.0, -4.0, 1.0])
    assert metrics[0]["task_gradient_norm"] == pytest.approx(np.linalg.norm(full), rel=1e-5)
    if options == {"max_norm": None, "max_entry": 0.25}:
        np.testing.assert_allclose(step, [0.25, -0.25, 0.25])
    else:
        size = np.linalg.norm(full)
        np.testing.assert_allclose(step, full * ((norm or size) / size), rtol=1e-5)


@pytest.mark.parametrize("options", [{"task_norm": 0.5}, {}])
def test_a_task_whose_norm_overflows_is_not_left_out_unnoticed(options):
    """The gradient is finite, its square is not: the whole step is skipped, and counted."""

    def steep(meta_params, life):
        return -height(meta_params) * jnp.where(life["age"] == 2.0, 1e25, 1.0)

    config = PipelineConfig(agents=2, schedule="newborn", **options)
    trainer = pipeline(start, [lives(6, steep), lives(6)], config, on(1))
    states, metrics = after(trainer, 3)
    assert [int(m["skipped"]) for m in metrics] == [0, 1, 1]
    norms = [np.isfinite(m["task_gradient_norm"]).tolist() for m in metrics]
    assert norms == [[True, True], [False, True], [True, True]]
    before, at, behind = (trainer.meta_params(state)["a"] for state in states)
    np.testing.assert_array_equal(before, at)
    assert not np.array_equal(at, behind)


def test_a_gradient_of_zero_has_no_norm_to_be_scaled_to():
    flat = lives(6, lambda meta_params, life: 0.0 * height(meta_params))
    config = PipelineConfig(agents=2, task_norm=0.5)
    _, metrics = after(pipeline(start, [flat, lives(6)], config, on(1)), 2)
    assert [int(m["skipped"]) for m in metrics] == [0, 0]
    np.testing.assert_allclose([m["gradient_norm"] for m in metrics], 0.25, rtol=1e-5)


def test_steps_without_a_finite_gradient_are_skipped_and_counted():
    """Meta-parameters and their optimizer stay as they are; lives go on."""

    def broken(meta_params, life):
        return -height(meta_params) * jnp.where(life["age"] == 3.0, jnp.nan, 1.0)

    config = PipelineConfig(agents=2, schedule="newborn")
    trainer = pipeline(start, [lives(6, broken)], config, on(1))
    states, metrics = after(trainer, 5)
    finite = [True, True, False, True, True]
    assert [bool(np.isfinite(m["gradient_norm"])) for m in metrics] == finite
    assert [int(m["skipped"]) for m in metrics] == [0, 0, 1, 1, 1]
    assert [int(m["skipped_in_a_row"]) for m in metrics] == [0, 0, 1, 0, 0]
    before, at, behind = (trainer.meta_params(states[t])["a"] for t in (1, 2, 3))
    np.testing.assert_array_equal(before, at)
    assert not np.array_equal(at, behind)
    for x, y in zip(
        leaves(states[1].optimizer_state), leaves(states[2].optimizer_state), strict=True
    ):
        np.testing.assert_array_equal(x, y)


def test_agents_that_have_failed_are_replaced():
    """One in each iteration on each device, beside those whose time has come."""
    config = PipelineConfig(agents=4, schedule="newborn")
    trainer = pipeline(start, [lives(8)], config, on(1))
    state = trainer.init(KEY)
    ages = jnp.array([0.0, jnp.nan, jnp.inf, 0.0])
    state = state._replace(lives=(state.lives[0] | {"age": ages},))
    failed = []
    for _ in range(3):
        state, metrics = trainer.step(state)
        failed.append(int(metrics["failed"]))
    assert failed == [2, 1, 0]
    # Agent 1's time comes in the last of them, whatever happened before.
    np.testing.assert_array_equal(state.lives[0]["age"], [3, 1, 2, 3])


# Learners


@pytest.mark.slow
def test_windows_carry_everything_in_value_and_gradients_are_averaged():
    """A step of the trainer is what each agent comes to alone, from where it was."""
    config = a2c_config(PPOConfig(iterations=6, num_envs=2, num_steps=4, widths=(4,)))
    architecture = optim.Optim4RL(hidden_size=2)
    task = Task(probes.ObservationAction(), config)
    build = lambda meta_params: architecture.transform(meta_params, 0.1)  # noqa: E731
    window = windows(task, build, 2)
    assert window.number == 3
    trainer = pipeline(architecture.init, [window], PipelineConfig(agents=3), on(1))
    before, _ = trainer.step(trainer.init(KEY))
    behind, metrics = trainer.step(before)
    hidden = jax.tree.leaves(before.lives[0].optimizer_state)
    assert all(np.abs(x).max() > 1e-3 for x in hidden)

    both = jax.jit(jax.vmap(jax.value_and_grad(window.loss, has_aux=True), (None, 0)))
    (losses, (alone, _)), gradients = both(before.meta_params, before.lives[0])
    # Agent 1 is newborn: 0 and 2 went on.
    assert behind.lives[0].iteration.tolist() == [4, 2, 6]
    for x, y in zip(leaves(alone), leaves(behind.lives[0]), strict=True):
        np.testing.assert_allclose(x[[0, 2]], y[[0, 2]], rtol=1e-4, atol=1e-5)
    born = window.init(
        before.meta_params,
        jax.random.fold_in(
            jax.random.fold_in(jax.random.fold_in(before.key, 0), before.iteration), 1
        ),
    )
    one = jax.tree.map(lambda x: jnp.stack([x] * 3), born)
    (new_losses, _), new_gradients = both(before.meta_params, one)
    losses = [losses[0], new_losses[1], losses[2]]
    np.testing.assert_allclose(metrics["meta_loss"], np.mean(losses), rtol=1e-4)
    mean = jax.tree.map(lambda x, y: (x[0] + y[1] + x[2]) / 3, gradients, new_gradients)
    np.testing.assert_allclose(metrics["gradient_norm"], optax.tree.norm(mean), rtol=1e-3)
    assert metrics["gradient_norm"] > 1e-4
    assert trainer.memory(behind) > 1000


@pytest.mark.slow
def test_pipeline_of_learners_learns_to_learn():
    """A learned optimizer whose steps are far too small at first takes larger ones."""
    config = PPOConfig(iterations=8, num_envs=8, num_steps=8, epochs=1, minibatches=1, widths=(4,))
    window = windows(Task(probes.ActionReward(), config), Tiny().transform, 2)
    options = PipelineConfig(agents=8, optimizer="adam:learning_rate=0.1", age_bins=4)
    trainer = pipeline(Tiny().init, [window], options, on(1))
    states, metrics = after(trainer, 30)
    first, last = (trainer.meta_params(states[i])["sign"][0] for i in (0, -1))
    assert last > first + 1.0
    assert metrics[-1]["skipped"] == 0


# Refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"agents": 0}, "agents must be a whole number, at least 1; got 0."),
        ({"agents_at_once": 1.5}, "agents_at_once must be a whole number, at least 1; got 1.5."),
        ({"schedule": "old"}, "schedule must be one of staggered, newborn; got 'old'."),
        ({"max_norm": 0.0}, "max_norm must be in (0, inf); got 0.0."),
        ({"task_norm": float("nan")}, "task_norm must be in (0, inf); got nan."),
        ({"age_bins": 0}, "age_bins must be a whole number, at least 1; got 0."),
    ],
)  # fmt: skip
def test_configurations_that_make_no_sense(change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        PipelineConfig(**change)


def test_numbers_that_do_not_fit_together():
    for arguments, message in [
        (([], PipelineConfig()), "windows must not be empty, one for each task; got none"),
        (([lives(2)], PipelineConfig(), on(3)), "multiple of the mesh's 3 devices; got 64"),
        (([lives(2)], PipelineConfig(agents=8, agents_at_once=3), on(2)),
         "agents_at_once must divide the 4 agents of a device; got 3"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            pipeline(start, *arguments)
    task = Task(probes.ActionReward(), PPOConfig(iterations=5))
    for options, message in [
        ({"window": 2}, "window must divide the life's 5 iterations; got 2"),
        ({"window": 5, "meta_steps": 0}, "meta_steps must be at least 1; got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            windows(task, Tiny().transform, **options)
