"""A LipNeXt: channels mixed by orthogonal matrices, pixels by shifts, and no window in between.

LipNeXt (ICLR 2026), after its description; stem and read-out are those of this library's
LiResNets, which the description leaves open.
"""

import dataclasses
from typing import Literal

import flax.linen as nn

from gloro_jax.gloro import GloroNet
from gloro_jax.layers import (
    BetaAbs,
    ChannelMix,
    ChannelShift,
    Flatten,
    L2Pool,
    MinMax,
    Normalize,
    OrthogonalPatches,
    Position,
)
from gloro_jax.lipschitz.bounded import Bounded
from gloro_jax.models.liresnet import dense_tail, net_of
from gloro_jax.plain import settle

Readout = Literal["l2", "patches"]
_MIDDLE_GREY = 0.5
_NECK_PATCH = 4


@dataclasses.dataclass(frozen=True)
class LipNext:
    """A stem of patches, blocks act(shift((x + p) R) N + b), a read-out, and CHORD dense layers.

    Attributes:
        depth: number of blocks.
        width: their channels, at least 8.
        num_classes: number of classes.
        patch: side of the stem's patches.
        share: of the channels in each of the four groups that a block shifts.
        is_circular: whether shifts go around the border; zeros come in otherwise.
        beta: share of the channels of which a block takes the absolute value.
        readout: "l2", the length of each channel over pixels, or "patches", an orthonormal 4 x 4
            convolution with stride 4, of `neck_features` channels, and what it leaves, flattened.
        neck_features: even.
        dense_features: of the dense layers after it, even; 0 for no dense layers.
        dense_depth: number of CHORD layers.
        views: of an image, over which features are averaged when it is evaluated and certified
            (`gloro_jax.views`): identity mirror shift:0,1 for example; none unless given.
        is_trained_on_views: whether they are averaged in training, too.
    """

    depth: int = 8
    width: int = 256
    num_classes: int = 10
    patch: int = 2
    share: float = 1 / 8
    is_circular: bool = True
    beta: float = 0.5
    readout: Readout = "patches"
    neck_features: int = 128
    dense_features: int = 256
    dense_depth: int = 4
    views: tuple[str, ...] = ()
    is_trained_on_views: bool = False

    def __post_init__(self) -> None:
        settle(self)

    def build(self) -> GloroNet:
        """The network, for images of any size that the patches divide, or not.

        Raises:
            ValueError: if a width is odd or too small, a depth is below 1, the read-out is
                unknown, or a view is none.
        """
        least = {"width": 8, "neck_features": 2, "dense_features": 0}
        for name, smallest in least.items():
            value = getattr(self, name)
            if value % 2 or value < smallest:
                raise ValueError(f"{name} must be even and at least {smallest}, got {value}.")
        if not 0 < self.share <= 1 / 4:
            raise ValueError(
                f"share is that of one of four groups of channels, above 0 and at most 1/4; got "
                f"{self.share}."
            )
        if self.depth < 1 or self.dense_depth < 0 or self.patch < 1:
            raise ValueError(
                "depth and patch are at least 1 and dense_depth at least 0; got "
                f"{self.depth}, {self.patch} and {self.dense_depth}."
            )
        if self.readout not in ("l2", "patches"):
            raise ValueError(f"readout is 'l2' or 'patches', got {self.readout!r}.")
        return net_of(_Body(self), self)


class _Body(nn.Module):
    config: LipNext

    @nn.compact
    def __call__(self, x: Bounded) -> Bounded:
        config = self.config
        channels = x.shape[-1]
        x = Normalize((_MIDDLE_GREY,) * channels, (1.0,) * channels, name="center")(x)
        x = OrthogonalPatches(config.width, config.patch, use_bias=True, name="stem")(x)
        for i in range(1, config.depth + 1):
            x = Position(name=f"block{i}_position")(x)
            x = ChannelMix(name=f"block{i}_mix")(x)
            x = ChannelShift(config.share, config.is_circular, name=f"block{i}_shift")(x)
            x = ChannelMix(use_bias=True, name=f"block{i}_back")(x)
            x = BetaAbs(config.beta, name=f"block{i}_activation")(x)
        if config.readout == "l2":
            x = L2Pool(name="pool")(x)
        else:
            x = OrthogonalPatches(config.neck_features, _NECK_PATCH, name="neck")(x)
            x = MinMax(name="neck_activation")(x)
            x = Flatten(name="flatten")(x)
        if not config.dense_features:
            return x
        return dense_tail(x, config.dense_features, config.dense_depth)
