"""What a recipe consists of."""

import dataclasses

from gloro_jax.data.dataset import DataConfig
from gloro_jax.models import ModelConfig
from gloro_jax.training.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A network, its data and its training.

    Attributes:
        data: which data.
        model: the network.
        training: how to train it.
    """

    data: DataConfig
    model: ModelConfig
    training: TrainConfig
