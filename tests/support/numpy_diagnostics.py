"""Measures of plasticity as one writes them down, in NumPy and float64."""

import numpy as np


def dormant_share(layers, threshold=0.025):
    shares = []
    for layer in layers:
        activity = [np.mean(np.abs(unit)) for unit in np.asarray(layer, np.float64).T]
        mean = sum(activity) / len(activity)
        shares.append(sum(a / (mean + 1e-9) <= threshold for a in activity) / len(activity))
    return sum(shares) / len(shares)


def effective_rank(features):
    sigma = np.linalg.svd(np.asarray(features, np.float64), compute_uv=False)
    p = sigma[sigma > 0] / sigma.sum()
    return np.exp(-np.sum(p * np.log(p)))


def flat(tree):
    """All numbers of a tree of dictionaries as one vector."""
    if not isinstance(tree, dict):
        return np.asarray(tree, np.float64).ravel()
    return np.concatenate([flat(tree[key]) for key in sorted(tree)])


def cosine(one, other):
    return one @ other / np.sqrt((one @ one) * (other @ other))


def hidden(params, observation, nonlinearity):
    """Activations of the hidden layers, and the output."""
    names = sorted(name for name in params if name.startswith("Dense"))
    x = np.asarray(observation, np.float64).reshape(len(observation), -1)
    layers = []
    for name in names:
        x = x @ np.asarray(params[name]["kernel"], np.float64) + np.asarray(params[name]["bias"])
        if name != names[-1]:
            x = {"relu": lambda y: np.maximum(y, 0.0), "tanh": np.tanh}[nonlinearity](x)
            layers.append(x)
    return layers, x


def log_probability(params, output, action):
    """Of discrete actions where there is no `log_std`, else of a diagonal Gaussian's."""
    if "log_std" not in params:
        logits = output - output.max(axis=1, keepdims=True)
        normaliser = np.log(np.exp(logits).sum(axis=1))
        return logits[np.arange(len(action)), np.asarray(action)] - normaliser
    log_std = np.asarray(params["log_std"], np.float64)
    z = (np.asarray(action, np.float64) - output) / np.exp(log_std)
    return np.sum(-0.5 * z**2 - log_std - 0.5 * np.log(2.0 * np.pi), axis=1)
