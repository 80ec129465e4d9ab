"""certify against a plain forward pass of the same weights: FLOPs and paired time.

The plain forward pass is written with lax and jnp alone, knows no bound, and is compiled with the
same options. Command: python -m experiments.bench.certify
"""

import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

import gloro_jax as gj
from gloro_jax.certification import _certify
from gloro_jax.models import GloroCNN, gloro_2c2f, gloro_4c3f, gloro_6c2f
from gloro_jax.platforms import compiler_options

BATCH, PAIRS = 256, 15
MODELS: dict[str, tuple[GloroCNN, tuple[int, ...]]] = {
    "digits": (gj.recipes.digits().model, (8, 8, 1)),
    "2C2F": (gloro_2c2f(), (28, 28, 1)),
    "4C3F": (gloro_4c3f(), (28, 28, 1)),
    "6C2F": (gloro_6c2f(), (32, 32, 3)),
}


def plain_forward(config: GloroCNN, params: Any, x: Any) -> Any:
    """The scores alone."""

    def minmax(x: Any) -> Any:
        a, b = jnp.split(x, 2, axis=-1)
        return jnp.concatenate([jnp.maximum(a, b), jnp.minimum(a, b)], axis=-1)

    high = jax.lax.Precision.HIGHEST
    body = params["body"]
    for i, (_, _, stride) in enumerate(config.convs, start=1):
        layer = body[f"conv{i}"]
        numbers = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(
            x, layer["kernel"], (stride, stride), "SAME", dimension_numbers=numbers, precision=high
        )
        x = minmax(x + layer["bias"])
    x = x.reshape(len(x), -1)
    for i in range(1, len(config.dense) + 1):
        layer = body[f"dense{i}"]
        x = minmax(jnp.matmul(x, layer["kernel"], precision=high) + layer["bias"])
    return jnp.matmul(x, params["head_kernel"], precision=high) + params["head_bias"]


def compiled(name: str) -> tuple[Any, Any, tuple[Any, ...], tuple[Any, ...]]:
    """Both programs with their arguments."""
    config, shape = MODELS[name]
    net, x = config.build(), jax.random.uniform(jax.random.key(0), (BATCH, *shape))
    init = jax.jit(lambda key: net.init(key, x, norms=gj.PowerIteration(steps=1)))
    params = init(jax.random.key(1))["params"]
    frozen = gj.freeze(net, {"params": params}, input_shape=shape)
    ours, theirs = (frozen, x, jnp.float32(0.1)), (params, x)
    forward = jax.jit(
        lambda params, x: plain_forward(config, params, x), compiler_options=compiler_options()
    )
    certify = _certify.lower(*ours, is_known=True).compile()
    return certify, forward.lower(*theirs).compile(), ours, theirs


def seconds(program: Any, arguments: tuple[Any, ...]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(program(*arguments))
    return time.perf_counter() - start


def main() -> None:
    print(f"JAX {jax.__version__}, {jax.devices()[0].device_kind}, batch {BATCH}, {PAIRS} pairs")
    print("| network | FLOPs ratio | time ratio, median (min, max) | certify ms | while |")
    print("| --- | --- | --- | --- | --- |")
    for name in MODELS:
        certify, forward, ours, theirs = compiled(name)
        flops = certify.cost_analysis()["flops"] / forward.cost_analysis()["flops"]
        seconds(certify, ours), seconds(forward, theirs)
        pairs = [(seconds(certify, ours), seconds(forward, theirs)) for _ in range(PAIRS)]
        ratios = sorted(a / b for a, b in pairs)
        print(
            f"| {name} | {flops:.4f} | {statistics.median(ratios):.3f} ({ratios[0]:.2f}, "
            f"{ratios[-1]:.2f}) | {1e3 * statistics.median(a for a, _ in pairs):.1f} | "
            f"{'yes' if 'while' in certify.as_text() else 'no'} |"
        )


if __name__ == "__main__":
    main()
