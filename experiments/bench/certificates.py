"""Writing and checking certificate files: seconds for 10,000 points of two fully connected nets.

Random weights and inputs; the file is written (norms, float64 scores), and checked again from its
arrays. A formally verified certifier reports 1,022 s for an 8 x 128 network on MNIST, and 20 to 40
hours for one of the second size on CIFAR-10.

Command: python -m experiments.bench.certificates
"""

import tempfile
import time
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np

import gloro_jax as gj
from gloro_jax import certificates, layers

POINTS = 10_000


def bench(name: str, widths: tuple[int, ...], shape: tuple[int, ...]) -> None:
    body = [layers.Flatten()]
    for width in widths:
        body += [layers.Dense(width), layers.MinMax()]
    net = gj.GloroNet(nn.Sequential(body), num_classes=10)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (POINTS, *shape)).astype(np.uint8)
    norms = gj.PowerIteration(steps=1)
    example = images[:1].astype(np.float32) / 255
    params = net.init(jax.random.key(0), example, norms=norms)["params"]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        frozen = gj.freeze(net, {"params": params}, input_shape=shape)
        froze = time.perf_counter()
        labels = rng.integers(0, 10, POINTS)
        out = Path(folder) / "certificate"
        written = certificates.write(frozen, images, labels, epsilon=0.01, out=out)
        wrote = time.perf_counter()
        certificates.check(written.path)
        checked = time.perf_counter()
        size = out.stat().st_size / 2**20
    print(
        f"{name}: freeze {froze - start:.1f} s, write {wrote - froze:.1f} s, check "
        f"{checked - wrote:.1f} s; {size:.0f} MiB, {written.is_certified.mean():.0%} certified"
    )


def main() -> None:
    print(f"JAX {jax.__version__}, {POINTS:,} points")
    bench("MLP 8 x 128, MNIST-size", (128,) * 8, (28, 28, 1))
    bench("MLP 512-256-128x6, CIFAR-size", (512, 256, *(128,) * 6), (32, 32, 3))


if __name__ == "__main__":
    main()
