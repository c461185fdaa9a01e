"""Meta-training of learned optimizers.

Import from the modules (`from meta.task import Task`, `from meta.evolution import evolution`).
Nothing here writes files: `experiments.meta_training` runs a trainer and saves its checkpoints.
"""

from rl_optim import require_ours

require_ours("optim", "agents")
