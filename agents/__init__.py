"""Environments, networks and learners for reinforcement learning.

Modules are imported by name (`from agents import environments`, `from agents.ppo import ppo`), so
that a library is imported only where it is needed. That also holds for `agents.load_policy`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rl_optim import require_extra, require_ours

if TYPE_CHECKING:
    from agents.policies import load_policy as load_policy

__all__ = ["load_policy"]

require_ours("optim")
require_extra("agents", "flax")


def __getattr__(name: str) -> Any:
    if name == "load_policy":
        from agents.policies import load_policy

        return load_policy
    raise AttributeError(f"module 'agents' has no attribute {name!r}")
