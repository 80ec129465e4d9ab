"""Evaluation: verified robust accuracy, certified-accuracy curves, and attacks that test them."""

from gloro_jax.evaluation.attacks import AttackReport as AttackReport
from gloro_jax.evaluation.attacks import attack as attack
from gloro_jax.evaluation.page import report as report
from gloro_jax.evaluation.tightness import Tightness as Tightness
from gloro_jax.evaluation.tightness import tightness as tightness
from gloro_jax.evaluation.vra import Report as Report
from gloro_jax.evaluation.vra import verified_robust_accuracy as verified_robust_accuracy
