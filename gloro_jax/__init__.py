"""gloro-jax: certifiably robust classifiers, with guaranteed Lipschitz bounds, in JAX and Flax.

    import gloro_jax as gj

Train with `gj.training.fit`, freeze with `gj.freeze`, certify with `gj.certify`.
"""

import importlib
import types
from typing import TYPE_CHECKING, Any

from gloro_jax import layers as layers
from gloro_jax import losses as losses
from gloro_jax import models as models
from gloro_jax.certify import Certificate as Certificate
from gloro_jax.certify import certify as certify
from gloro_jax.freeze import freeze as freeze
from gloro_jax.frozen_net import FrozenNet as FrozenNet
from gloro_jax.gloro import GloroNet as GloroNet
from gloro_jax.gloro import init_spectral as init_spectral
from gloro_jax.layers.base import PowerIteration as PowerIteration
from gloro_jax.lipschitz.bounded import Bounded as Bounded
from gloro_jax.lipschitz.norms import Estimate as Estimate
from gloro_jax.lipschitz.norms import UpperBound as UpperBound
from gloro_jax.lipschitz.norms import power_iteration as power_iteration
from gloro_jax.lipschitz.upper import conv_norm as conv_norm
from gloro_jax.lipschitz.upper import matrix_norm as matrix_norm
from gloro_jax.margins import GloroLogits as GloroLogits
from gloro_jax.margins import bottom_logit as bottom_logit
from gloro_jax.margins import certified_radius as certified_radius
from gloro_jax.version import __version__ as __version__

if TYPE_CHECKING:
    from gloro_jax import certificates as certificates
    from gloro_jax import data as data
    from gloro_jax import evaluation as evaluation
    from gloro_jax import export as export
    from gloro_jax import recipes as recipes
    from gloro_jax import runs as runs
    from gloro_jax import testing as testing
    from gloro_jax import torch_import as torch_import
    from gloro_jax import training as training
    from gloro_jax.runs import load as load

_MODULES = {"layers", "losses", "models"}
_LAZY_MODULES = (
    "certificates",
    "data",
    "evaluation",
    "export",
    "recipes",
    "runs",
    "testing",
    "torch_import",
    "training",
)


def __getattr__(name: str) -> Any:
    """Loads what a user of `certify` may never need, when it is first asked for."""
    if name in _LAZY_MODULES:
        return importlib.import_module(f"gloro_jax.{name}")
    if name == "load":
        return importlib.import_module("gloro_jax.runs").load
    raise AttributeError(f"module 'gloro_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names; the modules that they come from are not among them."""
    inner = {name for name, value in globals().items() if isinstance(value, types.ModuleType)}
    return sorted({*globals(), *_LAZY_MODULES, "load"} - (inner - _MODULES - {*_LAZY_MODULES}))
