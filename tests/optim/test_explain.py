"""The table says what the optimizers do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trees
from fixed_meta_params import drawn
from quick import quick_jit

import optim


def network(units):
    return {
        "Dense_0": {"kernel": jnp.full((3, 4), 0.7), "bias": jnp.full(4, 0.1)},
        "Dense_1": {"kernel": jnp.full((4, units), 0.7), "bias": jnp.full(units, 0.1)},
    }


NESTED = {"actor": network(2), "critic": network(1)}
TREES = {
    "nested": NESTED,
    "named by Brax": {"policy": {"params": network(2)}, "value": {"params": network(1)}},
    "dataclass": trees.Networks(**NESTED),
    "flat": {"params": network(2)},
}


def table(text):
    """Columns below the head, by their names, without what follows the table."""
    head, *lines = text.splitlines()
    starts = [head.index(name) for name in head.split()]
    ends = [*starts[1:], None]
    rows = [
        [line[a:b].strip() for a, b in zip(starts, ends, strict=True)]
        for line in lines
        if not line.endswith(".")
    ]
    return dict(zip(head.split(), map(list, zip(*rows, strict=True)), strict=True))


@pytest.mark.parametrize("name", TREES)
def test_it_says_what_is_done(name):
    """Against the optimizers themselves, on each leaf."""
    params = TREES[name]
    told = table(optim.explain(params, heads=False))
    meta = drawn("open", 0)
    meta["params"]["layers_6"]["bias"][2] = 5.0
    leaves = jax.tree.leaves(params)
    assert told["shape"] == [str(leaf.shape) for leaf in leaves]

    @quick_jit
    def changes():
        """What noise, the correction and a large gradient of each leaf change, leaf by leaf."""

        def step(optimizer, grads=params):
            return jax.tree.leaves(optimizer.update(grads, optimizer.init(params), params)[0])

        def changed(one, other):
            pairs = zip(step(one), step(other), strict=True)
            return [jnp.any(jnp.abs(a - b) > 1e-7) for a, b in pairs]

        centred = {"subtract_mean": False}
        noise = changed(
            optim.open_optimizer(meta, **centred),
            optim.open_optimizer(meta, noise_mask=False, **centred),
        )
        matrix = changed(
            optim.adamo(0.1, kappa=1.0, tau=None, heads=False), optim.adamo(0.1, kappa=0.0)
        )
        clip, together = optim.clip_by_network_norm(1.0), []
        for i in range(len(leaves)):
            large = [1e3 * g if i == j else g for j, g in enumerate(leaves)]
            grads = jax.tree.unflatten(jax.tree.structure(params), large)
            clipped = step(clip, grads)
            together.append(
                [
                    jnp.all(jnp.abs(a) < 1e-2 * jnp.abs(b))
                    for a, b in zip(clipped, leaves, strict=True)
                ]
            )
        return noise, matrix, together

    noise, matrix, together = changes()
    assert [factor != "-" for factor in told["noise"]] == [bool(x) for x in noise]
    assert [mark == "yes" for mark in told["matrix"]] == [bool(x) for x in matrix]
    for i, row in enumerate(together):
        same = [owner == told["network"][i] for owner in told["network"]]
        same[i] = bool(row[i])
        assert [bool(x) for x in row] == same


def test_given_masks_and_positions():
    text = optim.explain(
        NESTED,
        layer_proportion={"actor": 0.25, "critic": {"Dense_0": 0.5, "Dense_1": 1 / 3}},
        noise_mask={"actor": {"Dense_0": 0.0, "Dense_1": 2.0}, "critic": 0.0},
        matrix_mask={"actor": False, "critic": True},
    )
    told = table(text)
    assert told["layer"] == 4 * ["0.25"] + 2 * ["0.5"] + 2 * ["0.333"]
    assert told["noise"] == ["-", "-", "2", "2", "-", "-", "-", "-"]
    assert told["matrix"] == 4 * ["-"] + ["-", "yes", "-", "yes"]
    with pytest.raises(ValueError, match=r"noise_mask must mirror .* nothing for critic/Dense_0"):
        optim.explain(NESTED, noise_mask={"actor": 1.0})


def test_what_may_not_be_meant():
    assert "No leaf gets" not in optim.explain(NESTED)
    flat = optim.explain(network(1))
    assert "No leaf gets OPEN's noise" in flat
    assert "All leaves are one network" in flat
    assert "No leaf gets" not in optim.explain(network(1), noise_mask=False)


def test_other_leaves():
    """Shapes will do; functions, integers and None are not trained; a single array."""
    shapes = jax.eval_shape(lambda: NESTED)
    assert optim.explain(shapes) == optim.explain(NESTED)
    extended = {"actor": {**NESTED["actor"], "activation": jax.nn.relu, "calls": np.int32(3)}}
    assert optim.explain(extended) == optim.explain({"actor": NESTED["actor"]})
    assert table(optim.explain(jnp.ones((2, 2))))["matrix"] == ["yes"]
    assert optim.explain({}).split() == ["leaf", "shape", "network", "layer", "noise", "matrix"]
