"""Verifiers: methods that prove that a ball around an image keeps its class, under one interface.

    verdicts = gj.verifiers.Crown().verify(frozen, x, labels, norm="linf", radius="2/255")

docs/which-verifier.md says which question each answers.
"""

from gloro_jax.verifiers.alpha_crown import AlphaCrown as AlphaCrown
from gloro_jax.verifiers.ball_box import BallBox as BallBox
from gloro_jax.verifiers.complete.branch_and_bound import BranchAndBound as BranchAndBound
from gloro_jax.verifiers.complete.mixed_integer import MixedInteger as MixedInteger
from gloro_jax.verifiers.complete.projections import Projections as Projections
from gloro_jax.verifiers.crown import Crown as Crown
from gloro_jax.verifiers.crown import FastLin as FastLin
from gloro_jax.verifiers.dual import Dual as Dual
from gloro_jax.verifiers.interval_bounds import IntervalBounds as IntervalBounds
from gloro_jax.verifiers.lipschitz import Lipschitz as Lipschitz
from gloro_jax.verifiers.smoothing import Smoothed as Smoothed
from gloro_jax.verifiers.smoothing import Smoothing as Smoothing
from gloro_jax.verifiers.verdicts import Status as Status
from gloro_jax.verifiers.verdicts import Verdicts as Verdicts
from gloro_jax.verifiers.verdicts import Verifier as Verifier
