"""Data sets from files: both layouts, and one clear line for each file that does not fit."""

import json

import jax
import numpy as np
import pytest

from agents.offline import loading

h5py = pytest.importorskip("h5py")

EPISODES, STEPS = 12, 3


def episode(index, steps=STEPS, terminated=False, truncated=True):
    """Observations count steps, the episode's number in front; rewards are the number."""
    return {
        "observations": np.stack([[index, step] for step in range(steps + 1)]).astype(np.float64),
        "actions": np.full((steps, 1), 0.1 * (index % 5), np.float32)
        * np.arange(1, steps + 1)[:, None],
        "rewards": np.full(steps, float(index)),
        "terminations": np.arange(steps) == (steps - 1 if terminated else steps),
        "truncations": np.arange(steps) == (steps - 1 if truncated else steps),
    }


def write_minari(path, episodes, metadata=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, arrays in episodes.items():
            group = file.create_group(name)
            for key, array in arrays.items():
                group[key] = array
    if metadata is not None:
        (path.parent / "metadata.json").write_text(json.dumps(metadata))
    return path


def box(low, high):
    space = {"type": "Box", "dtype": "float32", "shape": [1], "low": low, "high": high}
    return {"data_format": "hdf5", "action_space": json.dumps(space)}


def flat(**changes):
    """Two episodes in D4RL's layout: rows 0 to 2 end in a terminal, rows 3 to 5 in a timeout."""
    arrays = {
        "observations": np.arange(14.0).reshape(7, 2),
        "actions": np.linspace(-0.6, 0.6, 7)[:, None],
        "rewards": np.arange(7.0),
        "terminals": np.arange(7) == 2,
        "timeouts": np.arange(7) == 5,
    } | changes
    return {key: array for key, array in arrays.items() if array is not None}


def write_flat(path, arrays):
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file[key] = array
    return path


# --- what is read -------------------------------------------------------------------------------


def test_minari_episodes_come_in_numeric_order_and_ends_are_told_apart(tmp_path):
    episodes = {
        f"episode_{i}": episode(i, terminated=i == 1, truncated=i != 2) for i in range(EPISODES)
    }
    path = write_minari(tmp_path / "toy" / "data" / "main_data.hdf5", episodes, box([-2], [2]))
    data = loading.load(tmp_path / "toy")
    found = data.transitions
    number = np.repeat(np.arange(EPISODES), STEPS)
    step = np.tile(np.arange(STEPS), EPISODES)
    np.testing.assert_array_equal(found.observation, np.stack([number, step], 1))
    np.testing.assert_array_equal(found.next_observation, np.stack([number, step + 1], 1))
    np.testing.assert_array_equal(found.reward, number)
    # Episode 1 is both terminated and truncated at its last step: it ended.
    np.testing.assert_array_equal(found.terminated, (number == 1) & (step == STEPS - 1))
    np.testing.assert_array_equal(found.has_next_action, step < STEPS - 1)
    np.testing.assert_allclose(found.action[:, 0], 0.1 * (number % 5) * (step + 1) / 2, rtol=1e-6)
    inside = found.has_next_action
    np.testing.assert_array_equal(
        found.next_action[inside], np.roll(found.action, -1, axis=0)[inside]
    )
    # Episode 2 just stops, so that its return is not known.
    assert data.episode_returns.tolist() == [3.0 * i for i in range(EPISODES) if i != 2]
    assert {x.dtype for x in found} == {np.dtype("float32"), np.dtype("bool")}
    np.testing.assert_allclose(data.environment_action([[0.5]]), [[1.0]])
    assert jax.tree.all(
        jax.tree.map(np.array_equal, loading.load(path).transitions, data.transitions)
    )


def test_what_minari_writes_is_read(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    gymnasium = pytest.importorskip("gymnasium")
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    buffers = [
        EpisodeBuffer(
            id=i,
            **{key: list(array) for key, array in episode(i).items()},
            infos={},
        )
        for i in range(EPISODES)
    ]
    minari.create_dataset_from_buffers(
        "toy/small-v0",
        buffer=buffers,
        env="MountainCarContinuous-v0",
        observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64),
        action_space=gymnasium.spaces.Box(-4.0, 2.0, (1,), np.float32),
        algorithm_name="none",
        author="nobody",
        author_email="nobody@example.org",
        code_permalink="https://example.org",
        data_format="hdf5",
    )
    data = loading.load("toy/small-v0")
    assert data.environment == "MountainCarContinuous-v0"
    assert data.name == "toy/small-v0"
    np.testing.assert_array_equal(data.action_low, [-4.0])
    np.testing.assert_array_equal(data.action_high, [2.0])
    np.testing.assert_array_equal(
        data.transitions.observation[:, 0], np.repeat(np.arange(EPISODES), STEPS)
    )
    np.testing.assert_allclose(data.transitions.action[:3, 0], 1 / 3, atol=1e-6)
    assert not data.transitions.terminated.any()


def test_d4rl_rows_at_a_timeout_have_no_next_observation(tmp_path):
    data = loading.load(write_flat(tmp_path / "d4rl.hdf5", flat()))
    found = data.transitions
    # Row 5 is cut off, row 6 is the last one of an episode that just stops.
    np.testing.assert_array_equal(found.reward, [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(found.terminated, np.arange(5) == 2)
    np.testing.assert_array_equal(found.has_next_action, [True, True, False, True, True])
    following = found.next_observation[[0, 1, 3, 4], 0]
    np.testing.assert_array_equal(following, [2, 4, 8, 10])
    np.testing.assert_allclose(
        found.next_action[[0, 1, 3, 4], 0], [-0.4, -0.2, 0.2, 0.4], atol=1e-6
    )
    assert data.episode_returns.tolist() == [3.0, 12.0]
    assert data.environment is None


def test_d4rl_next_observations_keep_every_row(tmp_path):
    following = np.arange(14.0).reshape(7, 2) + 2.0
    following[[2, 5]] += 0.5  # where an episode ends, they are not the next row
    for timeouts in (flat()["timeouts"], None):
        arrays = flat(next_observations=following, timeouts=timeouts)
        found = loading.load(write_flat(tmp_path / "d4rl.hdf5", arrays)).transitions
        np.testing.assert_array_equal(found.next_observation, following)
        expected = [True, True, False, True, True, False, False]
        np.testing.assert_array_equal(found.has_next_action, expected)


def test_columns_count_as_vectors_and_numbers_as_flags(tmp_path):
    arrays = flat()
    arrays |= {key: arrays[key][:, None].astype(np.float32) for key in ("rewards", "terminals")}
    plain = loading.load(write_flat(tmp_path / "a.hdf5", flat())).transitions
    columns = loading.load(write_flat(tmp_path / "b.hdf5", arrays)).transitions
    assert jax.tree.all(jax.tree.map(np.array_equal, plain, columns))


# --- what does not fit --------------------------------------------------------------------------


def refused(path, message, **bounds):
    with pytest.raises(loading.DatasetError, match=message) as caught:
        loading.load(path, **bounds)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_data_sets(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("nothing")
    refused(text, r"notes\.txt is not an HDF5 file")
    refused(tmp_path / "absent", "absent is neither a file, nor a folder, nor a Minari data set")
    refused(tmp_path, "holds no data set")
    other = write_flat(tmp_path / "other.hdf5", {"weights": np.ones(3)})
    refused(other, r"must hold groups episode_0, .*\(D4RL\), got weights")
    whole = write_flat(tmp_path / "whole.hdf5", flat()).read_bytes()
    broken = tmp_path / "broken.hdf5"
    broken.write_bytes(whole[: len(whole) // 2])
    refused(broken, r"broken\.hdf5 cannot be read")


def test_other_formats_of_minari_are_named(tmp_path):
    folder = tmp_path / "toy" / "data"
    folder.mkdir(parents=True)
    (folder / "metadata.json").write_text(json.dumps({"data_format": "arrow"}))
    refused(tmp_path / "toy", r"must be in Minari's format 'hdf5', got 'arrow'")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"rewards": np.array([0.0, np.nan, 1.0])},
            r"_0: rewards must be finite in float32, got nan in row 1",
        ),
        ({"observations": np.full((4, 2), np.inf)}, "episode_0: observations must be finite"),
        ({"observations": np.zeros((3, 2))}, "and one observation more; got 3, 3, 3 and 3"),
        ({"actions": np.zeros(3)}, r"actions must be numbers with 2 axes, got float64 of shape"),
        ({"actions": np.full((3, 1), 1.2)}, r"actions must be in \[-1, 1\], got 1.2 in transition"),
        ({"truncations": np.array([True, False, False])}, "goes on after its end in row 0"),
        ({key: value[:0] for key, value in episode(0).items()}, "episode_0 is empty"),
        ({"rewards": None}, "episode_0 must hold rewards, and does not"),
    ],
)
def test_bad_episodes(tmp_path, change, message):
    arrays = {key: x for key, x in (episode(0) | change).items() if x is not None}
    refused(write_minari(tmp_path / "main_data.hdf5", {"episode_0": arrays}), message)


def test_observations_that_are_no_array(tmp_path):
    path = write_minari(tmp_path / "main_data.hdf5", {"episode_0": episode(0)})
    with h5py.File(path, "a") as file:
        del file["episode_0/observations"]
        file["episode_0/observations/goal"] = np.zeros((4, 2))
    refused(path, "observations must be one array, got a group of goal")


def test_sizes_must_agree(tmp_path):
    other = episode(1) | {"observations": np.zeros((4, 3))}
    path = write_minari(tmp_path / "x.hdf5", {"episode_0": episode(0), "episode_1": other})
    refused(path, r"one size of observations and actions, got \[\(2, 1\), \(3, 1\)\]")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"rewards": np.full(7, np.nan)},
            r"hdf5: rewards must be finite in float32, got nan in",
        ),
        ({"actions": np.zeros((6, 1))}, "actions must have 7 rows like rewards, got 6"),
        ({"timeouts": None}, "must hold timeouts or next_observations"),
        ({"observations": np.array([[b"a"] * 2] * 7)}, "observations must be numbers with 2 axes"),
        ({key: value[:0] for key, value in flat().items()}, r"d4rl\.hdf5 is empty"),
        ({"timeouts": np.ones(7), "terminals": np.zeros(7)}, "no transition whose next"),
    ],
)
def test_bad_flat_files(tmp_path, change, message):
    refused(write_flat(tmp_path / "d4rl.hdf5", flat(**change)), message)


def test_bounds_of_actions(tmp_path):
    path = write_flat(tmp_path / "d4rl.hdf5", flat())
    wider = loading.load(path, action_low=-2.0, action_high=[2.0])
    np.testing.assert_allclose(wider.transitions.action[0], -0.3, atol=1e-6)
    refused(path, r"actions must be in \[-0.5, 0.5\], got -0.6", action_low=-0.5, action_high=0.5)
    refused(path, "must be finite and low < high", action_low=1.0, action_high=1.0)
    refused(path, "action_high must be a number or 1 of them", action_high=[1.0, 2.0])
    path = write_minari(
        tmp_path / "main_data.hdf5", {"episode_0": episode(0)}, box([-np.inf], [np.inf])
    )
    refused(path, "must be finite and low < high")
    (tmp_path / "metadata.json").write_text(json.dumps({"action_space": '{"type": "Discrete"}'}))
    refused(path, "action space must be a Box, got Discrete")
    (tmp_path / "metadata.json").write_text("{")
    refused(path, r"metadata\.json is not JSON")
