"""Run directories: writing, resuming and reading them."""
