"""Data: arrays checked at the door, prepared sets, and batches of them."""

import importlib
from typing import TYPE_CHECKING, Any

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
_FILE_OF = {name: file for names, file in _FILES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """What a public name stands for, imported when it is first asked for."""
    if name not in _FILE_OF:
        raise AttributeError(f"module 'gloro_jax.data' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"gloro_jax.data.{_FILE_OF[name]}"), name)
    globals()[name] = value
    return value
