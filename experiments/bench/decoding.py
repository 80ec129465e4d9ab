"""How many photographs a core decodes and cuts at random, and how threads and processes scale.

python -m experiments.bench.decoding FOLDER_OF_JPEGS [--count 300] [--decoders]
python -m experiments.bench.decoding --set NAME [--workers 1 2 4]

The second reads batches of a prepared set as training does.
"""

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from gloro_jax.data import DataConfig
from gloro_jax.data.photographs import workers
from gloro_jax.data.photographs.decoding import decoder, part, random_box, with_shorter_side
from gloro_jax.data.sources import open_training_images

_SIZE, _BATCH = 224, 256


def rate(raws: list[bytes], decode: Callable[[bytes, np.random.Generator], Any]) -> float:
    """Pictures a second on one core: the median of three rounds."""
    rates = []
    for _ in range(3):
        rng, start = np.random.default_rng(0), time.perf_counter()
        for raw in raws:
            decode(raw, rng)
        rates.append(len(raws) / (time.perf_counter() - start))
    return float(np.median(rates))


def by_pillow(raw: bytes, rng: np.random.Generator) -> np.ndarray:
    """What training does."""
    picture = Image.open(io.BytesIO(raw)).convert("RGB")
    return np.asarray(part(picture, random_box(picture.size, area=0.08, rng=rng), _SIZE))


def by_opencv(raw: bytes, rng: np.random.Generator) -> np.ndarray:
    """The same cut by OpenCV, where it is installed."""
    import cv2

    pixels = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)
    height, width, _ = pixels.shape
    left, top, right, bottom = random_box((width, height), area=0.08, rng=rng)
    cut = pixels[top:bottom, left:right]
    return cv2.resize(cut, (_SIZE, _SIZE), interpolation=cv2.INTER_AREA)[..., ::-1]


def by_simplejpeg(raw: bytes, rng: np.random.Generator) -> np.ndarray:
    """Decoded by simplejpeg, cut by Pillow, where it is installed."""
    import simplejpeg

    picture = Image.fromarray(simplejpeg.decode_jpeg(raw, "RGB"))
    return np.asarray(part(picture, random_box(picture.size, area=0.08, rng=rng), _SIZE))


def batches_per_second(pictures: Any, *, count: int, processes: bool) -> float:
    """Pictures a second in batches of 256, as training reads them: the median of five."""
    rng, rates = np.random.default_rng(0), []
    with mock.patch.multiple(workers, count=lambda: count, are_processes=lambda: processes):
        workers.lasting.cache_clear()
        for epoch in range(6):
            which, start = rng.integers(0, len(pictures), _BATCH), time.perf_counter()
            pictures.random_crops(which, area=0.08, seed=0, epoch=epoch)
            rates.append(_BATCH / (time.perf_counter() - start))
        workers.lasting().shutdown()
        workers.lasting.cache_clear()
    return float(np.median(rates[1:]))  # the first starts the workers


def scaling(name: str, counts: list[int]) -> None:
    """Prints one line per number of workers."""
    pictures = open_training_images(DataConfig(name, image_size=_SIZE)).images
    print(f"{name}, {len(pictures)} photographs, {decoder()}; pictures a second")
    for count in counts:
        threads, processes = (
            batches_per_second(pictures, count=count, processes=p) for p in (False, True)
        )
        print(f"{count:3} workers   threads {threads:6.0f}   processes {processes:6.0f}")


def main() -> None:
    """Prints one line per decoder and size, or per number of workers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--set", help="a prepared set of photographs, in place of a folder")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--decoders", action="store_true", help="OpenCV and simplejpeg, too")
    options = parser.parse_args()
    if options.set:
        scaling(options.set, options.workers)
        return
    if options.folder is None:
        parser.error("name a folder of JPEG files, or a prepared set by --set")
    files = sorted(p for p in options.folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    originals = [path.read_bytes() for path in files[: options.count]]
    smaller = []
    for raw in originals:
        buffer = io.BytesIO()
        picture = with_shorter_side(Image.open(io.BytesIO(raw)).convert("RGB"), 256)
        picture.save(buffer, "jpeg", quality=95, subsampling=0)
        smaller.append(buffer.getvalue())
    print(f"{len(originals)} photographs, {decoder()}; pictures a second on one core")
    for decode in (by_pillow, *((by_opencv, by_simplejpeg) if options.decoders else ())):
        figures = [rate(raws, decode) for raws in (originals, smaller)]
        print(f"{decode.__name__:<15} as they are {figures[0]:6.0f}", end="   ")
        print(f"shorter side 256 {figures[1]:6.0f}")


if __name__ == "__main__":
    main()
