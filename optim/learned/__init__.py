"""Learned optimizers, a file for each architecture, and the files that hold their weights."""
