"""Whether two traced programs are the same, so that one compiled program serves both."""

import enum
import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np


def is_same(a: Any, b: Any) -> bool:
    """Whether two programs run the same equations; in doubt they do not."""
    if len(a.eqns) != len(b.eqns):
        return False
    names: dict[Any, Any] = {}

    def is_atom(x: Any, y: Any) -> bool:
        if isinstance(x, jax.extend.core.Literal) or isinstance(y, jax.extend.core.Literal):
            return type(x) is type(y) and x.aval == y.aval and _is_equal(x.val, y.val)
        return names.setdefault(x, y) is y and x.aval == y.aval

    def are_atoms(x: Sequence[Any], y: Sequence[Any]) -> bool:
        return len(x) == len(y) and all(map(is_atom, x, y))

    return (
        are_atoms((*a.constvars, *a.invars), (*b.constvars, *b.invars))
        and all(
            p.primitive is q.primitive
            and _draws(p) == _draws(q)
            and are_atoms(p.invars, q.invars)
            and are_atoms(p.outvars, q.outvars)
            and _are_params(p, q)
            for p, q in zip(a.eqns, b.eqns, strict=True)
        )
        and are_atoms(a.outvars, b.outvars)
    )


def _draws(equation: Any) -> Any:
    """How it draws random numbers: an option of JAX that each equation keeps."""
    return getattr(getattr(equation, "ctx", None), "threefry_partitionable", None)


def _are_params(p: Any, q: Any) -> bool:
    if p.params.keys() != q.params.keys():
        return False
    is_custom = p.primitive.name.startswith(
        "custom_"
    )  # their rules of differentiation are made anew
    return all(
        _is_param(p.params[name], q.params[name])
        for name in p.params
        if not (is_custom and name.startswith(("jvp", "fwd", "bwd")))
    )


def _is_param(a: Any, b: Any) -> bool:
    inner = jax.extend.core.ClosedJaxpr, jax.extend.core.Jaxpr
    if type(a) is not type(b):
        return False
    if isinstance(a, inner):
        jaxprs = getattr(a, "jaxpr", a), getattr(b, "jaxpr", b)
        return are_equal(getattr(a, "consts", ()), getattr(b, "consts", ())) and is_same(*jaxprs)
    if isinstance(a, tuple | list) and any(isinstance(item, inner) for item in a):
        return len(a) == len(b) and all(map(_is_param, a, b))
    return _is_equal(a, b)


def are_equal(a: Sequence[Any], b: Sequence[Any]) -> bool:
    """Whether two lists of constants hold the same numbers of the same types."""
    return len(a) == len(b) and all(map(_is_equal, a, b))


def _is_equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray | jax.Array) or isinstance(b, np.ndarray | jax.Array):
        x, y = _without_key(a), _without_key(b)
        return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
    if isinstance(a, float) and isinstance(b, float):
        return float(a).hex() == float(b).hex()  # NaN equals NaN here, and 0 is not -0
    try:
        return bool(a == b)
    except Exception:  # an object that cannot be compared
        return False


def word_of(closed: Any) -> int:
    """32 bits of what a program does; programs that are the same have the same."""
    sha = hashlib.sha256()
    _feed(sha, closed.jaxpr, closed.consts)
    return int.from_bytes(sha.digest()[:4], "big")


def _feed(sha: Any, jaxpr: Any, consts: Sequence[Any]) -> None:
    numbers: dict[Any, int] = {}

    def note(thing: Any) -> None:
        sha.update(repr(thing).encode())

    def atom(x: Any) -> Any:
        if isinstance(x, jax.extend.core.Literal):
            return str(x.aval), _plain(x.val)
        return numbers.setdefault(x, len(numbers)), str(x.aval)

    def param_of(param: Any) -> None:
        if isinstance(param, jax.extend.core.ClosedJaxpr | jax.extend.core.Jaxpr):
            _feed(sha, getattr(param, "jaxpr", param), getattr(param, "consts", ()))
        elif isinstance(param, tuple | list):
            note(len(param))
            for part in param:
                param_of(part)
        elif isinstance(param, str | int | float | np.dtype | enum.Enum | None):
            note(param)  # of functions, `is_same` compares no more than their programs

    note([_plain(const) for const in consts])
    note([atom(x) for x in (*jaxpr.constvars, *jaxpr.invars)])
    for equation in jaxpr.eqns:
        note((equation.primitive.name, _draws(equation), [atom(x) for x in equation.invars]))
        note([atom(x) for x in equation.outvars])
        for name, param in sorted(equation.params.items()):
            note(name)
            param_of(param)
    note([atom(x) for x in jaxpr.outvars])


def _plain(value: Any) -> Any:
    """A number or an array as what `repr` tells apart; nothing of what has no numbers."""
    array = _without_key(value)
    return array.shape, str(array.dtype), hashlib.sha256(array.tobytes()).hexdigest()


def _without_key(value: Any) -> np.ndarray:
    """An array; of random keys, their bits (two kinds of key are two avals)."""
    is_key = jnp.issubdtype(getattr(value, "dtype", np.float32), jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(value) if is_key else value)
