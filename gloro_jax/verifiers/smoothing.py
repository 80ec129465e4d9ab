"""Randomised smoothing (Cohen, Rosenfeld, Kolter, ICML 2019): a statement with a probability."""

import dataclasses
import time
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from gloro_jax.frozen_net import FrozenNet, raw_logits
from gloro_jax.platforms import jit, random_key
from gloro_jax.verifiers.bounds.regions import Box, Norm
from gloro_jax.verifiers.verdicts import Status, Verdicts, Verifier

ABSTAIN = -1
_DOWN = 1 - 1e-9
_LEVELS = 1024  # of float32 within one sigma, for the noise that is added to pixels
_LEAST_ALPHA = 1e-100  # below some 1e-300 scipy's quantiles are NaN, or too large


class Smoothed(NamedTuple):
    """What smoothing says of n images.

    Attributes:
        predictions: (n,) classes of the smoothed classifier, or -1 where it abstains.
        radii: (n,) l2 radii, float64; 0 where it abstains.
    """

    predictions: np.ndarray
    radii: np.ndarray


@dataclasses.dataclass(frozen=True)
class Smoothing(Verifier):
    """The class that a network gives to most images with Gaussian noise, and for how far.

    The statement is about the *smoothed* classifier, not about the network itself, and each holds
    with probability 1 - alpha over the noise (theorem 1 of the paper). n0 noisy copies guess the
    class, n fresh ones bound its share from below (Clopper and Pearson's interval, exactly), and
    with a share above one half the radius is sigma times its normal quantile.

    Attributes:
        sigma: the standard deviation of the noise, in the units of x; at least 1024 of the steps in
            which float32 counts at the largest value of x.
        n0: copies that guess the class.
        n: copies that bound its share.
        alpha: the probability that a statement is false.
        seed: of the noise; image i of a call has its own.
        at_once: copies in one pass.
    """

    sigma: float
    n0: int = 100
    n: int = 100_000
    alpha: float = 0.001
    seed: int = 0
    at_once: int = 1000
    norms: ClassVar[tuple[str, ...]] = ("l2",)
    is_of_network: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Raises a ValueError for numbers that make no procedure."""
        super().__post_init__()
        least, most = (float(end) for end in (jnp.finfo("float32").tiny, jnp.finfo("float32").max))
        if not least <= self.sigma <= most:
            raise ValueError(
                "sigma is positive and finite, and as a number of float32, which the noise is made "
                f"of: got {self.sigma}."
            )
        if min(self.n0, self.n, self.at_once) < 1:
            raise ValueError(
                f"n0, n and at_once are at least 1, got {self.n0}, {self.n} and {self.at_once}."
            )
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is a whole number from 0 to 2**63 - 1, got {self.seed}.")
        if not _LEAST_ALPHA <= self.alpha < 1:
            raise ValueError(
                "alpha is a probability between 0 and 1, and at least 1e-100, since quantiles of "
                f"smaller ones are not known well: got {self.alpha}."
            )

    def certify(self, frozen: FrozenNet, x: Any, *, key: Any = None) -> Smoothed:
        """Classes and certified radii of the smoothed classifier (CERTIFY of the paper).

        Args:
            frozen: the network.
            x: images (n, *shape), float32.
            key: a `jax.random.key`; from the seed unless given.

        Raises:
            TypeError: if x is not float32, or the key none of jax.random.key.
            ValueError: if the shape of x does not fit, or it holds bytes, NaN, infinity or values
                so large that float32 rounds the noise away.
        """
        _, images, _ = self._opened(frozen, x, norm="l2", box=None)
        return self._smoothed(frozen, images, self._key(key))

    def _opened(self, frozen: Any, x: Any, *, norm: Norm, box: Box) -> Any:
        network, images, box = super()._opened(frozen, x, norm=norm, box=box)
        largest = float(np.abs(images).max())
        least = _LEVELS * float(np.spacing(np.float32(largest)))
        if self.sigma < least:
            raise ValueError(
                f"sigma={self.sigma} is too small for images with values up to {largest:g}: "
                "float32 rounds the noise away, and a statement would be about images without "
                f"noise. Take sigma of at least {least:.3g}, or images of smaller values."
            )
        return network, images, box

    def _smoothed(self, frozen: FrozenNet, images: np.ndarray, key: Any) -> Smoothed:
        found = [
            self._certified(frozen, image, jax.random.fold_in(key, i))
            for i, image in enumerate(images)
        ]
        return Smoothed(
            np.array([prediction for prediction, _ in found], np.int64),
            np.array([radius for _, radius in found], np.float64),
        )

    def predict(self, frozen: FrozenNet, x: Any, *, key: Any = None) -> np.ndarray:
        """The smoothed classifier's classes, (n,), each right with probability 1 - alpha.

        It abstains, -1, unless the two-sided binomial test between the two most frequent classes of
        n noisy copies rejects that they are equally likely (PREDICT of the paper). Arguments and
        errors are those of `certify`.
        """
        _, images, _ = self._opened(frozen, x, norm="l2", box=None)
        key = self._key(key)
        found = []
        for i, image in enumerate(images):
            counts = self._counts(frozen, image, jax.random.fold_in(key, i), self.n)
            second, first = np.sort(counts)[-2:]
            is_clear = first > second and _doubt(int(first), int(second)) <= self.alpha
            found.append(int(counts.argmax()) if is_clear else ABSTAIN)
        return np.array(found, np.int64)

    def _key(self, key: Any) -> Any:
        if key is None:
            return random_key(self.seed)
        if not jnp.issubdtype(getattr(key, "dtype", np.float32), jax.dtypes.prng_key):
            raise TypeError(f"key is a jax.random.key, got {type(key).__name__}.")
        if key.shape != ():
            raise TypeError(f"key is one jax.random.key, got an array of keys {key.shape}.")
        return key

    def _certified(self, frozen: FrozenNet, image: np.ndarray, key: Any) -> tuple[int, float]:
        guessing, counting = jax.random.split(key)
        guess = self._counts(frozen, image, guessing, self.n0)
        likely = int(guess.argmax())
        if upper_share(int(guess[likely]), self.n0, alpha=1e-6) < 0.5:
            return ABSTAIN, 0.0  # n more copies could not help; to abstain is always sound
        count = int(self._counts(frozen, image, counting, self.n)[likely])
        share = lower_share(count, self.n, alpha=self.alpha)
        if not share > 0.5:
            return ABSTAIN, 0.0
        drawn = min(float(self.sigma), float(np.float32(self.sigma)))  # noise is float32
        return likely, float(drawn * scipy.stats.norm.ppf(share) * _DOWN)

    def _counts(self, frozen: FrozenNet, image: np.ndarray, key: Any, n: int) -> np.ndarray:
        counts = np.zeros(frozen.net.num_classes, np.int64)
        for part, first in enumerate(range(0, n, self.at_once)):
            some = _classes(frozen, image, jax.random.fold_in(key, part), self.sigma, self.at_once)
            kept = np.asarray(some)[: n - first]
            counts += np.bincount(kept[kept >= 0], minlength=len(counts))
        return counts

    def _read(self, frozen: FrozenNet) -> Any:
        """Noise and a forward pass need no rules."""
        return _Named(frozen, frozen.net.num_classes)

    def _verdicts(
        self,
        network: Any,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        norm: Norm,
        radius: float,
        box: Box,
    ) -> Verdicts:
        began = time.perf_counter()
        found = self._smoothed(network.frozen, images, self._key(None))
        is_verified = (found.predictions == labels) & (found.radii >= radius)
        seconds = np.full(len(images), (time.perf_counter() - began) / max(1, len(images)))
        return Verdicts(
            np.where(is_verified, Status.VERIFIED, Status.UNKNOWN),
            np.full(images.shape, np.nan),
            seconds,
            np.where(is_verified, "numerical", ""),
        )

    def _radii(self, network: Any, images: np.ndarray, *, norm: Norm, box: Box) -> np.ndarray:
        return self._smoothed(network.frozen, images, self._key(None)).radii


class _Named(NamedTuple):
    frozen: FrozenNet
    num_classes: int


@jit
def _noisy_classes(frozen: FrozenNet, image: Any, key: Any, sigma: Any, like: Any) -> Any:
    noise = sigma * jax.random.normal(key, (len(like), *image.shape), image.dtype)
    values = raw_logits(frozen, image[None] + noise).values
    # A copy whose scores are NaN or tie counts for no class.
    top = jnp.max(values, axis=-1, keepdims=True)
    is_clear = (values == top).sum(axis=-1) == 1
    return jnp.where(is_clear, jnp.argmax(values, axis=-1), ABSTAIN)


def _classes(frozen: FrozenNet, image: Any, key: Any, sigma: float, count: int) -> Any:
    return _noisy_classes(frozen, image, key, jnp.float32(sigma), jnp.zeros(count))


def _doubt(first: int, second: int) -> float:
    """How likely so uneven a split, or a more uneven one, is of two equally likely classes."""
    return float(scipy.stats.binomtest(first, first + second, 0.5).pvalue)


def lower_share(count: int, n: int, *, alpha: float) -> float:
    """Clopper and Pearson's bound: below a share of `count` in n with probability 1 - alpha."""
    if count == 0:
        return 0.0
    if count == n:
        return alpha ** (1 / n)
    return float(scipy.stats.beta.ppf(alpha, count, n - count + 1))


def upper_share(count: int, n: int, *, alpha: float) -> float:
    """As `lower_share`, from above."""
    return 1.0 if count == n else float(scipy.stats.beta.ppf(1 - alpha, count + 1, n - count))
