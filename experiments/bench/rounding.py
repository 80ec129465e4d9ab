"""What a `certify` that counts the rounding of its own forward pass would cost.

    python -m experiments.bench.rounding RUN --data FILE.npz [--examples 2000]

Two ways are measured against the network as it is. Plain float32: the program that runs, with a
worst-case bound of its rounding in any order of summation, carried along with the activations (one
extra norm per layer; Higham 2002, section 3.1). Float64: every sum in float64, whose worst case is
far below any margin. Printed for each: time over that of `certify`, the share of the median
certified radius that goes, and VRA.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gloro_jax as gj
from gloro_jax.activations import minmax
from gloro_jax.platforms import compiler_options
from gloro_jax.runs import read_config

UNIT = {np.float32: 2.0**-24, np.float64: 2.0**-53}


def gamma(n: int, unit: float) -> float:
    """The relative error of a sum of n products in any order, for numbers rounded to `unit`."""
    return n * unit / (1 - n * unit)


def rounding_net(frozen: gj.FrozenNet, dtype: Any) -> Any:
    """(images) -> (scores, bound of the error of each difference of scores from the prediction)."""
    arrays, unit = frozen.arrays(), UNIT[dtype]
    norms, steps = frozen.layer_norms(), [step.plain() for step in frozen.steps()]
    spread = {step["layer"]: absolute_norm(step, arrays) for step in steps if "layer" in step}
    kernel = np.asarray(arrays["head/head/kernel"], dtype)
    bias = np.asarray(arrays["head/head/bias"], dtype)
    distances = np.asarray(arrays["head/distances"], dtype)

    def run(x: Any) -> Any:
        v, error = x.astype(dtype), jnp.zeros(len(x), dtype)
        for step in steps:
            v, error = one_step(step, v, error)
        scores = jnp.matmul(v, jnp.asarray(kernel), precision="highest") + bias[None]
        own = gamma(len(kernel) + 2, unit) * (
            np.linalg.norm(kernel, axis=0)[None] * length(v)[:, None] + np.abs(bias)[None]
        )
        best = jnp.argmax(scores, axis=1)
        allowance = jnp.asarray(distances)[best] * error[:, None] + own
        return scores, allowance + jnp.take_along_axis(own, best[:, None], axis=1)

    def one_step(step: dict[str, Any], v: Any, error: Any) -> tuple[Any, Any]:
        op = step["op"]
        if op in ("conv", "dense"):
            weights = np.asarray(arrays[step["kernel"]], dtype)
            terms = int(np.prod(weights.shape[:-1]))
            before = length(v)
            v = linear(step, v, weights)
            rounding = spread[step["layer"]] * before
            if step["bias"]:
                added = np.asarray(arrays[step["bias"]], dtype)
                rounding = rounding + np.sqrt(v[0].size) * np.abs(added).max()
                v = v + added.reshape((1,) * (v.ndim - 1) + (-1,))
            error = norms[step["layer"]] * error + gamma(terms + 2, unit) * rounding
        elif op == "minmax":
            v = minmax(v, pairing=step["pairing"], order=step["order"])
        elif op == "flatten":
            v = v.reshape(len(v), -1)
        elif op == "relu":
            v = jax.nn.relu(v)
        elif op == "normalize":
            mean, factor = np.asarray(step["mean"], dtype), np.asarray(step["factor"], dtype)
            reach = length(v) + np.sqrt(v[0].size) * np.abs(mean).max()
            error = factor.max() * error + 4 * unit * factor.max() * reach
            lead = (1,) * (v.ndim - 1)
            v = (v - mean.reshape(*lead, -1)) * factor.reshape(*lead, -1)
        else:
            raise ValueError(f"{op} is not measured here.")
        return v, error

    return run


def linear(step: dict[str, Any], v: Any, weights: Any) -> Any:
    """A convolution or a dense layer without bias."""
    if step["op"] == "dense":
        return jnp.matmul(v, jnp.asarray(weights), precision="highest")
    return jax.lax.conv_general_dilated(
        v,
        jnp.asarray(weights),
        step["strides"],
        step["pads"],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=step["groups"],
        precision="highest",
    )


def length(v: Any) -> Any:
    """The l2 norm of each example, with room for its own rounding."""
    return jnp.sqrt(jnp.sum(jnp.square(v.reshape(len(v), -1)), axis=1)) * (1 + 1e-3)


def absolute_norm(step: dict[str, Any], arrays: dict[str, np.ndarray]) -> float:
    """An upper bound of the norm of a layer with the absolute values of its weights."""
    weights = np.abs(np.asarray(arrays[step["kernel"]], np.float64))
    if step["op"] == "dense":
        return float(gj.matrix_norm(weights))
    # Non-negative taps: the norm of their sum, at frequency 0, bounds the convolution.
    return float(gj.matrix_norm(weights.sum(axis=(0, 1)))) if step["groups"] == 1 else np.inf


def milliseconds(run: Any, x: Any) -> float:
    """The median over several runs, per image."""
    jax.block_until_ready(run(x))
    times = []
    for _ in range(9):
        start = time.perf_counter()
        jax.block_until_ready(run(x))
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times)) / len(x)


def measured(frozen: gj.FrozenNet, x: np.ndarray, labels: np.ndarray, epsilon: float) -> None:
    """Prints a line for each way."""
    plain = gj.certify(frozen, x, epsilon=epsilon)
    base = milliseconds(lambda x: gj.certify(frozen, x, epsilon=epsilon), x[:256])
    correct = np.asarray(plain.prediction) == labels
    vra = (np.asarray(plain.is_certified) & correct).mean()
    median = float(np.median(plain.radius))
    print(f"certify: {base:.4f} ms an image, median radius {median:.5f}, VRA {vra:.4f}")
    for dtype in (np.float32, np.float64):
        with jax.enable_x64(dtype is np.float64):
            run = jax.jit(rounding_net(frozen, dtype), compiler_options=compiler_options())
            scores, allowance = (
                np.concatenate(parts)
                for parts in zip(
                    *(map(np.asarray, run(x[i : i + 250])) for i in range(0, len(x), 250)),
                    strict=True,
                )
            )
            taken = milliseconds(run, jnp.asarray(x[:256]))
        best = scores.argmax(axis=1)
        other = np.arange(scores.shape[1]) != best[:, None]
        reach = frozen.lipschitz * np.asarray(frozen.head().distances, np.float64)[best]
        lead = scores[np.arange(len(x)), best][:, None] - scores - allowance
        radius = np.where(other, lead / np.where(other, reach, 1), np.inf).min(axis=1).clip(0)
        counted = ((radius > epsilon) & (best == labels)).mean()
        print(
            f"{dtype.__name__}: {taken / base:.2f}x the time; median allowance of a lead "
            f"{np.median(allowance[other]):.3g}; of the median radius "
            f"{1 - np.median(radius) / median:.2%} goes; VRA {counted:.4f}"
        )


def main() -> None:
    """Measures one run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="an .npz file with x_test, y_test")
    parser.add_argument("--examples", type=int, default=2000)
    options = parser.parse_args()
    frozen, config = gj.load(options.run), read_config(options.run)
    with np.load(options.data) as file:
        x, labels = file["x_test"][: options.examples], file["y_test"][: options.examples]
    x = (x if x.ndim == 4 else x[..., None]).astype(np.float32) / np.float32(255)
    print(json.dumps({"run": options.run.name, "images": len(x), "jax": jax.__version__}))
    measured(frozen, x, labels, config["training"]["epsilon"])


if __name__ == "__main__":
    main()
