"""Environments, networks and learners for reinforcement learning.

Modules are imported by name (`from agents import environments`, `from agents.ppo import ppo`), so
that nobody pays for a library that is not used.
"""
