"""Data: arrays checked at the door, prepared sets, and batches of them."""

from typing import TYPE_CHECKING

from gloro_jax.on_demand import on_demand

if TYPE_CHECKING:
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
    from gloro_jax.data.preparing import prepare as prepare
    from gloro_jax.data.sources import digits as digits
    from gloro_jax.data.sources import open_data as open_data

# Entered when first asked for: the processes that decode photographs do without JAX.
_FILES = {
    "Augmentation": "augment",
    "Batch evaluation_batches training_batches": "batches",
    "DataConfig Dataset Extra Split from_arrays": "dataset",
    "with_extra": "extra",
    "prepare": "preparing",
    "digits open_data": "sources",
}
__getattr__, __dir__ = on_demand(__name__, _FILES)
