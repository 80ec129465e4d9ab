"""Networks as frozen configs with `build()`, to plain data and back."""

import dataclasses
from typing import Any

from gloro_jax.models.gloro_cnn import GloroCNN as GloroCNN
from gloro_jax.models.gloro_cnn import gloro_2c2f as gloro_2c2f
from gloro_jax.models.gloro_cnn import gloro_4c3f as gloro_4c3f
from gloro_jax.models.gloro_cnn import gloro_6c2f as gloro_6c2f
from gloro_jax.models.gloro_cnn import gloro_8c2f as gloro_8c2f
from gloro_jax.models.lipnext import LipNext as LipNext
from gloro_jax.models.liresnet import ChordLiResNet as ChordLiResNet
from gloro_jax.models.liresnet import LiResNet as LiResNet
from gloro_jax.models.mlp import ChordMLP as ChordMLP
from gloro_jax.models.nearest_set import nearest_set_logits as nearest_set_logits
from gloro_jax.plain import from_plain

# The closed union of model configs; a new family joins it with `|`.
ModelConfig = GloroCNN | LiResNet | ChordLiResNet | LipNext | ChordMLP
_FAMILIES = {
    family.__name__: family for family in (GloroCNN, LiResNet, ChordLiResNet, LipNext, ChordMLP)
}


def is_known(model: Any) -> bool:
    """Whether `model` is of one of the families themselves, and no subclass."""
    return type(model) in _FAMILIES.values()


def as_plain(model: ModelConfig) -> dict[str, Any]:
    """A model config as plain data, with the name of its class in "family"."""
    return {"family": type(model).__name__, **dataclasses.asdict(model)}


def from_plain_model(plain: Any) -> ModelConfig:
    """The model config that `as_plain` described; without a "family" it is a GloroCNN.

    Raises:
        ValueError: if the family or a field is unknown, or a value does not fit.
    """
    if not isinstance(plain, dict):
        raise ValueError(f"model must be an object, got {plain!r}.")
    fields = {"family": GloroCNN.__name__, **plain}
    family = fields.pop("family")
    if not isinstance(family, str) or family not in _FAMILIES:
        raise ValueError(f"model.family is one of {sorted(_FAMILIES)}, got {family!r}.")
    return from_plain(_FAMILIES[family], fields, where="model")
