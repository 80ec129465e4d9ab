"""The layout of the LiResNet authors' state dicts (github.com/hukkai/liresnet, ICLR 2024).

A state dict does not say everything: the activation is taken to be MinMax and the head to be
normalised, which are that code's defaults.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gloro_jax.lipschitz.rounding import nearest_float32
from gloro_jax.models import ChordLiResNet
from gloro_jax.torch_import.files import State

# Buffers that say nothing about the network, or only the image size.
_BUFFERS = (
    "stem.0.init_x",
    "conv.init_x",
    "conv.identity",
    "linear.identity",
    "linear.eval_weight",
)
_NECK = 4


class Imported(NamedTuple):
    """A network found in a state dict.

    Attributes:
        model: its config.
        variables: its collections "params" and "centering".
        input_shape: one image, (H, W, C).
    """

    model: ChordLiResNet
    variables: dict[str, Any]
    input_shape: tuple[int, int, int]


def from_state_dict(state: State, *, image_size: int | None = None) -> Imported:
    """The network of a state dict, its config inferred from names and shapes.

    Raises:
        TypeError: if `state` is not a dictionary of arrays, as `read_state_dict` returns.
        ValueError: if tensors are missing, unknown, of another shape or not finite; all are named.
    """
    if not (isinstance(state, dict) and all(isinstance(x, np.ndarray) for x in state.values())):
        raise TypeError(f"state is a dictionary of arrays (read_state_dict), got {type(state)}.")
    given = {name: array for name, array in state.items() if name not in _BUFFERS}
    model = _model(given)
    stem = given["stem.0.weight"].shape
    size = _image_size(state, model, window=stem[2], asked=image_size)
    _check(given, _wanted(model, stem, has_means=model.is_centered))
    arrays = {name: nearest_float32(array) for name, array in given.items()}
    return Imported(model, _variables(arrays, model), (*size, stem[1]))


def _model(given: State) -> ChordLiResNet:
    needed = {
        "stem.0.weight": 4, "conv.weights": 5, "neck.weight": 2, "neck.kernel": 2,
        "linear.weights": 3, "head.weight": 2,
    }  # fmt: skip
    lacking = [f"{name} of {n} axes" for name, n in needed.items() if _axes(given, name) != n]
    if lacking:
        raise ValueError(
            f"This is no state dict of a LiResNet with CHORD layers: it has no {', '.join(lacking)}"
            f". It holds {sorted(given)[:8]}{' ...' if len(given) > 8 else ''}."
        )
    empty = [name for name in needed if 0 in given[name].shape]
    if empty:
        raise ValueError(f"Tensors without entries make no network: {', '.join(empty)}.")
    depth, width = given["conv.weights"].shape[:2]
    if width % 2:
        raise ValueError(f"The width must be even, and conv.weights has {width} channels.")
    channels, window = given["stem.0.weight"].shape[1:3]
    if window not in (5, _patch(width, channels)):
        raise ValueError(
            f"The stem's window is 5, or {_patch(width, channels)} = sqrt(width / channels) for "
            f"patches; stem.0.weight has {window}."
        )
    return ChordLiResNet(
        depth=depth,
        width=width,
        num_classes=given["head.weight"].shape[0],
        stem="5x5" if window == 5 else "patches",
        dense_features=given["neck.weight"].shape[0],
        dense_depth=given["linear.weights"].shape[0],
        is_centered="conv.running_mean" in given,
    )


def _patch(width: int, channels: int) -> int:
    return max(1, round((width / channels) ** 0.5))


def _axes(given: State, name: str) -> int:
    return given[name].ndim if name in given else -1


def _image_size(state: State, model: ChordLiResNet, *, window: int, asked: int | None) -> Any:
    """(H, W), from the start vector of the stem's power iteration or from the neck."""
    inputs = state["neck.weight"].shape[1]
    middle = round((inputs / model.width) ** 0.5)
    stride = 2 if model.stem == "5x5" else window
    if asked is not None and (type(asked) is not int or asked < 1):
        raise ValueError(f"image_size is the side of the images in pixels, got {asked!r}.")
    side = asked or _NECK * middle * stride  # exact where the stride divides the image
    size = (side, side)
    is_clear = model.stem == "5x5" and _patch(model.width, state["stem.0.weight"].shape[1]) != 5
    if _axes(state, "stem.0.init_x") == 4:
        size = tuple(int(n) for n in state["stem.0.init_x"].shape[2:])
        if asked is not None and size != (asked, asked):
            raise ValueError(
                f"The file was made for images of {size[0]} x {size[1]}, and image_size says "
                f"{asked}: leave it out."
            )
    elif asked is None and not is_clear:
        raise ValueError(
            f"The file does not say how large the images were, {side} pixels or a few more: give "
            "the image size (--image-size 224)."
        )
    made = [(side - window + (4 if model.stem == "5x5" else 0)) // stride + 1 for side in size]
    if made != [_NECK * middle] * 2 or middle**2 * model.width != inputs:
        raise ValueError(
            f"Images of {size[0]} x {size[1]} do not fit this network: its stem makes {made[0]} x "
            f"{made[1]} pixels of them, and neck.weight wants {_NECK * middle} x {_NECK * middle}."
        )
    return size


def _wanted(
    model: ChordLiResNet, stem: tuple[int, ...], *, has_means: bool
) -> dict[str, tuple[int, ...]]:
    """Every tensor of the network with its shape, as PyTorch names and stores it."""
    d, w, n, m = model.depth, model.width, model.dense_features, model.dense_depth
    means = {"conv.running_mean": (d, w)} if has_means else {}
    window = stem[2]
    return means | {
        "stem.0.weight": (w, stem[1], window, window),
        "stem.0.bias": (w,),
        "conv.weights": (d, w, w, 3, 3),
        "conv.gamma": (d, w, 1, 1, 1),
        "conv.bias": (d, w),
        "neck.kernel": (w, _NECK**2 * w),
        "neck.weight": (n, -1),  # compared with the image size already
        "neck.bias": (n,),
        "linear.weights": (m, n, n),
        "linear.gamma": (m, n, 1),
        "linear.bias": (m, n),
        "head.weight": (model.num_classes, n),
        "head.bias": (model.num_classes,),
    }


def _check(given: State, wanted: dict[str, tuple[int, ...]]) -> None:
    faults = [f"{name} is missing" for name in wanted if name not in given]
    faults += [f"{name} is unknown" for name in given if name not in wanted]
    for name in sorted(given.keys() & wanted.keys()):
        array, shape = given[name], wanted[name]
        fits = array.ndim == len(shape) and all(
            want in (-1, have) for want, have in zip(shape, array.shape, strict=True)
        )
        if not fits:
            faults.append(f"{name} has shape {array.shape} in place of {shape}")
        elif not jnp.issubdtype(array.dtype, jnp.floating):  # knows bfloat16, too
            faults.append(f"{name} is of type {array.dtype}")
        elif not np.isfinite(nearest_float32(array)).all():
            faults.append(f"{name} holds NaN or infinite entries, or such as exceed float32")
    if faults:
        raise ValueError("The state dict cannot be imported: " + "; ".join(faults) + ".")


def _variables(state: State, model: ChordLiResNet) -> dict[str, Any]:
    """PyTorch's (out, in, h, w) to (h, w, in, out); flattened (C, H, W) to (H, W, C)."""
    width, features = model.width, model.dense_features
    neck = state["neck.kernel"].reshape(width, width, _NECK, _NECK)
    side = round((state["neck.weight"].shape[1] / width) ** 0.5)
    dense = state["neck.weight"].reshape(features, width, side, -1)
    body: dict[str, Any] = {
        "stem": {"kernel": _hwio(state["stem.0.weight"]), "bias": state["stem.0.bias"]},
        "neck": {"kernel": _hwio(neck)},
        "neck_dense": {
            "kernel": _hwio(dense).reshape(-1, features),
            "bias": state["neck.bias"],
        },
    }
    for kind, tensors, turned, depth in (
        ("block", "conv", _hwio, model.depth),
        ("dense", "linear", np.transpose, model.dense_depth),
    ):
        for i in range(depth):
            body[f"{kind}{i + 1}"] = {
                "kernel": turned(state[f"{tensors}.weights"][i]),
                "gain": state[f"{tensors}.gamma"][i].reshape(-1),
                "bias": state[f"{tensors}.bias"][i],
            }
    params = {"body": body, "head_kernel": state["head.weight"].T, "head_bias": state["head.bias"]}
    means = state.get("conv.running_mean")
    centering = {} if means is None else {f"block{i}": {"mean": m} for i, m in enumerate(means, 1)}
    return jax.tree.map(np.ascontiguousarray, {"params": params, "centering": {"body": centering}})


def _hwio(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(2, 3, 1, 0)
