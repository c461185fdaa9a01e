"""Environments, networks and learners for reinforcement learning.

Modules are imported by name (`from agents import environments`, `from agents.ppo import ppo`), so
that a library is imported only where it is needed. That also holds for `agents.load_policy`.
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
