"""Layers from `Bounded` to `Bounded`: a value goes in with its Lipschitz bound, and so out."""

from gloro_jax.layers.activation import Abs as Abs
from gloro_jax.layers.activation import MinMax as MinMax
from gloro_jax.layers.activation import ReLU as ReLU
from gloro_jax.layers.activation import SmoothAbs as SmoothAbs
from gloro_jax.layers.activation import SmoothMinMax as SmoothMinMax
from gloro_jax.layers.base import Linear as Linear
from gloro_jax.layers.base import LipschitzLayer as LipschitzLayer
from gloro_jax.layers.base import PowerIteration as PowerIteration
from gloro_jax.layers.conv import Conv as Conv
from gloro_jax.layers.dense import Dense as Dense
from gloro_jax.layers.dense import Scale as Scale
from gloro_jax.layers.orthogonal import ChordDense as ChordDense
from gloro_jax.layers.orthogonal import OrthogonalDense as OrthogonalDense
from gloro_jax.layers.orthogonal import OrthogonalPatches as OrthogonalPatches
from gloro_jax.layers.pooling import AveragePool as AveragePool
from gloro_jax.layers.pooling import Flatten as Flatten
from gloro_jax.layers.pooling import MaxPool as MaxPool
from gloro_jax.layers.pooling import Normalize as Normalize
from gloro_jax.layers.pooling import SpaceToDepth as SpaceToDepth
from gloro_jax.layers.residual import LinearResidual as LinearResidual
from gloro_jax.layers.residual import Residual as Residual
