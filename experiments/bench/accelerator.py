"""What one accelerator does in a few minutes: steps, share of peak, certify, freeze, a speed run.

Each part starts only while there is time left for it, and the file is written after each, so that a
machine that is taken away leaves what it gave. `experiments/bench/accelerator.sh` calls this, and
the comparison with the PyTorch reference, in one command.

Command: python -m experiments.bench.accelerator --out FILE.json [--seconds 480] [--data FILE.npz]
(--tiny is the same at sizes that a laptop runs in two minutes)
"""

import argparse
import dataclasses
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gloro_jax as gj
from gloro_jax.data import Batch
from gloro_jax.models import ChordLiResNet, LiResNet
from gloro_jax.recipes import RECIPES
from gloro_jax.training import TrainConfig, data_parallel
from gloro_jax.training.optimizers import make_optimizer
from gloro_jax.training.state import initial_state
from gloro_jax.training.step import make_train_step

# Dense bfloat16 FLOP/s as vendors state them, by a part of the device's name.
_PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "V100": 125e12, "L4": 121e12}
_RESERVE = 20.0  # seconds, to write and to leave


@dataclasses.dataclass(frozen=True)
class Shape:
    """A training step to measure: the network, the side of its images, and the batch."""

    model: LiResNet | ChordLiResNet
    side: int
    batch: int


_FULL = {
    "cifar10 L12W512": Shape(LiResNet(depth=12, width=512), 32, 256),
    "imagenet L12W588": Shape(LiResNet(depth=12, width=588, num_classes=1000), 224, 128),
}
_TINY = {
    "tiny 32": Shape(LiResNet(depth=2, width=16, dense_features=16), 32, 16),
    "tiny 224": Shape(LiResNet(depth=2, width=12, dense_features=16, num_classes=100), 224, 4),
}


def step(shape: Shape, *, compute: Any, seconds: float) -> dict[str, Any]:
    """Milliseconds a step, images a second, and the share of the peak that its FLOPs are."""
    config = TrainConfig(
        epsilon=36 / 255, epochs=1, batch_size=shape.batch, power_steps=5, compute=compute
    )
    net, image = shape.model.build(), (shape.side, shape.side, 3)
    optimizer = make_optimizer(config, steps_per_epoch=10_000)
    run = make_train_step(net, config, optimizer, steps_per_epoch=10_000)
    compiled = data_parallel(run, devices=jax.devices()[:1])
    state = initial_state(net, optimizer, seed=0, input_shape=image)
    rng = np.random.default_rng(0)
    batch = Batch(
        rng.integers(0, 256, (shape.batch, *image), np.uint8),
        rng.integers(0, shape.model.num_classes, shape.batch),
        np.ones(shape.batch, bool),
        np.arange(shape.batch, dtype=np.int32),
    )
    start = time.perf_counter()
    state, sums = compiled(state, batch)
    jax.block_until_ready(sums)
    compile_seconds, times = time.perf_counter() - start, []
    while sum(times) < seconds and len(times) < 200:
        start = time.perf_counter()
        state, sums = compiled(state, batch)
        jax.block_until_ready(sums)
        times.append(time.perf_counter() - start)
    median = float(np.median(times))
    flops = 3 * shape.batch * forward_flops(net, image)
    peak = next((v for k, v in _PEAK.items() if k in jax.devices()[0].device_kind), None)
    return {
        "batch": shape.batch,
        "compile_seconds": compile_seconds,
        "ms": 1e3 * median,
        "images_per_second": shape.batch / median,
        "flops_per_image_forward": flops / 3 / shape.batch,
        "share_of_bfloat16_peak": flops / median / peak if peak else None,
    }


def forward_flops(net: gj.GloroNet, image: tuple[int, ...]) -> float:
    """FLOPs of one image's forward pass as the compiler counts them; a step counts as three."""
    x, norms = jnp.zeros((1, *image)), gj.PowerIteration(steps=1)
    variables = jax.eval_shape(lambda k: net.init(k, x, norms=norms), jax.random.key(0))

    def forward(variables: Any, x: Any) -> Any:
        return net.apply(variables, x, norms=norms, mutable=["spectral"])[0].values

    many = jax.ShapeDtypeStruct((64, *image), jnp.float32)
    one = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    # What does not grow with the batch, the norms, drops out of the difference.
    with jax.default_device(jax.devices("cpu")[0]):  # other backends count nothing before compiling
        counts = [jax.jit(forward).lower(variables, x).cost_analysis() for x in (many, one)]
    return (float(counts[0]["flops"]) - float(counts[1]["flops"])) / 63


def certify(*, is_tiny: bool) -> dict[str, Any]:
    """Freezing on the host, and certify over the bare forward pass of the frozen network."""
    recipe = RECIPES["digits" if is_tiny else "cifar10_liresnet_small"]()
    net, image = recipe.model.build(), (8, 8, 1) if is_tiny else (32, 32, 3)
    norms = gj.PowerIteration(steps=1)
    variables = net.init(jax.random.key(0), jnp.zeros((1, *image)), norms=norms)
    start = time.perf_counter()
    frozen = gj.freeze(net, variables, input_shape=image)
    freeze_seconds = time.perf_counter() - start
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(512, *image)).astype(np.float32))

    def milliseconds(run: Callable[[], Any]) -> float:
        times = []
        for _ in range(12):
            start = time.perf_counter()
            jax.block_until_ready(run())
            times.append(time.perf_counter() - start)
        return 1e3 * float(np.median(times[1:]))

    both = jax.jit(lambda f, x: gj.certify(f, x, epsilon=0.1))
    forward = jax.jit(lambda f, x: f(x).values)
    ours, bare = milliseconds(lambda: both(frozen, x)), milliseconds(lambda: forward(frozen, x))
    told = {"batch": 512, "certify_ms": ours, "forward_ms": bare, "ratio": ours / bare}
    return {"freeze_seconds": freeze_seconds, **told}


def speed_run(data: gj.data.Dataset, *, seconds: float, is_tiny: bool) -> dict[str, Any]:
    """As many epochs of a recipe as fit into the time, with its schedules cut to them."""
    recipe = RECIPES["digits" if is_tiny else "cifar10_liresnet_small"]()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        trial = dataclasses.replace(recipe.training, epochs=2, warmup_epochs=0)
        rows = list(gj.training.epochs(recipe.model, data, trial, run=Path(folder) / "trial"))
        epoch = sum(rows[1]["timing"].get(k, 0.0) for k in ("data", "step", "evaluation"))
        left = seconds - 2 * (time.perf_counter() - start)
        count = max(1, min(recipe.training.epochs, int(left / epoch)))
        warmup = min(recipe.training.warmup_epochs, count // 10)
        config = dataclasses.replace(recipe.training, epochs=count, warmup_epochs=warmup)
        result = gj.training.fit(recipe.model, data, config, run=Path(folder) / "run")
        test = [(data.test.images, data.test.labels)]
        report = gj.evaluation.verified_robust_accuracy(result.frozen, test, epsilon=config.epsilon)
    return {
        "epochs": count,
        "seconds": result.seconds,
        "clean": report.clean_accuracy,
        "vra": report.vra,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="a JSON file")
    parser.add_argument("--seconds", type=float, default=480.0, help="for everything")
    parser.add_argument("--data", help="a prepared set or an .npz file for the speed run")
    parser.add_argument("--tiny", action="store_true", help="sizes for a machine without any")
    options = parser.parse_args()
    begun, device = time.perf_counter(), jax.devices()[0]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    found: dict[str, Any] = {
        "device": device.device_kind,
        "platform": device.platform,
        "jax": jax.__version__,
        "commit": commit.stdout.strip() or "unknown",
        "steps": {},
    }

    def left() -> float:
        return options.seconds - _RESERVE - (time.perf_counter() - begun)

    def note(name: str, value: Any) -> None:
        found[name] = value
        options.out.write_text(json.dumps(found, indent=1) + "\n")
        print(name, json.dumps(value), flush=True)

    for name, shape in (_TINY if options.tiny else _FULL).items():
        for compute in ("float32", "bfloat16"):
            if left() > 90 or options.tiny:
                measured = step(shape, compute=compute, seconds=2 if options.tiny else 8)
                note("steps", {**found["steps"], f"{name}, {compute}": measured})
    if left() > 40:
        note("certify", certify(is_tiny=options.tiny))
    source = "digits" if options.tiny else options.data
    if source and left() > 30:
        data = gj.data.open_data(source)
        note("speed_run", speed_run(data, seconds=left(), is_tiny=options.tiny))


if __name__ == "__main__":
    main()
