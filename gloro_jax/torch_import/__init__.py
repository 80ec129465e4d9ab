"""Weights trained with the LiResNet authors' PyTorch code, as a run folder of this library."""

from gloro_jax.torch_import.files import read_state_dict as read_state_dict
from gloro_jax.torch_import.liresnet import Imported as Imported
from gloro_jax.torch_import.liresnet import from_state_dict as from_state_dict
from gloro_jax.torch_import.run_folder import import_torch as import_torch
