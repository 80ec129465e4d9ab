"""CIFAR-100, Tiny-ImageNet and ImageNet, as the papers' authors trained there; for accelerators.

Of these only `cifar100_liresnet_small`, a network of ours, was trained by us; the other figures are
the papers'. `--dry-run` compiles each for the devices that one has, or thinks of renting.
"""

import dataclasses

from gloro_jax.data.augment import Augmentation
from gloro_jax.data.dataset import DataConfig
from gloro_jax.models import ChordLiResNet, LiResNet, gloro_8c2f
from gloro_jax.recipes.cifar10 import cifar10_liresnet_small
from gloro_jax.recipes.recipe import Recipe
from gloro_jax.training.config import TrainConfig

_TINY, _FULL = (64, 64, 3), (224, 224, 3)

# Hu et al. 2023: AdamW, weight decay 1e-4, none of it on ImageNet.
_LIRESNET = TrainConfig(
    epsilon=36 / 255,
    epochs=800,
    batch_size=256,
    optimizer="adamw",
    weight_decay=1e-4,
    learning_rate=1e-3,
    warmup_epochs=20,
    power_steps=10,
    augmentation=Augmentation(crop=4, is_flipping=True),
)
# Hu et al. 2024: NAdam in Lookahead, a radius that rises to three times epsilon, RandAugment.
_CHORD = dataclasses.replace(
    _LIRESNET,
    optimizer="nadam",
    weight_decay=0.0,
    lookahead=6,
    epsilon_schedule="[0.1]-[50%:3]",
    augmentation=Augmentation(crop=4, is_flipping=True, operations=2),
)
_ON_IMAGENET = {"epochs": 400, "batch_size": 1024, "weight_decay": 0.0}


def cifar100_liresnet_small() -> Recipe:
    """CIFAR-100, l2 36/255, small LiResNet: VRA 32.1, clean 48.3; 80 min on 2 CPU cores.

    The network of `cifar10_liresnet_small`, two minutes on one H200; no paper reports it. 19.0 at
    72/255, 10.4 at 108/255.
    """
    small = cifar10_liresnet_small()
    model = dataclasses.replace(small.model, num_classes=100)
    return Recipe(DataConfig("cifar100", validation=0.05), model, small.training)


def cifar100_liresnet_l12w512() -> Recipe:
    """CIFAR-100, l2 36/255, LiResNet L12W512 (paper: 41.5 with generated data); for a GPU.

    Hu, Zou, Wang, Leino, Fredrikson, Unlocking Deterministic Robustness Certification on
    ImageNet, NeurIPS 2023; 37.5 without a radius schedule and without generated data.
    """
    return Recipe(DataConfig("cifar100"), LiResNet(num_classes=100), _LIRESNET)


def cifar100_chord_l12w512() -> Recipe:
    """CIFAR-100, l2 36/255, L12W512 with CHORD layers (40.2, clean 53.0); for a GPU.

    Hu, Leino, Wang, Fredrikson, A Recipe for Improved Certifiable Robustness, ICLR 2024, without
    their generated data (with it 50.1, clean 62.1).
    """
    return Recipe(DataConfig("cifar100"), ChordLiResNet(num_classes=100), _CHORD)


def tiny_imagenet_8c2f() -> Recipe:
    """Tiny-ImageNet, l2 36/255, 8C2F (paper: 22.4); for a GPU.

    Leino, Wang, Fredrikson, Globally-Robust Neural Networks, ICML 2021: cross-entropy over the
    classes and bottom, Adam, a training radius of 0.16 throughout.
    """
    training = TrainConfig(
        epsilon=36 / 255,
        epochs=250,
        loss="gloro_cross_entropy",
        epsilon_schedule="[1.133]",
        batch_size=256,
        optimizer="adam",
        learning_rate=2.5e-4,
        augmentation=Augmentation(crop=8, is_flipping=True),
    )
    model = gloro_8c2f(num_classes=200)
    return Recipe(DataConfig("tiny_imagenet"), model, training, _TINY, 90_000)


def tiny_imagenet_liresnet() -> Recipe:
    """Tiny-ImageNet, l2 36/255, LiResNet L12W512 (paper: 33.6 with generated data); for a GPU.

    Hu, Zou, Wang, Leino, Fredrikson, Unlocking Deterministic Robustness Certification on
    ImageNet, NeurIPS 2023.
    """
    training = dataclasses.replace(_LIRESNET, augmentation=Augmentation(crop=8, is_flipping=True))
    model = LiResNet(depth=12, width=512, num_classes=200)
    return Recipe(DataConfig("tiny_imagenet"), model, training, _TINY, 90_000)


def tiny_imagenet_chord() -> Recipe:
    """Tiny-ImageNet, l2 36/255, CHORD (paper: 37.0, clean 48.4, with generated data); for a GPU.

    Hu, Leino, Wang, Fredrikson, A Recipe for Improved Certifiable Robustness, ICLR 2024.
    """
    training = dataclasses.replace(
        _CHORD, augmentation=Augmentation(crop=8, is_flipping=True, operations=2)
    )
    model = ChordLiResNet(depth=12, width=512, num_classes=200, stem="5x5")
    return Recipe(DataConfig("tiny_imagenet"), model, training, _TINY, 90_000)


def imagenet_liresnet_l12w588() -> Recipe:
    """ImageNet, l2 36/255, LiResNet L12W588 (paper: 35.0, clean 45.6); for several accelerators.

    Hu, Zou, Wang, Leino, Fredrikson, Unlocking Deterministic Robustness Certification on
    ImageNet, NeurIPS 2023.
    """
    training = dataclasses.replace(_LIRESNET, **_ON_IMAGENET)
    return _on_imagenet(LiResNet(depth=12, width=588, dense_features=2048), training)


def imagenet_chord_l12w588() -> Recipe:
    """ImageNet, l2 36/255, L12W588 with CHORD layers (paper: 38.3, clean 49.0); for a pod.

    Hu, Leino, Wang, Fredrikson, A Recipe for Improved Certifiable Robustness, ICLR 2024, with
    generated data.
    """
    training = dataclasses.replace(_CHORD, **_ON_IMAGENET, epsilon_schedule="[0.1]-[50%:2]")
    return _on_imagenet(ChordLiResNet(depth=12, width=588), training)


def imagenet_liresnet_l18w588() -> Recipe:
    """ImageNet, l2 1.0, LiResNet L18W588 (paper: 14.2); for several accelerators.

    Hu, Zou, Wang, Leino, Fredrikson, Unlocking Deterministic Robustness Certification on
    ImageNet, NeurIPS 2023.
    """
    training = dataclasses.replace(_LIRESNET, **_ON_IMAGENET, epsilon=1.0)
    return _on_imagenet(LiResNet(depth=18, width=588, dense_features=2048), training)


def _on_imagenet(model: LiResNet | ChordLiResNet, training: TrainConfig) -> Recipe:
    whole = dataclasses.replace(model, num_classes=1000)
    data = DataConfig("imagenet", validation=0.01, image_size=224)
    return Recipe(data, whole, training, _FULL, 1_268_000)
