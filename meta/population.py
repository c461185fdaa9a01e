"""Many lifetimes in parallel: a population's members over devices, and evaluation of the mean."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, PartitionSpec

from meta.task import Lifetimes
from meta.trainer import MetaParams

MEMBERS = "members"  # the axis of the mesh
_SECONDS_OF_SILENCE = 10.0  # while programs are compiled
_log = logging.getLogger(__name__)


def population_mesh(members: Sequence[int]) -> Mesh:
    """The largest mesh whose devices can all be given the same number of members.

    Args:
        members: for each task, how many members play it.

    Returns:
        A mesh of one axis, `MEMBERS`, over the devices of all processes.

    Raises:
        ValueError: if there are several processes and not all of their devices can take part.
    """
    devices = jax.devices()
    fitting = [
        size for size in range(1, len(devices) + 1) if all(count % size == 0 for count in members)
    ]
    size = max(fitting)
    if jax.process_count() > 1 and size < len(devices):
        raise ValueError(
            f"the number of members that play a task must be a multiple of the {len(devices)} "
            f"devices of all processes; got {min(members)}."
        )
    return Mesh(np.array(devices[:size]), (MEMBERS,), axis_types=(AxisType.Auto,))


def over_members(
    function: Callable[[MetaParams, Any], Any], at_once: int | None
) -> Callable[[MetaParams, Any], Any]:
    """Maps a function of one member and one life over (members,) and (members, lives, ...).

    Args:
        function: takes meta-parameters, and a key or a life.
        at_once: members that are run in parallel; the rest follow in further batches. None for all
            at once. A smaller number needs less memory.

    Returns:
        The mapped function.
    """
    lives = jax.vmap(function, in_axes=(None, 0))
    if at_once is None:
        return jax.vmap(lives)
    return lambda population, x: jax.lax.map(
        lambda member: lives(*member), (population, x), batch_size=at_once
    )


def gathered(x: jax.Array) -> np.ndarray:
    """Gathers an array that is spread over devices, on every process.

    The array goes through the host: in a compiled program a CPU's devices wait for each other for
    no more than 40 seconds, and then XLA ends the process.
    """
    if jax.process_count() > 1:
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(x)


def compile_all(
    lowered: Iterable[jax.stages.Lowered], what: str = "programs"
) -> list[jax.stages.Compiled]:
    """Compiles programs in parallel, as many at a time as there are cores.

    Where it takes long, this module's logger says so, at level INFO: every ten seconds, but not
    while a program is lowered.

    Args:
        lowered: the programs. Each is compiled while the next one is lowered.
        what: they are, for the logger.

    Returns:
        The compiled programs, in the same order.

    Examples:
        >>> import jax
        >>> from meta.population import compile_all
        >>> double, square = compile_all(
        ...     [jax.jit(lambda x: 2 * x).lower(3), jax.jit(lambda x: x * x).lower(3)]
        ... )
        >>> int(double(5)), int(square(5))
        (10, 25)
    """
    start = last = time.monotonic()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compiling = []
        for program in lowered:
            compiling.append(pool.submit(program.compile))
            if (now := time.monotonic()) - last >= _SECONDS_OF_SILENCE:
                _log.info("%s, %.0f s", what, now - start)
                last = now
        while wait(compiling, timeout=_SECONDS_OF_SILENCE).not_done:
            _log.info("%s, %.0f s", what, time.monotonic() - start)
        return [program.result() for program in compiling]


def evaluation(
    lifetimes: Sequence[Lifetimes], seeds: int, at_once: int | None = None
) -> Callable[[MetaParams, jax.Array], np.ndarray]:
    """Plays whole lifetimes under one set of meta-parameters, spread over all devices.

    Args:
        lifetimes: one for each task, not cut into stretches.
        seeds: lifetimes on each task, at least 1.
        at_once: lifetimes of a task that a device runs in parallel; None for all.

    Returns:
        A function from meta-parameters and a key to the fitness, of shape (tasks, seeds). The same
        key means the same seeds.

    Raises:
        ValueError: if a lifetime is cut into stretches, or there are no seeds.

    Examples:
        >>> import jax
        >>> from meta.population import evaluation
        >>> from meta.task import Lifetimes
        >>> lives = Lifetimes(lambda x, key: key, lambda x, key: (key, x["a"] - 1.0))
        >>> fitness = evaluation([lives], seeds=3)({"a": jax.numpy.ones(())}, jax.random.key(0))
        >>> print(fitness)
        [[0. 0. 0.]]
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1; got {seeds}.")
    if any(lives.stretches != 1 for lives in lifetimes):
        raise ValueError("lifetimes must be whole, with 1 stretch each, to be evaluated.")
    mesh = population_mesh([seeds])
    spread = PartitionSpec(MEMBERS)

    def program(lives: Lifetimes) -> Any:
        # One program per task: XLA takes much longer to compile one that holds them all.
        def on_device(meta_params: MetaParams, keys: jax.Array) -> jax.Array:
            copies = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(keys), *x.shape)), meta_params)
            return over_members(whole_life(lives), at_once)(copies, keys[:, None])[:, 0]

        return jax.jit(
            jax.shard_map(
                on_device,
                mesh=mesh,
                in_specs=(PartitionSpec(), spread),
                out_specs=spread,
                check_vma=False,
            )
        )

    programs: list[jax.stages.Compiled] = []

    def evaluate(meta_params: MetaParams, key: jax.Array) -> np.ndarray:
        meta_params = jax.device_get(meta_params)  # they may be on other devices
        keys = jax.random.split(key, (len(lifetimes), seeds))
        if not programs:
            lowered = (
                program(lives).lower(meta_params, keys[task])
                for task, lives in enumerate(lifetimes)
            )
            programs.extend(compile_all(lowered, "an evaluation"))
        fitness = [play(meta_params, keys[task]) for task, play in enumerate(programs)]
        return np.stack([gathered(x) for x in fitness])

    return evaluate


def whole_life(lives: Lifetimes) -> Callable[[MetaParams, jax.Array], jax.Array]:
    """A whole lifetime: from meta-parameters and a key to the fitness."""

    def live(meta_params: MetaParams, key: jax.Array) -> jax.Array:
        return lives.advance(meta_params, lives.init(meta_params, key))[1]

    return live
