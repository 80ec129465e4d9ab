"""A network of orthonormalised dense layers alone, for small images and tables of features."""

import dataclasses

import flax.linen as nn

from gloro_jax.gloro import GloroNet
from gloro_jax.layers import Flatten
from gloro_jax.lipschitz.bounded import Bounded
from gloro_jax.models.liresnet import dense_tail, net_of


@dataclasses.dataclass(frozen=True)
class ChordMLP:
    """An orthonormalised dense layer and CHORD layers (Hu et al. 2024), MinMax after each.

    Every layer of the body has norm 1, so nothing is lost between the image and the head. On MNIST
    at large radii it certifies more than convolutions do, and trains many times as fast.

    Attributes:
        features: of every layer, even.
        depth: number of CHORD layers.
        num_classes: number of classes.
        is_head_normalized: whether the head's rows have norm 1.
        views: of an image, over which features are averaged when it is evaluated and certified
            (`gloro_jax.views`): identity mirror shift:0,1 for example; none unless given.
        is_trained_on_views: whether they are averaged in training, too.
    """

    features: int = 512
    depth: int = 2
    num_classes: int = 10
    is_head_normalized: bool = False
    views: tuple[str, ...] = ()
    is_trained_on_views: bool = False

    def build(self) -> GloroNet:
        """The network, for inputs of any shape.

        Raises:
            ValueError: if features is odd or below 2, depth is negative, or a view is none.
        """
        if self.features < 2 or self.features % 2:
            raise ValueError(
                f"features must be even and at least 2, got {self.features}: MinMax sorts features "
                "in pairs."
            )
        if self.depth < 0:
            raise ValueError(f"depth must be at least 0, got {self.depth}.")
        return net_of(_Body(self), self, is_head_normalized=self.is_head_normalized)


class _Body(nn.Module):
    config: ChordMLP

    @nn.compact
    def __call__(self, x: Bounded) -> Bounded:
        x = Flatten(name="flatten")(x)
        return dense_tail(x, self.config.features, self.config.depth)
