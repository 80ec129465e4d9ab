"""Weinstein's constraints: a tight and proved norm for a convolution, from its torus.

The torus bound ||A|| <= ||C|| loses up to a percent where C stretches fields that A never sees,
on the sites that the torus has and A deletes. Let the columns of Q_i be fields on deleted inputs,
those of Q_o fields on deleted outputs, with ||Q_o|| <= 1. If

    F = t I - C^H C + C^H Q_o Q_o^H C + rho Q_i Q_i^H >= 0,   then   ||A||^2 <= t:

a field x of A is orthogonal to Q_i, and |Q_o^H C x|^2 is at most what C x has on deleted sites, so
0 <= x^H F x <= t |x|^2 - |A x|^2. That holds however the Q were found; here they are the deleted
parts of the few modes of C above t, and of approximate singular vectors of A (Weinstein, Aronszajn;
Bazley and Fox: intermediate problems; that a torus makes F cheap to verify seems to be new).

F is verified in float64. With V the modes of C above t, B = t I - T + V V^H is block diagonal and
factorised by Cholesky, P = B + R R^H with R = [C^H Q_o, sqrt(rho) Q_i], and F = P - V V^H >= 0 if
I - V^H P^-1 V >= 0. For any array X, with E = V - P X,

    V^H P^-1 V = V^H X + X^H E + E^H P^-1 E,

so one more Cholesky factorisation, of the small I - V^H X less the norms of the other terms, proves
it; X from Woodbury's formula makes E tiny, and need not be right.
"""

import dataclasses

import numpy as np
import scipy.linalg

from gloro_jax.lipschitz.convolutions.blocks import Blocks
from gloro_jax.lipschitz.convolutions.torus import Torus
from gloro_jax.lipschitz.gram import cholesky
from gloro_jax.lipschitz.rounding import cholesky_slack, gamma, up

_ROUNDS = 3
_BYTES = 2**28  # of the modes' spectra; more of them are not tried
_ALL_SITES = 500  # up to so many deleted inputs and outputs can all become constraints
_RHO, _RHO_OF_ALL = 100.0, 1e6  # times t


@dataclasses.dataclass
class _Lift:
    """B = t I - T + V V^H, proved to be at least `floor` I."""

    t: float
    modes: dict[int, np.ndarray]  # V per frequency that has any, (n, few)
    fields: np.ndarray  # V as spectra of real fields, (frequencies, n, count)
    floor: float


def prove(blocks: Blocks, t: float, *, margin: float, hints: np.ndarray | None) -> float | None:
    """Tries to prove ||A||^2 <= t.

    Args:
        blocks: of a torus around A.
        t: the target, squared.
        margin: how near the torus's own modes may come to t, relative; well above rounding.
        hints: approximate top right singular vectors of A, as fields on the torus; or None.

    Returns:
        A proved bound of ||A||^2, about t; or None.
    """
    beta = margin * t
    bad = [int(i) for i in blocks.not_below(t - beta)]
    modes = {i: blocks.modes_above(i, t - 4 * beta) for i in bad}
    floor = _floor(blocks, t, beta, modes)
    if floor is None:
        return None
    if not modes:
        return up(t - floor)
    fields = _as_fields(blocks, modes)
    if fields is None:
        return None
    lift = _Lift(t, modes, fields, floor)
    found = _constrain(blocks, lift, hints)
    return None if found is None else _verify(blocks, lift, *found)


def _floor(blocks: Blocks, t: float, beta: float, modes: dict[int, np.ndarray]) -> float | None:
    """What B exceeds, by Cholesky of B - beta I at every frequency; None if that fails."""
    n, most = blocks.side, max((v.shape[1] for v in modes.values()), default=0)
    raised = max((float(np.square(np.abs(v)).sum()) for v in modes.values()), default=0.0)
    forming = gamma(8 * most + 64) * (2.5 * np.sqrt(n) + most) * (t + 2 * raised)
    slack = cholesky_slack(n, n * t + raised) + forming + blocks.torus.error
    if blocks.is_batched:
        shifted = (t - beta) * np.eye(n) - blocks.values
        for i, v in modes.items():
            shifted[i] += v @ v.conj().T
        is_proved = cholesky(shifted) is not None
    else:  # the other frequencies have been proved already
        is_proved = all(
            cholesky(blocks.shifted(i, t - beta, v)) is not None for i, v in modes.items()
        )
    floor = beta - up(slack)
    return floor if is_proved and floor > 0 else None


def _as_fields(blocks: Blocks, modes: dict[int, np.ndarray]) -> np.ndarray | None:
    """V as spectra of real fields: a complex mode at w is two. None if there are too many."""
    columns = []
    for i, v in modes.items():
        is_real = blocks.torus.weights[i] == 1
        parts = [v] if is_real else [v / np.sqrt(2), 1j * v / np.sqrt(2)]
        columns += [(i, part[:, c]) for part in parts for c in range(v.shape[1])]
    shape = (len(blocks.values), blocks.side, len(columns))
    if np.prod(shape) * 16 > _BYTES:
        return None
    fields = np.zeros(shape, complex)
    for c, (i, column) in enumerate(columns):
        fields[i, :, c] = column
    return fields


class _Solver:
    """Solves with B: nothing rests on it, so it may be as inexact as it likes."""

    def __init__(self, blocks: Blocks, lift: _Lift) -> None:
        self._blocks, self._lift = blocks, lift
        if blocks.is_batched:
            lifted = lift.t * np.eye(blocks.side) - blocks.values
            for i, v in lift.modes.items():
                lifted[i] += v @ v.conj().T
            self._inverses = np.linalg.inv(lifted)
        else:
            every = range(len(blocks.values))
            shifted = (blocks.shifted(i, lift.t, lift.modes.get(i)) for i in every)
            self._factors = [
                scipy.linalg.cho_factor(s, lower=True, overwrite_a=True) for s in shifted
            ]

    def __call__(self, fields: np.ndarray) -> np.ndarray:
        if self._blocks.is_batched:
            return self._inverses @ fields
        solved = np.zeros_like(fields)
        for i, factor in enumerate(self._factors):
            if fields[i].any():
                solved[i] = scipy.linalg.cho_solve(factor, fields[i], check_finite=False)
        return solved


@dataclasses.dataclass
class _Constraint:
    """Q_i and Q_o, as fields that are zero on kept sites."""

    inputs: np.ndarray
    outputs: np.ndarray
    rho: float  # the weight of Q_i
    spectra: np.ndarray  # R = [C^H Q_o, sqrt(rho) Q_i]

    @staticmethod
    def of(torus: Torus, inputs: np.ndarray, outputs: np.ndarray, rho: float) -> "_Constraint":
        """With its spectra."""
        through = torus.apply(torus.spectrum(outputs), is_adjoint=True)
        spectra = np.concatenate([through, np.sqrt(rho) * torus.spectrum(inputs)], axis=2)
        return _Constraint(inputs, outputs, rho, spectra)


def _constrain(
    blocks: Blocks, lift: _Lift, hints: np.ndarray | None
) -> tuple[_Constraint, np.ndarray] | None:
    """Constraints that suffice, and X near P^-1 V; None if none are found in a few rounds."""
    torus, solve = blocks.torus, _Solver(blocks, lift)
    candidates = _Candidates(torus)
    candidates.add_modes(lift.fields)
    if hints is not None:
        candidates.add_singular_vectors(hints)
    solved = solve(lift.fields)
    for number in range(_ROUNDS + 1):
        if number < _ROUNDS:
            constraint = _Constraint.of(torus, *candidates.orthonormal(), _RHO * lift.t)
        elif candidates.are_few:
            constraint = _Constraint.of(torus, *candidates.all(), _RHO_OF_ALL * lift.t)
        else:
            return None
        if constraint.spectra.shape[2] == 0:
            return None
        x, small = _woodbury(torus, solve, lift.fields, solved, constraint.spectra)
        values, vectors = np.linalg.eigh(small)
        if values[0] > 0:
            return constraint, x
        worst = min(12, int((values < 0).sum()) + 2)
        candidates.add_modes(x @ vectors[:, :worst])
    return None


def _woodbury(
    torus: Torus, solve: _Solver, v: np.ndarray, solved_v: np.ndarray, r: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """P^-1 V for P = B + R R^H, and I - V^H P^-1 V, both approximate."""
    solved_r = solve(r)
    core = np.eye(r.shape[2]) + torus.inner(r, solved_r)
    core = np.linalg.solve(core, torus.inner(r, solved_v))
    small = np.eye(v.shape[2]) - torus.inner(v, solved_v) + torus.inner(solved_v, r) @ core
    return solved_v - solved_r @ core, (small + small.T) / 2


class _Candidates:
    """Fields that Q_i and Q_o may be made of. They live on deleted sites only."""

    def __init__(self, torus: Torus) -> None:
        self._torus = torus
        self._inputs: list[np.ndarray] = []
        self._outputs: list[np.ndarray] = []

    @property
    def are_few(self) -> bool:
        """Whether every deleted site can become a constraint."""
        deleted = (~self._torus.kept_inputs).sum() + (~self._torus.kept_outputs).sum()
        return bool(deleted <= _ALL_SITES)

    def add_modes(self, spectra: np.ndarray) -> None:
        """The deleted parts of fields of C, and of what C makes of them."""
        image = self._torus.apply(spectra)
        self._inputs.append(self._torus.fields(spectra)[~self._torus.kept_inputs])
        self._outputs.append(self._torus.fields(image)[~self._torus.kept_outputs])

    def add_singular_vectors(self, fields: np.ndarray) -> None:
        """Constraints that make each x an exact eigenvector: C x, and C^H A x, where deleted."""
        torus = self._torus
        x = np.where(torus.kept_inputs[..., None], fields, 0.0)
        image = torus.fields(torus.apply(torus.spectrum(x)))
        self._outputs.append(image[~torus.kept_outputs])
        image = np.where(torus.kept_outputs[..., None], image, 0.0)
        back = torus.fields(torus.apply(torus.spectrum(image), is_adjoint=True))
        self._inputs.append(back[~torus.kept_inputs])

    def orthonormal(self) -> tuple[np.ndarray, np.ndarray]:
        """Q_i and Q_o as fields, spanned by what was added."""
        self._inputs = [_orthonormal(np.concatenate(self._inputs, axis=1))]
        self._outputs = [_orthonormal(np.concatenate(self._outputs, axis=1))]
        return self._as_fields(self._inputs[0], self._outputs[0])

    def all(self) -> tuple[np.ndarray, np.ndarray]:
        """Q_i and Q_o as fields, one for every deleted site and channel."""
        kept = (self._torus.kept_inputs, self._torus.kept_outputs)
        return self._as_fields(*(np.eye(int((~keep).sum())) for keep in kept))

    def _as_fields(self, inputs: np.ndarray, outputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # The norm of Q_o must not exceed 1, rounding included.
        outputs = outputs / (1 + 1e-8)
        fields = []
        for rows, kept in ((inputs, self._torus.kept_inputs), (outputs, self._torus.kept_outputs)):
            field = np.zeros((*kept.shape, rows.shape[1]))
            field[~kept] = rows
            fields.append(field)
        return fields[0], fields[1]


def _orthonormal(rows: np.ndarray) -> np.ndarray:
    if not rows.size:
        return rows[:, :0]
    u, values, _ = np.linalg.svd(rows, full_matrices=False)
    return u[:, (values > 1e-7 * values[0]) & (values > 1e-12)]


def _verify(blocks: Blocks, lift: _Lift, constraint: _Constraint, x: np.ndarray) -> float | None:
    """Proves F >= 0 for given constraints and any X, every rounding error counted."""
    torus, t, v, r = blocks.torus, lift.t, lift.fields, constraint.spectra
    residual = v - t * x + blocks.values @ x - r @ torus.inner(r, x)
    for i, modes in lift.modes.items():
        residual[i] -= modes @ (modes.conj().T @ x[i])
    size_x, size_r, size_v = torus.norm(x), torus.norm(r), torus.norm(v)
    n, count = blocks.side, v.shape[2]
    g = gamma(8 * (len(x) * n + n + count + r.shape[2]))
    terms = t + blocks.frobenius + size_v**2 + size_r**2
    size_e = up(torus.norm(residual) + g * (size_v + terms * size_x))
    small = np.eye(count) - torus.inner(v, x)
    small = (small + small.T) / 2
    product = size_v * size_x
    delta = up(size_x * size_e + size_e**2 / lift.floor + g * product)
    slack = cholesky_slack(count, count * (1 + product)) + gamma(8) * count * (1 + product)
    if cholesky(small - up(delta + slack) * np.eye(count)) is None:
        return None
    return _with_data_error(torus, t, constraint, size_r)


def _with_data_error(
    torus: Torus, t: float, constraint: _Constraint, size_r: float
) -> float | None:
    """t, and what the exact T and R may differ by from the computed ones; None if ||Q_o|| > 1."""
    rows = constraint.outputs[~torus.kept_outputs]
    gram = np.abs(rows.T @ rows).sum(axis=1).max(initial=0.0)
    if gram + gamma(len(rows) + 8) * 1.01 * max(1, rows.shape[1]) > 1:
        return None
    size_outputs, size_inputs = (
        float(np.linalg.norm(q)) * (1 + 1e-9) for q in (constraint.outputs, constraint.inputs)
    )
    ny, nx = torus.sites
    fourier = gamma(4 * (nx + ny) + 64) * np.sqrt(nx * ny)
    kh, kw, _, channels_out = torus.kernel.shape
    symbol = gamma(2 * (channels_out + kh * kw) + 64)
    error = np.hypot(
        size_outputs * torus.tap_norms * (fourier + symbol),
        np.sqrt(constraint.rho) * size_inputs * fourier,
    )
    return up(t + torus.error + 2 * size_r * error + error**2)
