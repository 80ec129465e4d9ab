"""Maps with weights beyond a matrix and a convolution, each with its constant and the proof of it.

A map is a `WeightedMap` (`gloro_jax.lipschitz.operators`): its arrays are what runs, and `norm()`
proves its Lipschitz constant from those very floats, in float64 on the host.
"""

from gloro_jax.maps.circular import CircularConvolution as CircularConvolution
from gloro_jax.maps.potential import ConvexPotential as ConvexPotential
from gloro_jax.maps.translation import Translation as Translation
