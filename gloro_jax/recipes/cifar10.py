"""CIFAR-10: the networks of Leino et al. 2021 and Hu et al. 2023 and 2024, trained with EMMA."""

import dataclasses

from gloro_jax.data.augment import Augmentation
from gloro_jax.data.dataset import DataConfig
from gloro_jax.models import ChordLiResNet, LiResNet, gloro_6c2f
from gloro_jax.recipes.recipe import Recipe
from gloro_jax.training.config import TrainConfig

# What the two papers on L12W512 have in common.
_LARGE = TrainConfig(
    epsilon=36 / 255,
    epochs=800,
    batch_size=256,
    learning_rate=1e-3,
    warmup_epochs=20,
    power_steps=10,
    augmentation=Augmentation(crop=4, is_flipping=True),
)


def cifar10_6c2f() -> Recipe:
    """CIFAR-10, l2 36/255, 6C2F: VRA 52.9 (paper 58.4, 800 epochs); 60 min on 2 CPU cores.

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
    """CIFAR-10, l2 36/255, small LiResNet: VRA 61.2, clean 77.4; 90 min on 2 CPU cores.

    Hu, Leino, Wang, Fredrikson, A Recipe for Improved Certifiable Robustness, ICLR 2024, at 1.1
    million parameters; 50 epochs, averaged over the mirror image; 42.9 at 72/255, 26.3 at 108/255.
    """
    model = ChordLiResNet(
        depth=4,
        width=64,
        neck_features=128,
        is_neck_activated=True,
        dense_features=256,
        dense_depth=4,
        views=("identity", "mirror"),
    )
    training = TrainConfig(
        epsilon=36 / 255,
        epochs=50,
        batch_size=256,
        warmup_epochs=1,
        augmentation=Augmentation(crop=2, is_flipping=True),
    )
    return Recipe(DataConfig("cifar10", validation=0.05), model, training)


def cifar10_liresnet_annealed() -> Recipe:
    """CIFAR-10, l2 36/255, logit annealing: VRA 61.98, clean 76.9; 110 min on 2 CPU cores.

    The network of `cifar10_liresnet_small` with the loss of BRONet (ICML 2025), which stops to
    count examples that are safe, larger crops, and 62 epochs; 45.3 at 72/255, 29.1 at 108/255.
    """
    recipe = cifar10_liresnet_small()
    training = dataclasses.replace(
        recipe.training,
        epochs=62,
        loss="logit_annealing",
        augmentation=Augmentation(crop=3, is_flipping=True),
    )
    return dataclasses.replace(recipe, training=training)


def cifar10_liresnet_small_108() -> Recipe:
    """CIFAR-10, l2 108/255, small LiResNet: VRA 39.8, clean 68.1; 65 min on 2 CPU cores.

    The network of `cifar10_liresnet_small`, without views, trained in 40 epochs for a radius three
    times as large; 49.4 at 72/255, 59.0 at 36/255.
    """
    recipe = cifar10_liresnet_small()
    training = dataclasses.replace(
        recipe.training, epochs=40, epsilon=108 / 255, epsilon_schedule="[0.1]-[50%:1.1]"
    )
    model = dataclasses.replace(recipe.model, views=())
    return dataclasses.replace(recipe, model=model, training=training)


def cifar10_liresnet_l12w512() -> Recipe:
    """CIFAR-10, l2 36/255, LiResNet L12W512 (paper: 66.9, clean 81.3, 800 epochs); for a GPU.

    Hu, Zou, Wang, Leino, Fredrikson, Unlocking Deterministic Robustness Certification on
    ImageNet, NeurIPS 2023, without their extra data. NAdam in place of AdamW with weight decay.
    """
    return Recipe(DataConfig("cifar10"), LiResNet(depth=12, width=512), _LARGE)


def cifar10_chord_l12w512() -> Recipe:
    """CIFAR-10, l2 36/255, L12W512 with CHORD layers (69.8, clean 81.0, 800 epochs); for a GPU.

    Hu, Leino, Wang, Fredrikson, A Recipe for Improved Certifiable Robustness, ICLR 2024, without
    their generated data; the figures are those of the BRONet authors' rebuttal. With Lookahead, and
    a radius that rises to three times epsilon.
    """
    training = dataclasses.replace(
        _LARGE,
        epsilon_schedule="[0.1]-[50%:3]",
        lookahead=6,
        augmentation=Augmentation(crop=4, is_flipping=True, operations=2),
    )
    return Recipe(DataConfig("cifar10"), ChordLiResNet(depth=12, width=512), training)
