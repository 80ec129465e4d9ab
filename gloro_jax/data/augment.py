"""Augmentation on the device: pure functions of a key, an example's index and its image.

Each example draws from `fold_in(fold_in(key, step), index)`, so a resumed run and a run on more
devices see the same images, and no generator state needs to be saved.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Int

from gloro_jax.data.batches import as_float
from gloro_jax.plain import settle

Padding = Literal["zeros", "reflect"]

_GREY = (0.299, 0.587, 0.114)
_NUM_GEOMETRIC = 6  # rotate, shear and translate along each axis, zoom: composed, then one warp


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What happens to training images; nothing by default.

    Attributes:
        crop: pad by this many pixels on each side and cut a window of the old size at random.
        padding: those pixels: zeros, or reflect, the image mirrored at its border.
        is_flipping: mirror left and right with probability one half.
        operations: RandAugment-style rounds per image, each a colour or geometric change drawn
            at random (Cubuk et al. 2020).
        magnitude: their strength, from 0 to 1.
        noise: the standard deviation of Gaussian noise, added last and not clipped: to train
            classifiers for randomised smoothing.
        area: of photographs that are read from disk, cut a part at random that covers at least
            this share of each, and bring it to the size of the network's input; 1 for none.
    """

    crop: int = 0
    padding: Padding = "zeros"
    is_flipping: bool = False
    operations: int = 0
    magnitude: float = 0.3
    area: float = 1.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        settle(self)
        if self.crop < 0 or self.operations < 0:
            raise ValueError(
                f"crop and operations are at least 0, got {self.crop} and {self.operations}."
            )
        if not 0 <= self.magnitude <= 1:
            raise ValueError(f"magnitude is from 0 to 1, got {self.magnitude}.")
        if not 0 <= self.noise < np.inf:
            raise ValueError(f"noise is a standard deviation, at least 0, got {self.noise}.")
        if not 0 < self.area <= 1:
            raise ValueError(f"area is a share above 0 and at most 1, got {self.area}.")


def augmented(
    images: Any,
    index: Int[Array | np.ndarray, "batch"],
    *,
    config: Augmentation,
    key: Any,
    step: Any,
) -> Float[Array, "batch h w c"]:
    """Augmented images, float32 in [0, 1] but for noise, of the shape they had.

    Args:
        images: (batch, H, W, C), uint8 or float32 in [0, 1].
        index: which example of the training split each is.
        config: what to do.
        key: of the run.
        step: of the run.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, step), index)

    def one(image: Any, key: Any) -> Any:
        for number, (is_wanted, change) in enumerate(_changes(config)):
            if is_wanted:
                image = change(image, jax.random.fold_in(key, number))
        return image

    return jnp.asarray(as_float(jax.vmap(one)(images, keys)))


def _changes(config: Augmentation) -> list[tuple[bool, Callable[[Any, Any], Any]]]:
    return [
        (config.crop > 0, lambda image, key: _crop(image, key, config)),
        (config.is_flipping, _flip),
        (config.operations > 0, lambda image, key: _rand_augment(as_float(image), key, config)),
        (config.noise > 0, lambda image, key: _noise(as_float(image), key, config)),
    ]


def _crop(image: Any, key: Any, config: Augmentation) -> Any:
    pad, side = config.crop, min(image.shape[:2])
    if config.padding == "reflect" and pad >= side:
        raise ValueError(
            f"An image of {image.shape[0]} x {image.shape[1]} pixels cannot be mirrored {pad} "
            "pixels beyond its border: take a smaller crop, or padding zeros."
        )
    corner = jax.random.randint(key, (2,), 0, 2 * pad + 1)
    mode = "constant" if config.padding == "zeros" else "reflect"
    padded = jnp.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=mode)
    return jax.lax.dynamic_slice(padded, (corner[0], corner[1], 0), image.shape)


def _noise(image: Any, key: Any, config: Augmentation) -> Any:
    return image + config.noise * jax.random.normal(key, image.shape, image.dtype)


def _flip(image: Any, key: Any) -> Any:
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)


def _rand_augment(image: Any, key: Any, config: Augmentation) -> Any:
    matrix = jnp.eye(3)
    for number in range(config.operations):
        choice_key, sign_key = jax.random.split(jax.random.fold_in(key, number))
        sign = jnp.where(jax.random.bernoulli(sign_key), 1.0, -1.0)
        colours = _colours(image, sign * config.magnitude)
        choice = jax.random.randint(choice_key, (), 0, len(colours) + _NUM_GEOMETRIC)
        # Any geometric choice leaves the colours alone: candidate 0 is the image itself.
        image = jnp.stack(colours)[jnp.where(choice < len(colours), choice, 0)]
        matrix = matrix @ _affine(choice - len(colours), sign * config.magnitude)
    return _warp(image, matrix)


def _colours(image: Any, strength: Any) -> list[Any]:
    """The image, and its changes of brightness, contrast, saturation, posterise, solarise."""
    grey = image
    if image.shape[-1] == 3:
        grey = jnp.broadcast_to((image @ jnp.asarray(_GREY))[..., None], image.shape)
    factor = 1 + 0.9 * strength
    levels = 2.0 ** jnp.round(8 - 5 * jnp.abs(strength)) - 1
    threshold = 1 - 0.5 * jnp.abs(strength)
    mean = jnp.mean(grey)
    candidates = [
        image,
        image * factor,
        mean + factor * (image - mean),
        grey + factor * (image - grey),
        jnp.round(image * levels) / levels,
        jnp.where(image > threshold, 1 - image, image),
    ]
    return [jnp.clip(candidate, 0.0, 1.0) for candidate in candidates]


def _affine(choice: Any, strength: Any) -> Any:
    """The map from output to input coordinates, centred, in units of half the longer side."""

    def amount(number: int, scale: float) -> Any:
        return jnp.where(choice == number, scale * strength, 0.0)

    angle, zoom = amount(0, jnp.pi / 6), 1 + amount(5, 0.5)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    rotation = jnp.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    shear = jnp.array(
        [
            [zoom, amount(1, 0.3), amount(3, 0.9)],
            [amount(2, 0.3), zoom, amount(4, 0.9)],
            [0.0, 0.0, 1.0],
        ]
    )
    return rotation @ shear


def _warp(image: Any, matrix: Any) -> Any:
    """Bilinear sampling at mapped coordinates; outside, the nearest pixel goes on."""
    height, width, _ = image.shape
    half = jnp.array([(height - 1) / 2, (width - 1) / 2])
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    unit = max(height, width) / 2
    centred = jnp.stack([rows - half[0], columns - half[1]]) / unit
    mapped = jnp.einsum("ij,jhw->ihw", matrix[:2, :2], centred) + matrix[:2, 2, None, None]
    where = unit * mapped + half[:, None, None]

    def channel(plane: Any) -> Any:
        return map_coordinates(plane, list(where), order=1, mode="nearest")

    return jax.vmap(channel, in_axes=-1, out_axes=-1)(image)
