"""Meta-parameters set by hand, with which the learned optimizers are optimizers that converge."""

import numpy as np

import optim

FACTORIES = {
    "optim4rl": optim.optim4rl,
    "linear_optim": optim.linear_optim,
    "l2lgd2": optim.l2lgd2,
    "star": optim.star,
}
ARCHITECTURES = {
    "open": optim.OPEN,
    "optim4rl": optim.Optim4RL,
    "linear_optim": optim.LinearOptim,
    "l2lgd2": optim.L2LGD2,
    "star": optim.STAR,
    "learned_correction": optim.LearnedCorrection,
    "velo": optim.VeLO,
}


def zeros(name, **sizes):
    """All meta-parameters of an architecture 0, as numpy arrays that may be written to."""

    def fill(shapes):
        if isinstance(shapes, tuple):
            return np.zeros(shapes, np.float32)
        return {key: fill(value) for key, value in shapes.items()}

    return fill(ARCHITECTURES[name](**sizes).shapes())


def drawn(name, seed=0, **sizes):
    """Meta-parameters that nothing has to be compiled for; decay rates hardly move."""
    meta = zeros(name, **sizes)
    rng = np.random.default_rng(seed)

    def fill(tree):
        for key, value in tree.items():
            if isinstance(value, dict):
                fill(value)
            else:
                value[:] = rng.normal(size=value.shape) * (0.02 if "decays" in key else 0.5)

    fill(meta)
    return meta


def converging(name):
    """Meta-parameters to converge with at a learning rate of 1e-3.

    OPEN sees no absolute size of a gradient, so that with any weights its steps near a minimum are
    as long as elsewhere: it needs steps that are made shorter from outside.
    """
    meta = zeros(name)
    match name:
        case "open":
            # Steps along an average of the gradient's sign. One unit remembers it; the perceptron
            # passes it on as it is, in two halves, beside large numbers that make up LayerNorm's
            # deviation.
            meta["gru_params"]["iz"]["bias"][:] = 1.0
            meta["gru_params"]["in"]["kernel"][13, 0] = 3.0
            for dense, norm in (("layers_0", "layers_1"), ("layers_3", "layers_4")):
                meta["params"][dense]["bias"][2:4] = [10, -10]
                meta["params"][norm]["scale"][:2] = 10 / np.sqrt(8)
            meta["params"]["layers_0"]["kernel"][0, :2] = [1, -1]
            meta["params"]["layers_3"]["kernel"][:2, :2] = [[1, -1], [-1, 1]]
            meta["params"]["layers_6"]["kernel"][:2, 0] = [1, -1]
        case "optim4rl":
            # Steps grow with gradients from 1e-4 to 1, in four stages: units in pairs,
            # tanh(w g + 1) - tanh(w g - 1), see whether w g is small. A little memory as well.
            meta["rnn1"]["iz"]["bias"][:] = -3
            meta["rnn1"]["in"]["kernel"][0] = np.repeat([3, 30, 300, 3000], 2)
            meta["rnn1"]["in"]["bias"][:] = [1, -1] * 4
            meta["mlp1"]["layers_0"]["kernel"][:, 0] = np.array([-1.5, 1.5] * 4)
        case "linear_optim":
            # Gradient descent, and an offset that is a momentum where gradients are small.
            meta["rnn"]["iz"]["bias"][:] = 2
            meta["rnn"]["in"]["kernel"][:] = 0.1
            meta["mlp"]["layers_0"]["kernel"][:, 2] = 0.5
        case "l2lgd2":
            # Gradient descent with smaller steps where the gradient is tiny.
            meta["rnn"]["in"]["kernel"][0] = 1
            meta["mlp"]["layers_0"]["kernel"][:] = 0.1
        case "star":
            # The learned part is a fifth of the gradient over its size in the leaf.
            meta["mlp"]["layers_0"]["kernel"][0] = [1, -1, 0, 0]
            meta["mlp"]["layers_2"]["kernel"][:2, :2] = np.eye(2)
            meta["mlp"]["layers_4"]["kernel"][:2, 0] = [0.2, -0.2]
        case "velo":
            # The first perceptron of the bank alone, which gives a momentum over the root.
            meta["rnn_params"]["rnn_to_controls"]["b"][0] = 0.08
            meta["rnn_params"]["step_size"]["b"][:] = 1000
            meta["ff_mod_stack"]["w0__5"][0, 0, :2] = [1, -1]
            meta["ff_mod_stack"]["w1"][0, :2, :2] = np.eye(2)
            meta["ff_mod_stack"]["w2"][0, :2, 0] = [1, -1]
    return meta
