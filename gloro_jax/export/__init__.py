"""A certifying network as one StableHLO program, which runs without this library.

certify.stablehlo     (images, epsilon) to class, certified radius, refusal, slack, digest
weights.safetensors   weights as executed, guaranteed norms, and the digest over both
manifest.json         shapes, digest, and a SHA-256 of each of the other files
README.md             the model card: what a certificate says, and on what it rests
"""

from gloro_jax.export.artifact import Exported as Exported
from gloro_jax.export.artifact import read as read
from gloro_jax.export.artifact import write as write
from gloro_jax.export.card import IMPORTED as IMPORTED
