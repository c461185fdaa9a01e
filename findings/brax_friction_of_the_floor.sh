#!/usr/bin/env bash
# brax 0.14.2, Ant: making every body slippery changes nothing. A contact has the larger friction of
# its two surfaces, and the floor keeps its 1.0; domain randomisation that leaves geom 0, the floor,
# out has no effect, and says nothing. On the mjx backend even a slippery floor does not let it
# slide, because Ant there has one iteration of the constraint solver; with 4 it slides.
# Seen, distance after a push at 3 m/s and 2 s, friction 1 / bodies at 0.02 / all at 0.02:
# spring 0.49 / 0.49 / 5.62 m; mjx 0.11 / 0.11 / 0.02 m, with 4 iterations 0.45 / 0.45 / 5.20 m.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet brax==0.14.2 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 \
    flax==0.12.8 mujoco==4.0.0 mujoco-mjx==3.17.0 jaxopt==0.8.5
cat > "$folder/push.py" <<'PY'
import warnings

import jax
import jax.numpy as jnp

warnings.simplefilter("ignore")
from brax import envs


def distance(backend, friction, iterations=None):
    ant = envs.get_environment("ant", backend=backend)
    model = ant.sys
    if iterations is not None:
        model = model.tree_replace({"opt.iterations": iterations, "opt.ls_iterations": 8})
    start = 1 if friction == "bodies" else 0  # geom 0 is the floor
    if friction != "as it comes":
        model = model.replace(geom_friction=model.geom_friction.at[start:, 0].set(0.02))
    ant.sys = model

    @jax.jit
    def push():
        speed = jnp.zeros(model.qd_size()).at[0].set(3.0)
        state = ant.pipeline_init(model.init_q, speed)
        still = jnp.zeros(ant.action_size)
        return jax.lax.scan(lambda s, _: (ant.pipeline_step(s, still), ()), state, length=40)[0].q

    return float(push()[0])


for backend, iterations in (("spring", None), ("mjx", None), ("mjx", 4)):
    seen = [distance(backend, what, iterations) for what in ("as it comes", "bodies", "all")]
    print(f"brax 0.14.2, ant, {backend}, solver iterations {iterations or 'as they come'}:")
    print("  friction 1: %.2f m; bodies 0.02: %.2f m; floor and bodies 0.02: %.2f m" % tuple(seen))
    as_it_comes, bodies, everything = seen
    assert abs(bodies - as_it_comes) < 1e-3, "the behaviour has changed"
    if (backend, iterations) == ("mjx", None):
        assert everything < 2 * as_it_comes, "the behaviour has changed"
    else:
        assert everything > 3 * as_it_comes, "the behaviour has changed"
PY
JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/push.py" 2>/dev/null
