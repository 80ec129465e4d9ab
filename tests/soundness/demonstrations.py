"""Two networks that the field's procedure certifies falsely, and the attack that shows it.

A: a colour-opponent stem. Power iteration from an all-ones vector never sees R - G.
B: ten sharpening blocks I + 0.01 high-pass. The spectral gap is small: 500 steps do not suffice.
docs/why.md tells A; experiments/plots/why.py draws it.
"""

import dataclasses
from fractions import Fraction

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import gloro_jax as gj
from gloro_jax import layers
from gloro_jax.evaluation import attack

SIZE = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Demonstration:
    """A frozen network, a float32 image, the kernels of its body and the radius at stake."""

    frozen: gj.FrozenNet
    image: np.ndarray
    kernels: list[np.ndarray]
    epsilon: float


@dataclasses.dataclass(frozen=True, eq=False)
class Counterexample:
    """What an attack found: the image, its exact squared distance, and its class."""

    image: np.ndarray
    squared_distance: Fraction
    prediction: int


def reference_power_iteration(kernel, *, steps):
    """The reference's procedure: an all-ones start, float32, the norm guarded by an epsilon."""
    v = jnp.ones((1, SIZE, SIZE, kernel.shape[2]), jnp.float32)

    def conv(v):
        return jax.lax.conv_general_dilated(
            v, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    transpose = jax.linear_transpose(conv, v)

    @jax.jit
    def one(v):
        (back,) = transpose(conv(v))
        return back / jnp.maximum(jnp.linalg.norm(back.ravel()), 1e-12)

    for _ in range(steps):
        v = one(v)
    return float(jnp.linalg.norm(conv(v).ravel()))


def opponent_kernel():
    """A colour-opponent filter R - G beside blurs: an all-ones vector never sees it."""
    kernel = np.zeros((3, 3, 3, 4), np.float32)
    kernel[1, 1, 0, 0], kernel[1, 1, 1, 0] = 1, -1
    blur = np.outer([1, 2, 1], [1, 2, 1]) / 16
    kernel[:, :, :, 1] = 0.25 * blur[:, :, None]
    kernel[:, :, :, 3] = 0.25 * (np.outer([1, 2, 1], [-1, 0, 1]) / 8)[:, :, None]
    return kernel


def opponent():
    """Demonstration A."""
    kernel = opponent_kernel()
    head = np.zeros((SIZE, SIZE, 4, 2), np.float32)
    head[:, :, 0, 0], head[:, :, 0, 1] = 0.5 / SIZE, -0.5 / SIZE
    pixels = np.random.default_rng(0).standard_normal((1, SIZE, SIZE, 3))
    image = np.round(255 * np.clip(0.5 + 0.05 * pixels, 0, 1))
    image[..., 0] += 4
    frozen = _frozen([kernel], np.float32([0, 0, -4, -4]), head.reshape(-1, 2), channels=3)
    return Demonstration(frozen, (image / 255).astype(np.float32), [kernel], 0.25)


def sharpening():
    """Demonstration B."""
    high_pass = np.asarray([[0, -1, 0], [-1, 4, -1], [0, -1, 0]]) / 8
    kernel = np.zeros((3, 3, 4, 4), np.float32)
    kernel[1, 1] = np.eye(4)
    kernel[:, :, 0, 0] += (0.01 * high_pass).astype(np.float32)
    wave = np.sin(np.pi * SIZE * np.arange(1, SIZE + 1) / (SIZE + 1))
    mode = np.outer(wave, wave) / np.square(wave).sum()
    head = np.zeros((SIZE, SIZE, 4, 2), np.float32)
    head[..., 0, 0], head[..., 0, 1] = 0.5 * mode, -0.5 * mode
    frozen = _frozen([kernel] * 10, np.float32([3, 3, -3, -3]), head.reshape(-1, 2), channels=4)
    rng = np.random.default_rng(0)
    image = np.clip(0.5 + 0.03 * rng.standard_normal((1, SIZE, SIZE, 4)), 0, 1)

    def rounded(image):
        return (np.round(255 * image) / 255).astype(np.float32)

    image[0, ..., 0] += (0.36 - _lead(frozen, rounded(image))) * mode / 1.105
    epsilon = abs(_lead(frozen, rounded(image))) / 1.090
    return Demonstration(frozen, rounded(image), [kernel] * 10, float(epsilon))


def _lead(frozen, image):
    scores = np.asarray(frozen(image).values, np.float64)[0]
    return scores[0] - scores[1]


def _frozen(kernels, bias, head, *, channels):
    body, params = [layers.Normalize((0.5,) * channels, (1.0,) * channels)], {}
    for number, kernel in enumerate(kernels):
        shift = bias if number == 0 else np.zeros(4, np.float32)
        params[f"layers_{2 * number + 1}"] = {"kernel": kernel, "bias": shift}
        body += [layers.Conv(4, 3), layers.MinMax()]
    net = gj.GloroNet(nn.Sequential([*body, layers.Flatten()]), num_classes=2)
    weights = {"body": params, "head_kernel": head, "head_bias": np.zeros(2, np.float32)}
    return gj.freeze(net, {"params": weights}, input_shape=(SIZE, SIZE, channels))


def reference_radius(demonstration, *, steps):
    """The radius that the field's procedure certifies, by its product of estimates."""
    known = {}
    for kernel in demonstration.kernels:
        key = kernel.tobytes()
        if key not in known:
            known[key] = reference_power_iteration(kernel, steps=steps)
    estimate = float(np.prod([known[kernel.tobytes()] for kernel in demonstration.kernels]))
    logits = demonstration.frozen(demonstration.image)
    claimed = gj.GloroLogits(logits.values, gj.UpperBound(estimate), logits.head_distances)
    return float(gj.certified_radius(claimed)[0]), estimate


def counterexample(demonstration):
    """An image of another class within epsilon, by exact rational distance; None if not found."""
    image = demonstration.image
    found = attack(demonstration.frozen, image, radii=demonstration.epsilon, steps=200, restarts=1)
    if not found.successes:
        return None
    pairs = zip(found.examples.ravel().tolist(), image.ravel().tolist(), strict=True)
    squared = sum((Fraction(a) - Fraction(b)) ** 2 for a, b in pairs)
    return Counterexample(found.examples[0], squared, int(found.predictions[0]))
