"""Networks as frozen configs with `build()`."""

from gloro_jax.models.gloro_cnn import GloroCNN as GloroCNN
from gloro_jax.models.gloro_cnn import gloro_2c2f as gloro_2c2f
from gloro_jax.models.gloro_cnn import gloro_4c3f as gloro_4c3f
from gloro_jax.models.gloro_cnn import gloro_6c2f as gloro_6c2f
from gloro_jax.models.gloro_cnn import gloro_8c2f as gloro_8c2f
from gloro_jax.models.nearest_set import nearest_set_logits as nearest_set_logits

ModelConfig = GloroCNN  # the closed union of model configs; a new family joins it with `|`
