"""The repairing layer: scores out of a network, safely ordered scores into the world.

For each input: the properties that speak of it; if scores satisfy them, they are left as they are.
Otherwise one choice of each property is taken, so that no circle results, and scores are handed out
anew, highest first, each time to the class of the highest score among those that nothing still
unserved must exceed. Combinations of choices in which the predicted class need not be below
another are tried first, so that the prediction stays wherever some safe order keeps it.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gloro_jax.certification import Certificate, certify
from gloro_jax.frozen_net import FrozenNet
from gloro_jax.lipschitz.rounding import times_up
from gloro_jax.logits import GloroLogits
from gloro_jax.margins import as_epsilon
from gloro_jax.plain import check_comparable
from gloro_jax.platforms import is_tracing, jit
from gloro_jax.repair.orders import MOST_COMBINATIONS, Order, Pair, cycle_in, in_words
from gloro_jax.repair.preconditions import Always, Precondition
from gloro_jax.repair.words import Property

_LARGEST_TABLE = 2**28
_FAR = 2**30
_TINY = float(np.finfo(np.float32).tiny)
_LARGEST_SCORE = 1e37  # a tenth of the way to infinity, and below the steps between repaired scores


class Repaired(NamedTuple):
    """What the layer returns for n inputs.

    Attributes:
        values: (n, m) scores: the same numbers as before, handed to classes in a safe order; equal
            numbers that have to differ are moved apart by a unit in the last place.
        is_bottom: (n,) whether no safe order exists, or a score is NaN or infinite; scores are then
            as they were, and the answer is none of the classes.
        is_changed: (n,) whether scores were handed out anew.
    """

    values: Any
    is_bottom: Any
    is_changed: Any


@dataclasses.dataclass(frozen=True)
class Repair:
    """A last layer that keeps properties.

    Attributes:
        properties: these.
        num_classes: m.

    Raises:
        ValueError: if a property names a class that there is not; if those that always speak
            contradict each other (a circle is named); or if they have too many combinations.
    """

    properties: Sequence[Property]
    num_classes: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "properties", tuple(self.properties))
        if isinstance(self.num_classes, bool) or not isinstance(self.num_classes, int):
            raise TypeError(f"num_classes is a whole number, got {self.num_classes!r}.")
        for number, one in enumerate(self.properties):
            is_one = isinstance(one, Property) and isinstance(one.when, Precondition)
            if not (is_one and isinstance(one.then, Order)):
                raise TypeError(
                    f"Property {number} is repair.Property(when, then), a precondition and an "
                    f"Order, got {one!r}. repair.parse reads text."
                )
            check_comparable(one.when, what="A precondition")
            one.when.check(_FAR, self.num_classes)
            if one.then.largest_class >= self.num_classes:
                raise ValueError(
                    f"Property {number} orders class {one.then.largest_class}, and there are "
                    f"classes 0 to {self.num_classes - 1}."
                )
        widest = max((len(one.then.choices) for one in self.properties), default=1)
        size = len(self.properties) * widest * self.num_classes**2
        if size > _LARGEST_TABLE:
            raise ValueError(
                f"{len(self.properties)} properties of up to {widest} alternatives for "
                f"{self.num_classes} classes take a table of {size} entries, more than "
                f"{_LARGEST_TABLE}: say them with fewer alternatives."
            )
        count = math.prod(len(one.then.choices) for one in self.properties)
        if count > MOST_COMBINATIONS:
            raise ValueError(
                f"These properties have {count} combinations of choices, more than "
                f"{MOST_COMBINATIONS}: say them with fewer alternatives."
            )
        always = [p.then.choices for p in self.properties if isinstance(p.when, Always)]
        if always and first_acyclic(always) is None:
            circle = cycle_in(frozenset().union(*(choices[0] for choices in always)))
            raise ValueError(
                "The properties that always speak contradict each other, so that every answer "
                f"would be none: {in_words(circle)} is a circle."
            )

    def __call__(self, x: Any, values: Any) -> Repaired:
        """Repairs scores (n, m) of inputs (n, ...); jitted, and usable inside `jit`.

        Raises:
            ValueError: if shapes do not fit.
        """
        if isinstance(values, GloroLogits):
            raise TypeError("Repair takes scores (n, m), got GloroLogits: give their .values.")
        values = jnp.asarray(values)
        if not jnp.issubdtype(values.dtype, jnp.floating):
            raise TypeError(f"Scores are floating-point numbers, got {values.dtype}.")
        if values.ndim != 2 or values.shape[1] != self.num_classes or len(x) != len(values):
            raise ValueError(
                f"Scores are (n, {self.num_classes}), one row for each input, got "
                f"{values.shape} for {len(x)} inputs."
            )
        flat = jnp.reshape(x, (len(x), math.prod(np.shape(x)[1:])))
        for one in self.properties:
            one.when.check(flat.shape[1], self.num_classes)
        if not self.properties:
            is_none = ~jnp.isfinite(values).all(axis=1)
            return Repaired(values, is_none, jnp.zeros_like(is_none))
        speaks = _speaking(flat, jnp.argmax(values, axis=1), repair=self)
        return repaired(self.tables, speaks, values)

    def certify(self, frozen: FrozenNet, x: Any, *, epsilon: Any) -> Certificate:
        """Certifies the network with this layer behind it, on images (n, H, W, C).

        Certified is where the network is, where no precondition changes its truth within epsilon,
        and where some choice of the properties leaves the predicted class on top: it then stays on
        top whatever the order of the other scores. `prediction` is -1 where the answer is none.

        Raises:
            TypeError: as `gj.certify`.
            ValueError: as `gj.certify`, or if the network has other classes.
        """
        if is_tracing(x, epsilon):
            raise TypeError("Repair.certify looks at inputs on the host: call it outside jit.")
        found, values = certify(frozen, x, epsilon=epsilon), frozen(x).values
        after = self(x, values)
        own, flat = np.asarray(found.prediction), np.asarray(x)
        flat = flat.reshape(len(flat), math.prod(flat.shape[1:]))
        speaks = np.asarray(_speaking(jnp.asarray(flat), jnp.asarray(own), repair=self))
        reach = [one.when.distance(flat) for one in self.properties]
        # Programs take features and bounds below the smallest normal float32 for 0.
        reach = [np.maximum(far - 4 * flat.shape[1] * _TINY, 0.0) for far in reach]
        reach = np.min([*reach, _room(frozen, np.asarray(values))], axis=0)
        cases = list(zip(map(tuple, speaks.T.tolist()), own.tolist(), strict=True))
        keeps = {case: self._keeps(*case) for case in set(cases)}
        is_kept = jnp.array([keeps[case] for case in cases], bool)
        reach = jnp.asarray(np.nextafter(reach.astype(np.float32), np.float32(0)))
        radius = jnp.where(is_kept, jnp.minimum(found.radius, reach), 0.0)
        is_certified = found.is_certified & is_kept & (reach > as_epsilon(epsilon))
        prediction = jnp.where(after.is_bottom, -1, jnp.argmax(after.values, axis=1))
        slack = jnp.where(is_certified, found.slack, -jnp.inf)
        return Certificate(prediction, radius, is_certified, slack)

    def _keeps(self, speaks: tuple[bool, ...], label: int) -> bool:
        """Whether some acyclic choice of the properties that speak leaves `label` on top."""
        kept = [
            [choice for choice in one.then.choices if all(a != label for a, _ in choice)]
            for one, is_on in zip(self.properties, speaks, strict=True)
            if is_on
        ]
        return all(kept) and first_acyclic(kept) is not None

    @functools.cached_property
    def tables(self) -> "Tables":
        """The properties as arrays."""
        counts = [len(one.then.choices) for one in self.properties]
        widest, m = max(counts, default=1), self.num_classes
        graphs = np.zeros((len(counts), widest, m, m), bool)
        for number, one in enumerate(self.properties):
            for place, choice in enumerate(one.then.choices):
                for low, high in choice:
                    graphs[number, place, high, low] = True
        is_choice = np.arange(widest)[None] < np.array(counts, int)[:, None]
        places = np.array(list(itertools.product(*map(range, counts))), np.int32)
        places = places.reshape(-1, len(counts))
        return Tables(graphs, is_choice, places[np.argsort(places.sum(axis=1), kind="stable")])


class Tables(NamedTuple):
    """Properties as arrays.

    Attributes:
        graphs: (P, D, m, m) of bool: whether class i must exceed class j in a choice of a property.
        is_choice: (P, D) whether there is such a choice.
        places: (C, P) combinations of choices, by the sum of their places.
    """

    graphs: Any
    is_choice: Any
    places: Any


def first_acyclic(choices: Sequence[Sequence[frozenset[Pair]]]) -> frozenset[Pair] | None:
    """The first union of one choice of each property without a circle; None if there is none."""
    for some in itertools.product(*choices):
        union: frozenset[Pair] = frozenset().union(*some)
        if not cycle_in(union):
            return union
    return None


def _room(frozen: FrozenNet, values: np.ndarray) -> np.ndarray:
    """How far inputs (n,) may move while no score gets so large that handing out overflows."""
    slope = times_up(frozen.lipschitz, float(np.linalg.norm(frozen.head().head.kernel)) * 1.001)
    largest = np.abs(values.astype(np.float64)).max(axis=1)
    left = np.where(largest < _LARGEST_SCORE, _LARGEST_SCORE - largest, 0.0)  # 0 of NaN
    return left / max(slope, 1e-30)


def _speaks(x: Any, own: Any, repair: Repair) -> Any:
    found = [one.when.holds(x, own) for one in repair.properties]
    return jnp.stack(found) if found else jnp.zeros((0, len(x)), bool)


_speaking = jit(_speaks, static_argnames=("repair",))


@jit
def repaired(tables: Tables, speaks: Any, values: Any) -> Repaired:
    """Scores (n, m) repaired, where properties speak (P, n)."""
    return Repaired(*jax.vmap(functools.partial(_one, tables))(speaks.T, values))


def _one(tables: Tables, speaks: Any, values: Any) -> tuple[Any, Any, Any]:
    """One example's scores (m,), for the properties (P,) that speak."""
    graphs, is_choice, places = (jnp.asarray(table) for table in tables)
    is_broken = (graphs & (values[:, None] <= values[None, :])[None, None]).any(axis=(2, 3))
    is_safe = ((~is_broken & is_choice).any(axis=1) | ~speaks).all()
    # Choices in the order of trial: first those that leave the prediction on top, then those met.
    is_below = graphs[:, :, :, jnp.argmax(values)].any(axis=2)
    trial = jnp.argsort(4 * ~is_choice + 2 * is_below + is_broken, axis=1, stable=True)
    each = np.arange(places.shape[1])[None]
    chosen = trial[each, places]
    is_on = jnp.broadcast_to(speaks[None], places.shape)
    demotes = (is_below[each, chosen] & is_on).any(axis=1)
    cost = jnp.sum(jnp.where(is_on, places, 0), axis=1) + jnp.where(demotes, _FAR // 2, 0)
    # Of properties that are silent, one choice is enough.
    is_one = (jnp.where(is_on, is_choice[each, chosen], places == 0)).all(axis=1)
    cost = jnp.where(is_one, cost, _FAR)

    def is_searching(state: Any) -> Any:
        cost, _, is_found = state
        return ~is_found & (jnp.min(cost) < _FAR)

    def attempt(state: Any) -> Any:
        cost, _, _ = state
        at = jnp.argmin(cost)
        some = jnp.take_along_axis(graphs, chosen[at][:, None, None, None], axis=1)[:, 0]
        graph = (some & speaks[:, None, None]).any(axis=0)
        return cost.at[at].set(_FAR), *_handed_out(graph, values)

    start = (jnp.where(is_safe, _FAR, cost), values, is_safe)
    _, out, is_found = jax.lax.while_loop(is_searching, attempt, start)
    is_bottom = ~is_found | ~jnp.isfinite(values).all() | ~jnp.isfinite(out).all()
    is_changed = ~is_bottom & (out != values).any()
    return jnp.where(is_bottom, values, out), is_bottom, is_changed


def _handed_out(graph: Any, values: Any) -> tuple[Any, Any]:
    """Scores handed out from the highest on, and whether all were: the graph has no circle."""
    numbers, m = jnp.sort(values)[::-1], len(values)
    info = jnp.finfo(values.dtype)

    def one(t: Any, state: Any) -> Any:
        waiting, needed, out, last, is_whole = state
        is_free = waiting & (needed == 0)
        label = jnp.argmax(jnp.where(is_free, values, -jnp.inf))
        is_whole &= is_free[label]
        apart = jnp.maximum(jnp.abs(last) * info.eps, info.tiny)
        number = jnp.where(numbers[t] < last, numbers[t], last - apart)
        return (
            waiting.at[label].set(False),
            needed - graph[label],
            out.at[label].set(number),
            number,
            is_whole,
        )

    needed = jnp.sum(graph, axis=0, dtype=jnp.int32)
    start = (jnp.ones(m, bool), needed, values, jnp.asarray(jnp.inf, values.dtype), True)
    _, _, out, _, is_whole = jax.lax.fori_loop(0, m, one, start)
    return out, is_whole
