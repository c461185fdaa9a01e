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


def same(one, other):
    return jax.tree.all(jax.tree.map(np.array_equal, one.transitions, other.transitions)) and (
        one.episode_returns.tolist() == other.episode_returns.tolist()
    )


def changed(arrays, keys, dtype):
    return arrays | {key: arrays[key].astype(dtype) for key in keys}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8])
def test_columns_count_as_vectors_and_numbers_as_flags(tmp_path, dtype):
    arrays = changed(flat(), ("terminals", "timeouts"), dtype)
    arrays |= {key: arrays[key][:, None] for key in ("rewards", "terminals")}
    plain = loading.load(write_flat(tmp_path / "a.hdf5", flat()))
    assert same(plain, loading.load(write_flat(tmp_path / "b.hdf5", arrays)))
    episodes = {"episode_0": episode(1, terminated=True), "episode_1": episode(2)}
    plain = loading.load(write_minari(tmp_path / "c.hdf5", episodes))
    numbers = {
        name: changed(arrays, ("terminations", "truncations"), dtype)
        for name, arrays in episodes.items()
    }
    assert same(plain, loading.load(write_minari(tmp_path / "d.hdf5", numbers)))


def follow(arrays):
    """Next observations: of the rows inside an episode, the following row's."""
    return np.concatenate([arrays["observations"][1:], [[90.0, 91.0]]])


@pytest.mark.parametrize(
    ("terminals", "cut_off", "timeouts", "returns"),
    [
        ([5], [2], None, [3.0, 3.0]),  # the first episode is cut off, the second terminates
        ([2], [], None, [3.0]),  # whether the second ends with the last row is not known
        ([], [2], None, [3.0]),
        ([], [], None, []),
        ([5], [2], [], []),  # a gap where no flag says that the episode ended
        ([2, 5], [], [], [3.0, 3.0]),
        ([5], [2], [2], [3.0, 3.0]),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_returns_are_those_of_whole_episodes(
    tmp_path, terminals, cut_off, timeouts, returns, dtype
):
    """Six rows of reward 1."""
    rows = np.arange(6)
    arrays = {
        "observations": np.arange(12.0).reshape(6, 2) / 3.0,
        "actions": np.zeros((6, 1)),
        "rewards": np.ones(6),
        "terminals": np.isin(rows, terminals),
    }
    arrays["next_observations"] = follow(arrays).astype(dtype)
    arrays["next_observations"][cut_off] += 50.0
    if timeouts is not None:
        arrays["timeouts"] = np.isin(rows, timeouts)
    data = loading.load(write_flat(tmp_path / "d4rl.hdf5", arrays))
    assert data.episode_returns.tolist() == returns
    inside = ~np.isin(rows, [5, *terminals, *cut_off])
    np.testing.assert_array_equal(data.transitions.has_next_action, inside)


# --- what does not fit --------------------------------------------------------------------------


def refused(path, message, **bounds):
    with pytest.raises(loading.DatasetError, match=message) as caught:
        loading.load(path, **bounds)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_data_sets(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("nothing")
    refused(text, r"notes\.txt is not an HDF5 file")
    refused(tmp_path / "absent", r"absent is neither a file, .* nor a Minari data set in \S+\.$")
    refused("no/such/data-v0", r"in \S+; `minari download no/such/data-v0` gets it if Minari pub")
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
        ({"rewards": np.full(3, 1e39)}, "rewards must be finite in float32, got 1e.39 in row 0"),
        (
            {"terminations": np.array([0, 0.5, 1])},
            "_0: terminations must be 0 or 1, got 0.5 in row 1",
        ),
        ({"truncations": np.array([0, 0, np.nan])}, "_0: truncations must be 0 or 1, got nan in"),
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
        ({"terminals": np.full(7, 0.5)}, r"d4rl\.hdf5: terminals must be 0 or 1, got 0.5 in row 0"),
        ({"timeouts": np.arange(7)}, r"d4rl\.hdf5: timeouts must be 0 or 1, got 2 in row 2"),
        ({"terminals": np.full(7, np.nan)}, r"d4rl\.hdf5: terminals must be 0 or 1, got nan in"),
        ({"next_observations": np.zeros((7, 3))}, "next_observations must have 2 columns like"),
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
    refused(path, "action_low must be numbers, got 'low'", action_low="low")
    path = write_minari(
        tmp_path / "main_data.hdf5", {"episode_0": episode(0)}, box([-np.inf], [np.inf])
    )
    refused(path, "must be finite and low < high, .*; give action_low and action_high")


@pytest.mark.parametrize(
    "row", [2, 5]
)  # what was done there, and what is done after the row before
def test_actions_beyond_their_bounds(tmp_path, row):
    actions = flat()["actions"]
    actions[row] = 1.0 + 0.9e-6
    rounded = loading.load(write_flat(tmp_path / "rounded.hdf5", flat(actions=actions)))
    assert rounded.transitions.action.max() <= 1.0
    actions[row] = 1.0 + 2e-6
    path = write_flat(tmp_path / "beyond.hdf5", flat(actions=actions))
    refused(path, r"in \[-1, 1\], got 1.000002 in transition .*, or clip_actions=True to clip\.")
    assert same(rounded, loading.load(path, clip_actions=True))
    # The bounds' size counts: float32 has no finer numbers between 100 and 101.
    big = flat(actions=np.full((7, 1), np.nextafter(np.float32(101), np.float32(102))))
    data = loading.load(write_flat(tmp_path / "big.hdf5", big), action_low=100.0, action_high=101.0)
    np.testing.assert_array_equal(data.transitions.action, 1.0)


# --- damage -------------------------------------------------------------------------------------

MINARI_KEYS = ("observations", "actions", "rewards", "terminations", "truncations")
D4RL_KEYS = ("observations", "actions", "rewards", "terminals", "timeouts", "next_observations")
EVERY_ARRAY = [("minari", key) for key in MINARI_KEYS] + [("d4rl", key) for key in D4RL_KEYS]


def write_compressed(folder, layout):
    """A small valid file of either layout, and the name of the group that its arrays are in."""
    folder.mkdir(exist_ok=True)
    if layout == "minari":
        path, group, arrays = folder / "main_data.hdf5", "episode_0", episode(0)
        (folder / "metadata.json").write_text(json.dumps(box([-1], [1])))
    else:
        path, group, arrays = folder / "d4rl.hdf5", "/", flat()
        arrays["next_observations"] = follow(arrays)
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file.require_group(group).create_dataset(
                key, data=array, chunks=array.shape, compression="gzip", fletcher32=True
            )
    loading.load(path)
    return path, group


def where(path, group):
    return str(path) if group == "/" else f"{path}, {group}"


def fails_naming(path, start):
    """One line, which begins with the file and the key."""
    with pytest.raises(loading.DatasetError) as caught:
        loading.load(path)
    message = str(caught.value)
    assert message.startswith(start), message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("layout", "key"), EVERY_ARRAY)
def test_a_damaged_array_is_named(tmp_path, layout, key):
    path, group = write_compressed(tmp_path, layout)
    with h5py.File(path) as file:
        chunk = file[group][key].id.get_chunk_info(0)
    whole = path.read_bytes()
    for place in (0, chunk.size // 2, chunk.size - 1):  # the header, the content, the checksum
        content = bytearray(whole)
        content[chunk.byte_offset + place] ^= 255
        path.write_bytes(content)
        fails_naming(path, f"{where(path, group)}: {key} cannot be read: ")
    path.write_bytes(whole[: chunk.byte_offset + chunk.size // 2])
    fails_naming(path, f"{path} cannot be read: ")


@pytest.mark.parametrize(("layout", "key"), EVERY_ARRAY)
@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (h5py.SoftLink("/nowhere"), ""),
        (h5py.ExternalLink("absent.hdf5", "/nowhere"), ""),
        (np.dtype("float32"), "must be one array"),
        (h5py.Empty("float32"), "must be numbers with"),
        (np.array([b"text"] * 3), "must be numbers with"),
        (np.zeros(3, [("x", np.float32)]), "must be numbers with"),
        (np.zeros((3, 2, 2)), "must be numbers with"),
        (np.float32(0.0), "must be numbers with"),
        (np.zeros(3, np.complex64), "must be numbers with"),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_something_else_in_the_place_of_an_array(tmp_path, layout, key, thing, said):
    path, group = write_compressed(tmp_path, layout)
    with h5py.File(path, "a") as file:
        del file[group][key]
        file[group][key] = thing
    with pytest.raises(loading.DatasetError) as caught:
        loading.load(path)
    message = str(caught.value)
    assert str(path) in message
    assert key in message
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize("thing", [np.zeros(3), h5py.SoftLink("/nowhere")])
def test_something_else_in_the_place_of_an_episode(tmp_path, thing):
    path, group = write_compressed(tmp_path, "minari")
    with h5py.File(path, "a") as file:
        del file[group]
        file[group] = thing
    fails_naming(path, f"{path}, {group} ")


@pytest.mark.parametrize("layout", ["minari", "d4rl"])
@pytest.mark.parametrize("signature", [b"HEAP", b"TREE", b"SNOD"])
def test_damaged_groups(tmp_path, layout, signature):
    path, _ = write_compressed(tmp_path, layout)
    whole = path.read_bytes()
    assert signature in whole
    path.write_bytes(whole.replace(signature, b"XXXX", 1))
    fails_naming(path, str(path))


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ("{", " is not JSON: "),
        ("\xff", " is not JSON: "),
        ("[" * 100_000, " is not JSON: "),
        ("[]", " must be a JSON object, got []."),
        ("3", " must be a JSON object, got 3."),
        ("null", " must be a JSON object, got None."),
        ({"action_space": 3}, ": action_space must be a JSON object, got 3."),
        ({"action_space": ["Box"]}, ": action_space must be a JSON object, got ['Box']."),
        ({"action_space": "{"}, ": action_space is not JSON: "),
        ({"action_space": "[]"}, ": action_space must be a JSON object, got []."),
        ({"action_space": '{"type": "Discrete"}'}, ": the action space must be a Box, got Disc"),
        ({"action_space": '{"type": 3}'}, ": type must be text, got 3."),
        ({"action_space": '{"low": [-1]}'}, ": the action space must be a Box, got None."),
        ({"action_space": {"type": "Box", "low": "x"}}, ": low of action_space must be numbers"),
        ({"action_space": {"type": "Box", "low": {}}}, ": low of action_space must be numbers"),
        ({"action_space": {"type": "Box", "high": 10**400}}, ": high of action_space must be num"),
        ({"action_space": {"type": "Box", "low": [[-1], [-1, 1]]}}, ": low of action_space must "),
        ({"action_space": {"type": "Box", "low": [-1, -1]}}, ": low of action_space must be a nu"),
        ({"env_spec": 3}, ": env_spec must be a JSON object, got 3."),
        ({"env_spec": "Hopper-v5"}, ": env_spec is not JSON: "),
        ({"env_spec": '{"id": ["Hopper-v5"]}'}, ": id must be text, got ['Hopper-v5']."),
        ({"rl_optim_environment": {}}, ": rl_optim_environment must be text, got {}."),
        ({"dataset_id": 3}, ": dataset_id must be text, got 3."),
        ({"ref_min_score": "3"}, ": ref_min_score must be a number, got '3'."),
        ({"ref_max_score": True}, ": ref_max_score must be a number, got True."),
    ],
)
def test_metadata_of_another_shape(tmp_path, metadata, said):
    path, _ = write_compressed(tmp_path, "minari")
    text = metadata if isinstance(metadata, str) else json.dumps(metadata)
    (tmp_path / "metadata.json").write_text(text, encoding="latin-1")
    fails_naming(path, f"{tmp_path / 'metadata.json'}{said}")


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"action_space": None, "env_spec": None, "dataset_id": None, "ref_min_score": None},
        {"env_spec": "{}", "ref_min_score": float("nan"), "ref_max_score": 1.0},
        {"ref_min_score": 2.0, "ref_max_score": 1.0},
        {"ref_min_score": 0, "ref_max_score": 10**400},
    ],
)
def test_metadata_that_say_nothing(tmp_path, metadata):
    path, _ = write_compressed(tmp_path, "minari")
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    data = loading.load(path)
    assert (data.environment, data.reference_returns, data.title) == (None, None, "main_data")
    assert (data.action_low, data.action_high) == (-1.0, 1.0)


def test_the_folder_of_somebody_unknown():
    with pytest.raises(loading.DatasetError, match="is neither a file, nor a folder"):
        loading.load("~nobody-of-this-name/data.hdf5")
