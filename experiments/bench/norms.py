"""Guaranteed norms of large operators: CPU seconds, memory, and how far above a lower bound.

Command: python -m experiments.bench.norms     (one BLAS thread for convolutions)
"""

import resource
import time

import numpy as np

import gloro_jax as gj
from gloro_jax.lipschitz.convolutions.lanczos import StrideOne, largest_singular_vectors


def bench_conv(channels: int, size: int, kind: str) -> None:
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((3, 3, channels, channels)) / np.sqrt(9 * channels)
    if kind == "I + 0.3 W":
        kernel *= 0.3
        kernel[1, 1] += np.eye(channels)
    kernel = kernel.astype(np.float32)
    start = time.process_time()
    bound = float(gj.conv_norm(kernel, image_size=(size, size), strides=1, padding="SAME"))
    seconds = time.process_time() - start
    linear = StrideOne(kernel, image_size=(size, size), pads=((1, 1), (1, 1)))
    lower, _ = largest_singular_vectors(linear, tol=1e-4)
    report(f"3x3, {channels} channels, {size} x {size}, {kind}", seconds, bound / lower - 1)


def bench_dense(size: int) -> None:
    matrix = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
    start = time.perf_counter()
    bound = float(gj.matrix_norm(matrix))
    seconds = time.perf_counter() - start
    exact = np.linalg.norm(matrix.astype(np.float64), ord=2)
    report(f"dense {size} x {size} (wall)", seconds, bound / exact - 1)


def report(name: str, seconds: float, excess: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{name:40} {seconds:6.2f} s   {excess:9.2e} above   peak {peak:.2f} GiB", flush=True)


def main() -> None:
    bench_dense(2048)
    for kind in ("random", "I + 0.3 W"):
        bench_conv(64, 32, kind)
        bench_conv(12, 112, kind)
    for kind in ("random", "I + 0.3 W"):
        bench_conv(512, 16, kind)


if __name__ == "__main__":
    main()
