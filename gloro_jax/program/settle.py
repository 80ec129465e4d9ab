"""What is traced, made final: no array in it can change, and what depends on nothing is computed.

A traced program refers to the NumPy arrays that its code closed over, and computes constants anew
at every call. Both could differ tomorrow from what was examined today.
"""

from typing import Any

import jax
import jax.extend.core
from jax.core import Tracer

from gloro_jax.lipschitz.doors import NAME, copied

_FINAL_NAME = "bounded_door"
_COMPILED = ("jit", "pjit")
_SHORT = 40  # equations


def folded(closed: Any) -> Any:
    """A program whose equations all depend on its inputs; the others are computed, here and now."""
    jaxpr = closed.jaxpr
    pairs = list(zip(jaxpr.constvars, closed.consts, strict=True))
    known = {var: const for var, const in pairs if not isinstance(const, Tracer)}
    kept = [pair for pair in pairs if isinstance(pair[1], Tracer)]
    equations = []
    for equation in jaxpr.eqns:
        if not equation.effects and all(_is_literal(a) or a in known for a in equation.invars):
            values = [a.val if _is_literal(a) else known[a] for a in equation.invars]
            known |= zip(equation.outvars, computed(equation, values), strict=True)
        else:
            equations.append(equation)
    used = {a for e in equations for a in e.invars if not _is_literal(a)}
    used |= {a for a in jaxpr.outvars if not _is_literal(a)}
    kept += [(var, const) for var, const in known.items() if var in used]
    variables, consts = zip(*kept, strict=True) if kept else ((), ())
    program = jaxpr.replace(constvars=list(variables), eqns=equations)
    return copied(jax.extend.core.ClosedJaxpr(program, list(consts)))


def computed(equation: Any, values: list[Any]) -> list[Any]:
    """The results of one equation.

    A function that is compiled in one piece, `jnp.where` say, is a program within one equation.
    JAX would compile it anew for each trace; what it compiled for single equations it keeps.
    """
    inner = equation.params.get("jaxpr")
    if equation.primitive.name in _COMPILED:
        return evaluated(inner, values)
    params = equation.primitive.get_bind_params(equation.params)
    out = equation.primitive.bind(*values, **params)
    return out if equation.primitive.multiple_results else [out]


def evaluated(closed: Any, values: list[Any]) -> list[Any]:
    """The results of a program: a short one equation by equation, a long one compiled."""
    jaxpr = closed.jaxpr.replace(eqns=_needed(closed.jaxpr))
    if len(jaxpr.eqns) > _SHORT:
        return jax.jit(jax.extend.core.jaxpr_as_fun(closed.replace(jaxpr=jaxpr)))(*values)
    known = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    known |= zip(jaxpr.invars, values, strict=True)
    for equation in jaxpr.eqns:
        given = [a.val if _is_literal(a) else known[a] for a in equation.invars]
        known |= zip(equation.outvars, computed(equation, given), strict=True)
    return [a.val if _is_literal(a) else known[a] for a in jaxpr.outvars]


def _needed(jaxpr: Any) -> list[Any]:
    """The equations that the results depend on."""
    wanted = {a for a in jaxpr.outvars if not _is_literal(a)}
    equations = []
    for equation in reversed(jaxpr.eqns):
        if equation.effects or not wanted.isdisjoint(equation.outvars):
            equations.append(equation)
            wanted |= {a for a in equation.invars if not _is_literal(a)}
    return equations[::-1]


def without_numbers(closed: Any) -> Any:
    """A program whose doors all have one name, so that the compiled text of each tracing is one."""

    def rename(equation: Any) -> Any:
        name = str(equation.params.get("name", ""))
        if not name.startswith(NAME):
            return equation
        return equation.replace(params={**equation.params, "name": _FINAL_NAME})

    return copied(closed, rename)


def _is_literal(atom: Any) -> bool:
    return isinstance(atom, jax.extend.core.Literal)
