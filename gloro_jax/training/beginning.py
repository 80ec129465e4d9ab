"""What is looked at, and written down, before a training begins."""

import dataclasses
import math
import re
from typing import Any

import jax
from rich.console import Console

from gloro_jax import guarantees, runs
from gloro_jax.data import Dataset, Split
from gloro_jax.data.photographs.pictures import Pictures
from gloro_jax.evaluation.vra import check_reach
from gloro_jax.gloro import GloroNet
from gloro_jax.models import ModelConfig, as_plain
from gloro_jax.plain import flat
from gloro_jax.training.config import TrainConfig
from gloro_jax.training.session import Session
from gloro_jax.version import __version__


def check(net: Any, data: Any, config: Any) -> None:
    """Raises a TypeError or ValueError unless network, data and config go together."""
    if not isinstance(net, GloroNet):
        raise TypeError(f"fit trains a gj.GloroNet or a model config, got {type(net).__name__}.")
    if not isinstance(data, Dataset):
        raise TypeError(
            f"fit takes a Dataset, got {type(data).__name__}: make one with "
            "gj.data.from_arrays((images, labels), (test_images, test_labels))."
        )
    if not isinstance(config, TrainConfig):
        raise TypeError(
            f"fit takes a gj.training.TrainConfig, got {type(config).__name__}: for example "
            "gj.training.TrainConfig(epsilon=0.5, epochs=20)."
        )
    if net.num_classes != data.num_classes:
        raise ValueError(
            f"The network has {net.num_classes} classes and the data {data.num_classes}: "
            f"build it with num_classes={data.num_classes} (--model.num-classes). The weights of "
            "another run start a network of that run's classes only."
        )
    if len(data.train) < config.batch_size:
        raise ValueError(
            f"batch_size {config.batch_size} exceeds the {len(data.train)} training examples: "
            f"choose a smaller one, {_smaller(len(data.train))} for example (--batch-size)."
        )
    check_reach(config.epsilon, data.input_shape, norm=config.norm)
    if guarantee := guarantees.parse(config.guarantee):
        guarantee.check(net.num_classes, is_covering=True)
    if config.augmentation.area < 1 and not isinstance(data.train.images, Pictures):
        raise ValueError(
            f"augmentation.area {config.augmentation.area} cuts parts of photographs that are read "
            f"from disk, and {data.name} is held in memory: use augmentation.crop."
        )
    devices = jax.device_count()
    if config.batch_size % (devices * config.microbatches):
        raise ValueError(
            f"batch_size {config.batch_size} must be a multiple of {devices} devices times "
            f"{config.microbatches} microbatches."
        )


def _smaller(examples: int) -> int:
    """A power of two that makes at least eight steps of an epoch, where there are so many."""
    return 2 ** max(0, (examples // 8).bit_length() - 1)


def plain_config(net: GloroNet | ModelConfig, data: Dataset, config: TrainConfig) -> dict[str, Any]:
    """What config.json says."""
    origin = dataclasses.asdict(data.origin) if data.origin else {"source": None}
    return {
        "gloro_jax": __version__,
        "model": as_plain(net) if isinstance(net, ModelConfig) else None,
        # For a network of one's own: its fields, without addresses that change with the process.
        "network": None
        if isinstance(net, ModelConfig)
        else re.sub(" at 0x[0-9a-f]+", "", repr(net)),
        "data": {
            "name": data.name,
            **origin,
            "examples": len(data.train),
            "input_shape": data.input_shape,
            "class_names": data.class_names,
            "fingerprint": data.fingerprint,
        },
        "training": dataclasses.asdict(config),
    }


def facts(plain: dict[str, Any], session: Session) -> dict[str, Any]:
    """What every process of a training has to be told alike."""
    return {
        **flat(runs.comparable(plain)),
        "resume": session.is_resuming,
        "resume_step": session.resume_step,
        "gloro-jax": __version__,
        "jax": jax.__version__,
    }


def say_if_small(validation: Split) -> None:
    """One line where the split that chooses the best epoch is small."""
    points = 98 / math.sqrt(len(validation))  # half the 95 % interval of a share near one half
    if points > 5:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"The validation split has {len(validation)} images: its VRA is uncertain by up to "
            f"{points:.0f} points, and so is the choice of the best epoch. A larger share can be "
            "held out (--validation), or the last epoch's weights looked at (certify "
            "--checkpoint last)."
        )
