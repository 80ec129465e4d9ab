#!/usr/bin/env python3
"""Turns lossless contact sheets of CIFAR-10 or CIFAR-100 into one .npz for `data prepare --from`.

    python scripts/sheets_to_npz.py SHEETS cifar10.npz
    gloro-jax data prepare cifar10 --from cifar10.npz

SHEETS holds train_* and test_* as .webp or .jxl, each 100 rows of 50 images of 32 x 32 pixels in
order, and labels.npz with y_train, y_test and, where there are any, fine_names (the classes; those
of CIFAR-10 otherwise) and lossy_test: images that exist only as JPEG are left out of the test
split, so that certified figures are about the original pixels. JPEG XL takes imagecodecs.
"""

import argparse
from collections.abc import Callable
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
    sheets = sorted(path for kind in _READERS for path in folder.glob(f"{split}_*{kind}"))
    if not sheets:
        raise SystemExit(f"{folder} has no {split}_*.webp and no {split}_*.jxl.")
    parts = []
    for sheet in sheets:
        pixels = _READERS[sheet.suffix](sheet)
        if pixels.shape != (3200, 1600, 3) or pixels.dtype != np.uint8:
            raise SystemExit(
                f"{sheet} is no sheet of 100 rows of 50 images of 32 x 32 pixels in colour: it has "
                f"shape {pixels.shape} and type {pixels.dtype}."
            )
        grid = pixels.reshape(100, 32, 50, 32, 3)
        parts.append(grid.swapaxes(1, 2).reshape(-1, 32, 32, 3))
    return np.concatenate(parts)


def _webp(sheet: Path) -> np.ndarray:
    return np.asarray(Image.open(sheet).convert("RGB"))


def _jxl(sheet: Path) -> np.ndarray:
    try:
        from imagecodecs import jpegxl_decode
    except ImportError:
        raise SystemExit(
            f"{sheet} is JPEG XL, which Pillow does not read: pip install imagecodecs, and again."
        ) from None
    return jpegxl_decode(sheet.read_bytes())


_READERS: dict[str, Callable[[Path], np.ndarray]] = {".webp": _webp, ".jxl": _jxl}


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
        class_names=labels["fine_names"] if "fine_names" in labels else np.array(_CLASSES),
    )
    print(f"{options.out}: {len(labels['y_train'])} training and {keep.sum()} test images")


if __name__ == "__main__":
    main()
