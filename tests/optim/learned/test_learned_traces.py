"""The learned optimizers against the authors' traces and transcriptions in NumPy."""

import jax
import numpy as np
import numpy_learned
import pytest
from learned import (
    ACCUMULATORS,
    GOLDEN,
    golden_folder,
    golden_traces,
    meta_params_of,
    relative_error,
    run,
)
from numpy_learned import part

NAMES = list(GOLDEN)


def assert_same_slopes(actual, expected, rtol):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    errors = jax.tree.map(relative_error, actual, expected)
    assert max(jax.tree.leaves(errors)) < rtol, errors


@pytest.mark.parametrize("case", ["init", "scaled"])
@pytest.mark.parametrize("name", NAMES)
def test_golden_trace(name, case):
    """Updates, hidden states and meta-gradients, which tell where gradients are stopped."""
    folder = golden_folder()
    if folder is None:
        pytest.skip("no reference traces: set RL_OPTIM_REFERENCE to their folder")
    with np.load(folder / f"{GOLDEN[name]}_{case}.npz", allow_pickle=False) as file:
        data = dict(file)
    meta = meta_params_of(part(data, "meta"))
    rate, clip = data["config/learning_rate"], data["config/grad_clip"]
    for loop, trace in zip(("open", "closed"), golden_traces(data), strict=True):
        loss, slope, updates, params, state = run(name, meta, rate, clip, trace, "float32")
        expected_params = part(data, "param" if loop == "open" else "closed/param")
        expected_updates = part(data, "update" if loop == "open" else "closed/update")
        for leaf, expected in expected_params.items():
            expected = expected[1:] if loop == "open" else expected
            ours = params[leaf][: len(expected)]
            np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
            if name != "star":  # whose updates are differences of parameters in the traces
                expected = expected_updates[leaf]
                ours = updates[leaf][: len(expected)]
                for step in range(len(expected)):
                    assert relative_error(ours[step], expected[step]) < 1e-5, (leaf, step)
                np.testing.assert_array_equal(ours == 0, expected == 0)
        np.testing.assert_allclose(loss, data[f"{loop}/loss"], rtol=1e-5, atol=1e-6)
        assert_same_slopes(slope, meta_params_of(part(data, f"{loop}/metagrad")), 1e-4)
        if loop == "open":
            check_golden_state(name, state, data)


def check_golden_state(name, state, data):
    """Theirs has the hidden units last, and the initial state first."""
    fields = ACCUMULATORS if name == "star" else state
    for i, field in enumerate(fields):
        for leaf, ours in state[field].items():
            key = f"state/{ACCUMULATORS[field]}" if name == "star" else "hidden"
            expected = data[f"{key}/{leaf}"][1:]
            if expected.size == 0:
                assert ours.size == 0
                continue
            if name == "optim4rl":
                expected = expected[:, i]
            ours = ours[..., None] if field == "square" else np.moveaxis(ours, 1, -1)
            np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
    if name == "star":
        np.testing.assert_array_equal(state["count"], data["state/iteration"][1:])


@pytest.mark.parametrize("name", NAMES)
def test_numpy_trace(name):
    check_numpy_trace(name, "float32")


@pytest.mark.parametrize(
    "name",
    [n if n == "linear_optim" else pytest.param(n, marks=pytest.mark.slow) for n in NAMES],
)
def test_numpy_trace_in_float64(name):
    """Here the meta-gradient is that of central differences in NumPy."""
    slope, expected = check_numpy_trace(name, "float64")
    assert_same_slopes(slope, expected, 1e-6)


def check_numpy_trace(name, dtype):
    data = numpy_learned.load(name)
    meta = numpy_learned.nest(part(data, "meta"))
    trace = {key: part(data, key) for key in ("init", "target", "curvature", "noise", "cotangent")}
    steps = len(numpy_learned.SCALES)
    trace["weights"] = np.eye(steps)[-1]
    with jax.enable_x64(dtype == "float64"):
        loss, slope, updates, _, state = run(
            name, meta, numpy_learned.RATE, numpy_learned.CLIP, trace, dtype, dtype == "float64"
        )
    tight = dtype == "float64"
    np.testing.assert_allclose(loss, data["loss"], rtol=1e-12 if tight else 1e-5)
    for leaf, expected in part(data, "update").items():
        assert updates[leaf].dtype == dtype
        for step in range(steps):
            error = relative_error(updates[leaf][step], expected[step])
            assert error < (1e-11 if tight else 1e-5), (leaf, step)
    for field, ours in state.items():
        for leaf, expected in part(data, f"state/{field}").items():
            last = ours[leaf][-1]
            if 0 in last.shape:
                continue
            if name != "star":
                last = np.moveaxis(last, 0, -1)
            np.testing.assert_allclose(last, expected, atol=1e-12 if tight else 1e-5)
    return slope, numpy_learned.nest(part(data, "metagrad"))


@pytest.mark.parametrize("name", NAMES)
def test_committed_data_is_what_the_transcription_gives(name):
    committed, made = numpy_learned.load(name), numpy_learned.make_data(name)
    assert committed.keys() >= {path for path, value in made.items() if value.size}
    for path, value in made.items():
        # The differences of central differences are rounding errors divided by the step.
        tolerance = 1e-7 if path.startswith("metagrad") else 1e-12
        np.testing.assert_allclose(committed[path], value, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_the_traces_tell_where_gradients_are_stopped(name):
    """With the other choice the transcription's meta-gradient is another one."""
    data = numpy_learned.load(name)
    meta = {path: np.float64(value) for path, value in part(data, "meta").items()}
    _, _, gradients, _ = numpy_learned.run(name, data, meta)
    rng = np.random.default_rng(0)
    towards = {path: rng.normal(size=value.shape) for path, value in meta.items()}

    def slope(fixed):
        ends = [
            numpy_learned.run(
                name,
                data,
                {k: meta[k] + h * towards[k] for k in meta},
                gradients if fixed else None,
            )[0]
            for h in (1e-5, -1e-5)
        ]
        return (ends[0] - ends[1]) / 2e-5

    expected = sum(np.sum(data[f"metagrad/{path}"] * towards[path]) for path in meta)
    stopped, through = slope(True), slope(False)
    ours, other = (through, stopped) if name == "star" else (stopped, through)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    assert abs(other - expected) > 1e-4 * abs(expected)
