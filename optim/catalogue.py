"""Our own optimizers: what builds each, its paper, inputs, state and cost."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import optax

from optim.adabound import adabound, amsbound
from optim.adahessian import adahessian
from optim.adam_gnt import adam_gnt
from optim.adam_rel import adam_rel
from optim.adamo import adamo
from optim.adamod import adamod
from optim.adamp import adamp, sgdp
from optim.aegd import aegd
from optim.cautious import cautious_adamw
from optim.cbp import cbp
from optim.critical_momenta import adam_cm
from optim.exadam import exadam
from optim.fire import fire
from optim.kron import kron
from optim.l2_init import l2_init
from optim.learned.l2lgd2 import l2lgd2
from optim.learned.learned_correction import learned_correction
from optim.learned.linear_optim import linear_optim
from optim.learned.open import open_optimizer
from optim.learned.optim4rl import optim4rl
from optim.learned.star import star
from optim.learned.velo import velo
from optim.mars import mars
from optim.normalize_project import normalize_project
from optim.parseval import parseval
from optim.periodic_reset import adam_reset
from optim.redo import redo
from optim.regrama import regrama
from optim.sania import sania
from optim.shrink_perturb import shrink_perturb
from optim.soap import soap
from optim.spectral_regularization import spectral_regularization
from optim.subset_norm import subset_norm
from optim.subspace_momentum import subspace_momentum
from optim.swats import swats
from optim.trac import trac_adam
from optim.tvlars import tvlars
from optim.upgd import ada_upgd, upgd
from optim.weight_clipping import weight_clipping

Factory = Callable[..., optax.GradientTransformation]


@dataclasses.dataclass(frozen=True)
class OptimizerDetails:
    """What there is to know about one of our own optimizers before choosing it.

    Attributes:
        factory: builds it from a learning rate, meta-parameters if it is learned, or the optimizer
            that it wraps, and options.
        summary: one line, with a full stop, shorter than 90 characters.
        paper: authors, year and arXiv number.
        inputs: what `update` needs besides gradients and parameters, of what a learner has, or
            "none".
        state: numbers kept for each parameter.
        cost: computation on top of Adam's, or "none".
        group: "rl" if it was made for reinforcement learning, "matrix" if it treats whole rows,
            columns or subspaces of matrices alike, "learned", or else "general".
        wraps: what of another optimizer it changes, its "gradients" or its "updates"; None if it is
            a whole optimizer itself. Those that wrap take the option `base` by name.
        base: what it wraps unless the option says otherwise.

    Examples:
        >>> import optim
        >>> optim.details("adamod").state
        '3'
        >>> optim.details("adam_rel").group
        'rl'
    """

    factory: Factory
    summary: str
    paper: str
    inputs: str = "none"
    state: str = "2"
    cost: str = "none"
    group: Literal["rl", "general", "matrix", "learned"] = "general"
    wraps: Literal["gradients", "updates"] | None = None
    base: str = "adam"


# Our own optimizers, one block each, sorted.
OWN: dict[str, OptimizerDetails] = {
    "ada_upgd": OptimizerDetails(
        factory=ada_upgd,
        summary="AdaUPGD: Adam with noise, both held back where a weight is useful.",
        paper="Elsayed and Mahmood, 2024, arXiv 2404.00781",
        state="3",
        cost="a normal number and a sigmoid for each parameter",
        group="rl",
    ),
    "adabound": OptimizerDetails(
        factory=adabound,
        summary="AdaBound: Adam with bounds on its step sizes that close in on SGD's.",
        paper="Luo et al., 2019, arXiv 1902.09843",
    ),
    "adahessian": OptimizerDetails(
        factory=adahessian,
        summary="AdaHessian: Adam scaled by the Hessian's diagonal instead of the gradient.",
        paper="Yao et al., 2021, arXiv 2006.00719",
        inputs="obj_fn or hvp",
        cost="one Hessian-vector product, about two gradients",
    ),
    "adam_cm": OptimizerDetails(
        factory=adam_cm,
        summary="Adam with critical momenta: adds the mean of five past momenta.",
        paper="Malviya et al., 2024, arXiv 2307.09638",
        state="7",
        cost="a sum over the buffer of momenta",
    ),
    "adam_gnt": OptimizerDetails(
        factory=adam_gnt,
        summary="AdamGnT: Adam with a step count for each row and column, for renewed units.",
        paper="Dohare et al., 2024, arXiv 2306.13812",
        state="4",
        group="rl",
    ),
    "adam_rel": OptimizerDetails(
        factory=adam_rel,
        summary="Adam-Rel: Adam whose step count starts anew with every new objective.",
        paper="Ellis et al., 2024, arXiv 2412.17113",
        inputs="reset or a period",
        group="rl",
    ),
    "adam_reset": OptimizerDetails(
        factory=adam_reset,
        summary="Adam whose moments and step count are reset with every new objective.",
        paper="Asadi et al., 2023, arXiv 2306.17833",
        inputs="reset or a period",
        group="rl",
    ),
    "adamo": OptimizerDetails(
        factory=adamo,
        summary="AdamO: Adam with a bounded pull of weight matrices to orthogonality.",
        paper="Qiao et al., 2026, arXiv 2605.01968",
        cost="two products of each matrix with itself",
        group="rl",
    ),
    "adamod": OptimizerDetails(
        factory=adamod,
        summary="AdaMod: Adam whose step sizes may not exceed their long-term average.",
        paper="Ding et al., 2019, arXiv 1910.12249",
        state="3",
    ),
    "adamp": OptimizerDetails(
        factory=adamp,
        summary="AdamP: AdamW without the steps that only lengthen scale-invariant weights.",
        paper="Heo et al., 2021, arXiv 2006.08217",
        cost="a few norms and inner products of each matrix",
    ),
    "aegd": OptimizerDetails(
        factory=aegd,
        summary="AEGD: gradient descent with an energy for each parameter that only falls.",
        paper="Liu and Tian, 2020, arXiv 2010.05109",
        inputs="value",
        state="1",
    ),
    "amsbound": OptimizerDetails(
        factory=amsbound,
        summary="AMSBound: AdaBound with the largest second moment so far.",
        paper="Luo et al., 2019, arXiv 1902.09843",
        state="3",
    ),
    "cautious_adamw": OptimizerDetails(
        factory=cautious_adamw,
        summary="Cautious AdamW: only the entries of a step that go down the present gradient.",
        paper="Liang et al., 2024, arXiv 2411.16085",
    ),
    "cbp": OptimizerDetails(
        factory=cbp,
        summary="Continual backpropagation over a base: renews units of little use all the time.",
        paper="Dohare et al., 2024, arXiv 2306.13812",
        inputs="activations",
        state="that of the base, and 2 for each hidden unit",
        cost="a sum over each kernel",
        group="rl",
        wraps="updates",
        base="adam_gnt",
    ),
    "exadam": OptimizerDetails(
        factory=exadam,
        summary="EXAdam: Adam with moments that correct each other, plus the gradient itself.",
        paper="Adly, 2024, arXiv 2412.20302",
    ),
    "fire": OptimizerDetails(
        factory=fire,
        summary="FIRE: any optimizer; at changes, hidden matrices are made orthogonal.",
        paper="Han et al., 2026, arXiv 2602.08040",
        inputs="reset or a period",
        state="that of its base",
        cost="at changes, twenty products of each hidden matrix with itself",
        group="rl",
        wraps="updates",
    ),
    "kron": OptimizerDetails(
        factory=kron,
        summary="PSGD-Kron: the momentum, whitened by a learned Kronecker product.",
        paper="Li, 2015, arXiv 1512.04202; as used by Castanyer et al., 2025, arXiv 2506.15544",
        state="1, and for each matrix twice the squares of its sides",
        cost="products of each matrix with square ones; now and then triangular solves",
        group="matrix",
    ),
    "l2_init": OptimizerDetails(
        factory=l2_init,
        summary="L2 Init: any optimizer, with a penalty on the distance from the initial weights.",
        paper="Kumar et al., 2023, arXiv 2308.11958",
        state="that of its base, and 1",
        cost="that of its base",
        group="rl",
        wraps="gradients",
    ),
    "mars": OptimizerDetails(
        factory=mars,
        summary="MARS: AdamW on gradients corrected by their change, and clipped.",
        paper="Yuan et al., 2024, arXiv 2411.10438",
        inputs="none; if exact, obj_fn or previous_gradient",
        state="3",
        cost="none; if exact, one more gradient",
    ),
    "normalize_project": OptimizerDetails(
        factory=normalize_project,
        summary="Normalize-and-Project: any optimizer; each kernel keeps its initial norm.",
        paper="Lyle et al., 2024, arXiv 2407.01800; as in Lee et al., 2025, arXiv 2502.15280",
        state="that of its base, and 1 for each matrix",
        cost="two norms of each matrix",
        group="rl",
        wraps="updates",
    ),
    "parseval": OptimizerDetails(
        factory=parseval,
        summary="Parseval: any optimizer, with a penalty that keeps matrices near orthogonal.",
        paper="Chung et al., 2024, arXiv 2412.07224",
        state="that of its base",
        cost="two products of each hidden matrix with itself",
        group="rl",
        wraps="gradients",
    ),
    "redo": OptimizerDetails(
        factory=redo,
        summary="ReDo over a base: now and then, units that are dormant are renewed.",
        paper="Sokar et al., 2023, arXiv 2302.12902",
        inputs="activations",
        state="that of the base",
        group="rl",
        wraps="updates",
        base="adam_gnt",
    ),
    "regrama": OptimizerDetails(
        factory=regrama,
        summary="ReGraMa over a base: now and then, units without gradients are renewed.",
        paper="Liu et al., 2025, arXiv 2505.24061",
        state="that of the base",
        group="rl",
        wraps="updates",
        base="adam_gnt",
    ),
    "sania": OptimizerDetails(
        factory=sania,
        summary="SANIA: Polyak's step on a diagonal preconditioner, invariant to scaling.",
        paper="Abdukhakimov et al., 2023, arXiv 2312.17369",
        inputs="value",
        state="1",
    ),
    "sgdp": OptimizerDetails(
        factory=sgdp,
        summary="SGDP: SGD without the steps that only lengthen scale-invariant weights.",
        paper="Heo et al., 2021, arXiv 2006.08217",
        state="1",
        cost="a few norms and inner products of each matrix",
    ),
    "shrink_perturb": OptimizerDetails(
        factory=shrink_perturb,
        summary="Shrink & Perturb: any optimizer; weights shrink, and initial ones or noise comes.",
        paper="Ash and Adams, 2020, arXiv 1910.08475",
        inputs="none; without a period, reset",
        state="that of its base, and 1 with initial weights as noise",
        cost="that of its base; for other noise, drawing it",
        group="rl",
        wraps="updates",
    ),
    "soap": OptimizerDetails(
        factory=soap,
        summary="SOAP: Adam in the eigenbases of Shampoo's preconditioner.",
        paper="Vyas et al., 2024, arXiv 2409.11321",
        state="2, and for each matrix twice the squares of its sides",
        cost="products of each matrix with square ones, and QR decompositions every 10 updates",
        group="matrix",
    ),
    "spectral_regularization": OptimizerDetails(
        factory=spectral_regularization,
        summary="Spectral regularisation: any optimizer, with a pull of singular values to one.",
        paper="Lewandowski et al., 2025, arXiv 2406.06811",
        state="that of its base, and 1 for each output of a layer",
        cost="three products of each matrix with a vector",
        group="rl",
        wraps="gradients",
    ),
    "subset_norm": OptimizerDetails(
        factory=subset_norm,
        summary="Subset-norm Adam: one second moment for each row or column of a matrix.",
        paper="Nguyen and Nguyen, 2024, arXiv 2411.07120",
        state="1, and one for each subset",
        group="matrix",
    ),
    "subspace_momentum": OptimizerDetails(
        factory=subspace_momentum,
        summary="Subspace momentum: momentum in a few directions of each matrix only.",
        paper="Nguyen and Nguyen, 2024, arXiv 2411.07120",
        state="rank / shorter side of each matrix; 1 for other leaves",
        cost="now and then a singular value decomposition of each matrix",
        group="matrix",
    ),
    "swats": OptimizerDetails(
        factory=swats,
        summary="SWATS: Adam that switches to SGD, with a learning rate that it estimates.",
        paper="Keskar and Socher, 2017, arXiv 1712.07628",
        cost="two inner products",
    ),
    "trac": OptimizerDetails(
        factory=trac_adam,
        summary="TRAC over Adam: one scale of the displacement from the start, tuned online.",
        paper="Muppidi et al., 2024, arXiv 2405.16642",
        state="4, or 3 with exact_reference",
        group="rl",
    ),
    "tvlars": OptimizerDetails(
        factory=tvlars,
        summary="TVLARS: steps in proportion to each layer's weights, on a sigmoid curve.",
        paper="Do et al., 2023, arXiv 2309.14053",
        state="1",
        cost="two norms of each leaf",
    ),
    "upgd": OptimizerDetails(
        factory=upgd,
        summary="UPGD: gradient descent with noise, both held back where a weight is useful.",
        paper="Elsayed and Mahmood, 2024, arXiv 2404.00781",
        state="1",
        cost="a normal number and a sigmoid for each parameter",
        group="rl",
    ),
    "weight_clipping": OptimizerDetails(
        factory=weight_clipping,
        summary="Weight clipping: any optimizer, with bounds on the weights of each layer.",
        paper="Elsayed et al., 2024, arXiv 2407.01704",
        state="that of its base",
        cost="that of its base",
        group="rl",
        wraps="updates",
    ),
}

# Learned ones, which are used with weights: NAME@WEIGHTS.
LEARNED: dict[str, OptimizerDetails] = {
    "l2lgd2": OptimizerDetails(
        factory=l2lgd2,
        summary="L2LGD2: a network gives the logarithm of a factor of each gradient.",
        paper="Andrychowicz et al., 2016, arXiv 1606.04474; as in Lan et al., 2024, "
        "arXiv 2302.01470",
        state="8, the hidden size",
        cost="a GRU and a dense layer for each parameter",
        group="learned",
    ),
    "learned_correction": OptimizerDetails(
        factory=learned_correction,
        summary="A learned correction of Adam or another optimizer, which starts as that one.",
        paper="this project; features after Goldie et al., 2024, arXiv 2407.07082",
        inputs="activations, training_progress and batch_progress, each optional",
        state="3, and the base's unless it is Adam",
        cost="ten means over each tensor, and a small perceptron for each",
        group="learned",
    ),
    "linear_optim": OptimizerDetails(
        factory=linear_optim,
        summary="LinearOptim: a network gives each gradient a factor and an offset.",
        paper="Lan et al., 2024, arXiv 2302.01470",
        state="8, the hidden size",
        cost="a GRU and a dense layer for each parameter",
        group="learned",
    ),
    "open": OptimizerDetails(
        factory=open_optimizer,
        summary="OPEN: a network gives steps and noise, told of progress, layer and dormancy.",
        paper="Goldie et al., 2024, arXiv 2407.07082",
        inputs="activations, training_progress and batch_progress, each optional",
        state="14: 6, and the features of the GRU",
        cost="a GRU and a perceptron for each parameter",
        group="learned",
    ),
    "optim4rl": OptimizerDetails(
        factory=optim4rl,
        summary="Optim4RL: two networks give the logarithms of Adam's two moments.",
        paper="Lan et al., 2024, arXiv 2302.01470",
        state="16, twice the hidden size",
        cost="two GRUs and dense layers for each parameter",
        group="learned",
    ),
    "star": OptimizerDetails(
        factory=star,
        summary="STAR: a network's steps on Adam's and Adafactor's features, beside nominal ones.",
        paper="Harrison et al., 2022, arXiv 2209.11208; as in Lan et al., 2024, arXiv 2302.01470",
        state="4, and 6 for each row and column of a matrix",
        cost="a perceptron with 39 inputs for each parameter",
        group="learned",
    ),
    "velo": OptimizerDetails(
        factory=velo,
        summary="VeLO: an LSTM mixes for each tensor the perceptron that gives its steps.",
        paper="Metz et al., 2022, arXiv 2211.09760",
        inputs="value; num_updates, unless it is an option",
        state="4, and 6 for each row and column of a matrix; 1 more where steps take means",
        cost="a perceptron with 30 inputs for each parameter, and an LSTM for each tensor",
        group="learned",
    ),
}
