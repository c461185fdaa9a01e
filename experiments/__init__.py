"""Comparisons of optimizers: presets, command line, run directories, statistics and figures."""
