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
        input_shape: of one image of that data, which a rehearsal does not open.
        examples: of an epoch, about; for a rehearsal's estimate of its time.
    """

    data: DataConfig
    model: ModelConfig
    training: TrainConfig
    input_shape: tuple[int, int, int] = (32, 32, 3)
    examples: int = 45_000
