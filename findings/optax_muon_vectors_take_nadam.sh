#!/usr/bin/env bash
# optax 0.2.8: what optax.contrib.muon leaves to Adam (biases, scales, kernels of convolutions) is
# updated by NAdam. Its argument nesterov, True unless told otherwise, is Muon's momentum's and Adam's
# too, so the first step of a bias is 1.47 learning rates instead of 1. Comparisons of Muon with
# Adam compare two kinds of Adam on all that is no matrix. No argument parts the two:
# nesterov=False gives Adam, and takes Muon's Nesterov momentum away.
# Seen, first step of a bias in learning rates: muon 1.474, nadam 1.474, adam 1.000,
# muon(nesterov=False) 1.000.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat > "$folder/muon.py" <<'PY'
import jax.numpy as jnp
import optax

params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
grads = {"kernel": jnp.ones((3, 2)), "bias": jnp.array([1.0, -0.5])}


def first_step(optimizer):
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    return -float(updates["bias"][0]) / 0.1


seen = {
    "muon": first_step(optax.contrib.muon(0.1)),
    "nadam": first_step(optax.nadam(0.1)),
    "adam": first_step(optax.adam(0.1)),
    "muon, nesterov=False": first_step(optax.contrib.muon(0.1, nesterov=False)),
}
print("optax 0.2.8, first step of a bias, in learning rates:")
for name, step in seen.items():
    print(f"  {name}: {step:.3f}")
assert abs(seen["adam"] - 1) < 1e-3
assert abs(seen["muon"] - seen["nadam"]) < 1e-3, "the behaviour has changed"
assert seen["muon"] > 1.4, "the behaviour has changed"
assert abs(seen["muon, nesterov=False"] - 1) < 1e-3, "the behaviour has changed"
PY
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/muon.py"
