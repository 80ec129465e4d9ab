"""GloroNet: a body that carries its Lipschitz bound, a linear head, and nothing lost on the way."""

import operator
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gloro_jax.layers.base import Collect, Frozen, NormRule, PowerIteration, add_bias, frozen_entry
from gloro_jax.layers.dense import orthogonal
from gloro_jax.lipschitz.bounded import Bounded
from gloro_jax.lipschitz.doors import Doors, Parts
from gloro_jax.lipschitz.norms import Estimate, UpperBound, two_norm
from gloro_jax.logits import GloroLogits
from gloro_jax.margins import head_distances
from gloro_jax.pytrees import pytree_dataclass
from gloro_jax.views import mean, parse, stack


@pytree_dataclass()
class Head:
    """The last layer as executed: kernel (d, m) and bias (m,)."""

    kernel: Any
    bias: Any


@pytree_dataclass()
class FrozenHead:
    """A `Head` with guaranteed ||w_i - w_j||, (m, m)."""

    head: Head
    distances: Any


class GloroNet(nn.Module):
    """A classifier whose logits come with a bound of their Lipschitz constants.

    Attributes:
        body: a module from `Bounded` to `Bounded`, ending in (batch, features); for example an
            `nn.Sequential` of `gloro_jax.layers`.
        num_classes: m, at least 2.
        is_head_normalized: whether the head's rows are divided by their l2 norms (last-layer
            normalisation, Singla et al. 2022); the normalised rows make logits and margins alike.
        views: the features are averaged over these views of an image (`gloro_jax.views`), which
            leaves every bound as it is; none unless given.
        is_trained_on_views: whether training averages as well, at a forward and a backward pass a
            view; otherwise it sees the images as they are given.
    """

    body: nn.Module
    num_classes: int
    is_head_normalized: bool = False
    views: tuple[str, ...] = ()
    is_trained_on_views: bool = False

    def __post_init__(self) -> None:
        """Raises a TypeError or a ValueError if a field is not what is said above."""
        if isinstance(self.body, type) or not callable(self.body):
            raise TypeError(
                "body is a module from Bounded to Bounded, nn.Sequential([...]) of "
                f"gloro_jax.layers for example; got {self.body!r}."
            )
        try:
            classes = operator.index(self.num_classes)
        except TypeError:
            raise TypeError(f"num_classes is an integer, got {self.num_classes!r}.") from None
        if classes < 2:
            raise ValueError(f"A classifier has at least 2 classes, got {self.num_classes!r}.")
        for name in ("is_head_normalized", "is_trained_on_views"):
            if not isinstance(value := getattr(self, name), bool):
                raise TypeError(f"{name} is True or False, got {value!r}.")
        parse(self.views)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Any,
        *,
        norms: NormRule,
        is_training: bool = False,
        batch_axis: str | None = None,
    ) -> GloroLogits:
        """Computes logits and their bound.

        Args:
            x: images (batch, H, W, C), or any (batch, ...), floating point. Linear layers of the
                body compute in the precision of `x`, bfloat16 say; weights, norms and the head
                stay float32.
            norms: how norms are obtained; `gj.PowerIteration(steps=5)` to train.
            is_training: told to the layers. Layers that centre use the means of this batch then.
            batch_axis: the axis of `pmap` or `shard_map` that the batch is spread over, so that
                such means are over all of it.

        Returns:
            Scores (batch, m), the bound of the body, and the head's row distances.

        Raises:
            TypeError: if `norms` is not a norm rule, `x` is not a floating-point array, the body
                does not return a `Bounded`, or Flax's WeightNorm or SpectralNorm wraps a layer.
            ValueError: if the body does not end in (batch, features), or a view does not fit.
        """
        self._check_input(x, norms)
        views = self.views if self.is_trained_on_views or not is_training else ()
        x = stack(views, x) if views else x
        entered = Bounded.enter(
            x,
            kind=norms.kind,
            rule=norms,
            is_training=is_training,
            dtype=jnp.float32,
            batch_axis=batch_axis,
        )
        with nn.intercept_methods(_without_wrappers):
            out = self.body(entered)
        features, bound = self._checked(out).leave()
        features = mean(views, features) if views else features
        if isinstance(norms, Frozen):
            return read_out(features, bound, frozen_entry(self, "head"))
        head = self._head(features.shape[-1])
        if isinstance(norms, Collect):
            keep_last: Any = lambda _, new: new  # noqa: E731
            self.sow("operators", "head", head, init_fn=lambda: None, reduce_fn=keep_last)
        scores = add_bias(jnp.matmul(features, head.kernel), head.bias)
        return GloroLogits(scores, bound, head_distances(head.kernel))

    def _head(self, features: int) -> Head:
        kernel = self.param("head_kernel", orthogonal, (features, self.num_classes), jnp.float32)
        bias = self.param("head_bias", nn.initializers.zeros, (self.num_classes,), jnp.float32)
        kernel, bias = jnp.asarray(kernel), jnp.asarray(bias)  # imported weights may be NumPy's
        if self.is_head_normalized:
            norms = jax.vmap(two_norm, in_axes=1)(kernel)[None, :]
            kernel = kernel / jnp.where(norms > 0, norms, 1.0)
        return Head(kernel, bias)

    def _checked(self, out: Any) -> Bounded:
        if not isinstance(out, Bounded):
            raise TypeError(
                "The body of a GloroNet maps a Bounded to a Bounded, but returned "
                f"{type(out).__name__}: some layer in it dropped the bound. Build it from "
                "gloro_jax.layers, or admit your own function with x.apply(fn, lipschitz=c)."
            )
        if len(out.shape) != 2:
            raise ValueError(
                f"The body must end in (batch, features), got {out.shape}. End it with Flatten."
            )
        return out

    def _check_input(self, x: Any, norms: Any) -> None:
        if not isinstance(norms, PowerIteration | Collect | Frozen):
            raise TypeError(
                "norms says how Lipschitz constants are obtained, gj.PowerIteration(steps=5) to "
                f"train; got {norms!r}. To certify, use gj.freeze and gj.certify."
            )
        dtype = getattr(x, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, np.floating):
            raise TypeError(
                f"A GloroNet takes a floating-point array, got {dtype or type(x).__name__}. "
                "Images of type uint8: x.astype('float32') / 255."
            )
        if np.ndim(x) < 2:
            raise ValueError(
                f"A GloroNet takes a batch of inputs, (batch, ...); got shape {np.shape(x)}."
            )


def checked_shape(input_shape: Any) -> tuple[int, ...]:
    """The shape of one image as integers.

    Raises:
        ValueError: if it is none, or has the batch with it.
    """
    try:
        shape = tuple(operator.index(n) for n in input_shape)
    except TypeError:
        shape = ()
    if not shape or min(shape) < 1 or len(shape) > 3:
        hint = f" Without the batch: {shape[1:]}." if len(shape) == 4 else ""
        raise ValueError(
            f"input_shape is the shape of one image, (H, W, C); got {input_shape!r}.{hint}"
        )
    return shape


def init_spectral(net: GloroNet, variables: Any, *, key: Any, input_shape: tuple[int, ...]) -> Any:
    """Fresh power-iteration vectors: for imported weights, or another image size.

    Args:
        net: the network.
        variables: its collections; "params" is read, "spectral" is ignored.
        key: a `jax.random.key`.
        input_shape: one image, (H, W, C).

    Returns:
        The collections with a new "spectral".

    Raises:
        TypeError: if `variables` is no dictionary of collections.
        ValueError: if `input_shape` is not the shape of one image.
    """
    if not isinstance(variables, Mapping):
        raise TypeError(
            "variables is the dictionary of collections that net.init returned, "
            f"{{'params': ...}}; got {type(variables).__name__}."
        )
    kept = {name: tree for name, tree in variables.items() if name != "spectral"}
    example = jnp.zeros((1, *checked_shape(input_shape)), jnp.float32)

    def fresh(kept: Any, key: Any) -> Any:
        made = net.apply(
            kept,
            example,
            rule=PowerIteration(steps=1),
            method=run_body,  # the head may not fit another image size
            mutable=["spectral"],
            rngs={"params": key},
        )
        return made[1]["spectral"]

    return {**kept, "spectral": jax.jit(fresh)(kept, key)}


def _without_wrappers(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """Calls a method inside the body; raises a TypeError if it is a wrapper that scales weights."""
    if isinstance(context.module, nn.WeightNorm | nn.SpectralNorm):
        raise TypeError(
            f"flax.linen.{type(context.module).__name__} changes the weights of the layer that it "
            "wraps, behind the bound of its norm. Use the layer itself: its norm is bounded "
            "whatever its weights are. Norms of at most 1 by construction: OrthogonalDense, "
            "OrthogonalPatches, ChordDense, AolConv, CplConv, BroConv of gloro_jax.layers."
        )
    return call(*args, **kwargs)


def read_out(features: Any, bound: Estimate | UpperBound, head: FrozenHead) -> GloroLogits:
    """The logits that a frozen head makes of features (n, d), which carry `bound`."""
    scores = jnp.matmul(features, head.head.kernel, precision=jax.lax.Precision.HIGHEST)
    return GloroLogits(add_bias(scores, head.head.bias), bound, head.distances)


def run_body(net: GloroNet, x: Any, *, rule: NormRule) -> Bounded:
    """The body's output before the head, for `net.apply(..., method=run_body)`."""
    return net.body(
        Bounded.enter(x, kind=rule.kind, rule=rule, is_training=False, dtype=jnp.float32)
    )


def run_watched(net: GloroNet, parts: Parts, *, doors: Doors) -> Bounded:
    """As `run_body` on a frozen network, with every step noted in `doors`."""
    return net._checked(net.body(Bounded.watched(parts, rule=Frozen(), doors=doors)))
