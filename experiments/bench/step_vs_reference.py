r"""A training step of a LiResNet with CHORD layers against any other command, as a ratio.

The other command is started once. It prints "ready"; then, for each line with a number N on its
standard input, it takes N training steps and prints the seconds they took. Both sides are asked in
turn, so that a machine that slows down slows both; each pair gives one ratio. The interval is a
95 % bootstrap interval of the median ratio.

`experiments/bench/liresnet_torch.py` is such a command for the authors' PyTorch code:

    python -m experiments.bench.step_vs_reference --dense-features 128 --reference \
      "python experiments/bench/liresnet_torch.py CHECKOUT --dense-features 128"

Another interpreter may run it: the two need not share packages.
"""

import argparse
import shlex
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np

import gloro_jax as gj
from gloro_jax.data import Batch
from gloro_jax.models import ChordLiResNet
from gloro_jax.platforms import one_blas_thread
from gloro_jax.training.optimizers import make_optimizer
from gloro_jax.training.scaling.parallel import data_parallel
from gloro_jax.training.state import initial_state
from gloro_jax.training.step import make_train_step

SHAPE = (32, 32, 3)


class Ours:
    """Our training step, compiled, on one device."""

    def __init__(self, options: argparse.Namespace) -> None:
        model = ChordLiResNet(
            depth=options.depth,
            width=options.width,
            dense_features=options.dense_features,
            dense_depth=options.dense_depth,
        )
        config = gj.training.TrainConfig(
            epsilon=36 / 255,
            epochs=1,
            batch_size=options.batch,
            power_steps=options.power_steps,
            learning_rate=1e-3,
            compute=options.compute,
        )
        net = model.build()
        optimizer = make_optimizer(config, steps_per_epoch=10_000)
        step = make_train_step(net, config, optimizer, steps_per_epoch=10_000)
        self._step = data_parallel(step, devices=jax.devices()[:1])
        self._state = initial_state(net, optimizer, seed=0, input_shape=SHAPE)
        rng = np.random.default_rng(0)
        images = rng.uniform(size=(options.batch, *SHAPE)).astype(np.float32)
        labels = rng.integers(0, 10, options.batch).astype(np.int32)
        count = options.batch
        self._batch = Batch(images, labels, np.ones(count, bool), np.arange(count, dtype=np.int32))

    def seconds(self, steps: int) -> float:
        """How long so many steps take."""
        start = time.perf_counter()
        for _ in range(steps):
            self._state, sums = self._step(self._state, self._batch)
        jax.block_until_ready((self._state, sums))
        return time.perf_counter() - start


class Theirs:
    """The other command, waiting to be asked."""

    def __init__(self, command: str) -> None:
        self._process = subprocess.Popen(
            shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._expect("ready")

    def seconds(self, steps: int) -> float:
        """How long it says that so many steps took."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return float(self._expect(None))

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def _expect(self, wanted: str | None) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line or wanted not in (None, line):
            sys.exit(f"The reference command printed {line!r} in place of {wanted or 'seconds'}.")
        return line


def median_ratio(ratios: np.ndarray) -> tuple[float, float, float]:
    """The median and a 95 % bootstrap interval of it."""
    drawn = np.random.default_rng(0).choice(ratios, size=(10_000, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return float(np.median(ratios)), float(low), float(high)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reference", required=True, help="the other command")
    parser.add_argument("--depth", type=int, default=6, help="linear residual blocks")
    parser.add_argument("--width", type=int, default=64, help="their channels")
    parser.add_argument("--dense-features", type=int, default=128, help="of the CHORD layers")
    parser.add_argument("--dense-depth", type=int, default=8, help="how many CHORD layers")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--power-steps", type=int, default=10, help="rounds per step")
    parser.add_argument("--compute", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--rounds", type=int, default=15, help="pairs of measurements")
    parser.add_argument("--steps", type=int, default=3, help="training steps per measurement")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    ours, theirs = Ours(options), Theirs(options.reference)
    with one_blas_thread():  # as in training
        ours.seconds(1), theirs.seconds(1)  # compilation, caches
        pairs: Any = np.array(
            [
                (ours.seconds(options.steps), theirs.seconds(options.steps))
                for _ in range(options.rounds)
            ]
        )
    theirs.close()
    mine, other = np.median(pairs / options.steps, axis=0)
    ratio, low, high = median_ratio(pairs[:, 1] / pairs[:, 0])
    print(f"JAX {jax.__version__}, {jax.devices()[0].device_kind}, {vars(options)}")
    print(f"seconds per step: ours {mine:.4f}, the reference {other:.4f}")
    print(f"ours is {ratio:.2f} times as fast, 95 % interval {low:.2f} to {high:.2f}")


if __name__ == "__main__":
    main()
