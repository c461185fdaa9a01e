"""Environments, networks and learners for reinforcement learning.

Modules are imported by name (`from agents import environments`, `from agents.ppo import ppo`), so
that nobody pays for a library that is not used. `agents.load_policy` is loaded where it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agents.policies import load_policy as load_policy

__all__ = ["load_policy"]


def __getattr__(name: str) -> Any:
    if name == "load_policy":
        from agents.policies import load_policy

        return load_policy
    raise AttributeError(f"module 'agents' has no attribute {name!r}")
