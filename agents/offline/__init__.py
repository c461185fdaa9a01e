"""Learners from fixed data sets of transitions, and what they share.

One algorithm a module, imported by name: `from agents.offline.td3_bc import TD3BCConfig, td3_bc`.
All take actions in [-1, 1] and transitions as `agents.offline.common.Transitions`.
"""
