"""Meta-training of learned optimizers into run directories, a file for each method."""
