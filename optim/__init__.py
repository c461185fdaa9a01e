"""Optimizers for reinforcement learning, as optax gradient transformations.

Parameters may be any pytree, also the state of a flax nnx model or a module of equinox. Leaves
without a gradient are left alone: None, integers and, in the parameters that `update` is given,
functions. Masks and other trees that go with the parameters are matched to them by the names on the
way to a leaf, whatever the kinds of the nodes: a dict will do for a module.

Examples:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> import optim
    >>> optimizer = optax.chain(optax.clip_by_global_norm(0.5), optim.adamo(3e-4, kappa=1.0))
    >>> params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
    >>> updates, state = optimizer.update(params, optimizer.init(params), params)
"""

from optim import extras as extras
from optim._checks import near as near
from optim._checks import nearest as nearest
from optim._checks import suggestion as suggestion
from optim.adabound import adabound as adabound
from optim.adabound import amsbound as amsbound
from optim.adabound import scale_by_adabound as scale_by_adabound
from optim.adabound import scale_by_amsbound as scale_by_amsbound
from optim.adahessian import adahessian as adahessian
from optim.adahessian import scale_by_adahessian as scale_by_adahessian
from optim.adam_gnt import adam_gnt as adam_gnt
from optim.adam_gnt import scale_by_adam_gnt as scale_by_adam_gnt
from optim.adam_rel import adam_rel as adam_rel
from optim.adam_rel import scale_by_adam_rel as scale_by_adam_rel
from optim.adamo import adamo as adamo
from optim.adamo import scale_by_adamo as scale_by_adamo
from optim.adamod import adamod as adamod
from optim.adamod import scale_by_adamod as scale_by_adamod
from optim.adamp import adamp as adamp
from optim.adamp import scale_by_adamp as scale_by_adamp
from optim.adamp import scale_by_sgdp as scale_by_sgdp
from optim.adamp import sgdp as sgdp
from optim.aegd import aegd as aegd
from optim.aegd import scale_by_aegd as scale_by_aegd
from optim.by_network import by_network as by_network
from optim.catalogue import OptimizerDetails as OptimizerDetails
from optim.cautious import cautious as cautious
from optim.cautious import cautious_adamw as cautious_adamw
from optim.cautious import scale_by_cautious_adam as scale_by_cautious_adam
from optim.cbp import cbp as cbp
from optim.clipping import clip_by_network_norm as clip_by_network_norm
from optim.critical_momenta import adam_cm as adam_cm
from optim.critical_momenta import scale_by_adam_cm as scale_by_adam_cm
from optim.evaluation import evaluation_params as evaluation_params
from optim.exadam import exadam as exadam
from optim.exadam import scale_by_exadam as scale_by_exadam
from optim.explain import explain as explain
from optim.extra_args import with_only_extra_args as with_only_extra_args
from optim.fire import fire as fire
from optim.fire import fire_projection as fire_projection
from optim.keep_params import KeepParamsState as KeepParamsState
from optim.keep_params import keep_params as keep_params
from optim.kron import kron as kron
from optim.kron import scale_by_kron as scale_by_kron
from optim.l2_init import l2_init as l2_init
from optim.learned.l2lgd2 import L2LGD2 as L2LGD2
from optim.learned.l2lgd2 import l2lgd2 as l2lgd2
from optim.learned.learned_correction import LearnedCorrection as LearnedCorrection
from optim.learned.learned_correction import LearnedCorrectionState as LearnedCorrectionState
from optim.learned.learned_correction import learned_correction as learned_correction
from optim.learned.linear_optim import LinearOptim as LinearOptim
from optim.learned.linear_optim import linear_optim as linear_optim
from optim.learned.meta_params import load as load
from optim.learned.meta_params import load_meta_params as load_meta_params
from optim.learned.meta_params import load_metadata as load_metadata
from optim.learned.meta_params import load_open_npy as load_open_npy
from optim.learned.meta_params import packaged_meta_params as packaged_meta_params
from optim.learned.meta_params import save_meta_params as save_meta_params
from optim.learned.open import OPEN as OPEN
from optim.learned.open import OPENState as OPENState
from optim.learned.open import open_optimizer as open_optimizer
from optim.learned.optim4rl import Optim4RL as Optim4RL
from optim.learned.optim4rl import optim4rl as optim4rl
from optim.learned.star import STAR as STAR
from optim.learned.star import star as star
from optim.learned.velo import VeLO as VeLO
from optim.learned.velo import velo as velo
from optim.learned.velo_checkpoint import load_velo_checkpoint as load_velo_checkpoint
from optim.mars import mars as mars
from optim.mars import scale_by_mars as scale_by_mars
from optim.network_specs import NetworkSpecs as NetworkSpecs
from optim.network_specs import parse_spec as parse_spec
from optim.normalize_project import normalize_kernels as normalize_kernels
from optim.normalize_project import normalize_project as normalize_project
from optim.parseval import parseval as parseval
from optim.periodic_reset import adam_reset as adam_reset
from optim.periodic_reset import reset_state as reset_state
from optim.redo import redo as redo
from optim.registry import accepts_schedule as accepts_schedule
from optim.registry import base_name as base_name
from optim.registry import describe as describe
from optim.registry import details as details
from optim.registry import learned_names as learned_names
from optim.registry import make as make
from optim.registry import optimizer_names as optimizer_names
from optim.registry import option_names as option_names
from optim.registry import sets_own_steps as sets_own_steps
from optim.regrama import regrama as regrama
from optim.sania import sania as sania
from optim.sania import scale_by_sania as scale_by_sania
from optim.shrink_perturb import shrink_and_perturb as shrink_and_perturb
from optim.shrink_perturb import shrink_perturb as shrink_perturb
from optim.soap import scale_by_soap as scale_by_soap
from optim.soap import soap as soap
from optim.spec import OptimizerSpec as OptimizerSpec
from optim.spectral_regularization import spectral_regularization as spectral_regularization
from optim.subset_norm import scale_by_subset_norm as scale_by_subset_norm
from optim.subset_norm import subset_norm as subset_norm
from optim.subspace_momentum import scale_by_subspace_momentum as scale_by_subspace_momentum
from optim.subspace_momentum import subspace_momentum as subspace_momentum
from optim.swats import scale_by_swats as scale_by_swats
from optim.swats import swats as swats
from optim.trac import trac as trac
from optim.trac import trac_adam as trac_adam
from optim.tvlars import scale_by_tvlars as scale_by_tvlars
from optim.tvlars import tvlars as tvlars
from optim.upgd import ada_upgd as ada_upgd
from optim.upgd import scale_by_ada_upgd as scale_by_ada_upgd
from optim.upgd import scale_by_upgd as scale_by_upgd
from optim.upgd import upgd as upgd
from optim.weight_clipping import clip_weights as clip_weights
from optim.weight_clipping import weight_clipping as weight_clipping
from optim.weight_decay import with_weight_decay as with_weight_decay

__all__ = [
    "L2LGD2",
    "OPEN",
    "STAR",
    "KeepParamsState",
    "LearnedCorrection",
    "LearnedCorrectionState",
    "LinearOptim",
    "NetworkSpecs",
    "OPENState",
    "Optim4RL",
    "OptimizerDetails",
    "OptimizerSpec",
    "VeLO",
    "accepts_schedule",
    "ada_upgd",
    "adabound",
    "adahessian",
    "adam_cm",
    "adam_gnt",
    "adam_rel",
    "adam_reset",
    "adamo",
    "adamod",
    "adamp",
    "aegd",
    "amsbound",
    "base_name",
    "by_network",
    "cautious",
    "cautious_adamw",
    "cbp",
    "clip_by_network_norm",
    "clip_weights",
    "describe",
    "details",
    "evaluation_params",
    "exadam",
    "explain",
    "fire",
    "fire_projection",
    "keep_params",
    "kron",
    "l2_init",
    "l2lgd2",
    "learned_correction",
    "learned_names",
    "linear_optim",
    "load",
    "load_meta_params",
    "load_metadata",
    "load_open_npy",
    "load_velo_checkpoint",
    "make",
    "mars",
    "near",
    "nearest",
    "normalize_kernels",
    "normalize_project",
    "open_optimizer",
    "optim4rl",
    "optimizer_names",
    "option_names",
    "packaged_meta_params",
    "parse_spec",
    "parseval",
    "redo",
    "regrama",
    "reset_state",
    "sania",
    "save_meta_params",
    "scale_by_ada_upgd",
    "scale_by_adabound",
    "scale_by_adahessian",
    "scale_by_adam_cm",
    "scale_by_adam_gnt",
    "scale_by_adam_rel",
    "scale_by_adamo",
    "scale_by_adamod",
    "scale_by_adamp",
    "scale_by_aegd",
    "scale_by_amsbound",
    "scale_by_cautious_adam",
    "scale_by_exadam",
    "scale_by_kron",
    "scale_by_mars",
    "scale_by_sania",
    "scale_by_sgdp",
    "scale_by_soap",
    "scale_by_subset_norm",
    "scale_by_subspace_momentum",
    "scale_by_swats",
    "scale_by_tvlars",
    "scale_by_upgd",
    "sets_own_steps",
    "sgdp",
    "shrink_and_perturb",
    "shrink_perturb",
    "soap",
    "spectral_regularization",
    "star",
    "subset_norm",
    "subspace_momentum",
    "suggestion",
    "swats",
    "trac",
    "trac_adam",
    "tvlars",
    "upgd",
    "velo",
    "weight_clipping",
    "with_only_extra_args",
    "with_weight_decay",
]
