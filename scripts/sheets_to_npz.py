#!/usr/bin/env python3
"""Turns lossless contact sheets of CIFAR-10 into one .npz for `gloro-jax data prepare --from`.

    python scripts/sheets_to_npz.py SHEETS cifar10.npz
    gloro-jax data prepare cifar10 --from cifar10.npz

SHEETS holds train_*.webp and test_*.webp, each 100 rows of 50 images of 32 x 32 pixels in order,
and labels.npz with y_train, y_test and, where some images exist only as JPEG, lossy_test: those
are left out of the test split, so that certified figures are about the original pixels.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

_CLASSES = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
]


def read_split(folder: Path, split: str) -> np.ndarray:
    """Images (n, 32, 32, 3), uint8, of every sheet of one split."""
    sheets = sorted(folder.glob(f"{split}_*.webp"))
    if not sheets:
        raise SystemExit(f"{folder} has no {split}_*.webp.")
    parts = []
    for sheet in sheets:
        grid = np.asarray(Image.open(sheet).convert("RGB")).reshape(100, 32, 50, 32, 3)
        parts.append(grid.swapaxes(1, 2).reshape(-1, 32, 32, 3))
    return np.concatenate(parts)


def main() -> None:
    """Reads the sheets, leaves out what is lossy in the test split, writes the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sheets", type=Path, help="folder of the sheets and labels.npz")
    parser.add_argument("out", type=Path, help="the .npz file to write")
    options = parser.parse_args()
    labels = np.load(options.sheets / "labels.npz")
    keep = np.ones(len(labels["y_test"]), bool)
    if "lossy_test" in labels:
        keep[labels["lossy_test"]] = False
    np.savez(
        options.out,
        x_train=read_split(options.sheets, "train"),
        y_train=labels["y_train"],
        x_test=read_split(options.sheets, "test")[keep],
        y_test=labels["y_test"][keep],
        class_names=np.array(_CLASSES),
    )
    print(f"{options.out}: {len(labels['y_train'])} training and {keep.sum()} test images")


if __name__ == "__main__":
    main()
