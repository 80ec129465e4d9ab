"""Data: arrays checked at the door, prepared sets, and batches of them."""

from gloro_jax.data.augment import Augmentation as Augmentation
from gloro_jax.data.batches import Batch as Batch
from gloro_jax.data.batches import evaluation_batches as evaluation_batches
from gloro_jax.data.batches import training_batches as training_batches
from gloro_jax.data.dataset import DataConfig as DataConfig
from gloro_jax.data.dataset import Dataset as Dataset
from gloro_jax.data.dataset import Extra as Extra
from gloro_jax.data.dataset import Split as Split
from gloro_jax.data.dataset import from_arrays as from_arrays
from gloro_jax.data.extra import with_extra as with_extra
from gloro_jax.data.prepare import prepare as prepare
from gloro_jax.data.sources import digits as digits
from gloro_jax.data.sources import open_data as open_data
