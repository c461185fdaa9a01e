"""Losses of the offline learners, written in NumPy from their equations, apart from the package.

Parameters are trees as flax names them (`Dense_0/kernel`, ...); everything is float64. Losses are
functions of all parameters at once, so that a gradient can be taken by central differences with
respect to any leaf; what the equations hold fixed is passed in as numbers.
"""

import numpy as np


def network(params, x):
    """Dense layers with ReLU, and layer normalisation after it where there are such parameters."""
    layers = sum(name.startswith("Dense_") for name in params)
    for i in range(layers):
        x = x @ params[f"Dense_{i}"]["kernel"] + params[f"Dense_{i}"]["bias"]
        if i == layers - 1:
            return x
        x = np.maximum(x, 0.0)
        if f"LayerNorm_{i}" in params:
            norm = params[f"LayerNorm_{i}"]
            x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
            x = x * norm["scale"] + norm["bias"]
    raise ValueError("no layers")


def twin(params, observation, action):
    x = np.concatenate([observation, action], -1)
    return np.stack([network(params[name], x)[:, 0] for name in ("q0", "q1")])


def smoothed(action, noise, scale, clip):
    return np.clip(action + np.clip(scale * noise, -clip, clip), -1.0, 1.0)


def td3_target(target_params, batch, noise, discount, scale, clip, penalty=0.0, reward_scale=1.0):
    action = np.tanh(network(target_params["actor"], batch["next_observation"]))
    action = smoothed(action, noise, scale, clip)
    value = twin(target_params["critic"], batch["next_observation"], action).min(0)
    distance = ((action - batch["next_action"]) ** 2).sum(-1)
    value = value - penalty * distance * batch["has_next_action"]
    reward = reward_scale * batch["reward"]
    return reward + discount * (1.0 - batch["terminated"]) * value


def squares(errors):
    return (errors**2).mean(1).sum()


def td_loss(params, target, batch):
    return squares(twin(params, batch["observation"], batch["action"]) - target)


def sqog_loss(params, target, batch, neighbour, fixed_values, beta):
    near = twin(params, batch["observation"], neighbour)
    return td_loss(params, target, batch) + beta * squares(near - fixed_values)


def pars_loss(params, target, batch, outside, lowest, weight):
    far = twin(params, batch["observation"], outside)
    return td_loss(params, target, batch) + weight * squares(far - lowest)


def actor_terms(params, critic_params, batch):
    action = np.tanh(network(params, batch["observation"]))
    return (action - batch["action"]) ** 2, twin(critic_params, batch["observation"], action)


def td3_bc_actor_loss(params, critic_params, batch, scale):
    square, values = actor_terms(params, critic_params, batch)
    return square.mean() - scale * values[0].mean()


def summed_actor_loss(params, critic_params, batch, behaviour_weight, scale):
    square, values = actor_terms(params, critic_params, batch)
    return (behaviour_weight * square.sum(-1) - scale * values.min(0)).mean()


def iql_advantage(value_params, target_params, batch):
    value = network(value_params, batch["observation"])[:, 0]
    return twin(target_params["critic"], batch["observation"], batch["action"]).min(0) - value


def iql_value_loss(value_params, target_params, batch, expectile):
    u = iql_advantage(value_params, target_params, batch)
    return (np.abs(expectile - (u < 0)) * u**2).mean()


def iql_actor_loss(params, weight, batch):
    mean = np.tanh(
        network({k: v for k, v in params.items() if k != "log_std"}, batch["observation"])
    )
    log_std = np.clip(params["log_std"], -20.0, 2.0)
    z = (batch["action"] - mean) / np.exp(log_std)
    log_probability = (-0.5 * z**2 - log_std - 0.5 * np.log(2 * np.pi)).sum(-1)
    return -(weight * log_probability).mean()


def central_differences(loss, tree, step=1e-6):
    """The gradient of a scalar function of a tree of arrays, entry by entry."""
    if isinstance(tree, dict):
        return {
            name: central_differences(
                lambda leaf, name=name: loss({**tree, name: leaf}), tree[name], step
            )
            for name in tree
        }
    gradient = np.zeros_like(tree)
    for place in np.ndindex(*tree.shape):
        shifted = [tree.copy(), tree.copy()]
        shifted[0][place] += step
        shifted[1][place] -= step
        gradient[place] = (loss(shifted[0]) - loss(shifted[1])) / (2 * step)
    return gradient
