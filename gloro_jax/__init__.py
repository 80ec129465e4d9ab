"""gloro-jax: certifiably robust classifiers, with guaranteed Lipschitz bounds, in JAX and Flax.

    import gloro_jax as gj

Train with `gj.training.fit`, freeze with `gj.freeze`, certify with `gj.certify`.
"""

from typing import TYPE_CHECKING

from gloro_jax.on_demand import on_demand
from gloro_jax.version import __version__ as __version__

if TYPE_CHECKING:
    from gloro_jax import certificates as certificates
    from gloro_jax import data as data
    from gloro_jax import ensembles as ensembles
    from gloro_jax import evaluation as evaluation
    from gloro_jax import export as export
    from gloro_jax import guarantees as guarantees
    from gloro_jax import layers as layers
    from gloro_jax import losses as losses
    from gloro_jax import models as models
    from gloro_jax import recipes as recipes
    from gloro_jax import repair as repair
    from gloro_jax import runs as runs
    from gloro_jax import testing as testing
    from gloro_jax import torch_import as torch_import
    from gloro_jax import training as training
    from gloro_jax import verifiers as verifiers
    from gloro_jax.certification import Certificate as Certificate
    from gloro_jax.certification import certify as certify
    from gloro_jax.freezing import freeze as freeze
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
    from gloro_jax.logits import GloroLogits as GloroLogits
    from gloro_jax.margins import bottom_logit as bottom_logit
    from gloro_jax.margins import certified_radius as certified_radius
    from gloro_jax.runs import load as load

# The public names and the rooms they live in. A room is entered when one of its names is first
# asked for, so that the command line can say its usage before JAX is imported.
_ROOMS = {
    "certificates data ensembles evaluation export guarantees layers losses models recipes repair "
    "runs testing torch_import training verifiers": "",
    "Certificate certify": "certification",
    "freeze": "freezing",
    "FrozenNet": "frozen_net",
    "GloroNet init_spectral": "gloro",
    "PowerIteration": "layers.base",
    "Bounded": "lipschitz.bounded",
    "Estimate UpperBound power_iteration": "lipschitz.norms",
    "conv_norm matrix_norm": "lipschitz.upper",
    "GloroLogits": "logits",
    "bottom_logit certified_radius": "margins",
    "load": "runs",
}
__getattr__, __dir__ = on_demand(__name__, _ROOMS)
