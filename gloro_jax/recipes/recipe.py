"""What a recipe consists of."""

import dataclasses

from gloro_jax.data.sources import DataName
from gloro_jax.models import ModelConfig
from gloro_jax.training.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A network, its data and its training.

    Attributes:
        data: the name of the data set.
        model: the network.
        training: how to train it.
    """

    data: DataName
    model: ModelConfig
    training: TrainConfig
