"""MNIST and Fashion-MNIST: networks of Leino et al. 2021, small ones of ours, by EMMA or IBP."""

import dataclasses

from gloro_jax.data.augment import Augmentation
from gloro_jax.data.dataset import DataConfig
from gloro_jax.models import ChordMLP, gloro_2c2f, gloro_4c3f
from gloro_jax.recipes.cifar10 import cifar10_liresnet_small
from gloro_jax.recipes.recipe import Recipe
from gloro_jax.training.config import TrainConfig

_HELD_OUT = 1 / 12  # 5,000 of 60,000 training images
_IMAGES = (28, 28, 1), 55_000


def mnist_2c2f() -> Recipe:
    """MNIST, l2 0.3, 2C2F: VRA 96.0, clean 99.2 (paper 95.7, 500 epochs); 3 min on 2 CPU cores.

    Leino, Wang, Fredrikson, Globally-Robust Neural Networks, ICML 2021, with the EMMA loss of Hu
    et al. 2023 in place of cross-entropy.
    """
    training = TrainConfig(epsilon=0.3, epochs=40, batch_size=256)
    return Recipe(DataConfig("mnist", validation=_HELD_OUT), gloro_2c2f(), training, *_IMAGES)


def mnist_liresnet_small() -> Recipe:
    """MNIST, l2 0.3, small LiResNet: VRA 97.2, clean 99.5; 15 min on 2 CPU cores.

    Hu, Leino, Wang, Fredrikson, A Recipe for Improved Certifiable Robustness, ICLR 2024, at 0.9
    million parameters; no figure to compare with.
    """
    model = dataclasses.replace(cifar10_liresnet_small().model, width=32, views=())
    training = TrainConfig(
        epsilon=0.3,
        epochs=25,
        batch_size=256,
        warmup_epochs=1,
        augmentation=Augmentation(crop=2),
    )
    return Recipe(DataConfig("mnist", validation=_HELD_OUT), model, training, *_IMAGES)


def mnist_ibp() -> Recipe:
    """MNIST, linf 0.1, a ReLU 2C2F by interval bounds: VRA 92.9, clean 98.2; 6 min on 2 CPU cores.

    Gowal, Dvijotham, Stanforth, Bunel, Qin, Uesato, Arandjelovic, Mann, Kohli 2018; small and
    short. The share of the worst case rises to one half, as there. `gloro-jax verify RUN --with
    interval,crown --norm linf --radius 0.1 --box 0 1 --examples 10000` proves it again.
    """
    training = TrainConfig(
        epsilon=0.1,
        norm="linf",
        epochs=20,
        loss="ibp",
        batch_size=128,
        trades_weight=0.5,
        trades_schedule="[0]-[50%:1]",
        epsilon_schedule="[0.001]-[50%:1.1]",
        learning_rate=1e-3,
    )
    model = gloro_2c2f(activation="relu")
    return Recipe(DataConfig("mnist", validation=_HELD_OUT), model, training, *_IMAGES)


def mnist_crown_ibp() -> Recipe:
    """MNIST, linf 0.1, CROWN-IBP, else as mnist_ibp: VRA 90.9, clean 97.9; 27 min on 2 CPU cores.

    Zhang, Chen, Xiao, Gowal, Stanforth, Li, Boning, Hsieh, ICLR 2020; small and short, where the
    lines bring nothing over boxes alone.
    """
    recipe = mnist_ibp()
    return dataclasses.replace(
        recipe, training=dataclasses.replace(recipe.training, loss="crown_ibp")
    )


def mnist_4c3f() -> Recipe:
    """MNIST, l2 1.58, 4C3F: VRA 50, clean 94 (paper 62.8, 300 epochs); 30 min on 2 CPU cores.

    Leino, Wang, Fredrikson, Globally-Robust Neural Networks, ICML 2021, with EMMA.
    """
    training = TrainConfig(epsilon=1.58, epochs=15, batch_size=256)
    return Recipe(DataConfig("mnist", validation=_HELD_OUT), gloro_4c3f(), training, *_IMAGES)


def mnist_chord_mlp() -> Recipe:
    """MNIST, l2 1.58, dense layers of norm 1: VRA 66.9, clean 98.0; 10 min on 2 CPU cores.

    Three orthonormalised layers of 512 features, 0.9 million parameters, with EMMA. The best figure
    published is 63.4, clean 96.3: 4C3F after 400 epochs with the bounds of Fazlyab et al. 2023.
    """
    training = TrainConfig(
        epsilon=1.58,
        epochs=60,
        batch_size=256,
        epsilon_schedule="[0.1]-[50%:1.1]",
    )
    model = ChordMLP(features=512, depth=2)
    return Recipe(DataConfig("mnist", validation=_HELD_OUT), model, training, *_IMAGES)


def fashion_2c2f() -> Recipe:
    """Fashion-MNIST, l2 0.3, 2C2F: VRA 79.2, clean 88.3; 3 min on 2 CPU cores.

    The network of Leino et al. 2021, who do not report this data set; no figure to compare with.
    """
    training = TrainConfig(epsilon=0.3, epochs=40, batch_size=256)
    return Recipe(
        DataConfig("fashion_mnist", validation=_HELD_OUT), gloro_2c2f(), training, *_IMAGES
    )


def fashion_liresnet_small() -> Recipe:
    """Fashion-MNIST, l2 0.3, small LiResNet: VRA 80.7, clean 88.3; 20 min on 2 CPU cores.

    Hu, Leino, Wang, Fredrikson, A Recipe for Improved Certifiable Robustness, ICLR 2024, at 0.9
    million parameters, by Muon, averaged over an image and its mirror; no figure to compare with.
    """
    recipe = mnist_liresnet_small()
    model = dataclasses.replace(recipe.model, views=("identity", "mirror"))
    training = dataclasses.replace(
        recipe.training,
        epochs=21,
        optimizer="muon",
        epsilon_schedule="[0.1]-[50%:2]",
        augmentation=Augmentation(is_flipping=True),
    )
    return Recipe(DataConfig("fashion_mnist", validation=_HELD_OUT), model, training, *_IMAGES)
