"""FrozenNet: weights, the bounds computed from them, and one digest over both."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from gloro_jax.gloro import FrozenHead, GloroNet, read_out
from gloro_jax.identity import (
    DIGEST_VERSION,
    digest_of,
    digest_text,
    digest_words,
    layout_of,
    named_leaves,
    named_nodes,
)
from gloro_jax.images import checked_images
from gloro_jax.layers.base import FrozenLinear
from gloro_jax.lipschitz.norms import UpperBound
from gloro_jax.lipschitz.rounding import is_finite
from gloro_jax.lipschitz.steps import Steps, layers_of
from gloro_jax.logits import GloroLogits
from gloro_jax.platforms import check_arithmetic, follows_ieee, jit, outside_jit
from gloro_jax.program import Program, Static, body_of, trace
from gloro_jax.pytrees import checksum, own_dicts, refuse_deleted


@jax.tree_util.register_pytree_node_class
class FrozenNet:
    """A network with the guaranteed bounds of its weights. Made by `freeze` and `gj.load` only.

    What runs is the program that was traced and examined when it was made (`gloro_jax.program`),
    not the Python code of its layers.

    It is a pytree whose leaves are kernels, biases, bounds, K, head distances, the length of the
    longest input that cannot overflow, and a digest over all of them, so it passes through `jit` as
    an argument. If `jax.tree.map` or the like made other leaves of it, `certify` refuses; inside
    `jit`, where it cannot compute a digest, a checksum differs and nothing is certified.
    """

    def __init__(self, frozen: Any, digest: Any, checksum: Any, *, static: Static) -> None:
        self._frozen, self._digest, self._checksum = frozen, digest, checksum
        self._static, self._is_checked = static, False

    def __init_subclass__(cls, **_: Any) -> None:
        """What a subclass adds was not there when the bounds were made, so there is none."""
        raise TypeError(
            f"{cls.__name__} cannot be a subclass of FrozenNet: its bounds hold for the program "
            "that was examined, and not for methods that replace it. Keep a FrozenNet in a field, "
            "or put what you add into a layer of the body."
        )

    def __call__(self, x: Float[Array | np.ndarray, "..."]) -> GloroLogits:
        """Logits (..., m) with the guaranteed bound, for images (..., H, W, C); NaN if not sane.

        Raises:
            TypeError: if `x` is not float32.
            ValueError: if its shape does not end in `input_shape`, the digest does not match, or
                the network was changed.
        """
        images = self.check_images(x)
        return _logits(self, images, is_known=self.check_digest())

    def __repr__(self) -> str:
        """Classes, image shape, K and digest."""
        if not isinstance(self._digest, np.ndarray | jax.Array) or isinstance(self._digest, Tracer):
            return f"FrozenNet(classes={self.net.num_classes}, input_shape={self.input_shape})"
        return (
            f"FrozenNet(classes={self.net.num_classes}, input_shape={self.input_shape}, "
            f"K={self.lipschitz:.6g}, digest={self.digest[:12]}...)"
        )

    def is_sane(self, x: Any, *, is_known: bool = False) -> Array:
        """Whether nothing on the way of images (..., H, W, C) can be NaN or infinite, (...).

        Nor are the leaves others than those that were frozen, unless it is known (`check_digest`).

        An infinite pixel, or a layer that overflows, can vanish behind an activation, and the
        scores then mean nothing. Layers are not looked at one by one, which would cost time: what
        they can amount to is known from their bounds and biases, so the image's length decides.
        """
        squares = jnp.sum(jnp.square(x), axis=tuple(range(-len(self.input_shape), 0)))
        is_short = is_finite(squares) & (squares <= jnp.square(self._frozen["longest"]))
        are_leaves = is_known or self._checksum == self._own_checksum()
        return is_short & follows_ieee(squares) & are_leaves

    def check_images(self, x: Any) -> Array:
        """`x` as an array, or a TypeError or ValueError if its type or shape does not fit."""
        return checked_images(x, self.input_shape)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One image, (H, W, C): the size the bounds were made for."""
        return self._static.input_shape

    @property
    def net(self) -> GloroNet:
        """The network that was frozen."""
        return self._static.net

    @property
    @outside_jit
    def digest(self) -> str:
        """SHA-256 over weights, geometry, bounds and steps, in hexadecimal."""
        return digest_text(self._digest)

    @property
    def digest_version(self) -> int:
        """2; or 1 for a network from a file of before, whose digest does not bind the steps."""
        return self._static.digest_version

    @property
    def flushed(self) -> int:
        """How many weights, too small for a normal float32, were set to 0 when it was frozen."""
        return self._static.flushed

    @property
    def lipschitz(self) -> float:
        """K, the guaranteed bound of the body."""
        bound = self._frozen["lipschitz"]
        if isinstance(bound, Tracer):
            raise TypeError("FrozenNet.lipschitz is a number of the host: read it outside jit.")
        return float(bound)

    def layer_norms(self) -> dict[str, float]:
        """The guaranteed norm of every linear layer by path, in order; the largest of stacks."""
        found = {path: float(np.max(norms)) for path, norms in self.stored_norms().items()}
        return {path: found[path] for path in [*layers_of(self.steps()), *found] if path in found}

    def head(self) -> FrozenHead:
        """The head as executed, and its distances."""
        return self._frozen["head"]

    @outside_jit
    def stored_norms(self) -> dict[str, np.ndarray]:
        """As `layer_norms`, with a norm for each of stacked layers."""
        return {path: np.asarray(node.norm) for path, node in self._linear()}

    def _linear(self) -> list[tuple[str, FrozenLinear]]:
        nodes = named_nodes(self._frozen)
        return [(p.removesuffix("/linear"), n) for p, n in nodes if isinstance(n, FrozenLinear)]

    def operators(self) -> dict[str, Any]:
        """Every linear operator as executed, by the same path."""
        return {path: node.linear.operator for path, node in self._linear()}

    @property
    def program(self) -> Program:
        """What runs, the body."""
        return self._static.program

    def steps(self) -> Steps:
        """What the body does, as it was found in the program."""
        return self.program.steps

    @outside_jit
    def arrays(self) -> dict[str, np.ndarray]:
        """Every weight and bound by its path: what a file stores beside the digest."""
        new = ("longest",) if self.digest_version == 1 else ()
        return {p: np.asarray(leaf) for p, leaf in named_leaves(self._frozen) if p not in new}

    def check_digest(self) -> bool:
        """Whether the leaves are known to be those that `freeze` saw; False for traced ones.

        Concrete ones are looked at once per object.

        Raises:
            ValueError: if leaves, their types or layers are others.
        """
        check_arithmetic()
        if self._static.layout != layout_of(self.net):
            raise ValueError(
                "The network was changed after it was frozen: its layers or their options are not "
                "those of then, and bounds hold for what was frozen. Freeze it again, "
                "gj.freeze(net, variables, input_shape=...)."
            )
        leaves = jax.tree.leaves(self._frozen)
        refuse_deleted(leaves)
        if self._is_checked:
            return True
        types = {str(leaf.dtype) for leaf in leaves if hasattr(leaf, "dtype")} - {"float32"}
        if types or getattr(self._checksum, "dtype", None) != np.uint32:
            raise ValueError(
                f"This FrozenNet was altered after gj.freeze: its numbers {types or ''} or its "
                "checksum have another type. Bounds hold for the numbers that they were computed "
                "from: take the FrozenNet as it was."
            )
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(self)):
            return False
        # Copies of its own: NumPy's memory, also behind an array of JAX, can be written to.
        with jax.ensure_compile_time_eval():  # in the midst of a program, they are none of it
            self._frozen = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), self._frozen)
        if not np.array_equal(np.asarray(self._digest), self._computed_digest()):
            raise ValueError(
                "The digest of this FrozenNet does not match its weights and bounds: it was "
                "altered, or its layers without weights are others. Freeze the network again."
            )
        self._is_checked = True
        return True

    def _own_checksum(self) -> Any:
        return checksum(jax.tree.leaves(self._frozen)) ^ self._static.word

    def _computed_digest(self) -> np.ndarray:
        steps = self.steps() if self.digest_version > 1 else None
        return digest_of(self._frozen, self.input_shape, steps)

    def __copy__(self) -> "FrozenNet":
        """Another object with the same arrays."""
        return jax.tree.map(lambda leaf: leaf, self)

    def __deepcopy__(self, memo: dict[int, Any]) -> "FrozenNet":
        """A copy: what is static cannot change."""
        return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), self)

    def __reduce__(self) -> Any:
        """A FrozenNet is no pickle, which could bring other code along."""
        raise TypeError(
            "A FrozenNet is not pickled: its program belongs to this process. Store the run folder "
            "and gj.load it, or pass the variables and gj.freeze them where they are needed."
        )

    def tree_flatten(self) -> tuple[tuple[Any, ...], Static]:
        """Leaves, and what is static; dictionaries of its own, which may be written to."""
        return (own_dicts(self._frozen), self._digest, self._checksum), self._static

    @classmethod
    def tree_unflatten(cls, static: Static, children: tuple[Any, ...]) -> "FrozenNet":
        """Rebuilds without the mark of a checked digest."""
        return cls(*children, static=static)


def raw_logits(frozen: FrozenNet, x: Any) -> GloroLogits:
    """As a call, for code that has already checked `x` and the digest; nothing seals the logits."""
    batch = x.shape[: x.ndim - len(frozen.input_shape)]
    flat = x.reshape((-1, *frozen.input_shape))
    features, seals = frozen._static.program(body_of(frozen._frozen), flat)
    bound = UpperBound(frozen._frozen["lipschitz"])
    logits = read_out(features, bound, frozen._frozen["head"])
    values = jnp.where(is_finite(seals)[:, None], logits.values, jnp.nan)
    return dataclasses.replace(logits, values=values.reshape((*batch, values.shape[-1])))


def _logits(frozen: FrozenNet, x: Array, *, is_known: bool) -> GloroLogits:
    logits, is_sane = raw_logits(frozen, x), frozen.is_sane(x, is_known=is_known)[..., None]
    values = jnp.where(is_sane, logits.values, jnp.nan)
    return dataclasses.replace(logits, values=values).sealed()


_logits = jit(_logits, static_argnames=("is_known",))


def assemble(
    net: GloroNet,
    frozen: Any,
    *,
    input_shape: tuple[int, ...],
    digest: str | None = None,
    digest_version: int = DIGEST_VERSION,
    flushed: int = 0,
) -> FrozenNet:
    """A FrozenNet from its parts: for `freeze`, and for a file, which brings K and a digest along.

    Args:
        net: the network.
        frozen: weights, norms and head distances; without "lipschitz", K is composed.
        input_shape: one image.
        digest: what the file says it is.
        digest_version: of that digest.
        flushed: how many weights were set to 0.

    Raises:
        TypeError: if a layer's constant is no guaranteed bound.
        ValueError: if the program cannot be trusted, K overflows or is smaller than what the stored
            norms make, or a digest is given and does not match.
    """
    arrays = jax.tree.map(jnp.asarray, frozen)  # `check_digest` copies them
    traced = trace(net, arrays, input_shape=input_shape)
    arrays.setdefault("lipschitz", jnp.asarray(traced.lipschitz))
    arrays.setdefault("longest", jnp.asarray(traced.longest))
    static = Static(
        net, traced.program, tuple(input_shape), layout_of(net), digest_version, flushed
    )
    own = checksum([np.asarray(leaf) for leaf in jax.tree.leaves(arrays)]) ^ static.word
    made = FrozenNet(arrays, None, jnp.asarray(own), static=static)
    words = made._computed_digest() if digest is None else digest_words(bytes.fromhex(digest))
    made._digest = jnp.asarray(words)
    made.check_digest()
    is_too_long = float(arrays["longest"]) > float(traced.longest) * (1 + 1e-3)
    if digest is not None and (made.lipschitz < traced.lipschitz or is_too_long):
        raise ValueError(
            "The stored Lipschitz bound is too small for this network: its layers without weights "
            "are not those that were frozen. Freeze it again."
        )
    return made
