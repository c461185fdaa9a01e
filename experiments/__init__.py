"""Comparisons of optimizers: presets, command line, run directories, statistics and figures."""

from rl_optim import require_extra, require_ours

require_ours("optim", "agents", "meta")
require_extra("compare", "brax", "flax", "gymnax", "matplotlib", "orbax", "rich", "tyro")
