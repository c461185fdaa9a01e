"""The command line `rl-optim`: a file for each command, and the list of them in `main`."""
