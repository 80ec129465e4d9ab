"""CIFAR-10: the networks of Leino et al. 2021 and Hu et al. 2023 and 2024, trained with EMMA."""

from gloro_jax.data.augment import Augmentation
from gloro_jax.data.dataset import DataConfig
from gloro_jax.models import ChordLiResNet, gloro_6c2f
from gloro_jax.recipes.recipe import Recipe
from gloro_jax.training.config import TrainConfig


def cifar10_6c2f() -> Recipe:
    """CIFAR-10, l2 36/255, 6C2F: VRA 52.9 (paper 58.4, 800 epochs); 40 min on 2 CPU cores.

    Leino, Wang, Fredrikson, Globally-Robust Neural Networks, ICML 2021 (clean 77.0), with
    EMMA, crop and flip; clean 67.9 here.
    """
    training = TrainConfig(
        epsilon=36 / 255,
        epochs=20,
        batch_size=256,
        warmup_epochs=1,
        augmentation=Augmentation(crop=4, is_flipping=True),
    )
    return Recipe(DataConfig("cifar10"), gloro_6c2f(), training)


def cifar10_liresnet_small() -> Recipe:
    """CIFAR-10, l2 36/255, LiResNet with CHORD layers, 1.1 M parameters: CPU-sized."""
    model = ChordLiResNet(
        depth=4,
        width=64,
        neck_features=128,
        is_neck_activated=True,
        dense_features=256,
        dense_depth=4,
    )
    training = TrainConfig(
        epsilon=36 / 255,
        epochs=25,
        batch_size=256,
        warmup_epochs=1,
        augmentation=Augmentation(crop=2, is_flipping=True),
    )
    return Recipe(DataConfig("cifar10", validation=0.05), model, training)
