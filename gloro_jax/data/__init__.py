"""Data: arrays checked at the door, and batches of them."""

from gloro_jax.data.batches import Batch as Batch
from gloro_jax.data.batches import evaluation_batches as evaluation_batches
from gloro_jax.data.batches import training_batches as training_batches
from gloro_jax.data.sources import Dataset as Dataset
from gloro_jax.data.sources import Split as Split
from gloro_jax.data.sources import digits as digits
from gloro_jax.data.sources import from_arrays as from_arrays
