"""From a state dict to a run folder with guaranteed bounds."""

import os
from pathlib import Path

from gloro_jax import runs
from gloro_jax.data.npz import is_npz
from gloro_jax.freezing import freeze
from gloro_jax.frozen_net import FrozenNet
from gloro_jax.margins import as_epsilon
from gloro_jax.models import as_plain
from gloro_jax.paths import local
from gloro_jax.plain import number
from gloro_jax.torch_import.files import read_state_dict
from gloro_jax.torch_import.liresnet import from_state_dict
from gloro_jax.version import __version__


def import_torch(
    file: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    epsilon: float = 36 / 255,
    data: str | None = None,
    image_size: int | None = None,
) -> FrozenNet:
    """Reads a state dict, computes guaranteed bounds, and writes a run folder.

    Args:
        file: .pth or .pt (needs torch), .safetensors or .npz.
        out: a new run folder, for `gj.load`, `certify`, `report`, `export` and `--init-from`.
        epsilon: the l2 radius that the run certifies at unless told otherwise.
        data: the prepared set or .npz file that it is certified on unless told otherwise.
        image_size: side of the images; needed where the file does not hold it.

    Raises:
        FileExistsError: if `out` is not new.
        FileNotFoundError: if `file`, or a `data` file, is not there.
        ImportError: if a .pth file is given and torch is not installed.
        ValueError: if the file is no state dict of such a network; every tensor that is missing,
            unknown, of another shape or not finite is named. Nothing is written then.
    """
    as_epsilon(epsilon)  # refuses what is no radius
    radius = number(epsilon)
    runs.check_new(out)  # before the norms, which may take minutes
    if data is not None and is_npz(data):
        if not local(data).is_file():
            raise FileNotFoundError(f"{data}, the data to certify on, is not there.")
        data = str(local(data).resolve())
    found = from_state_dict(read_state_dict(file), image_size=image_size)
    net = found.model.build()
    frozen = freeze(net, found.variables, input_shape=found.input_shape)
    config = {
        "gloro_jax": __version__,
        "model": as_plain(found.model),
        "network": None,
        "data": {"name": data, "source": data, "input_shape": found.input_shape},
        "training": {"epsilon": radius},
        "imported": {"file": Path(file).name, "layout": "hukkai/liresnet"},
    }
    folder = runs.create(out)
    runs.write_config(folder, config)
    for checkpoint in ("best", "last"):
        runs.save_frozen(folder, checkpoint, frozen)
        runs.save_variables(folder, checkpoint, found.variables)
    return frozen
