"""Plants one error at a time in a copy of the package and demands that a soundness test fails.

Command: python tests/plant_errors.py [NAME ...]   (about fifteen minutes for all)
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent

# name: (file, what stands there, what is planted, the tests that must notice)
ERRORS = {
    "doors: any equation may read an activation": (
        "program/walk.py", """raise ValueError(f"`{primitive}` in {_where(equation)} {_OUTSIDE}")""", "return operands[:1] * len(equation.outvars)",
        "tests/soundness/test_doors.py",
    ),
    "doors: the value of one branch, the bound of another": (
        "program/walk.py", "return names == list(_PARTS) and len({mark.branch for mark in parts}) == 1", "return names == list(_PARTS)",
        "tests/soundness/test_doors.py",
    ),
    "doors: what enters is not looked at": (
        "program/walk.py", "            if not _are_twins(part):", "            if False:", "tests/soundness/test_doors.py",
    ),
    "doors: what leaves is not looked at": (
        "program/walk.py", "        if not _are_twins(found):", "        if False:", "tests/soundness/test_doors.py",
    ),
    "doors: a function reads another activation": (
        "program/walk.py", "if any(isinstance(operand, _Mark) for operand in others):", "if False:", "tests/soundness/test_doors.py",
    ),
    "doors: a function that was kept is not noticed": (
        "program/walk.py", "if isinstance(c, Tracer) else _known(c)", "if False else _known(c)",
        "tests/soundness/test_doors.py tests/soundness/test_program.py",
    ),
    "doors: vmap is not noticed": (
        "program/walk.py", "if shapes != [*passage.shapes, *[()] * count] or out != [passage.out, ()]:", "if False:", "tests/soundness/test_doors.py",
    ),
    "doors: a mapped axis is reduced": (
        "lipschitz/doors.py", "if axes := {effect", "if axes := set() and {effect", "tests/soundness/test_doors.py",
    ),
    "doors: the host is called": (
        "lipschitz/purity.py", "        if name in _IMPURE:", "        if False:", "tests/soundness/test_doors.py tests/soundness/test_program.py",
    ),
    "doors: a batch may be mixed": (
        "program/trace.py", "        if not is_same:\n            raise ValueError(\n                f\"The function", "        if False:\n            raise ValueError(\n                f\"The function",
        "tests/soundness/test_doors.py",
    ),
    "doors: an estimate freezes": (
        "lipschitz/bounded.py", 'if kind != "upper":', "if False:", "tests/soundness/test_locks.py",
    ),
    "doors: a sum counts its last branch": (
        "program/walk.py", "lipschitz = plus_up(lipschitz, branch.lipschitz)", "lipschitz = branch.lipschitz", "tests/soundness/test_doors.py",
    ),
    "doors: a loop counts once": (
        "program/walk.py", "for turn in reversed(order) if params[\"reverse\"] else order:", "for turn in order[:1]:", "tests/soundness/test_doors.py",
    ),
    "program: a changed body is not noticed": (
        "frozen_net.py", "if self._static.layout != layout_of(self.net):", "if False:", "tests/soundness/test_locks.py",
    ),
    "program: constants of two programs are not compared": (
        "program/trace.py", "and are_equal(self.closed.consts, other.closed.consts)", "", "tests/soundness/test_locks.py",
    ),
    "digest: the steps are left out": (
        "identity.py", "    if steps is not None:\n", "    if False:\n", "tests/test_runs.py",
    ),
    "operator: any number is a norm": (
        "lipschitz/many.py", "if not isinstance(norm, UpperBound):", "if False:", "tests/soundness/test_locks.py",
    ),
    "operator: one of one's own is not tested from below": (
        "lipschitz/many.py", "if type(operator) not in _OURS and refutes(", "if False and refutes(", "tests/soundness/test_locks.py",
    ),
    "upper: complex numbers have their real part's norm": (
        "lipschitz/upper.py", "if not (is_integer or jnp.issubdtype(given.dtype, np.floating)):", "given = given.real if given.dtype.kind == 'c' else given\n    if False:", "tests/test_bad_input.py",
    ),
    "bound: negative ones are bounds": (
        "lipschitz/norms.py", "return 0 <= float(number) < math.inf", "return -9 <= float(number) < math.inf", "tests/test_margins.py",
    ),
    "freeze: bounds of weights as given, not as executed": (
        "program/narrowing.py", "return np.asarray(leaf).astype(np.float32) if dtype in (None, np.float64) else leaf",
        "return leaf", "tests/soundness/test_executed.py",
    ),
    "freeze: subnormal weights stay": (
        "program/narrowing.py", "is_small = (array != 0) & (np.abs(array) < tiny)", "is_small = array != array", "tests/soundness/test_executed.py",
    ),
    "certify: layers may overflow": (
        "frozen_net.py", "is_finite(squares) & (squares <= jnp.square(self._frozen[\"longest\"]))", "is_finite(squares)", "tests/soundness/test_executed.py",
    ),
    "certify: fast math certifies": (
        "frozen_net.py", "return is_short & follows_ieee(squares)", "return is_short", "tests/soundness/test_executed.py",
    ),
    "certify: flags of the process are not looked at": (
        "frozen_net.py", "        check_arithmetic()\n", "", "tests/soundness/test_executed.py",
    ),
    "alarm: stored norms are not compared": (
        "alarms.py", "if refutes(found, stored[name])", "if False", "tests/test_alarms.py",
    ),
    "alarm: distances of the head are not compared": (
        "alarms.py", "if refutes(apart, head.distances):", "if False:", "tests/test_alarms.py",
    ),
    "centring: a mean of any shape": (
        "layers/residual.py", "if jnp.shape(mean.value) != (channels,) or", "if", "tests/test_liresnet.py",
    ),
    "bias of any shape": (
        "layers/base.py", "if jnp.shape(linear.bias) != image.shape[-1:]:", "if False:", "tests/test_liresnet.py",
    ),
    "torus alone: 2e-6 too low": (
        "lipschitz/convolutions/stride_one.py", "return up(t + cholesky_slack", "return up(t * (1 - 4e-6) + cholesky_slack",
        "tests/lipschitz/test_constraints.py",
    ),
    "centring: running means are not folded": (
        "layers/residual.py", "bias = bias - self._mean(channels).value", "bias = bias + 0 * self._mean(channels).value",
        "tests/test_golden_liresnet.py",
    ),
    "centring: each device its own means": (
        "layers/residual.py", "else jax.lax.pmean(found, x.batch_axis)", "else found", "tests/training/test_parallel.py",
    ),
    "centring: frozen without its means": (
        "layers/residual.py", 'if not (self.has_variable("centering", "mean") or', "if False and not (", "tests/test_liresnet.py",
    ),
    "linear residual: the identity is not in the middle": (
        "layers/residual.py", "middle = [(k - 1) // 2 for", "middle = [k // 2 for",
        "tests/test_liresnet.py",
    ),
    "cholesky: the diagonal counts twice in the gradient": (
        "orthogonal.py", "half + jnp.tril(half, -1).T", "half + half.T", "tests/test_orthogonal.py",
    ),
    "newton-schulz: scaled by the Frobenius norm's square root": (
        "orthogonal.py", "jnp.sqrt(jnp.where(sums > 0, sums, 1.0))", "jnp.sqrt(jnp.sqrt(jnp.where(sums > 0, sums, 1.0)))",
        "tests/test_orthogonal.py",
    ),
    "import: features flattened in our order": (
        "torch_import/liresnet.py", "dense = state[\"neck.weight\"].reshape(features, width, side, -1)",
        "dense = state[\"neck.weight\"].reshape(features, side, -1, width).transpose(0, 3, 1, 2)", "tests/test_golden_liresnet.py",
    ),
    "import: NaN is let in": (
        "torch_import/liresnet.py", "elif not np.isfinite(nearest_float32(array)).all():", "elif False:", "tests/test_torch_import.py",
    ),
    "export: the digest of the program is not compared": (
        "export/artifact.py", 'if digest != self.manifest["digest"]:', "if False:", "tests/test_export.py",
    ),
    "export: files are not compared": (
        "export/artifact.py", "if found != files[name]:", "if False:", "tests/test_export.py",
    ),
    "initial weights: names are not compared": (
        "training/state.py", "if differences := shape_differences(given, fresh):", "if differences := []:",
        "tests/training/test_fit.py",
    ),
    "gram: bound 1e-6 too low": (
        "lipschitz/gram.py", "return up(t + cholesky_slack", "return up(t * (1 - 4e-6) + cholesky_slack",
        "tests/lipschitz/test_upper.py",
    ),
    "gram: Cholesky failure ignored": (
        "lipschitz/gram.py", "    except np.linalg.LinAlgError:\n        return None",
        "    except np.linalg.LinAlgError:\n        return np.ones_like(matrices)",
        "tests/lipschitz/test_upper.py",
    ),
    "upper: no power-of-two scaling": (
        "lipschitz/upper.py", "scale = power_of_two_below(largest)", "scale = 1.0",
        "tests/lipschitz/test_upper.py",
    ),
    "torus: N = H": (
        "lipschitz/convolutions/torus.py", "max(size + max(low_high), out)", "max(size, out)",
        "tests/lipschitz/test_upper.py",
    ),
    "torus: self-conjugate frequencies left out": (
        "lipschitz/convolutions/torus.py", "keep = self._mirror >= np.arange(", "keep = self._mirror > np.arange(",
        "tests/lipschitz/test_upper.py",
    ),
    "space-to-depth: 3 % too low": (
        "lipschitz/convolutions/stride_one.py", "        coarse, (size_y, size_x)", "        0.97 * coarse, (size_y, size_x)",
        "tests/lipschitz/test_upper.py",
    ),
    "space-to-depth: a row of pixels does not count": (
        "lipschitz/convolutions/stride_one.py", "inside[: image_size[0], : image_size[1]] = True",
        "inside[: image_size[0] - 1, : image_size[1]] = True", "tests/lipschitz/test_upper.py",
    ),
    "constraints: kept sites are constrained": (
        "lipschitz/convolutions/torus.py", "keep[: size[0], : size[1]] = True if mask", "keep[: size[0] - 1, : size[1]] = True if mask",
        "tests/lipschitz/test_upper.py tests/lipschitz/test_constraints.py",
    ),
    "constraints: outputs of norm 1.3": (
        "lipschitz/convolutions/constraints.py", "outputs = outputs / (1 + 1e-8)", "outputs = 1.3 * outputs",
        "tests/lipschitz/test_constraints.py",
    ),
    "constraints: the norm of the outputs is not checked": (
        "lipschitz/convolutions/constraints.py", "* max(1, rows.shape[1]) > 1:", "* max(1, rows.shape[1]) > 9:",
        "tests/lipschitz/test_constraints.py",
    ),
    "constraints: found means proved": (
        "lipschitz/convolutions/constraints.py", "return None if found is None else _verify(blocks, lift, *found)",
        "return None if found is None else lift.t", "tests/lipschitz/test_constraints.py",
    ),
    "constraints: no residual": (
        "lipschitz/convolutions/constraints.py", "delta = up(size_x * size_e + size_e**2 / lift.floor + g * product)",
        "delta = 0.0", "tests/lipschitz/test_constraints.py",
    ),
    "constraints: complex modes count once": (
        "lipschitz/convolutions/constraints.py", "[v / np.sqrt(2), 1j * v / np.sqrt(2)]", "[v / np.sqrt(2)]",
        "tests/lipschitz/test_constraints.py",
    ),
    "torus: inner products without weights": (
        "lipschitz/convolutions/torus.py", "left = (a * self.weights[:, None, None])", "left = (a * 1.0)",
        "tests/lipschitz/test_constraints.py",
    ),
    "checker: claimed norms are believed": (
        "certificates/check_certificate.py", "is_proved = 0 <= norm < math.inf and proves(", "is_proved = 0 <= norm < math.inf or proves(",
        "tests/certificates/test_forgeries.py",
    ),
    "checker: torus N = H": (
        "certificates/check_certificate.py", "max(n + max(low, high), n + low", "max(n, n + low",
        "tests/certificates/test_checker.py",
    ),
    "checker: half of the frequencies": (
        "certificates/check_certificate.py", "[y * sites[1] + x <= mirror]", "[y * sites[1] + x < mirror]",
        "tests/certificates/test_checker.py",
    ),
    "checker: Cholesky failure ignored": (
        "certificates/check_certificate.py", "    except np.linalg.LinAlgError:\n        return False",
        "    except np.linalg.LinAlgError:\n        return True", "tests/certificates/test_checker.py",
    ),
    "checker: strides smaller than the window are patches": (
        "certificates/check_certificate.py", "require(kh <= strides[0] and kw <= strides[1]", "require(True",
        "tests/certificates/test_forgeries.py",
    ),
    "checker: branches of a sum count once": (
        "certificates/check_certificate.py", "return up(math.fsum(self.lipschitz(branch)", "return up(max(self.lipschitz(branch)",
        "tests/certificates/test_checker.py",
    ),
    "checker: normalisation is free": (
        "certificates/check_certificate.py", "return up(max(abs(factor) for factor in step[\"factor\"]))", "return 1.0",
        "tests/certificates/test_checker.py",
    ),
    "checker: overlapping max-pools": (
        "certificates/check_certificate.py", "disjoint = all(s >= k for", "disjoint = all(s >= 1 for",
        "tests/certificates/test_checker.py",
    ),
    "checker: errors of earlier layers are forgotten": (
        "certificates/check_certificate.py", "return image, self.norms[step[\"layer\"]] * errors + rounding",
        "return image, 0 * errors + rounding", "tests/certificates/test_certificates.py tests/certificates/test_checker.py",
    ),
    "checker: scores without an allowance": (
        "certificates/check_certificate.py", "return leads, allowance * (1 + 1e-9) + TINY", "return leads, 0 * allowance",
        "tests/certificates/test_certificates.py",
    ),
    "checker: radii at half of K": (
        "certificates/check_certificate.py", "(least > up(radius * reach))", "(least > 0.5 * radius * reach)",
        "tests/certificates/test_forgeries.py",
    ),
    "checker: arrays are not compared with their digests": (
        "certificates/check_certificate.py", "is_whole = name not in arrays or digest(", "is_whole = True or digest(",
        "tests/certificates/test_forgeries.py",
    ),
    "checker: labels are not compared": (
        "certificates/check_certificate.py", "arrays[\"label\"] != labels.reshape(len(images))[index]", "arrays[\"label\"] < 0",
        "tests/certificates/test_forgeries.py",
    ),
    "certificate: a tie is certified": (
        "certificates/points.py", "leads - 3 * allowance for", "leads + 3 * allowance for",
        "tests/certificates/test_certificates.py",
    ),
    "certificate: float32 scores are not compared": (
        "certificates/write.py", "if not (gap < _FAR_OFF).all():", "if False:", "tests/certificates/test_certificates.py",
    ),
    "steps: a function without a name": (
        "program/walk.py", "return Step.of(None, layer=passage.kind, lipschitz=constant)", "return Step.of(\"relu\")",
        "tests/certificates/test_certificates.py",
    ),
    "conv: groups averaged": (
        "lipschitz/upper.py", "max(_conv_norm_squared(part", "min(_conv_norm_squared(part",
        "tests/lipschitz/test_upper.py",
    ),
    "conv: strides ignored when deciding on patches": (
        "lipschitz/upper.py", "if kh <= strides[0] and kw <= strides[1]:", "if kh <= 3:",
        "tests/lipschitz/test_upper.py",
    ),
    "average pool: overlap ignored": (
        "lipschitz/upper.py", "bound = up(bound * up(float(matrix_norm(counts)) / k))",
        "bound = up(bound * k**-0.5)", "tests/lipschitz/test_upper.py",
    ),
    "max-pool: overlap accepted": (
        "layers/pooling.py", "if strides[0] < window[0] or strides[1] < window[1]:", "if False:",
        "tests/soundness/test_published.py",
    ),
    "normalize: constant 1": (
        "layers/pooling.py", "lipschitz=up(float(factor.max()))", "lipschitz=1.0",
        "tests/soundness/test_layers.py",
    ),
    "scale: sign kept": (
        "lipschitz/operators.py", "return UpperBound(up(abs(factor)))", "return UpperBound(factor)",
        "tests/soundness/test_layers.py",
    ),
    "residual: branch alone": (
        "lipschitz/bounded.py", "total = add(a._lipschitz, b._lipschitz)", "total = b._lipschitz",
        "tests/lipschitz/test_bounded.py tests/soundness/test_layers.py",
    ),
    "minmax: stretched by 0.1 %": (
        "activations.py", "high, low = jnp.where(is_sorted, a, b),",
        "high, low = 1.001 * jnp.where(is_sorted, a, b),", "tests/soundness/test_layers.py",
    ),
    "smooth abs: slope 1.001": (
        "activations.py", "return jnp.sqrt(jnp.square(x) + softness**2) - softness",
        "return 1.001 * jnp.sqrt(jnp.square(x) + softness**2) - softness",
        "tests/soundness/test_layers.py",
    ),
    "bounded: truth value allowed": (
        "lipschitz/bounded.py", "__getitem__ = __iter__ = __len__ = __bool__", "__getitem__ = __iter__",
        "tests/lipschitz/test_bounded.py tests/soundness/test_locks.py",
    ),
    "bounded: estimate counted as upper": (
        "lipschitz/bounded.py", 'return jnp.asarray(lipschitz.value), "estimate"',
        "return jnp.asarray(lipschitz.value), kind",
        "tests/lipschitz/test_bounded.py tests/soundness/test_locks.py",
    ),
    "bounded: bare array accepted": (
        "lipschitz/bounded.py", "if isinstance(lipschitz, bool) or not isinstance(lipschitz, int | float):",
        "if False:", "tests/lipschitz/test_bounded.py",
    ),
    "rounding: product to nearest": (
        "lipschitz/rounding.py", "product = next_up(a * b)", "product = a * b",
        "tests/lipschitz/test_rounding.py tests/lipschitz/test_bounded.py tests/test_margins.py",
    ),
    "rounding: underflow allowed": (
        "lipschitz/rounding.py", "product = jnp.maximum(product, jnp.finfo(product.dtype).tiny)", "",
        "tests/lipschitz/test_rounding.py tests/lipschitz/test_bounded.py",
    ),
    "margins: masked by value": (
        "margins.py", "own = jax.nn.one_hot(index, values.shape[-1], dtype=bool)",
        "own = values == values.max(axis=-1, keepdims=True)", "tests/test_margins.py",
    ),
    "margins: tie certified": (
        "margins.py", "jnp.where(leads > 0, jnp.where(is_constant", "jnp.where(leads >= -1e-30, jnp.where(is_constant",
        "tests/test_margins.py",
    ),
    "margins: NaN and infinity accepted": (
        "margins.py", "return is_finite(logits.values).all(axis=-1) & are_bounds", "return jnp.ones(logits.values.shape[:-1], bool)",
        "tests/test_margins.py tests/soundness/test_locks.py",
    ),
    "margins: estimates certify": (
        "margins.py", "if not isinstance(logits.lipschitz, UpperBound):\n        raise", "if False:\n        raise",
        "tests/test_margins.py tests/soundness/test_locks.py",
    ),
    "margins: head distances to nearest": (
        "margins.py", "inflated = bounds * (1.0 + 1e-15 * (rows.shape[1] + 32))", "inflated = bounds * (1 - 1e-16)",
        "tests/test_margins.py",
    ),
    "margins: epsilon rounded to nearest": (
        "margins.py", "return jnp.asarray(float32_up(value))", "return jnp.float32(value)",
        "tests/test_margins.py",
    ),
    "margins: half of K": (
        "margins.py", "return multiply_up(rows, jnp.asarray(value, rows.dtype))",
        "return multiply_up(rows, jnp.asarray(value, rows.dtype)) / 2",
        "tests/test_margins.py tests/soundness/test_published.py",
    ),
    "head: normalisation left out of the distances": (
        "gloro.py", "return Head(kernel, bias)", "return Head(self.get_variable('params', 'head_kernel'), bias)",
        "tests/test_certify.py",
    ),
    "freeze: norms to nearest": (
        "lipschitz/many.py", "    return float(norm)\n", "    return 0.999 * float(norm)\n",
        "tests/soundness/test_layers.py tests/test_golden.py",
    ),
    "freeze: weights not checked": (
        "freezing.py", "if not all(np.isfinite(np.asarray(array)).all()", "if not all(True",
        "tests/soundness/test_locks.py",
    ),
    "digest: not compared": (
        "frozen_net.py", "if not np.array_equal(np.asarray(self._digest)", "if False and not np.array_equal(np.asarray(self._digest)",
        "tests/soundness/test_locks.py",
    ),
    "jit: leaves not compared with their checksum": (
        "frozen_net.py", "are_leaves = is_known or", "are_leaves = True or",
        "tests/soundness/test_adversary.py",
    ),
    "jit: the program left out of the checksum": (
        "frozen_net.py", "checksum(jax.tree.leaves(self._frozen)) ^ self._static.word", "checksum(jax.tree.leaves(self._frozen))",
        "tests/soundness/test_adversary.py",
    ),
    "digest: marked while others may write": (
        "frozen_net.py", "jnp.array(leaf, copy=True), self._frozen)", "leaf, self._frozen)",
        "tests/soundness/test_adversary.py",
    ),
    "doors: numbers may change on their way": (
        "program/walk.py", "for operand in others[first:]):", "for operand in others[first:] if np.ndim(operand.get())):",
        "tests/soundness/test_adversary.py",
    ),
    "projections: far means empty": (
        "verifiers/complete/polytopes.py", "    other = _flattest(rows, room)\n", "    if not is_clear:\n        return np.inf\n    other = _flattest(rows, room)\n",
        "tests/verifiers/test_complete.py",
    ),
    "mixed integer: infeasible means none": (
        "verifiers/complete/mixed_integer.py", "return np.inf if _dual(self.least_lead(rival)) > _CLOSE else None", "return np.inf",
        "tests/verifiers/test_complete.py",
    ),
    "logits: seals not compared": (
        "logits.py", "if self._seal is None:", "if True:", "tests/soundness/test_adversary.py",
    ),
    "logits: bounds left out of the seal": (
        "logits.py", "((values + bounds) >> np.uint32(8))", "(values >> np.uint32(8))",
        "tests/soundness/test_adversary.py",
    ),
    "logits: scores left out of the seal": (
        "logits.py", "((values + bounds) >> np.uint32(8))", "((0 * values + bounds) >> np.uint32(8))",
        "tests/soundness/test_adversary.py",
    ),
    "load: K not composed again": (
        "frozen_net.py", "(made.lipschitz < traced.lipschitz or is_too_long)", "is_too_long",
        "tests/test_runs.py",
    ),
    "certify: infinite pixels accepted": (
        "certification.py", "return frozen.is_sane(x, is_known=is_known)", "return (x == x).all(axis=tuple(range(1, x.ndim)))",
        "tests/soundness/test_locks.py",
    ),
    "power iteration: an epsilon in the norm": (
        "lipschitz/norms.py", "return jnp.where(norm > 0, x / jnp.where(norm > 0, norm, 1), otherwise)",
        "return x / (norm + 1e-9)", "tests/lipschitz/test_norms.py",
    ),
    "parallel: no pcast": (
        "training/scaling/parallel.py", "params, constants = jax.tree.map(_varying, (params, constants))", "",
        "tests/training/test_parallel.py",
    ),
    "parallel: no mean": (
        "training/scaling/parallel.py", "return jax.lax.pmean(one(batch), AXIS)", "return one(batch)",
        "tests/training/test_parallel.py",
    ),
    "emma: no stop-gradient": (
        "losses.py", "jax.lax.stop_gradient(fractions)", "fractions", "tests/test_losses.py",
    ),
    "resume: batches already done are repeated": (
        "training/trainer.py", "skip=self.position.batches", "skip=0", "tests/training/test_resume.py",
    ),
    "resume: sums of the epoch under way are lost": (
        "training/trainer.py", "totals, (step, sums) = Totals(self.position.sums), self._pending",
        "totals, (step, sums) = Totals(), self._pending",
        "tests/training/test_fit.py tests/training/test_resume.py",
    ),
    "processes: each takes the whole batch's first rows": (
        "training/scaling/parallel.py", "slice(part * jax.process_index(), part * (jax.process_index() + 1))",
        "slice(0, part)", "tests/training/test_processes.py",
    ),
    "processes: whoever sees a request early stops early": (
        "training/scaling/requests.py", "self._stop_after = step + 1", "self._stop_after = step",
        "tests/training/test_processes.py",
    ),
    "resume: the newest step's sums are left out": (
        "training/trainer.py", "        self._settle()\n        self.position.seconds",
        "        self._pending = None\n        self.position.seconds", "tests/training/test_resume.py",
    ),
    "resume: fresh optimiser": (
        "training/trainer.py", 'self.state, self.best = jax.tree.map(jax.numpy.array, tree["state"])',
        "import dataclasses as d; old = self.state.opt_state; self.state, self.best = d.replace("
        'jax.tree.map(jax.numpy.array, tree["state"]), opt_state=old)', "tests/training/test_resume.py",
    ),
    "checkpoint: digest not compared": (
        "training/checkpoint.py", "if digest != _digest(snapshot, identity):", "if False:",
        "tests/training/test_resume.py",
    ),
    "checkpoint: of another run": (
        "training/checkpoint.py", "if self._identity and identity not in", "if False and identity not in",
        "tests/training/test_resume.py",
    ),
    "training: the first of equal epochs is best": (
        "training/metrics.py", "key=lambda i: (keys[i], i)", "key=lambda i: (keys[i][:2], -i)",
        "tests/training/test_resume.py",
    ),
    "training: initial numbers by several BLAS threads": (
        "training/loop.py", "with one_blas_thread():", "if True:", "tests/training/test_resume.py",
    ),
    "training: metrics are means of shares": (
        "training/step.py", "parts = jax.lax.axis_size(AXIS) * config.microbatches", "parts = 1",
        "tests/training/test_parallel.py",
    ),
    "checkpoint: no copy of the state": (
        "training/trainer.py", "arrays = {name: np.array(leaf) for", "arrays = {name: leaf for",
        "tests/training/test_resume.py",
    ),
    "runs: config not compared": (
        "runs/folder.py", "    if differences:\n", "    if False:\n", "tests/training/test_resume.py",
    ),
    "augment: keyed by place in the batch": (
        "data/augment.py", "jax.random.fold_in(key, step), index)",
        "jax.random.fold_in(key, step), jnp.arange(len(index)))",
        "tests/data/test_augment.py tests/training/test_parallel.py",
    ),
    "augment: the same at every step": (
        "data/augment.py", "jax.random.fold_in(key, step), index)", "key, index)",
        "tests/data/test_augment.py",
    ),
    "microbatches: sum in place of the mean": (
        "training/scaling/parallel.py", "lambda a: a / microbatches, total", "lambda a: a, total",
        "tests/training/test_parallel.py",
    ),
    "lookahead: slow weights stay": (
        "training/optimizers.py", "slow = optax.apply_updates(state.slow, moved.slow)",
        "slow = state.slow", "tests/training/test_optimizers.py",
    ),
    "schedules: the reference's prefix mistake": (
        "schedules.py", '"decay_after_half": "[1]-[50%:1]-exp-[0.001]"',
        '"decay_after_half": "[1]-exp-[0.001]"', "tests/test_schedules.py",
    ),
    "store: file digests not compared": (
        "data/store.py", " or sha256(folder / file) != digest", "", "tests/data/test_store.py",
    ),
    "store: an unfinished folder counts": (
        "data/store.py", "return contents_file(name, directory).is_file()",
        "return set_folder(name, directory).is_dir()", "tests/data/test_store.py",
    ),
    "mirror: files as they come from the bucket": (
        "data/mirror.py", "if store.sha256(partial) != digest:", "if False:", "tests/test_buckets.py",
    ),
    "mirror: a copy of before counts": (
        "data/mirror.py", "if not own.is_file() or own.read_bytes() != told:", "if not own.is_file():",
        "tests/test_buckets.py",
    ),
    "mirror: half a copy counts": (
        "data/mirror.py", "    store.contents_file(name, target).unlink(missing_ok=True)\n",
        "    store.contents_file(name, target).write_bytes(told)\n",
        "tests/test_buckets.py",
    ),
    "convolutions: a block upside down": (
        "verifiers/bounds/convolutions.py", "split.transpose(0, 1, 3, 2, 4, 5)", "split[:, :, ::-1].transpose(0, 1, 3, 2, 4, 5)",
        "tests/verifiers/test_convolutions.py",
    ),
    "polytopes: less room than none": (
        "verifiers/complete/polytopes.py", "limits[-1] - room)", "limits[-1] + room)", "tests/verifiers/test_complete.py",
    ),
    "store: order shuffled": (
        "data/store.py", "disable_shuffling=True", "disable_shuffling=False",
        "tests/data/test_store.py",
    ),
    "npz: pickles loaded": (
        "data/npz.py", "allow_pickle=False", "allow_pickle=True", "tests/data/test_npz.py",
    ),
    "vra: padding counted": (
        "evaluation/vra.py", "np.asarray(field)[batch.is_real]", "np.asarray(field)",
        "tests/evaluation/test_vra.py",
    ),
    "attack: never nearer than the first success": (
        "evaluation/attacks.py", "np.minimum(limit * _INSIDE, nearest * _NEARER)", "limit * _INSIDE",
        "tests/evaluation/test_vra.py",
    ),
    "tightness: no alarm": (
        "evaluation/tightness.py", "return self.lower > self.upper * (1 + _ROUNDING)", "return False",
        "tests/evaluation/test_tightness.py",
    ),
    "tightness: the distance squared": (
        "evaluation/tightness.py", "slopes = differences / distance", "slopes = differences / distance**2",
        "tests/evaluation/test_tightness.py",
    ),
    "potential: any step counts as 1": (
        "maps/potential.py", "return UpperBound(max(1.0, up(excess) if excess > 0 else 0.0))", "return UpperBound(1.0)",
        "tests/soundness/test_maps.py",
    ),
    "potential: nothing is too large inside": (
        "maps/potential.py", "if bound > _LARGEST or offset > _LARGEST:", "if False:", "tests/soundness/test_maps.py",
    ),
    "residual: any function is a branch": (
        "layers/residual.py", "if not isinstance(self.branch, nn.Module):", "if False:", "tests/soundness/test_maps.py",
    ),
    "checker: an overflow on the way is not noticed": (
        "certificates/check_certificate.py", "is_finite = np.isfinite(values).all() and np.isfinite(errors).all()",
        "is_finite = True", "tests/certificates/test_checker.py",
    ),
    "potential: the norm of W in place of its square": (
        "maps/potential.py", "excess = tau * bound * bound *", "excess = tau * bound *", "tests/soundness/test_maps.py",
    ),
    "circular: only the real frequencies are looked at": (
        "maps/circular.py", "            if (-y % height, -x % width) < (y, x):", "            if (-y % height, -x % width) != (y, x):",
        "tests/soundness/test_maps.py",
    ),
    "circular: real parts of blocks only": (
        "maps/circular.py", "part = block.real if is_real else block", "part = block.real", "tests/soundness/test_maps.py",
    ),
    "aol: correlations with their signs": (
        "layers/aol.py", "jnp.sum(jnp.abs(correlations), axis=(1, 2, 3))", "jnp.abs(jnp.sum(correlations, axis=(1, 2, 3)))",
        "tests/soundness/test_maps.py",
    ),
    "translation: an offset may broadcast": (
        "maps/translation.py", "or any(n not in (1, m) for n, m in pairs)", "", "tests/soundness/test_maps.py",
    ),
    "manifold: the gradient is not made skew": (
        "training/manifold.py", "return (product - jnp.swapaxes(product, -1, -2)) / 2", "return product", "tests/training/test_manifold.py",
    ),
    "manifold: never put back": (
        "training/manifold.py", "return retracted(leaf) if label == NAME else leaf", "return leaf", "tests/training/test_manifold.py",
    ),
    "average: the weights themselves are kept": (
        "training/state.py", "if not isinstance(self.opt_state, Averaged):", "if True:", "tests/training/test_epochs.py",
    ),
    "views: an edge is repeated": (
        "views.py", "source[(slice(None),) * axis + (gone,)] = -1", "source[(slice(None),) * axis + (gone,)] = 0",
        "tests/test_views.py",
    ),
    "views: the sum in place of the mean": (
        "views.py", "return jnp.mean(values", "return jnp.sum(values", "tests/test_views.py",
    ),
    "views: the digest does not bind them": (
        "program/trace.py", "steps = (Step.of_views(views.parse(net.views), steps),)", "pass",
        "tests/test_views.py",
    ),
    "views: the checker repeats an edge": (
        "certificates/check_certificate.py", 'for axis, by in enumerate(moves, start=1) if kind == "shift" else ():',
        "for axis, by in ():", "tests/test_views.py",
    ),
    "report: refuted certificates not counted": (
        "evaluation/findings.py", "self.refuted > 0 or self.tightness.is_alarm", "False",
        "tests/evaluation/test_findings.py",
    ),
    "complete: a class that the image itself does not prove": (
        "verifiers/complete/method.py", "elif is_known[i]:", "else:", "tests/verifiers/test_hostile.py",
    ),
    "complete: leads of rounding count in regions": (
        "verifiers/complete/polytopes.py", "_NOISE = 1e-13", "_NOISE = 0.0", "tests/verifiers/test_hostile.py",
    ),
    "complete: leads of rounding count in bounds": (
        "verifiers/complete/cases.py", "bounds = boxes.concluded(found, *minimum(area, found.rows, is_tight=True))[:, 0]",
        "bounds = (minimum(area, found.rows, is_tight=True)[0] + found.offset)[:, 0]", "tests/verifiers/test_hostile.py",
    ),
    "verifiers: a ball that ends inside its box": (
        "verifiers/bounds/regions.py", "far = lengths(jnp.where(is_finite[:, None], corner, 1))", "far = corner.max(axis=1)", "tests/verifiers/test_incomplete.py tests/verifiers/test_hostile.py",
    ),
    "verifiers: a cut ball in other units than its radius": (
        "verifiers/bounds/regions.py", "is_long = jnp.square(best(m)).sum(-1) > 1", "is_long = jnp.square(best(m)).sum(-1) > jnp.square(radius)", "tests/verifiers/test_hostile.py",
    ),
    "smoothing: noise that float32 rounds away": (
        "verifiers/smoothing.py", "if self.sigma < least:", "if False:", "tests/verifiers/test_hostile.py",
    ),
    "losses: labels of any shape": (
        "losses.py", "if found.shape != batch or not", "if not", "tests/test_losses.py",
    ),
    "verifiers: the line below serves negative rows": (
        "verifiers/bounds/lines.py", "positive * line.low + negative * line.high", "positive * line.low + negative * line.low",
        "tests/verifiers/test_incomplete.py",
    ),
    "verifiers: the line above passes through zero": (
        "verifiers/bounds/lines.py", "over = _total(negative * line.over)", "over = 0 * _total(negative * line.over)", "tests/verifiers/test_incomplete.py",
    ),
    "verifiers: slopes below beyond zero and one": (
        "verifiers/bounds/lines.py", "jnp.clip(slopes.astype(self.low.dtype), 0, 1)", "3 * slopes.astype(self.low.dtype)", "tests/verifiers/test_incomplete.py",
    ),
    "verifiers: no rounding is charged": (
        "verifiers/scores.py", "return 4 * gamma(terms) if dtype == jnp.float64 else 0.0", "return 0.0", "tests/verifiers/test_rounding.py",
    ),
    "verifiers: the rounding of followed rows is not charged": (
        "verifiers/bounds/lines.py", "error = error + _total(jnp.abs(at.rows) * reach[:, None]) + _lost(sizes[op])", "pass", "tests/verifiers/test_rounding.py",
    ),
    "verifiers: an l2 ball one percent too small": (
        "verifiers/bounds/regions.py", "value = jnp.maximum(value, at - radius * length)", "value = jnp.maximum(value, at - 0.99 * radius * length)",
        "tests/verifiers/test_incomplete.py",
    ),
    "verifiers: the dual loses half of what it must": (
        "verifiers/dual.py", "return Followed(-taken, at.offset - lost,", "return Followed(-taken, at.offset - lost / 2,", "tests/verifiers/test_incomplete.py",
    ),
    "verifiers: a ball that layers do not stretch": (
        "verifiers/ball_box.py", "self._up(op.norm * radius + _length(error))", "self._up(radius + _length(error))", "tests/verifiers/test_incomplete.py",
    ),
    "verifiers: a case's condition the wrong way round": (
        "verifiers/complete/cases.py", "tilt=-split * jnp.maximum(weights, 0)", "tilt=split * jnp.maximum(weights, 0)", "tests/verifiers/test_complete.py",
    ),
    "projections: a facet is where its region ends, not beyond": (
        "verifiers/complete/projections.py", "sides[unit], limits[unit] = -sides[unit], -limits[unit]", "sides[unit], limits[unit] = -sides[unit], -limits[unit] - 1",
        "tests/verifiers/test_complete.py",
    ),
    "projections: a solver that does not know says no": (
        "verifiers/complete/polytopes.py", "return other if isinstance(other, float) else np.nan", "return np.inf",
        "tests/verifiers/test_complete.py",
    ),
    "branch: a leaf that no solver decides is closed": (
        "verifiers/complete/branch_and_bound.py", "self.is_unsure |= bool(np.isnan(distance))", "", "tests/verifiers/test_complete.py",
    ),
    "adjoint: its gradient in rows": (
        "verifiers/bounds/operations.py", "return pull(rows)[0], values", "return pull(rows)[0], rows.sum() + 0 * values",
        "tests/verifiers/test_rules.py",
    ),
    "adjoint: its gradient in entries": (
        "verifiers/bounds/operations.py", "return pull(rows)[0], values", "return pull(values)[0], values",
        "tests/verifiers/test_rules.py",
    ),
    "branch: open ReLUs of a case count as off": (
        "verifiers/complete/polytopes.py", "    rows[own] -= outputs\n", "", "tests/verifiers/test_complete.py",
    ),
    "branch: outputs of open ReLUs are unlimited": (
        "verifiers/complete/polytopes.py", "np.vstack([rows, -outputs])", "np.vstack([rows, 0 * outputs])",
        "tests/verifiers/test_complete.py",
    ),
    "branch: the first witness is the nearest": (
        "verifiers/complete/branch_and_bound.py", "            self.goal = self.goal._replace(radius=nearer)",
        "            self.goal = self.goal._replace(radius=nearer)\n            self.queue.clear()",
        "tests/verifiers/test_complete.py",
    ),
    "verifiers: facets are crossed in one direction only": (
        "verifiers/complete/projections.py", "is_on[unit] = not is_on[unit]", "is_on[unit] = True", "tests/verifiers/test_complete.py",
    ),
    "verifiers: a share is what was counted": (
        "verifiers/smoothing.py", "return float(scipy.stats.beta.ppf(alpha, count, n - count + 1))", "return count / n", "tests/verifiers/test_smoothing.py",
    ),
    "verifiers: MinMax loses its second half": (
        "verifiers/bounds/kinks.py", "placed(s[0] * r, s[1] * r)", "placed(s[0] * r, s[0] * r)", "tests/verifiers/test_rules.py",
    ),
    "verifiers: squared entries are not squared": (
        "verifiers/bounds/operations.py", "jnp.abs(self.entries) ** power", "jnp.abs(self.entries)", "tests/verifiers/test_rules.py",
    ),
    "walk: what a layer runs with may be computed from frozen arrays": (
        "program/walk.py", 'if any(operand.origin == "changed" for operand in others[first:]):', 'if False:', "tests/soundness/test_adversary.py",
    ),
    "lower: operators that inherit are tested by their kernel": (
        "lipschitz/lower.py", 'if type(operator) is Matrix:', 'if isinstance(operator, Matrix):', "tests/soundness/test_adversary.py",
    ),
    "verifiers: what runs is not compared with the steps": (
        "verifiers/bounds/rules.py", 'if np.isfinite(executed).all() and not (gap <= room).all():', 'if False:', "tests/soundness/test_adversary.py",
    ),
    "freeze: names may hold a slash": (
        "freezing.py", 'if any("/" in str(', 'if any("//" in str(', "tests/soundness/test_adversary.py",
    ),
    "freeze: a network may have a call of its own": (
        "freezing.py", 'if type(net).__call__ is not GloroNet.__call__:', 'if False:', "tests/soundness/test_adversary.py",
    ),
    "frozen net: its dictionaries are handed out": (
        "frozen_net.py", '(own_dicts(self._frozen), self._digest,', '(self._frozen, self._digest,', "tests/soundness/test_adversary.py",
    ),
    "frozen net: scores hide an overflow": (
        "frozen_net.py", 'jnp.where(is_sane, logits.values, jnp.nan)', 'logits.values', "tests/soundness/test_adversary.py",
    ),
    "doors: rbg keys may draw": (
        "lipschitz/purity.py", 'if any("rbg" in str(', 'if any("no" == str(', "tests/soundness/test_adversary.py",
    ),
    "verifiers: one side of a split is forgotten": (
        "verifiers/complete/cases.py", 'return self.half(unit, -1), self.half(unit, 1)', 'return self.half(unit, -1), self.half(unit, -1)', "tests/verifiers/test_complete.py",
    ),
    "verifiers: both sides of a split take the bounds of one": (
        "verifiers/complete/cases.py", 'low[unit], high[unit] = (low[unit], 0.0) if side < 0 else (0.0, high[unit])', 'low[unit], high[unit] = (low[unit], 0.0)', "tests/verifiers/test_complete.py",
    ),
    "guarantees: only the first class inside is looked at": (
        "guarantees/sets.py", "lowest = jax.lax.cummin(pairs, axis=pairs.ndim - 2)", "lowest = pairs", "tests/test_guarantees.py",
    ),
    "guarantees: one class outside is forgotten": (
        "guarantees/sets.py", "return place[..., None, :] <= places", "return (place[..., None, :] <= places).at[..., 0].set(True)", "tests/test_guarantees.py",
    ),
    "guarantees: a set of all classes is a candidate": (
        "guarantees/kinds.py", "return min(max(map(len, self.sets)), num_classes - 1)", "return min(max(map(len, self.sets)), num_classes)", "tests/test_guarantees.py",
    ),
    "guarantees: a set need not lie within one affinity set": (
        "guarantees/kinds.py", "return (held == counted(top)[..., None]).any(axis=-1)", "return (held > 0).any(axis=-1)", "tests/test_guarantees.py",
    ),
    "guarantees: the set of one k, the radius of another": (
        "guarantees/sets.py", "radius = (_at(numbers, last) for numbers in (slack, radius))", "radius = _at(slack, last), radius.max(axis=-1)", "tests/test_guarantees.py",
    ),
    "checker: a set of all classes": (
        "certificates/check_certificate.py", "admitted & (counts < m)", "admitted", "tests/certificates/test_sets.py",
    ),
    "checker: only the first class inside counts": (
        "certificates/check_certificate.py", ".T[: counts.max()]", ".T[:1]", "tests/certificates/test_sets.py",
    ),
    "checker: version 1 may name a guarantee": (
        "certificates/check_certificate.py", "require(is_named, f\"version", "require(True, f\"version", "tests/certificates/test_sets.py",
    ),
    "ensembles: votes for the class without a certificate are not lost": (
        "ensembles/voting.py", "lost = _sums(~marks[None], whole)[0]", "lost = _sums((~marks & (votes != own))[None], whole)[0]", "tests/ensembles/test_voting.py",
    ),
    "ensembles: a tie is certified": (
        "ensembles/voting.py", "fields = (prediction, radius, lead > 0, share)", "fields = (prediction, radius, lead >= 0, share)", "tests/ensembles/test_voting.py",
    ),
    "ensembles: weights are compared as floats": (
        "ensembles/members.py", "exact = [Fraction(float(weight)) for weight in weights]", "exact = [Fraction(round(float(weight), 9)) for weight in weights]", "tests/ensembles/test_voting.py",
    ),
    "ensembles: a mean has the largest constant of one member": (
        "ensembles/soft_voting.py", "total[i, j] = plus_up(float(total[i, j]), own)", "total[i, j] = max(float(total[i, j]), own)", "tests/ensembles/test_voting.py",
    ),
    "ensembles: the gate may change on the ball": (
        "ensembles/compositional.py", "np.maximum(np.minimum(own, gate_radius), both)", "np.maximum(own, both)", "tests/ensembles/test_compositional.py",
    ),
    "ensembles: two networks that disagree are one": (
        "ensembles/compositional.py", "np.where(votes[0] == votes[1], np.minimum(*radii), 0.0)", "np.minimum(*radii)", "tests/ensembles/test_compositional.py",
    ),
    "ensembles: entropy is largest at an end": (
        "ensembles/entropy.py", "most = np.where((low <= 1 / math.e) & (high >= 1 / math.e), 1 / math.e, np.maximum(*ends))", "most = np.maximum(*ends)", "tests/ensembles/test_compositional.py",
    ),
    "ensembles: the binomial test is one-sided": (
        "ensembles/selective.py", "Fraction(2 * tail, 2**total)", "Fraction(tail, 2**total)", "tests/ensembles/test_selective.py",
    ),
    "ensembles: the binomial test counts all votes": (
        "ensembles/selective.py", "second = counts.max(axis=1)", "second = counts.sum(axis=1)", "tests/ensembles/test_selective.py",
    ),
    "repair: choices that demote the class are tried alike": (
        "repair/layer.py", "jnp.where(demotes, _FAR // 2, 0)", "jnp.where(demotes, 0, 0)", "tests/repair/test_layer.py",
    ),
    "repair: safe scores are handed out anew": (
        "repair/layer.py", "start = (jnp.where(is_safe, _FAR, cost), values, is_safe)", "start = (cost, values, False)", "tests/repair/test_layer.py",
    ),
    "repair: ties count as order": (
        "repair/layer.py", "number = jnp.where(numbers[t] < last, numbers[t], last - apart)", "number = numbers[t]", "tests/repair/test_layer.py",
    ),
    "repair: preconditions may change on the ball": (
        "repair/layer.py", "is_kept & (reach > as_epsilon(epsilon))", "is_kept", "tests/repair/test_layer.py",
    ),
    "repair: the class on top may be demoted": (
        "repair/layer.py", "if all(a != label for a, _ in choice)", "if True", "tests/repair/test_layer.py",
    ),
    "repair: the distance to a box's corner is that to its face": (
        "repair/preconditions.py", "outside = np.sqrt(np.square(excess).sum(axis=1))", "outside = excess.sum(axis=1)", "tests/repair/test_properties.py",
    ),
    "memory: an array that a function closed over is left where it is": (
        "lipschitz/doors.py", "            return jnp.array(array, copy=True)\n        bits", "            return array\n        bits",
        "tests/soundness/test_memory_and_doubles.py",
    ),
    'doors: layers hold the list of passages': (
        'lipschitz/doors.py', 'return tuple(self._passages)',
        'return self._passages',
        "tests/soundness/test_whose_code.py",
    ),
    "purity: a primitive is JAX's by its name": (
        'lipschitz/purity.py', 'return id(primitive) in _OF_JAX',
        'return True',
        "tests/soundness/test_whose_code.py",
    ),
    'purity: kernels of Pallas are not looked at': (
        'lipschitz/purity.py', 'for inner in inner_jaxprs(equation.params):',
        "for inner in inner_jaxprs(equation.params) if name != 'pallas_call' else ():",
        "tests/soundness/test_whose_code.py",
    ),
    'purity: foreign functions are functions': (
        'lipschitz/purity.py', '    "ffi_call": "calls machine code, which nobody can look at",\n',
        '',
        "tests/soundness/test_whose_code.py",
    ),
    "origin: a class is ours by its module's name": (
        'program/origin.py', '    return place is kind',
        "    return name.startswith('gloro_jax')",
        "tests/soundness/test_whose_code.py",
    ),
    'origin: functions are known': (
        'program/origin.py', '    return isinstance(module, (*_PLAIN, jax.Array))',
        '    return True',
        "tests/soundness/test_whose_code.py",
    ),
    'agreement: NaN on one side is passed over': (
        'program/agreement.py', '    if (is_finite != np.isfinite(here).all(axis=1)).any():',
        '    is_finite &= np.isfinite(here).all(axis=1)\n    if False:',
        "tests/soundness/test_whose_code.py",
    ),
    'agreement: a generous constant makes room': (
        'program/agreement.py', 'np.minimum(reach, 1e3 * sizes.max())',
        'reach',
        "tests/soundness/test_whose_code.py",
    ),
    'agreement: three points': (
        'program/agreement.py', '_TIMES = 6',
        '_TIMES = 1',
        "tests/soundness/test_whose_code.py",
    ),
    'Normalize: a factor that programs take for 0': (
        'layers/pooling.py', '(factor >= np.finfo(np.float32).tiny)',
        '(factor > 0)',
        "tests/soundness/test_whose_code.py",
    ),
    'SmoothAbs: a square beyond float32': (
        'activations.py', 'if not 1e-15 <= softness <= 1e15:',
        'if not softness < 1e300:',
        "tests/soundness/test_whose_code.py",
    ),
    'repair: scores handed out overflow': (
        'repair/layer.py', 'np.min([*reach, _room(frozen, np.asarray(values))], axis=0)',
        'np.min([*reach, np.full(len(flat), np.inf)], axis=0)',
        "tests/soundness/test_whose_code.py",
    ),
    'repair: subnormal features count': (
        'repair/layer.py', 'far - 4 * flat.shape[1] * _TINY',
        'far',
        "tests/soundness/test_whose_code.py",
    ),
    'guarantees: fields left out of the comparison': (
        'plain.py', 'if not f.compare or f.hash is False',
        'if False',
        "tests/soundness/test_whose_code.py tests/repair/test_layer.py",
    ),
    "guarantees, repair: a subclass may add what no comparison sees": (
        "plain.py", 'vars(type(value)).get("__dataclass_params__")', 'getattr(value, "__dataclass_params__", None)',
        "tests/repair/test_layer.py",
    ),
    "repair: preconditions are compared whole": (
        "repair/layer.py", 'check_comparable(one.when, what="A precondition")', "pass", "tests/repair/test_layer.py",
    ),
    "repair: and so are their parts": (
        "repair/preconditions.py", 'check_comparable(part, what="A precondition")', "pass", "tests/repair/test_layer.py",
    ),
    "margins: K in the type of the distances": (
        "margins.py", "        rows = rows.astype(jnp.promote_types(rows.dtype, jnp.float32))\n", "",
        "tests/soundness/test_memory_and_doubles.py",
    ),
    "ensembles: a function gets the images that others get": (
        "ensembles/members.py", "return member(x.copy() if isinstance(x, np.ndarray) else x)", "return member(x)",
        "tests/soundness/test_memory_and_doubles.py",
    ),
    "freezing: what is frozen is not compared with what was given": (
        "program/agreement.py", "    if (gaps > room).any():", "    if False:",
        "tests/soundness/test_memory_and_doubles.py",
    ),
    "freezing: a layer of one's own inside one of ours is not seen": (
        "program/origin.py", "return is_known and all(map(is_known_through, fields))", "return is_known",
        "tests/soundness/test_memory_and_doubles.py",
    ),
    "program: how an equation draws is not compared": (
        "program/same.py", "            and _draws(p) == _draws(q)\n", "",
        "tests/soundness/test_memory_and_doubles.py",
    ),
}  # fmt: skip


def is_noticed(name: str) -> bool:
    """Whether the named tests fail on the planted error."""
    file, old, new, tests = ERRORS[name]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("gloro_jax", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        path = copy / "gloro_jax" / file
        source = path.read_text()
        if source.count(old) != 1:
            raise ValueError(f"{name}: the code it replaces stands {source.count(old)} times")
        path.write_text(source.replace(old, new))
        environment = {**os.environ, "PYTHONPATH": str(copy)}
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", *tests.split()]
        run = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
        if run.returncode not in (0, 1):
            raise RuntimeError(f"{name}: the tests did not run\n{run.stdout[-2000:]}")
        return run.returncode == 1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog="The names: " + "; ".join(ERRORS),
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="an error; all unless given")
    names = parser.parse_args().names or list(ERRORS)
    if unknown := [name for name in names if name not in ERRORS]:
        parser.error(f"no error is called {unknown[0]!r}; --help lists the names")
    missed = []
    for name in names:
        noticed = is_noticed(name)
        print(f"{'noticed' if noticed else 'MISSED '}  {name}", flush=True)
        if not noticed:
            missed.append(name)
    sys.exit(f"{len(missed)} planted errors went unnoticed" if missed else 0)


if __name__ == "__main__":
    main()
