"""Files of meta-parameters: round trips, and what is refused."""

import dataclasses
import json
import pickle
import re
import tempfile
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from file_names import file_names
from fixed_meta_params import ARCHITECTURES, drawn
from quick import quick_jit

import optim
from optim.learned import meta_params as module

NAMES = sorted(ARCHITECTURES)
# Sizes of their own, among them tuples, which JSON has not; and what they were trained with.
SIZES = {
    "l2lgd2": {"hidden_size": 3, "mlp_widths": (2, 4)},
    "learned_correction": {"mlp_widths": (3, 2)},
    "linear_optim": {"hidden_size": 3},
    "open": {"hidden_size": 5, "gru_features": 3},
    "optim4rl": {"hidden_size": 2, "mlp_widths": (3,)},
    "star": {"mlp_widths": (3, 2)},
    "velo": {"hidden_size": 3, "bank_size": 2},
}
OPTIONS = {
    "l2lgd2": {"learning_rate": 0.1},
    "learned_correction": {"base": "adam", "learning_rate": 0.1, "b1": 0.5, "layer": False},
    "linear_optim": {"grad_clip": None},
    "open": {"key": 3, "subtract_mean": False},
    "optim4rl": {"learning_rate": 1e-3, "grad_clip": 0.7},
    "star": {"learning_rate": 0.3, "nominal_step": 0.01},
    "velo": {"num_updates": 50, "use_bugged_loss_features": True},
}
OTHER = {
    "learned_correction": {"learning_rate": 9.0},
    "open": {"key": 4},
    "velo": {"use_bugged_next_lstm_state": True},
}
PARAMS = {
    "actor": {
        "Dense_0": {"kernel": np.linspace(-1, 1, 6).reshape(3, 2), "bias": np.ones(2)},
        "log_std": np.zeros(2),
    }
}


def metadata(name, **others):
    architecture = ARCHITECTURES[name](**SIZES[name])
    return {"architecture": architecture, "training_tasks": "x", "options": OPTIONS[name]} | others


def save(path, name="open", **others):
    meta = drawn(name, **SIZES[name])
    optim.save_meta_params(path, meta, metadata(name, **others))
    return meta


def assert_same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.safetensors"


def test_every_architecture_has_a_name():
    assert optim.learned_names() == NAMES
    assert dict(ARCHITECTURES) == module.ARCHITECTURES
    for name in NAMES:
        details = optim.details(name)
        assert details.summary == optim.describe(name)
        assert len(details.summary) < 90
        assert "arXiv" in details.paper or name == "learned_correction"  # this project's own
        assert not optim.accepts_schedule(name)
        assert name not in optim.optimizer_names()


@pytest.mark.parametrize("name", NAMES)
def test_by_name_it_is_what_was_trained(name, path):
    """From a file the same updates, to the last bit, as from what was saved."""
    meta = save(path, name)
    assert_same(optim.load_meta_params(path), meta)
    kept = optim.load_metadata(path)
    assert kept["architecture"] == name
    assert json.loads(kept["options"]) == OPTIONS[name]
    assert kept["feature_version"] == "1"
    optimizers = {
        "trained": ARCHITECTURES[name](**SIZES[name]).transform(meta, **OPTIONS[name]),
        "made": optim.make(f"{name}@{path}"),
        "loaded": optim.load(str(path)),
        "other": optim.load(f"{name}@{path}", **OTHER.get(name, {"grad_clip": 9})),
    }

    @quick_jit
    def updates():
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), PARAMS)
        results = {}
        for key, optimizer in optimizers.items():
            grads = jax.tree.map(lambda leaf: 10 * jnp.cos(leaf), params)
            state = optimizer.init(params)
            for _ in range(2):
                results[key], state = optimizer.update(grads, state, params, value=1.0)
        return results

    results = updates()
    assert_same(results["made"], results["trained"])
    assert_same(results["loaded"], results["trained"])
    kernel = lambda key: results[key]["actor"]["Dense_0"]["kernel"]  # noqa: E731
    assert np.any(kernel("other") != kernel("trained"))


def test_options_of_a_spec_come_before_those_in_the_file(path):
    save(path)
    params = {"actor": jnp.ones(4)}
    without_mean, with_mean = (
        optim.make(f"open@{path}{options}")
        for options in (":noise_mask=false", ":noise_mask=false,subtract_mean=true")
    )
    first = lambda optimizer: optimizer.update(params, optimizer.init(params), params)[0]  # noqa: E731
    kept, centred = quick_jit(lambda: (first(without_mean), first(with_mean)))()
    # Four parameters alike: without their mean nothing is left.
    assert np.abs(kept["actor"]).min() > 1e-6
    assert np.abs(centred["actor"]).max() < 1e-9


def test_a_vector_is_the_ravelled_tree(tmp_path):
    """As the authors of OPEN ravel theirs: sorted names, gru_params first, C order."""
    for architecture in (optim.OPEN(), optim.OPEN(32, 16)):
        meta = drawn("open", **dataclasses.asdict(architecture))
        np.save(
            tmp_path / "w.npy", np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(meta)])
        )
        assert_same(optim.load_open_npy(tmp_path / "w.npy"), meta)
    order = ["hn", "hr", "hz", "in", "ir", "iz"]
    assert list(optim.OPEN().shapes()["gru_params"]) == order


def test_a_write_that_fails_leaves_the_old_file(path, monkeypatch):
    save(path)
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        save(path, training_tasks="others")
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_packaged_ones_are_named(path, monkeypatch):
    save(path.with_name("open_mine.safetensors"))
    save(path.with_name("star_other.safetensors"), "star")
    path.with_name("open_notes.txt").write_text("")
    monkeypatch.setattr(module, "_PACKAGED", path.parent)
    assert optim.packaged_meta_params("open") == ["mine"]
    optim.make("open@mine")
    with pytest.raises(
        ValueError, match=r"'open' has no packaged .* 'other', it has mine; or give"
    ):
        optim.make("open@other")
    with pytest.raises(ValueError, match="open@WEIGHTS, with a file or one of: mine"):
        optim.load("open")
    with pytest.raises(ValueError, match="none are packaged"):
        optim.make("l2lgd2")


def test_named_ones_are_read_as_load_reads_them(path, monkeypatch):
    file = module.find_meta_params("open", "small")
    for given in ("open@small", f"open@{file}"):
        assert_same(optim.load_meta_params(given), optim.load_meta_params(file))
        assert optim.load_metadata(given) == optim.load_metadata(file)
    for read in (optim.load_meta_params, optim.load_metadata):
        with pytest.raises(ValueError, match=r"'open' has no packaged .* 'none', it has breakout"):
            read("open@none")
        with pytest.raises(ValueError, match=r"must hold .* of 'star', got those of 'open'"):
            read(f"star@{file}")
        with pytest.raises(FileNotFoundError):
            read("mine@small")
    # A file of that very name comes first.
    monkeypatch.chdir(path.parent)
    meta_params = save(Path("open@small"))
    assert_same(optim.load_meta_params("open@small"), meta_params)


def test_what_load_cannot_be_given():
    with pytest.raises(ValueError, match="'open' sets its own steps and has no option 'learning"):
        optim.load("open@small", learning_rate=0.1)
    with pytest.raises(ValueError, match=r"has no option 'nois'; the nearest is 'noise_mask"):
        optim.load("open@small", nois=0.1)
    with pytest.raises(ValueError, match=r"named by the function that optax.inject_hyperparams"):
        optax.inject_hyperparams(optim.load)("optim4rl@small", learning_rate=0.1).init(PARAMS)


def test_hyperparameters_are_injected_by_a_function():
    build = lambda learning_rate: optim.load("optim4rl@small", learning_rate=learning_rate)  # noqa: E731
    grads = jax.tree.map(lambda leaf: jnp.cos(jnp.asarray(leaf, float)), PARAMS)

    @quick_jit
    def both():
        injected = optax.inject_hyperparams(build)(optax.linear_schedule(0.5, 0.25, 1))
        state = injected.init(grads)
        first, state = injected.update(grads, state, grads)
        plain = build(0.5)
        return first, plain.update(grads, plain.init(grads), grads)[0]

    with jax.numpy_dtype_promotion("standard"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *both())


def test_all_that_is_packaged_loads():
    for name in NAMES:
        for weights in optim.packaged_meta_params(name):
            file = module.find_meta_params(name, weights)
            says = optim.load_metadata(file)
            assert says["training_tasks"]
            assert says["licence"] == "Apache-2.0"
            assert says["origin"].startswith("rl-optim meta-train")
            assert says["sha256"]
            optim.make(f"{name}@{weights}")


# Paths and options.


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(file_names(), file_names(), st.sampled_from([{}, {"key": 2, "noise_mask": None}]))
def test_files_of_any_name(folder, name, options):
    """By its spec a file is read, and by its path alone."""
    with tempfile.TemporaryDirectory() as above:
        path = Path(above, folder, name)
        path.parent.mkdir()
        save(path)
        text = str(optim.OptimizerSpec("open", str(path), options))
        assert text.startswith(f"open@{path}")
        for read in (optim.make, optim.load, lambda text: optim.make(f"open@{path}:key=1")):
            read(text)
        optim.load(str(path), **options)
        path.unlink()
        refusal = re.escape(f"in a file that exists, got {str(path)!r}")
        for read in (optim.make, optim.load):
            with pytest.raises(ValueError, match=refusal):
                read(text)


def test_options_of_a_text_are_read_by_load(path):
    """Those in Python come before those of the text, and these before those in the file."""
    meta = save(path, "optim4rl")
    params = {"actor": jnp.ones(4)}
    pairs = [
        (optim.load(f"optim4rl@{path}:learning_rate=0.5"), {"learning_rate": 0.5}),
        (
            optim.load(f"optim4rl@{path}:learning_rate=0.5", learning_rate=0.2),
            {"learning_rate": 0.2},
        ),
    ]

    @quick_jit
    def updates():
        transform = ARCHITECTURES["optim4rl"](**SIZES["optim4rl"]).transform
        others = [transform(meta, **OPTIONS["optim4rl"] | given) for _, given in pairs]
        optimizers = [optimizer for optimizer, _ in pairs]
        return [
            [tx.update(params, tx.init(params), params)[0] for tx in every]
            for every in (optimizers, others)
        ]

    assert_same(*updates())


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("{}", {"subtract_means": 1}, "no option 'subtract_means'; the nearest is 'subtract_mean'"),
        (
            "open@{}",
            {"learning_rate": 1},
            "'open' sets its own steps and has no option 'learning_rate'",
        ),
        ("open@{}", {"self": 1}, "'open' has no option 'self'; choose from "),
        ("open@{}", {"meta_params": 1}, "'open' has no option 'meta_params'; choose from "),
        ("open@{}:keys=1", {}, "'open' has no option 'keys'; the nearest is 'key'."),
        ("open@{}:key=none", {}, "key must be an integer, got none."),
        ("open@{}:key=1,key=2", {}, "option 'key' of 'open' must be given once."),
        ("open@{}:key", {}, "in a file that exists, got '{}:key'; options after it must read :key"),
        ("open@small:key", {}, "give the path of a file; options after it must read :key=value."),
        ("{}:key=1", {}, "meta-parameters must be in a file that exists, got '{}:key=1'."),
    ],
)
def test_options_that_are_refused(text, options, message, path):
    save(path)
    with pytest.raises(ValueError, match=re.escape(message.format(path))):
        optim.load(text.format(path), **options)


RATES = "0.001 0.003"


@pytest.mark.parametrize("name", ["l2lgd2", "linear_optim", "optim4rl", "star"])
def test_weights_of_several_learning_rates_need_one(name, path):
    meta = save(path, name, options={}, learning_rates=RATES)
    assert optim.load_metadata(path)["learning_rates"] == RATES
    refusal = re.escape(
        f"{path} was trained at several learning rates, {RATES}, and needs to be given one: "
        f"{name}@WEIGHTS:learning_rate=... in a spec, learning_rate=... in Python."
    )
    for refused in (optim.load, optim.make):
        with pytest.raises(ValueError, match=refusal):
            refused(f"{name}@{path}")
        with pytest.raises(ValueError, match=refusal):
            refused(f"{name}@{path}:grad_clip=1")
    with pytest.raises(ValueError, match=refusal):
        optim.load(str(path))
    optimizers = [
        optim.make(f"{name}@{path}:learning_rate=0.01"),
        optim.load(f"{name}@{path}:learning_rate=0.01"),
        optim.load(str(path), learning_rate=0.01),
        ARCHITECTURES[name](**SIZES[name]).transform(meta, learning_rate=0.01),
    ]
    params = {"actor": jnp.linspace(-1.0, 2.0, 4)}
    first = lambda tx: tx.update(params, tx.init(params), params)[0]  # noqa: E731
    *made, expected = quick_jit(lambda: [first(optimizer) for optimizer in optimizers])()
    for updates in made:
        assert_same(updates, expected)


def test_learning_rates_are_of_no_concern(path):
    """To what takes none, or was trained at one after all."""
    save(path, "open", learning_rates=RATES)
    optim.load(str(path))
    save(path, "star", options={"learning_rate": 0.01}, learning_rates=RATES)
    optim.load(str(path))


# The checksum.


def test_equal_weights_are_equal_bytes(path):
    save(path)
    written = path.read_bytes()
    for _ in range(3):
        path.unlink()
        save(path)
        assert path.read_bytes() == written
    entries = {"training_tasks": "x", "options": OPTIONS["open"], "one": "1", "two": "ä"}
    architecture = ARCHITECTURES["open"](**SIZES["open"])
    contents = set()
    for items in (list(entries.items()), list(entries.items())[::-1]):
        meta = drawn("open", **SIZES["open"])
        optim.save_meta_params(path, meta, {"architecture": architecture} | dict(items))
        contents.add(path.read_bytes())
    assert len(contents) == 1
    # What was read writes the same file again.
    optim.save_meta_params(path, optim.load_meta_params(path), optim.load_metadata(path))
    assert contents == {path.read_bytes()}


@pytest.mark.parametrize("bits", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_a_changed_byte_is_noticed(bits, path):
    """Any one, in numbers or text; or else nothing that is read has changed."""
    optim.save_meta_params(
        path,
        drawn("linear_optim", hidden_size=1),
        {"architecture": optim.LinearOptim(hidden_size=1), "training_tasks": "x"},
    )
    whole, expected = path.read_bytes(), module.read(path)
    header = 8 + int.from_bytes(whole[:8], "little")
    read = 0
    for place in range(len(whole)):
        for bit in range(bits):
            changed = bytearray(whole)
            changed[place] ^= 1 << (place + bit) % 8
            path.write_bytes(changed)
            try:
                file = module.read(path)
            except ValueError as error:
                message = str(error)
            else:
                assert_same(file.meta_params, expected.meta_params)
                assert file.metadata == expected.metadata
                assert changed[:header].split() == whole[:header].split()
                read += 1
                continue
            assert message.startswith(f"{path} must ")
            assert place < header or message.endswith(
                "does not match its checksum: it is damaged, or was changed."
            )
    assert read <= 7 * bits  # blanks after the header


def test_a_value_of_another_file_is_noticed(path):
    """Metadata belongs to the numbers, and numbers to their names."""
    meta = save(path)
    rewrite(path, sha256=optim.load_metadata(path)["sha256"], training_tasks="y")
    with pytest.raises(ValueError, match=f"{path} must be as it was written, but does not match"):
        optim.load(str(path))
    save(path)
    kept = optim.load_metadata(path)
    first, second = meta["gru_params"]["hn"], meta["gru_params"]["in"]
    first["bias"], second["bias"] = second["bias"] + 1, first["bias"]
    optim.save_meta_params(path, meta, metadata("open"))
    assert optim.load_metadata(path)["sha256"] != kept["sha256"]


def test_files_from_before_there_were_checksums(path):
    meta = save(path)
    entries = optim.load_metadata(path)
    rewrite(path)
    assert_same(optim.load_meta_params(path), meta)
    assert optim.load_metadata(path) == {k: v for k, v in entries.items() if k != "sha256"}
    optim.load(str(path))


# Refusals.


def rewrite(path, **changes):
    """Another file with some of the metadata changed, or None left out; and without a checksum."""
    with safetensors.safe_open(path, framework="numpy") as file:
        data, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    data = {
        key: value
        for key, value in (data | {"sha256": None} | changes).items()
        if value is not None
    }
    path.write_bytes(safetensors.numpy.save(tensors, data))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature_version": "2"}, "of version 1 of the features of 'open', got version 2"),
        ({"feature_version": None}, "got version None"),
        ({"format": None}, "must have been written by rl-optim"),
        ({"architecture": "opne"}, "known architecture, got 'opne'; the nearest is 'open'"),
        (
            {"architecture": "star", "sizes": '{"mlp_widths": [3]}'},
            r"must fit STAR\(mlp_widths=\(3,\)\): meta_par",
        ),
        ({"sizes": '{"hidden_size": 6}'}, "of shape .3., got shape .3.|must hold .* got"),
        ({"sizes": '{"hidden": 6}'}, "must name the sizes of 'open', got '{\"hidden\": 6}'"),
        ({"sizes": "5"}, "must name the sizes of 'open', got '5'"),
        ({"sizes": '{"hidden_size": 0}'}, "must name the sizes of 'open'"),
        ({"options": '{"mean": true}'}, "must fit OPEN.* unexpected keyword argument 'mean'"),
        ({"options": "[]"}, r"must name options as JSON, got '\[\]'"),
    ],
)
def test_files_that_do_not_fit(changes, message, path):
    save(path)
    rewrite(path, **changes)
    for load in (optim.load, optim.load_meta_params, optim.load_metadata):
        with pytest.raises(ValueError, match=message) as caught:
            load(str(path))
        assert str(path) in str(caught.value)


def test_files_that_are_none_of_ours(path):
    meta = save(path)
    whole = path.read_bytes()
    for content, kind in [
        (whole[:-5], "a damaged one"),
        (whole[:20], "a damaged one"),
        (pickle.dumps(jax.tree.map(np.asarray, meta)), "a pickle"),
        (b"hello", "something else"),
        (b"", "something else"),
        (b"PK\x03\x04", "an archive"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path} must be a safetensors file, got {kind}."):
            optim.load(str(path))
    with path.open("wb") as file:
        np.save(file, np.zeros(1211, np.float32))
    with pytest.raises(ValueError, match="got a NumPy file; rl-optim convert turns OPEN's into"):
        optim.make(f"open@{path}")
    path.write_bytes(safetensors.numpy.save({"w": np.zeros(3, np.float32)}))
    with pytest.raises(ValueError, match="must have been written by rl-optim"):
        optim.load(str(path))


def test_names_that_do_not_fit(path):
    save(path)
    with pytest.raises(
        ValueError, match="must hold meta-parameters of 'star', got those of 'open'"
    ):
        optim.load(f"star@{path}")
    with pytest.raises(ValueError, match="known architecture, got 'opne'; the nearest is 'open'"):
        optim.load("opne@breakout")
    with pytest.raises(ValueError, match="in a file that exists, got 'no/such'"):
        optim.load("open@no/such")
    with pytest.raises(FileNotFoundError):
        optim.load_meta_params(path.with_name("no.safetensors"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": None}, "metadata must name its architecture, got None"),
        ({"architecture": "opne"}, "known architecture, got 'opne'"),
        ({"architecture": optim.OPEN()}, r"meta_params must fit OPEN\(.*must hold .* got shape"),
        ({"architecture": "star"}, r"meta_params must fit STAR\(.*must hold .* got none"),
        ({"training_tasks": None}, "metadata must hold text, got None for 'training_tasks'"),
        ({"generations": 7}, "metadata must hold text, got 7 for 'generations'"),
        ({"options": {"mean": False}}, "unexpected keyword argument 'mean'"),
        ({"options": {"noise_mask": np.zeros(())}}, "metadata must hold numbers as options"),
    ],
)
def test_what_is_not_saved(changes, message, path):
    with pytest.raises(ValueError, match=message):
        save(path, **changes)
    assert not path.exists()


def test_vectors_that_do_not_fit(path):
    architecture = optim.OPEN()
    with pytest.raises(ValueError, match=r"shape \(1211,\) for OPEN.*, got \(1210,\)"):
        architecture.from_vector(np.zeros(1210))
    with pytest.raises(
        ValueError, match=r"meta_params of OPEN.* must hold gru_params/.* got shape"
    ):
        architecture.transform(drawn("open", **SIZES["open"]))
    with pytest.raises(ValueError, match=r"must hold gru_params/hn/bias of shape .*, got none"):
        optim.open_optimizer(drawn("star"))
    for sizes in ({"hidden_size": 0}, {"gru_features": 1.5}, {"hidden_size": True}):
        with pytest.raises(ValueError, match=r"must be a .*of at least 1, got"):
            optim.OPEN(**sizes)
