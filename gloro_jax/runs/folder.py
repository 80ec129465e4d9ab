"""Making, reopening and reading run folders; JSON only."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from gloro_jax.models import ModelConfig, as_plain, from_plain_model, is_known
from gloro_jax.paths import Place, place, storable
from gloro_jax.plain import flat

_PLACES = ("source", "directory")
# Settings that came after version 0.1, with the value that earlier runs had without saying it.
_LATER = {
    "momentum": 0.9,
    "norm": "l2",
    "guarantee": "strict",
    "augmentation.noise": 0.0,
    "weight_decay": 0.0,
    "average": 0.0,
    "augmentation.area": 1.0,
    "augmentation.padding": "zeros",
    "image_size": None,
    "extra": None,
    "extra_share": 0.75,
    "views": [],
    "is_trained_on_views": False,
}


def create(run: str | os.PathLike[str]) -> Place:
    """Makes a new run folder.

    Raises:
        FileExistsError: if something is there already; nothing in it is touched.
    """
    folder = check_new(run)
    try:
        (folder / "weights").mkdir(parents=True)  # one of two runs that start together fails here
    except FileExistsError:
        raise _taken(folder) from None
    return folder


def check_new(run: str | os.PathLike[str]) -> Place:
    """The folder, or an error; nothing is written.

    Raises:
        FileExistsError: if something is there already.
        ValueError: if checkpoints in such a folder could not be read again.
    """
    folder = storable(run)
    if folder.is_file():
        raise FileExistsError(f"{folder} is a file, and a run is a folder: choose a new one.")
    above = next((one for one in folder.parents if one.exists()), None)
    if above is not None and above.is_file():
        raise FileExistsError(f"{above} is a file, so there can be no folder {folder} in it.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise _taken(folder)
    return folder


def _taken(folder: Place) -> FileExistsError:
    return FileExistsError(
        f"{folder} exists and is not empty. Runs are never overwritten: choose another folder, or "
        "go on with a training that began there with --resume (from Python, "
        "session=gj.training.Session(is_resuming=True))."
    )


def is_unborn(run: str | os.PathLike[str]) -> bool:
    """Whether a folder is all that a run leaves that died while it was being created."""
    folder = place(run)
    left = {path.name for path in folder.iterdir()} if folder.is_dir() else {"none"}
    return left <= {"weights", "config.json.partial"} and not any(folder.glob("weights/*"))


def reopen(run: str | os.PathLike[str], config: dict[str, Any]) -> Place:
    """The folder of a run that was begun with this very config, to go on with it.

    Raises:
        ValueError: if it was begun with another one; the message lists the differences.
    """
    there = flat(comparable(read_config(run, sections=("data", "training"))))
    wanted = flat(comparable(json.loads(json.dumps(config))))
    differences = [
        f"  {name}: {_told(there, name)} in the run, {_told(wanted, name)} now"
        for name in sorted(there.keys() | wanted.keys())
        if there.get(name) != wanted.get(name)
    ]
    if differences:
        raise ValueError(
            f"{run} was begun with another config, so it cannot be resumed with this one:\n"
            + "\n".join(differences)
            + "\nGive the same options. To train its weights on with others, choose a new folder: "
            f"--run NEW --init-from {run} (from Python, initial=gj.runs.load_variables(run))."
        )
    return place(run)


def _told(settings: dict[str, Any], name: str) -> Any:
    """A setting, or what it is where nothing is said of it."""
    return settings.get(name, _LATER.get(name.partition(".")[2], "absent"))


def identity(run: str | os.PathLike[str]) -> str:
    """SHA-256 over what decides a run's result: network, data, training, initial weights."""
    content = json.dumps(comparable(read_config(run)), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def unfinished(run: str | os.PathLike[str]) -> str:
    """In words, how far a training came that has not ended; empty if it has, or there was none."""
    config = read_config(run)
    epochs = config["training"].get("epochs") if isinstance(config.get("training"), dict) else None
    if epochs is None or (place(run) / "summary.json").is_file():
        return ""
    done = len(read_metrics(run))
    return (
        f"The training of {place(run)} has not ended: {done} of {epochs} epochs are done. These "
        "are its weights so far; gloro-jax train ... --resume goes on."
    )


def check_model(model: ModelConfig) -> None:
    """Raises a ValueError unless `model` can be read back from a run folder as it is."""
    if not is_known(model) or from_plain_model(json.loads(json.dumps(as_plain(model)))) != model:
        raise ValueError(
            f"{type(model).__name__} cannot be stored as a model config. Pass the network itself, "
            "fit(model.build(), ...), and give it again to gj.load(run, net=...)."
        )


def write_config(folder: Place, config: dict[str, Any]) -> None:
    """Writes config.json, whole or not at all."""
    write_atomically(folder / "config.json", json.dumps(config, indent=2).encode() + b"\n")


def write_summary(folder: Place, summary: dict[str, Any]) -> None:
    """Writes summary.json, whole or not at all."""
    write_atomically(folder / "summary.json", json.dumps(summary, indent=2).encode() + b"\n")


def set_aside(folder: Place, checkpoints: list[int]) -> Place:
    """Moves what came after an earlier checkpoint out of the way, and says where.

    That is: the later checkpoints, the frozen weights, metrics.jsonl and summary.json, which would
    otherwise describe another state than the one that goes on.
    """
    taken = {path.name for path in (folder / "set-aside").glob("*")}
    target = folder / "set-aside" / next(n for i in range(1, 10**6) if (n := str(i)) not in taken)
    (target / "checkpoints").mkdir(parents=True)
    names = ["summary.json", "metrics.jsonl", "weights"]
    names += [f"checkpoints/{step}" for step in checkpoints]
    for name in names:
        if (folder / name).exists():
            _move(folder / name, target / name)
    return target


def _move(source: Place, target: Place) -> None:
    if isinstance(source, Path):
        shutil.move(source, target)  # checkpoints may lie on another file system
    else:
        source.rename(target)


def read_summary(run: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads summary.json; empty where the run has not finished."""
    path = place(run) / "summary.json"
    return _read_object(path) if path.is_file() else {}


def read_config(run: str | os.PathLike[str], *, sections: tuple[str, ...] = ()) -> dict[str, Any]:
    """Reads config.json.

    Args:
        run: the run folder.
        sections: objects that it must hold.

    Raises:
        FileNotFoundError: if this is no run folder.
        ValueError: if the file is not a JSON object, or lacks a section.
    """
    path = place(run) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path.parent} is no run folder: it has no config.json. `gloro-jax train` makes one."
        )
    config = _read_object(path)
    lacking = [name for name in sections if not isinstance(config.get(name), dict)]
    if lacking:
        raise ValueError(f"{path} has no {' and no '.join(lacking)} section: it is damaged.")
    data = config.get("data")
    names = (data.get("class_names") if isinstance(data, dict) else None) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path} is damaged: data.class_names is a list of texts, got {names!r}.")
    return config


def read_metrics(run: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; a last line that was cut off while being written is left out.

    Raises:
        ValueError: if another line is damaged.
    """
    path = place(run) / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else [""]
    try:
        rows = [json.loads(line) for line in lines[:-1]]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON lines: {error}.") from None
    wanted = {"epoch", "step", "train", "validation"}
    if any(not isinstance(row, dict) or not wanted <= row.keys() for row in rows):
        raise ValueError(f"{path} is damaged: every line has {', '.join(sorted(wanted))}.")
    return rows


def _read_object(path: Place) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object.")
    return found


def comparable(config: dict[str, Any]) -> dict[str, Any]:
    """What decides a run's result: not the version, nor where its data lies."""
    kept = {k: v for k, v in config["data"].items() if k not in _PLACES and not _is_as_before(k, v)}
    network = config.get("network") if config.get("model") is None else None
    same = {"model": config.get("model"), "initial": config.get("initial")}
    if isinstance(same["model"], dict):
        same["model"] = {k: v for k, v in same["model"].items() if not _is_as_before(k, v)}
    training = {k: v for k, v in config["training"].items() if not _is_as_before(k, v)}
    if isinstance(changes := training.get("augmentation"), dict):
        training["augmentation"] = {
            k: v for k, v in changes.items() if not _is_as_before(f"augmentation.{k}", v)
        }
    own = {k: config[k] for k in ("own_optimizer",) if config.get(k)}
    return {**same, "training": training, "data": kept, "network": network, **own}


def _is_as_before(name: str, value: Any) -> bool:
    """Whether a setting says what was so before it was one."""
    plain = list(value) if isinstance(value, tuple) else value  # as JSON has it
    return name in _LATER and _LATER[name] == plain


def write_atomically(path: Place, content: bytes) -> None:
    """Writes a file whole or not at all."""
    if not isinstance(path, Path):  # a bucket shows objects when they are whole
        path.write_bytes(content)
        return
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
