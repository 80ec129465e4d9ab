"""The walk through a program: which activation each equation reads, and what bounds it.

A value in the program is marked as one of the three parts of an activation, or known to depend on
weights alone. Marks come out of doors and go into doors; K, and how long an activation can get, are
composed on the way.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.extend.core
import numpy as np
from jax.core import Tracer

from gloro_jax.lipschitz.doors import ANOTHER_ACTIVATION, Doors, Passage
from gloro_jax.lipschitz.rounding import plus_up, times_up
from gloro_jax.lipschitz.steps import Step, Steps, joined
from gloro_jax.program.settle import computed
from gloro_jax.program.visit import Known, Visit

_SAME = ("copy", "copy_p", "stop_gradient")  # what comes out is what went in
# Equations that hold a program which is walked through in their place.
_ENTERED = ("jit", "pjit", "remat", "remat2", "checkpoint", "closed_call", "core_call")


@dataclasses.dataclass(frozen=True)
class _Mark:
    """One of the three parts of an activation, and which activation."""

    part: Literal["value", "bound", "seal", "kept"]
    branch: int


@dataclasses.dataclass(frozen=True)
class _Branch:
    """What is known of one activation: |value| <= lipschitz |x| + offset."""

    lipschitz: float
    offset: float
    steps: Steps


_PARTS: tuple[Any, ...] = ("value", "bound", "seal")


class Walk:
    """A walk through a program, with the marks of activations on its variables."""

    def __init__(self, doors: Doors) -> None:
        self.passages, self._name = doors.passages, doors.name
        self.branches: list[_Branch] = []
        self.visits: dict[int, Visit] = {}

    @property
    def met(self) -> list[Passage]:
        """The doors that were met, in order of their numbers."""
        return [self.passages[number] for number in sorted(self.visits)]

    def enter(self, closed: Any, leaves: Sequence[Any]) -> None:
        """Walks through the whole program; `result` is then what comes out."""
        entering = self._new(_Branch(1.0, 0.0, ()))
        found = self._run(closed.jaxpr, _constants(closed), [*map(_leaf, leaves), *entering])
        if not _are_twins(found):
            raise ValueError(
                "What the body returns is no activation with its own bound: " + _OUTSIDE
            )
        if any(isinstance(const, Tracer) for const in closed.consts):
            raise TypeError(f"In the body, {ANOTHER_ACTIVATION}.")
        self.result = self.branches[found[0].branch]

    def _new(self, branch: _Branch) -> list[_Mark]:
        self.branches.append(branch)
        return [_Mark(part, len(self.branches) - 1) for part in _PARTS]

    def _run(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        known = dict(zip(jaxpr.constvars, consts, strict=True))
        known |= dict(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> Any:
            is_literal = isinstance(atom, jax.extend.core.Literal)
            return _known(atom.val) if is_literal else known[atom]

        for equation in jaxpr.eqns:
            operands = [read(atom) for atom in equation.invars]
            known |= zip(equation.outvars, self._equation(equation, operands), strict=True)
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, operands: list[Any]) -> Sequence[Any]:
        primitive, params = equation.primitive.name, equation.params
        if not any(isinstance(operand, _Mark) for operand in operands):
            return _computed(equation, operands)
        if (name := str(params.get("name", ""))).startswith(self._name):
            return self._door(equation, operands, int(name.removeprefix(self._name)))
        if primitive in _ENTERED:
            inner = params.get("jaxpr", params.get("call_jaxpr"))
            return self._run(getattr(inner, "jaxpr", inner), _constants(inner), operands)
        if primitive == "scan":
            return self._scan(equation, operands)
        if primitive in ("cond", "while"):
            raise ValueError(
                f"The body branches or loops by `{primitive}` in {_where(equation)} around "
                "Bounded.apply, and which way it goes, or how often, is not known beforehand. Use "
                "a Python `if` or `for`, or nn.scan."
            )
        raise ValueError(f"`{primitive}` in {_where(equation)} {_OUTSIDE}")

    def _door(self, equation: Any, operands: list[Any], number: int) -> Sequence[Any]:
        passage = self.passages[number]
        count = len(passage.shapes)
        parts = list(zip(*(operands[i * count : (i + 1) * count] for i in range(3)), strict=True))
        others = operands[3 * count :]
        for part in parts:
            if not _are_twins(part):
                raise ValueError(f"What enters {passage.layer} {_OUTSIDE}")
        if any(isinstance(operand, _Mark) for operand in others):
            raise TypeError(f"In {passage.layer}, {ANOTHER_ACTIVATION}.")
        # A constant, which comes first, is looked at on its way.
        first = int(passage.constant is None and len(others) == passage.operands)
        if any(operand.origin == "changed" for operand in others[first:]):
            raise ValueError(f"What {passage.layer} runs with {_CHANGED}")
        self._check_shapes(equation, passage)
        visit = Visit(passage, equation.params["jaxpr"], others)
        self.visits.setdefault(number, visit)
        constant = visit.constant()
        before = [self.branches[part[0].branch] for part in parts]
        lipschitz = offset = 0.0
        for branch in before:
            lipschitz = plus_up(lipschitz, branch.lipschitz)
            offset = plus_up(offset, branch.offset)
        if len(before) == 2:
            steps = joined(before[0].steps, before[1].steps)
        else:
            steps = (*before[0].steps, _step(passage, constant))
            offset = plus_up(times_up(offset, constant), visit.length_at_zero())
        return self._new(_Branch(times_up(lipschitz, constant), offset, steps))

    def _check_shapes(self, equation: Any, passage: Passage) -> None:
        count = len(passage.shapes)
        shapes = [tuple(atom.aval.shape) for atom in equation.invars[: 2 * count]]
        out = [tuple(atom.aval.shape) for atom in equation.outvars[:2]]
        if shapes != [*passage.shapes, *[()] * count] or out != [passage.out, ()]:
            raise ValueError(
                f"{passage.layer} calls Bounded.apply or Bounded.add inside jax.vmap or nn.vmap, "
                "which runs it on several slices or copies at once. The constant speaks of one, "
                "and together they can move by more. Write the whole map as one function of one "
                "activation, or keep the branches apart and join them with gj.Bounded.add."
            )

    def _scan(self, equation: Any, operands: list[Any]) -> Sequence[Any]:
        params, inner = equation.params, equation.params["jaxpr"]
        count = _unscanned(equation.outvars, inner.out_avals)
        split = _unscanned(equation.invars, inner.in_avals) - count
        consts, carry, rows = (
            operands[:split],
            operands[split : split + count],
            operands[split + count :],
        )
        if any(isinstance(row, _Mark) for row in rows):
            raise ValueError(f"`scan` in {_where(equation)} runs over an activation: it {_OUTSIDE}")
        length, order = params["length"], range(params["length"])
        carry, outside = self._without_steps(carry)
        outputs: list[list[Any]] = []
        first: dict[int, Steps] = {}
        for turn in reversed(order) if params["reverse"] else order:
            here = [Known(lambda row=row, turn=turn: row.get()[turn], row.origin) for row in rows]
            found = self._run(inner.jaxpr, _constants(inner), [*consts, *carry, *here])
            carry, out = list(map(_settled, found[:count])), found[count:]
            outputs.append(out)
            if not first:
                first = {i: self._steps(mark) for i, mark in enumerate(carry)}
        for place, steps in outside.items():
            self._wrap_steps(carry[place], steps, first.get(place, ()), length)
        columns = zip(*outputs, strict=True) if outputs else equation.outvars[count:]
        stacked = [_stacked(column, is_reversed=params["reverse"]) for column in columns]
        return [*carry, *stacked]

    def _without_steps(self, carry: list[Any]) -> tuple[list[Any], dict[int, Steps]]:
        """The carry with fresh branches, whose steps begin here, and the steps so far by place."""
        fresh: dict[int, list[_Mark]] = {}
        places, steps = list(carry), {}
        for place, mark in enumerate(carry):
            if not isinstance(mark, _Mark) or mark.part == "kept":
                continue
            if mark.branch not in fresh:
                branch = self.branches[mark.branch]
                fresh[mark.branch] = self._new(dataclasses.replace(branch, steps=()))
            if mark.part == "value":
                steps[place] = self.branches[mark.branch].steps
            places[place] = fresh[mark.branch][_PARTS.index(mark.part)]
        return places, steps

    def _steps(self, mark: Any) -> Steps:
        is_value = isinstance(mark, _Mark) and mark.part == "value"
        return self.branches[mark.branch].steps if is_value else ()

    def _wrap_steps(self, mark: Any, before: Steps, once: Steps, length: int) -> None:
        if isinstance(mark, _Mark) and mark.part == "value":
            branch = self.branches[mark.branch]
            turns = once if branch.steps == once * length else branch.steps
            loop = Step("loop", (("length", length),), (turns,))
            self.branches[mark.branch] = dataclasses.replace(branch, steps=(*before, loop))


_OUTSIDE = (
    "reads or makes an activation, or its bound, outside Bounded.apply and Bounded.add, so that "
    "the two no longer belong together. That is so if jax.tree.map was applied to a Bounded, which "
    "maps value and bound alike, or if its leaves were used. Write the function as "
    "x.apply(fn, lipschitz=c), and join branches with gj.Bounded.add(a, b) "
    "(docs/adding-a-layer.md)."
)


_CHANGED = (
    "was computed from frozen arrays, and bounds speak of those arrays as they are. That is so if "
    "nn.map_variables changes them, or if nn.scan stacks them along another axis than the first: "
    "write variable_axes={'params': 0, 'operators': 0, 'frozen': 0, 'spectral': 0}."
)


def _known(number: Any, origin: Any = "") -> Known:
    return Known(lambda: number, origin)


def _leaf(number: Any) -> Known:
    return _known(number, "leaf")


def _constants(closed: Any) -> list[Any]:
    """The constants of a program; one that is traced was kept from another trace."""
    consts = getattr(closed, "consts", ())
    return [_Mark("kept", -1) if isinstance(c, Tracer) else _known(c) for c in consts]


def _unscanned(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    """How many operands or results of a scan are no slices: constants and the carry."""
    pairs = zip(outside, inside, strict=True)
    return sum(len(atom.aval.shape) == len(aval.shape) for atom, aval in pairs)


def _are_twins(parts: Sequence[Any]) -> bool:
    """Whether these are the value, the bound and the seal of one activation."""
    names = [getattr(mark, "part", None) for mark in parts]
    return names == list(_PARTS) and len({mark.branch for mark in parts}) == 1


def _where(equation: Any) -> str:
    return str(equation.source_info.name_stack) or "the body"


def _step(passage: Passage, constant: float) -> Step:
    if passage.step is not None and passage.step.op is not None:
        return passage.step
    return Step.of(None, layer=passage.kind, lipschitz=constant)


def _computed(equation: Any, operands: list[Any]) -> list[Known]:
    """The outputs of an equation that reads no activation; computed if somebody asks."""
    found: list[Any] = []

    def get(place: int) -> Any:
        if not found:
            found.append(computed(equation, [operand.get() for operand in operands]))
        return found[0][place]

    is_same = equation.primitive.name in _SAME
    origin = operands[0].origin if is_same else _made_of(operands)
    places = range(len(equation.outvars))
    return [Known(lambda place=place: get(place), origin) for place in places]


def _made_of(parts: Sequence[Known]) -> Any:
    """The origin of what is computed from several numbers."""
    return "changed" if any(part.origin for part in parts) else ""


def _settled(entry: Any) -> Any:
    """What a turn of a loop leaves, computed, so that a thousand turns are no deep recursion."""
    return _known(entry.get(), entry.origin) if isinstance(entry, Known) else entry


def _stacked(column: Any, *, is_reversed: bool) -> Any:
    if not isinstance(column, tuple):  # of a loop without turns
        return _known(np.zeros(column.aval.shape, column.aval.dtype))
    if any(isinstance(entry, _Mark) for entry in column):
        return _Mark("kept", -1)
    ordered = column[::-1] if is_reversed else column
    origin = _made_of(ordered)
    return Known(lambda: np.stack([np.asarray(entry.get()) for entry in ordered]), origin)
