"""Meta-training of learned optimizers.

Modules are imported by name (`from meta.task import Task`, `from meta.evolution import evolution`).
Nothing here writes files: `experiments.meta_training` runs a trainer and keeps its checkpoints.
"""
