"""CROWN by auto_LiRPA on the network of `experiments.bench.verifiers crown`: its time and bounds.

Needs torch and auto_LiRPA, in an environment of their own, and the files that the other command
left in --cache.

Command: python experiments/bench/crown_torch.py --cache scratch
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm


def network(file: Path) -> Any:
    stored = [torch.tensor(array) for array in np.load(file).values()]
    by_shape = {tuple(array.shape): array for array in stored}
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 4, stride=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 32, 4, stride=2),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(800, 100),
        torch.nn.ReLU(),
        torch.nn.Linear(100, 10),
    )
    dense = by_shape[800, 100].reshape(5, 5, 32, 100).permute(3, 2, 0, 1).reshape(100, 800)
    state = {
        "0.weight": by_shape[4, 4, 1, 16].permute(3, 2, 0, 1),
        "0.bias": by_shape[16,],
        "2.weight": by_shape[4, 4, 16, 32].permute(3, 2, 0, 1),
        "2.bias": by_shape[32,],
        "5.weight": dense,
        "5.bias": by_shape[100,],
        "7.weight": by_shape[100, 10].T,
        "7.bias": by_shape[10,],
    }
    model.load_state_dict(state)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--cache", type=Path, default=Path("scratch"))
    parser.add_argument("--radius", type=float, default=0.02)
    parser.add_argument("--at-once", type=int, default=100)
    options = parser.parse_args()
    points = np.load(options.cache / "crown_points.npz")
    x = torch.tensor(points["x"]).permute(0, 3, 1, 2)
    labels = torch.tensor(points["labels"])
    model = network(options.cache / "plain_conv.npz")
    # The same slopes as Crown's here: 1 where u >= -l, else 0.
    bounded = BoundedModule(
        model, x[: options.at_once], bound_opts={"activation_bound_option": "adaptive"}
    )
    eye = torch.eye(10)
    rows = eye[labels][:, None] - eye[None]
    best, lows = float("inf"), None
    for _ in range(4):
        began, parts = time.perf_counter(), []
        for first in range(0, len(x), options.at_once):
            some = slice(first, first + options.at_once)
            ball = PerturbationLpNorm(norm=np.inf, eps=options.radius)
            image = BoundedTensor(x[some], ball)
            with torch.no_grad():
                low, _ = bounded.compute_bounds(
                    x=(image,), C=rows[some], method="CROWN", bound_upper=False
                )
            parts.append(low)
        best = min(best, time.perf_counter() - began)
        lows = torch.cat(parts).numpy()
    assert lows is not None
    np.savez(options.cache / "crown_bounds_torch.npz", lows=lows)
    lows[np.arange(len(lows)), points["labels"]] = np.inf
    print(json.dumps({"seconds": best, "verified": int((lows.min(axis=1) > 0).sum())}))


if __name__ == "__main__":
    main()
