"""Where and with what a run was started, as `config.json` tells it."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Nothing that takes long at import, see `experiments.runs.directory`.


def circumstances() -> dict[str, Any]:
    """What `config.json` says about where a run was started, and with what."""
    import jax

    packages = ["rl-optim", "jax", "jaxlib", "flax", "optax", "evosax", "gymnax", "brax", "numpy"]
    packages += ["gymnasium", "mujoco"]  # of data sets' environments
    devices = jax.devices()
    return {
        "versions": {"python": platform.python_version()}
        | {package: package_version(package) for package in packages},
        "git_revision": _git_revision(),
        "machine": {
            "platform": platform.platform(terse=True),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "devices": [devices[0].device_kind, len(devices)],
        },
    }


def changes(found: Mapping[str, Any]) -> list[str]:
    """What is not as it was when a run was started, as `NAME OLD then, NEW now`.

    Args:
        found: what its `config.json` says.
    """
    now = circumstances()
    told = []
    for kind in ("versions", "machine"):
        old = found.get(kind)
        old = old if isinstance(old, Mapping) else {}
        told += [
            f"{name} {_words(old.get(name))} then, {_words(value)} now"
            for name, value in now[kind].items()
            if old.get(name) != value
        ]
    revisions = found.get("git_revision"), now["git_revision"]
    if revisions[0] != revisions[1]:
        told.append("revision {} then, {} now".format(*map(_words, revisions)))
    return told


def _words(value: Any) -> str:
    if isinstance(value, list):
        return " x ".join(map(str, reversed(value)))  # devices: how many of a kind
    return "not recorded" if value is None else str(value)


def numerics() -> dict[str, Any]:
    """The settings of jax that change a run's numbers on any machine."""
    import jax

    settings = {
        "x64": "jax_enable_x64",
        "prng": "jax_default_prng_impl",
        "threefry_partitionable": "jax_threefry_partitionable",
        "seed_offset": "jax_random_seed_offset",
        "matmul_precision": "jax_default_matmul_precision",
    }
    return {name: getattr(jax.config, setting) for name, setting in settings.items()}


def package_version(package: str) -> str:
    """Version of an installed package, or "not installed"."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _git_revision() -> str | None:
    """The revision of the checkout that this file belongs to, or None outside of one."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments],
            capture_output=True,
            check=True,
            text=True,
            timeout=10,
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # not installed within another's
        return git("describe", "--always", "--dirty")
    except (OSError, subprocess.SubprocessError):
        return None
