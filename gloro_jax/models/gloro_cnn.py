"""The convolutional GloRo Nets of Leino et al. 2021: 2C2F, 4C3F, 6C2F and 8C2F."""

import dataclasses
from typing import Any, Literal

import flax.linen as nn

from gloro_jax.gloro import GloroNet
from gloro_jax.layers import Abs, Conv, Dense, Flatten, MinMax, Normalize, ReLU
from gloro_jax.layers.base import LipschitzLayer
from gloro_jax.lipschitz.bounded import Bounded

Activation = Literal["minmax", "relu", "abs"]

_ACTIVATIONS: dict[Activation, type[LipschitzLayer]] = {
    "minmax": MinMax,
    "relu": ReLU,
    "abs": Abs,
}


@dataclasses.dataclass(frozen=True)
class GloroCNN:
    """Convolutions with SAME padding, then dense layers, then the head.

    Attributes:
        convs: (channels, kernel size, stride) of each convolution; the activation follows.
        dense: features of each hidden dense layer; the activation follows.
        num_classes: number of classes.
        activation: "minmax" (even channels), "relu" or "abs".
        is_head_normalized: whether the head's rows have norm 1.
        mean: per channel, subtracted inside the network; empty for none.
        std: per channel, divided by inside the network and counted in the bound.
        views: of an image, over which features are averaged when it is evaluated and certified
            (`gloro_jax.views`): identity mirror shift:0,1 for example; none unless given.
        is_trained_on_views: whether they are averaged in training, too.
    """

    convs: tuple[tuple[int, int, int], ...]
    dense: tuple[int, ...]
    num_classes: int = 10
    activation: Activation = "minmax"
    is_head_normalized: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    views: tuple[str, ...] = ()
    is_trained_on_views: bool = False

    def build(self) -> GloroNet:
        """The network.

        Raises:
            ValueError: if the activation is unknown, mean and std differ in length, or a view is
                none.
        """
        if self.activation not in _ACTIVATIONS:
            raise ValueError(
                f"activation is one of {sorted(_ACTIVATIONS)}, got {self.activation!r}."
            )
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"mean and std have one entry per channel, got {self.mean} and {self.std}."
            )
        return GloroNet(
            _Body(self),
            self.num_classes,
            self.is_head_normalized,
            views=self.views,
            is_trained_on_views=self.is_trained_on_views,
        )


def gloro_2c2f(**changes: Any) -> GloroCNN:
    """2C2F, the MNIST network at epsilon 0.3; `changes` replace fields."""
    return GloroCNN(convs=((16, 4, 2), (32, 4, 2)), dense=(100,), **changes)


def gloro_4c3f(**changes: Any) -> GloroCNN:
    """4C3F, the MNIST network at epsilon 1.58; `changes` replace fields."""
    convs = ((32, 3, 1), (32, 4, 2), (64, 3, 1), (64, 4, 2))
    return GloroCNN(convs=convs, dense=(512, 512), **changes)


def gloro_6c2f(**changes: Any) -> GloroCNN:
    """6C2F, the CIFAR-10 network at epsilon 36/255; `changes` replace fields."""
    convs = ((32, 3, 1), (32, 3, 1), (32, 4, 2), (64, 3, 1), (64, 3, 1), (64, 4, 2))
    return GloroCNN(convs=convs, dense=(512,), **changes)


def gloro_8c2f(**changes: Any) -> GloroCNN:
    """8C2F, the Tiny-ImageNet network at epsilon 36/255; `changes` replace fields."""
    convs = ((64, 3, 1), (64, 3, 1), (64, 4, 2), (128, 3, 1), (128, 3, 1), (128, 4, 2))
    return GloroCNN(convs=(*convs, (256, 3, 1), (256, 4, 2)), dense=(256,), **changes)


class _Body(nn.Module):
    config: GloroCNN

    @nn.compact
    def __call__(self, x: Bounded) -> Bounded:
        activation = _ACTIVATIONS[self.config.activation]
        if self.config.mean:
            x = Normalize(self.config.mean, self.config.std, name="normalize")(x)
        for i, (features, kernel_size, strides) in enumerate(self.config.convs, start=1):
            x = Conv(features, kernel_size, strides, name=f"conv{i}")(x)
            x = activation(name=f"conv{i}_activation")(x)
        x = Flatten(name="flatten")(x)
        for i, features in enumerate(self.config.dense, start=1):
            x = Dense(features, name=f"dense{i}")(x)
            x = activation(name=f"dense{i}_activation")(x)
        return x
