"""The program of a frozen network: traced once, examined, and the one that runs.

A layer is Python code, and Python code can do anything with an activation. So `freeze` does not
trust the code: it traces the body for one example, with every door of `Bounded` as an equation of
its own (`lipschitz.doors`), and walks through what came out. An activation and its bound leave a
door together and enter the next one together; no other equation may read them. K is composed on
the way, on the host in float64. What runs afterwards is this very program, mapped over examples:
nothing that happens to the Python objects later, and nothing that mixes examples, can change it.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np

from gloro_jax import views
from gloro_jax.gloro import GloroNet, run_watched
from gloro_jax.lipschitz.doors import Doors, copied
from gloro_jax.lipschitz.purity import impurity
from gloro_jax.lipschitz.rounding import float32_up
from gloro_jax.lipschitz.steps import Step, Steps
from gloro_jax.program.origin import is_of_this_library
from gloro_jax.program.same import are_equal, is_same
from gloro_jax.program.settle import folded, without_numbers
from gloro_jax.program.walk import Walk

# How far apart an example's outputs may lie, in proportion, with and without others beside it.
_MIXED = 1e-3
_BESIDE = 3
# Far enough below the largest float32 for sums and squares inside a layer.
_LARGEST_ACTIVATION = 1e15
_LONGEST = 1e15  # its square is a float32


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A traced body for one example, and what was learnt by walking through it.

    Two programs are equal if they run the same equations, so that networks frozen from one module
    share what `jit` compiled.

    Attributes:
        closed: from the frozen leaves, one image, a bound and a seal to features, bound and seal.
        steps: what runs: the body, and the views it is averaged over.
        views: those views; none for the image alone.
    """

    closed: Any
    steps: Steps
    views: tuple[str, ...] = ()

    def __call__(self, body: Any, x: Any) -> tuple[Any, Any]:
        """The features (n, d) of images (n, ...), averaged over views, and a seal each (n,).

        A seal is not finite where a function of one's own made NaN or infinity on the way, which a
        later one can hide.

        Args:
            body: the frozen tree of the body, as it was traced with.
            x: the images.
        """
        run, leaves = jax.extend.core.jaxpr_as_fun(self.closed), jax.tree.leaves(body)
        one, seal = jnp.float32(1), jnp.float32(1)

        def one_example(image: Any) -> tuple[Any, Any]:
            features, _, left = run(*leaves, image[None], one, seal)
            return features[0], left

        if not self.views:
            return jax.vmap(one_example)(x)
        features, seals = jax.vmap(one_example)(views.stack(self.views, x))
        return views.mean(self.views, features), views.mean(self.views, seals)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Program):
            return False
        if self.closed is other.closed:
            return True
        is_equal = (
            self.steps == other.steps
            and are_equal(self.closed.consts, other.closed.consts)
            and is_same(self.closed.jaxpr, other.closed.jaxpr)
        )
        if is_equal:  # the next comparison, one per call of a compiled function, is then quick
            object.__setattr__(self, "closed", other.closed)
        return is_equal

    def __hash__(self) -> int:
        return hash((self.steps, len(self.closed.jaxpr.eqns)))


@dataclasses.dataclass(frozen=True)
class Traced:
    """A program, and what is known of it with the weights at hand.

    Attributes:
        program: the program.
        lipschitz: K of the body, rounded up.
        longest: the length up to which no input makes an activation overflow; NaN if any might.
    """

    program: Program
    lipschitz: np.float32
    longest: np.float32


def trace(net: GloroNet, frozen: Any, *, input_shape: tuple[int, ...]) -> Traced:
    """Traces the body of a network with frozen weights, and walks through the program.

    Args:
        net: the network.
        frozen: the frozen tree, concrete.
        input_shape: one image.

    Raises:
        TypeError: if an Estimate is among the constants, or a function cannot have one.
        ValueError: if an equation outside the doors reads an activation or its bound, a constant
            is negative or not finite, K overflows, or examples of a batch are mixed.
    """
    body = body_of(frozen)
    closed, walk = _walked(net, body, input_shape, batch=1)
    steps = walk.result.steps
    if any(not passage.is_ours for passage in walk.met):
        other = _walked(net, body, input_shape, batch=_BESIDE)[1]
        _check_examples_are_apart(walk, other)
    if net.views:
        # They fit such images, or an error.
        jax.eval_shape(
            lambda x: views.stack(net.views, x),
            jax.ShapeDtypeStruct((1, *input_shape), jnp.float32),
        )
        steps = (Step.of_views(views.parse(net.views), steps),)
    program = Program(without_numbers(closed), steps, tuple(net.views))
    bound = float32_up(walk.result.lipschitz)
    if not np.isfinite(bound):
        raise ValueError(
            f"The network's Lipschitz bound is {bound}, so nothing could be certified: it "
            "overflows float32. Check the scale of the weights."
        )
    return Traced(program, bound, _longest(walk))


def _longest(walk: Walk) -> np.float32:
    """From the bounds on the way: no activation is longer than slope |x| + offset."""
    reach = np.array([(branch.lipschitz, branch.offset) for branch in walk.branches])
    slope, offset = map(float, reach.max(axis=0))
    room = (_LARGEST_ACTIVATION - offset) * (1 - 1e-3)
    if not room > 0:
        return np.float32(np.nan)
    return np.float32(min(room / slope, _LONGEST) if slope else _LONGEST)


def body_of(frozen: Any) -> Any:
    """The part of a frozen tree that belongs to the body."""
    others = ("head", "lipschitz", "longest")
    return {name: node for name, node in frozen.items() if name not in others}


def _walked(net: GloroNet, body: Any, shape: tuple[int, ...], *, batch: int) -> tuple[Any, "Walk"]:
    doors = Doors()

    def run(body: Any, x: Any, bound: Any, seal: Any) -> Any:
        with nn.intercept_methods(_named(doors)), _weights_are_in_maps():
            out = net.apply({"frozen": body}, (x, bound, seal), doors=doors, method=run_watched)
        return jax.tree.leaves(out)

    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    image = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    with jax.disable_jit(False):
        traced = jax.make_jaxpr(run)(body, image, scalar, scalar)
    if reason := impurity(traced.jaxpr):
        raise TypeError(
            f"The body {reason}, beside what it gives to Bounded.apply. What runs must be what was "
            "examined: write it with jax.numpy, without state."
        )
    closed = folded(copied(traced))
    walk = Walk(doors)
    walk.enter(closed, jax.tree.leaves(body))
    features = closed.out_avals[0].shape
    if len(features) != 2 or features[0] != batch:
        raise ValueError(
            f"The body of a GloroNet maps {batch} example to (batch, features), got {features}. "
            "End it with Flatten, and keep the batch the first axis."
        )
    return closed, walk


@contextlib.contextmanager
def _weights_are_in_maps() -> Iterator[None]:
    """Says what a layer does wrong that reads a parameter where there are frozen arrays only."""
    try:
        yield
    except (flax.errors.ScopeCollectionNotFound, flax.errors.ScopeParamNotFoundError) as error:
        what = str(error).split(". (http", maxsplit=1)[0]
        raise TypeError(
            f"A layer reads weights of its own where the network is frozen. {what}. What is frozen "
            "are the arrays of maps, each with its constant: give weights and constant together to "
            "apply_linear, as a WeightedMap (docs/adding-a-layer.md)."
        ) from None


def _named(doors: Doors) -> Callable[..., Any]:
    """An interceptor that tells the doors which layer is being traced."""

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        module = context.module
        kind, is_ours = type(module).__name__, is_of_this_library(type(module))
        with doors._inside(f"{'/'.join(module.path)} ({kind})", kind, is_ours=is_ours):
            return call(*args, **kwargs)

    return intercept


def _check_examples_are_apart(alone: Walk, beside: Walk) -> None:
    """Raises a ValueError if a function of one's own looks at other examples of its batch."""
    rng = np.random.default_rng(0)
    is_same = (
        len(alone.passages) == len(beside.passages) and alone.visits.keys() == beside.visits.keys()
    )
    for number, one in alone.visits.items() if is_same else ():
        passage = alone.passages[number]
        if passage.is_ours or len(passage.shapes) != 1:
            continue
        aval, many = one.closed.in_avals[0], beside.visits[number]
        values = rng.standard_normal((_BESIDE, *aval.shape[1:]), np.float32)
        together = many.executed(values)[0]
        apart = np.concatenate([one.executed(v[None])[0] for v in values])
        largest = np.abs(apart).max(initial=0.0, where=np.isfinite(apart))
        is_same = apart.shape == together.shape and np.allclose(
            apart, together, rtol=0, atol=_MIXED * largest, equal_nan=True
        )
        if not is_same:
            raise ValueError(
                f"The function that {passage.layer} gives to Bounded.apply treats an example "
                "otherwise beside other examples than alone: it mixes or reorders the batch, the "
                "first axis. A network is certified, and a layer treats, examples one by one: keep "
                "the first axis as it is, and sum or sort over the others only."
            )
    if not is_same:
        raise ValueError(
            f"The body does other things with {_BESIDE} examples than with one: its code looks at "
            "the size of the batch. A network is certified example by example."
        )
