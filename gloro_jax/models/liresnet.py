"""LiResNet (NeurIPS 2023) and its successor with CHORD layers (ICLR 2024).

Both begin alike: pixels less 0.5, a stem convolution that shrinks the image, and `depth` linear
residual blocks, an activation after each. They differ in what follows, the neck and the dense
layers. The head is normalised (last-layer normalisation), in logits and in margins.
"""

import dataclasses
from typing import Any, Literal

import flax.linen as nn

from gloro_jax.gloro import GloroNet
from gloro_jax.layers import (
    ChordDense,
    Conv,
    Dense,
    Flatten,
    LinearResidual,
    MinMax,
    Normalize,
    OrthogonalDense,
    OrthogonalPatches,
)
from gloro_jax.lipschitz.bounded import Bounded
from gloro_jax.orthogonal import Orthogonalization

Stem = Literal["auto", "5x5", "7x7", "patches"]

_NECK_PATCH = 4
_MIDDLE_GREY = 0.5
# From these sides on, "auto" takes the wider stem, so that the trunk sees about 16 x 16 pixels.
_SIDE_OF_7X7, _SIDE_OF_PATCHES = 48, 128


@dataclasses.dataclass(frozen=True)
class LiResNet:
    """LiResNet, LxWy in the paper's names for depth x and width y.

    Hu, Zou, Wang, Leino, Fredrikson, Unlocking Deterministic Robustness Certification on
    ImageNet, NeurIPS 2023. Neck: a 4 x 4 convolution with stride 4, then one dense layer.

    Attributes:
        depth: number of linear residual blocks.
        width: channels of stem and blocks, even.
        num_classes: number of classes.
        stem: first convolution: 5x5 of stride 2 (32 pixels), 7x7 of stride 4 (64 pixels),
            disjoint patches of side sqrt(width / 3) (224 pixels), or auto, by the image size.
        neck_features: channels of the neck's convolution, even; twice the width unless given.
        dense_features: features of the dense layer, even.
        is_centered: whether blocks subtract channel means, which the paper of 2024 added.
        views: of an image, over which features are averaged when it is evaluated and certified
            (`gloro_jax.views`): identity mirror shift:0,1 for example; none unless given.
        is_trained_on_views: whether they are averaged in training, too.
    """

    depth: int = 12
    width: int = 512
    num_classes: int = 10
    stem: Stem = "auto"
    neck_features: int | None = None
    dense_features: int = 512
    is_centered: bool = False
    views: tuple[str, ...] = ()
    is_trained_on_views: bool = False

    def build(self) -> GloroNet:
        """The network, for images of any size.

        Raises:
            ValueError: if a number of features is odd or below 2, depth is below 1, or a view is
                none.
        """
        _check(self, "width", "neck_features", "dense_features")
        return net_of(_LiResNetBody(self), self)


@dataclasses.dataclass(frozen=True)
class ChordLiResNet:
    """LiResNet with an orthogonal neck and a stack of CHORD dense layers.

    Hu, Leino, Wang, Fredrikson, A Recipe for Improved Certifiable Robustness, ICLR 2024. Neck: an
    orthonormalised 4 x 4 convolution with stride 4, then an orthonormalised dense layer.

    Attributes:
        depth: number of linear residual blocks.
        width: channels of stem and blocks, even.
        num_classes: number of classes.
        stem: as for `LiResNet`; at 64 pixels the paper uses 5x5.
        neck_features: channels of the neck's convolution; the width unless given.
        is_neck_activated: whether an activation follows that convolution, which the paper's
            network does without; neck_features is even then.
        dense_features: features of the dense layers, even.
        dense_depth: number of CHORD layers.
        is_centered: whether blocks subtract channel means.
        method: how kernels are orthonormalised.
        views: of an image, over which features are averaged when it is evaluated and certified
            (`gloro_jax.views`): identity mirror shift:0,1 for example; none unless given.
        is_trained_on_views: whether they are averaged in training, too.
    """

    depth: int = 12
    width: int = 512
    num_classes: int = 10
    stem: Stem = "auto"
    neck_features: int | None = None
    is_neck_activated: bool = False
    dense_features: int = 2048
    dense_depth: int = 8
    is_centered: bool = True
    method: Orthogonalization = "cholesky"
    views: tuple[str, ...] = ()
    is_trained_on_views: bool = False

    def build(self) -> GloroNet:
        """The network, for images of any size.

        Raises:
            ValueError: if a number of features is odd or below 2, a depth is below 1, or a view
                is none.
        """
        even = ("width", "dense_features", *(["neck_features"] if self.is_neck_activated else []))
        _check(self, *even)
        if self.dense_depth < 1:
            raise ValueError(f"dense_depth must be at least 1, got {self.dense_depth}.")
        return net_of(_ChordBody(self), self)


class _LiResNetBody(nn.Module):
    config: LiResNet

    @nn.compact
    def __call__(self, x: Bounded) -> Bounded:
        config = self.config
        x = _trunk(x, config)
        features = config.neck_features or 2 * config.width
        x = Conv(features, _NECK_PATCH, strides=_NECK_PATCH, name="neck")(x)
        x = MinMax(name="neck_activation")(x)
        x = Flatten(name="flatten")(x)
        x = Dense(config.dense_features, name="neck_dense")(x)
        return MinMax(name="neck_dense_activation")(x)


class _ChordBody(nn.Module):
    config: ChordLiResNet

    @nn.compact
    def __call__(self, x: Bounded) -> Bounded:
        config, method = self.config, self.config.method
        x = _trunk(x, config)
        features = config.neck_features or config.width
        x = OrthogonalPatches(features, _NECK_PATCH, method=method, name="neck")(x)
        if config.is_neck_activated:
            x = MinMax(name="neck_activation")(x)
        x = Flatten(name="flatten")(x)
        return dense_tail(x, config.dense_features, config.dense_depth, method=method)


def dense_tail(
    x: Bounded, features: int, depth: int, *, method: Orthogonalization = "cholesky"
) -> Bounded:
    """An orthonormalised dense layer and `depth` CHORD layers; inside a compact `__call__`."""
    x = OrthogonalDense(features, method=method, name="neck_dense")(x)
    x = MinMax(name="neck_dense_activation")(x)
    for i in range(1, depth + 1):
        x = ChordDense(depth**-0.5, method, name=f"dense{i}")(x)
        x = MinMax(name=f"dense{i}_activation")(x)
    return x


def net_of(body: nn.Module, config: Any, *, is_head_normalized: bool = True) -> GloroNet:
    """The network of a body, and of a config that has classes and views."""
    return GloroNet(
        body,
        config.num_classes,
        is_head_normalized=is_head_normalized,
        views=config.views,
        is_trained_on_views=config.is_trained_on_views,
    )


def _trunk(x: Bounded, config: LiResNet | ChordLiResNet) -> Bounded:
    """Stem and blocks; called inside a compact `__call__`."""
    if len(x.shape) != 4:
        raise ValueError(f"A LiResNet takes images (batch, H, W, C), got shape {x.shape}.")
    channels = x.shape[-1]
    x = Normalize((_MIDDLE_GREY,) * channels, (1.0,) * channels, name="center")(x)
    x = _stem(config, image_size=x.shape[1:3], channels=channels)(x)
    x = MinMax(name="stem_activation")(x)
    scale = config.depth**-0.5
    for i in range(1, config.depth + 1):
        block = LinearResidual(scale=scale, is_centered=config.is_centered, name=f"block{i}")
        x = MinMax(name=f"block{i}_activation")(block(x))
    return x


def _stem(config: LiResNet | ChordLiResNet, *, image_size: Any, channels: int) -> Conv:
    kind = config.stem
    if kind == "auto":
        side = min(image_size)
        kind = "7x7" if side >= _SIDE_OF_7X7 else "5x5"
        kind = "patches" if side >= _SIDE_OF_PATCHES else kind
    if kind == "patches":
        side = max(1, round((config.width / channels) ** 0.5))
        if side > min(image_size):
            raise ValueError(
                f"The stem 'patches' cuts patches of side {side} = sqrt(width / channels), and the "
                f"images are {image_size[0]} x {image_size[1]}. Choose stem '5x5'."
            )
        return Conv(config.width, side, strides=side, padding="VALID", name="stem")
    window, stride = {"5x5": (5, 2), "7x7": (7, 4)}[kind]
    return Conv(config.width, window, strides=stride, padding=window // 2, name="stem")


def _check(config: LiResNet | ChordLiResNet, *even: str) -> None:
    for name in even:
        value = getattr(config, name)
        if value is not None and (value < 2 or value % 2):
            raise ValueError(
                f"{name} must be even and at least 2, got {value}: MinMax sorts features in pairs."
            )
    if config.depth < 1:
        raise ValueError(f"depth must be at least 1, got {config.depth}.")
    if config.neck_features is not None and config.neck_features < 1:
        raise ValueError(f"neck_features must be at least 1, got {config.neck_features}.")
    stems = ("auto", "5x5", "7x7", "patches")
    if config.stem not in stems:
        raise ValueError(f"stem is one of {stems}, got {config.stem!r}.")
