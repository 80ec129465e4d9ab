"""Scikit-learn's digits at l2 radius 0.5: a whole run in half a minute on two CPU cores."""

from gloro_jax.data.dataset import DataConfig
from gloro_jax.models import GloroCNN
from gloro_jax.recipes.recipe import Recipe
from gloro_jax.training.config import TrainConfig


def digits() -> Recipe:
    """A small convolutional GloRo Net with EMMA, for 8 x 8 images."""
    return Recipe(
        data=DataConfig("digits", validation=0.2),
        model=GloroCNN(convs=((64, 4, 2),), dense=(256,)),
        training=TrainConfig(epsilon=0.5, epochs=100, batch_size=64, learning_rate=1e-2),
        input_shape=(8, 8, 1),
        examples=1_150,
    )
