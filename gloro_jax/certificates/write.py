"""Writing a certificate file: a theorem about stored weights that anyone can check.

The numbers are those of float64 arithmetic on the host, with their errors counted, and not those of
the float32 network: the file speaks of the real-arithmetic network with the stored weights. What it
claims is a little weaker than what was found, so that a checker whose sums run in another order
finds it true as well.
"""

import dataclasses
import functools
import hashlib
import json
import os
import platform
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from gloro_jax.alarms import lower_norms, norm_alarm
from gloro_jax.certificates import check_certificate as checker
from gloro_jax.certificates.claims import claim_norm
from gloro_jax.certificates.describe import describe
from gloro_jax.certificates.points import WEAKER, claim_points
from gloro_jax.data.dataset import check_images, check_labels
from gloro_jax.frozen_net import FrozenNet, raw_logits
from gloro_jax.guarantees import Guarantee, check_guarantee
from gloro_jax.network import weights
from gloro_jax.paths import local
from gloro_jax.plain import exact
from gloro_jax.platforms import jit, on_host, outside_jit
from gloro_jax.version import __version__

_FAR_OFF = 1e-4


@dataclasses.dataclass(frozen=True, eq=False)
class Written:
    """What a certificate file claims, example by example.

    Attributes:
        path: the file.
        epsilon: the l2 radius, exactly.
        lipschitz: K as the file proves it; `freeze` may know a smaller one.
        labels: (n,).
        classes: (n, m) of bool, the predicted class of the real-arithmetic network, or under a
            relaxed guarantee its k highest classes; proved where the radius is above 0.
        radii: (n,) certified radii, float64, rounded down.
        is_certified: (n,) at epsilon.
    """

    path: Path
    epsilon: Fraction
    lipschitz: float
    labels: np.ndarray
    classes: np.ndarray
    radii: np.ndarray
    is_certified: np.ndarray

    @property
    def vra(self) -> float:
        """Share of examples certified at epsilon with the label in the certified set."""
        has_label = self.classes[np.arange(len(self.labels)), self.labels]
        return float((self.is_certified & has_label).mean())

    @property
    def predictions(self) -> np.ndarray:
        """(n,) the predicted classes, under the strict guarantee."""
        return self.classes.argmax(axis=1)


@outside_jit
def write(
    frozen: FrozenNet,
    images: np.ndarray | jax.Array,
    labels: np.ndarray | jax.Array,
    *,
    epsilon: int | float | str | Fraction,
    out: str | os.PathLike[str],
    guarantee: Guarantee | None = None,
    has_inputs: bool = True,
    source: dict[str, str] | None = None,
    on_progress: Callable[[str, int], None] = lambda what, done: None,
) -> Written:
    """Writes a certificate file for images and labels, whole or not at all.

    Args:
        frozen: the network.
        images: (n, H, W, C), uint8 or float32 in [0, 1]; bytes stay bytes in the file.
        labels: (n,) integers.
        epsilon: the l2 radius in units of images in [0, 1]: a number, or text or a Fraction where
            it must be exact, "36/255".
        out: the file; it must not exist.
        guarantee: None for the strict one, or `gj.guarantees.TopK(k)` or `Affinity(sets)`.
        has_inputs: whether the images travel along; otherwise the file holds their digest, and the
            checker asks for them.
        source: where weights and images come from, for readers: "run", "data" and "split".
        on_progress: called with ("layer", 1) for each norm and ("point", n) for each batch.

    Returns:
        The claims.

    Raises:
        FileExistsError: if `out` exists.
        TypeError: if an array has the wrong type.
        ValueError: if images, labels or epsilon do not fit, a layer has no proof, a stored norm is
            refuted from below, or the float32 network disagrees with the network in the file.
    """
    path, exact, told = local(out), as_fraction(epsilon), _texts(source)
    pixels, goals = on_host(images), on_host(labels)
    _check(path, frozen, pixels, goals, guarantee)
    network, header, arrays = _network(frozen, on_progress)
    claims = functools.partial(
        claim_points, network, epsilon=checker.rounded_up(exact), guarantee=guarantee
    )
    points = _points(network, claims, frozen, pixels, goals, on_progress)
    arrays |= points | {"inputs": np.ascontiguousarray(pixels)}
    header |= {
        "epsilon": {"numerator": exact.numerator, "denominator": exact.denominator},
        "guarantee": {"kind": "strict"} if guarantee is None else guarantee.plain(),
        "summary": checker.summary_of(points),
        "source": {"split": "test", **told, "frozen_net": frozen.digest},
        "arrays": {name: checker.digest(array) for name, array in sorted(arrays.items())},
    }
    if not has_inputs:
        del arrays["inputs"]
    _save(path, header, arrays)
    return Written(
        path,
        exact,
        network.lipschitz(network.steps),
        points["label"],
        _classes(points, frozen.net.num_classes),
        points["radius"],
        points["is_certified"] == 1,
    )


def _texts(source: dict[str, str] | None) -> dict[str, str]:
    if not all(isinstance(text, str) for pair in (source or {}).items() for text in pair):
        raise TypeError(f"source is a dict of texts, {{'run': 'runs/a'}}; got {source!r}.")
    return source or {}


def _classes(points: dict[str, np.ndarray], m: int) -> np.ndarray:
    if "classes" in points:
        return points["classes"] == 1
    return points["prediction"][:, None] == np.arange(m)


def as_fraction(epsilon: int | float | str | Fraction) -> Fraction:
    """The exact number that is meant: 0.3 is 3/10, and 36/255 computed in floats is 12/85.

    Raises:
        ValueError: if it is no positive finite number.
    """
    try:
        found = exact(epsilon)
        if isinstance(epsilon, float):
            simple = found.limit_denominator(10**6)
            found = simple if float(simple) == epsilon else found
        is_usable = found > 0 and bool(np.isfinite(float(found)))
    except (ValueError, OverflowError, ZeroDivisionError, TypeError):
        found, is_usable = Fraction(0), False
    if not is_usable:
        raise ValueError(
            "epsilon is an l2 radius, positive and finite, in the units of x, for example 0.3 or "
            f"'36/255'; got {epsilon!r}."
        )
    return found


def _check(
    path: Path,
    frozen: FrozenNet,
    images: np.ndarray,
    labels: np.ndarray,
    guarantee: Guarantee | None,
) -> None:
    if not isinstance(frozen, FrozenNet):
        raise TypeError(
            f"A certificate file is about one FrozenNet, got {type(frozen).__name__}; an ensemble "
            "has none of its own."
        )
    if guarantee is not None:
        check_guarantee(guarantee, frozen.net.num_classes)
    if path.exists():
        raise FileExistsError(f"{path} exists. A certificate is never overwritten: choose another.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent} is no folder: make it first.")
    check_images(images)
    check_labels(labels, count=len(images), num_classes=frozen.net.num_classes)
    frozen.check_images(checker.as_float32(images[:1]))
    frozen.check_digest()


def _network(frozen: FrozenNet, on_progress: Callable[[str, int], None]) -> tuple[Any, dict, dict]:
    """The checker's network with proved norms, the header's part about it, and its arrays."""
    header: dict[str, Any] = describe(frozen)
    header["input"] = {"shape": header["input"]}
    arrays = weights(frozen)
    network, stored, claims = checker.Network(header, arrays), frozen.layer_norms(), {}
    lower = lower_norms(frozen)
    if alarm := norm_alarm(frozen, lower):
        raise ValueError(alarm)
    for step in network.linear:
        layer = step["layer"]
        if layer not in claims:
            kernel = arrays[step["kernel"]]
            claims[layer] = claim_norm(
                step, kernel, stored=stored[layer], lower=float(lower[layer])
            )
        on_progress("layer", 1)
    network.norms = {layer: claim["upper"] for layer, claim in claims.items()}
    header |= {
        **checker.KNOWN,
        "version": checker.VERSION,
        "norms": claims,
        "lipschitz": network.lipschitz(network.steps) * (1 + WEAKER),
        "made_with": {
            "gloro-jax": __version__,
            "jax": jax.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
    return network, header, arrays


def _points(
    network: Any,
    claims: Callable[..., dict[str, np.ndarray]],
    frozen: FrozenNet,
    images: np.ndarray,
    labels: np.ndarray,
    on_progress: Callable[[str, int], None],
) -> dict[str, np.ndarray]:
    rows = []
    for start in range(0, len(images), checker.AT_ONCE):
        x = checker.as_float32(images[start : start + checker.AT_ONCE])
        scores, rounding, errors = network.scores(x)
        _check_same_network(scores, rounding, frozen, x)
        rows.append(claims(scores, rounding, errors))
        on_progress("point", len(x))
    columns = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    return {
        "index": np.arange(len(images), dtype=np.int64),
        "label": np.asarray(labels, np.int64),
        **columns,
    }


def _check_same_network(
    scores: np.ndarray, rounding: np.ndarray, frozen: FrozenNet, x: np.ndarray
) -> None:
    """A layer whose name is not what it does would show here."""
    executed = np.asarray(_executed(frozen, x), np.float64)
    if not (np.isfinite(scores).all() and np.isfinite(executed).all()):
        raise ValueError("The network's scores overflow: nothing can be certified. Did it diverge?")
    # `rounding` is in proportion to the sizes of features and weights, which float32 rounds.
    sizes = rounding.max(axis=1) / checker.UNIT / 100
    gap = np.abs(executed - scores).max(axis=1) / (np.abs(scores).max(axis=1) + sizes + 1e-30)
    if not (gap < _FAR_OFF).all():
        raise ValueError(
            f"The float32 network and the network as the file describes it differ by "
            f"{gap.max():.2g} of the scores' size, so they are not the same: some layer applies "
            "another function than the `step` it gives to Bounded.apply."
        )


@jit
def _executed(frozen: FrozenNet, x: Any) -> Any:
    return raw_logits(frozen, x).values


def _save(path: Path, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    text = json.dumps(header, allow_nan=False)
    metadata = {"certificate": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(safetensors.numpy.save(plain, metadata))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
