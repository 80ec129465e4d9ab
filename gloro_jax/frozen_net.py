"""FrozenNet: weights, the bounds computed from them, and one digest over both."""

import dataclasses
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from gloro_jax.gloro import FrozenHead, GloroNet, run_body
from gloro_jax.layers.base import Frozen, FrozenLinear
from gloro_jax.lipschitz.steps import Steps
from gloro_jax.margins import GloroLogits


@jax.tree_util.register_pytree_node_class
class FrozenNet:
    """A network with the guaranteed bounds of its weights. Made by `freeze` and `gj.load` only.

    It is a pytree whose leaves are kernels, biases, bounds, K, head distances and a digest over
    all of them, so it passes through `jit` as an argument. Mapping over it can forge it; outside
    `jit`, `certify` compares the digest with the leaves and refuses.
    """

    def __init__(
        self, net: GloroNet, frozen: Any, digest: Any, *, input_shape: tuple[int, ...]
    ) -> None:
        self._net, self._frozen, self._digest = _ByIdentity(net), frozen, digest
        self._input_shape = input_shape
        self._is_checked = False

    def __call__(self, x: Float[Array | np.ndarray, "..."]) -> GloroLogits:
        """Logits (..., m) with the guaranteed bound, for images (..., H, W, C).

        Raises:
            TypeError: if `x` is not float32.
            ValueError: if its shape does not end in `input_shape`, or the digest does not match.
        """
        images = self.check_images(x)
        self.check_digest()
        return self.apply(images)

    def apply(self, x: Any) -> GloroLogits:
        """As a call, for code that has already checked `x` and the digest."""
        batch = x.shape[: x.ndim - len(self.input_shape)]
        flat = x.reshape((-1, *self.input_shape))
        logits: Any = self.net.apply({"frozen": self._frozen}, flat, norms=Frozen())
        values = logits.values.reshape((*batch, logits.values.shape[-1]))
        return dataclasses.replace(logits, values=values)

    def check_images(self, x: Any) -> Array:
        """`x` as an array, or a TypeError or ValueError if its type or shape does not fit."""
        if getattr(x, "dtype", None) != jnp.float32:
            raise TypeError(
                "A FrozenNet takes float32 images in [0, 1], got "
                f"{getattr(x, 'dtype', type(x).__name__)}. Images of type uint8: "
                "x.astype('float32') / 255."
            )
        shape = self.input_shape
        if tuple(x.shape[-len(shape) :]) != shape:
            raise ValueError(
                f"The bounds of this network were made for images of shape {shape}, got x of "
                f"shape {tuple(x.shape)}. Another size needs its own: "
                "gj.freeze(net, variables, input_shape=...)."
            )
        return jnp.asarray(x)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One image, (H, W, C): the size the bounds were made for."""
        return self._input_shape

    @property
    def net(self) -> GloroNet:
        """The network that was frozen."""
        return self._net.value

    @property
    def digest(self) -> str:
        """SHA-256 over weights, geometry and bounds, in hexadecimal."""
        return digest_text(self._digest)

    @property
    def lipschitz(self) -> float:
        """K, the guaranteed bound of the body."""
        return float(self._frozen["lipschitz"])

    def layer_norms(self) -> dict[str, float]:
        """The guaranteed norm of every linear layer, by its path; the largest of stacked ones."""
        return {
            path.removesuffix("/linear"): float(np.max(node.norm))
            for path, node in _named_nodes(self._frozen)
            if isinstance(node, FrozenLinear)
        }

    def operators(self) -> dict[str, Any]:
        """Every linear operator as executed, by the same path."""
        return {
            path.removesuffix("/linear"): node.linear.operator
            for path, node in _named_nodes(self._frozen)
            if isinstance(node, FrozenLinear)
        }

    def steps(self) -> Steps:
        """What the body does, noted by its own forward code; nothing is computed.

        Raises:
            ValueError: if layers run inside a loop of JAX, where they cannot be told apart.
        """

        def run(x: Any) -> Any:
            variables = {"frozen": self._frozen}
            return self.net.apply(variables, x, rule=Frozen(), is_noting=True, method=run_body)

        try:
            noted: Any = jax.eval_shape(run, jnp.zeros((1, *self.input_shape), jnp.float32))
        except TypeError as error:
            raise ValueError(
                "The layers of this network cannot be listed: they run inside nn.scan or another "
                f"loop of JAX. Write them one after another. ({str(error).splitlines()[0]})"
            ) from None
        return noted.steps

    def arrays(self) -> dict[str, np.ndarray]:
        """Every weight and bound by its path: what a file stores beside the digest."""
        return {path: np.asarray(leaf) for path, leaf in named_leaves(self._frozen)}

    def check_digest(self) -> None:
        """Raises a ValueError if the leaves are not those that `freeze` produced.

        Traced leaves cannot be looked at; concrete ones are looked at once per object.
        """
        leaves = jax.tree.leaves(self)
        if self._is_checked or any(isinstance(leaf, Tracer) for leaf in leaves):
            return
        if not np.array_equal(np.asarray(self._digest), _digest(self._frozen, self.input_shape)):
            raise ValueError(
                "The digest of this FrozenNet does not match its weights and bounds: it was "
                "altered after gj.freeze. Bounds hold for the weights they were computed from; "
                "freeze the network again."
            )
        self._is_checked = True

    def tree_flatten(self) -> tuple[tuple[Any, Any], tuple[Any, ...]]:
        """Leaves, and what is static."""
        return (self._frozen, self._digest), (self._net, self.input_shape)

    @classmethod
    def tree_unflatten(cls, aux: tuple[Any, ...], children: tuple[Any, Any]) -> "FrozenNet":
        """Rebuilds without the mark of a checked digest."""
        return cls(aux[0].value, *children, input_shape=aux[1])


def assemble(
    net: GloroNet, frozen: Any, *, input_shape: tuple[int, ...], digest: str | None = None
) -> FrozenNet:
    """A FrozenNet from its parts: for `freeze`, and for a file, which brings its digest along.

    Raises:
        ValueError: if a digest is given and does not match.
    """
    # Copies: an array made from NumPy's memory would change with it.
    arrays = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), frozen)
    words = _digest(arrays, input_shape)
    if digest is not None:
        words = digest_words(bytes.fromhex(digest))
    made = FrozenNet(net, arrays, jnp.asarray(words), input_shape=input_shape)
    made.check_digest()
    return made


def _digest(frozen: Any, input_shape: tuple[int, ...]) -> np.ndarray:
    """SHA-256 over the image size, each operator's geometry and every leaf, as uint32[8]."""
    sha = hashlib.sha256(repr(tuple(input_shape)).encode())
    for path, node in _named_nodes(frozen):
        if isinstance(node, FrozenLinear):
            operator: Any = node.linear.operator
            static = {
                field.name: getattr(operator, field.name)
                for field in dataclasses.fields(operator)
                if field.name != "kernel"
            }
            sha.update(f"{path} {type(operator).__name__} {static}".encode())
    for path, leaf in named_leaves(frozen):
        array = np.asarray(leaf)
        sha.update(f"{path} {array.shape} {array.dtype}".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return digest_words(sha.digest())


def digest_words(digest: bytes) -> np.ndarray:
    """A SHA-256 as uint32[8], the form it has as a leaf or an output of a program."""
    return np.frombuffer(digest, ">u4").astype(np.uint32)


def digest_text(words: Any) -> str:
    """Such words in hexadecimal."""
    return np.asarray(words).astype(">u4").tobytes().hex()


def _named_nodes(frozen: Any) -> list[tuple[str, Any]]:
    pairs, _ = jax.tree_util.tree_flatten_with_path(frozen, is_leaf=is_bounded)
    return [(path_name(path), node) for path, node in pairs]


def named_leaves(frozen: Any) -> list[tuple[str, Any]]:
    """Every leaf with its path, "body/conv1/linear/bias"."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(frozen)
    return [(path_name(path), leaf) for path, leaf in pairs]


def shape_differences(given: Any, wanted: Any) -> list[str]:
    """Where two trees of arrays differ in names or shapes, a line each."""
    found, meant = ({name: np.shape(a) for name, a in named_leaves(t)} for t in (given, wanted))
    names = sorted(k for k in meant.keys() | found if meant.get(k) != found.get(k))
    return [f"{k}: {found.get(k, 'none')}, wanted {meant.get(k, 'none')}" for k in names]


def path_name(path: Any) -> str:
    """A key path as text."""
    return "/".join(jax.tree_util.keystr((key,), simple=True) for key in path)


def is_bounded(node: Any) -> bool:
    """Whether a node carries guaranteed bounds."""
    return isinstance(node, FrozenLinear | FrozenHead)


class _ByIdentity:
    """A network as static data of a pytree: compared by identity, so it need not be hashable."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByIdentity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)
