"""Checks a gloro-jax certificate file. It needs Python and numpy, and nothing of gloro-jax.

If it confirms FILE, this holds at each point: **every real x' at an l2 distance of at most the
point's radius from its input is given the point's predicted class, and no other, by the network in
the file, in real arithmetic, with exactly the stored weights.** Under a relaxed guarantee, which
the file names, it has the point's set of k highest classes, and no other. The proof is made anew,

1. the arrays: weights are finite float32, and each array has the SHA-256 that the header gives;
2. the claimed norms: Cholesky's factorisation of t I - A^T A, or of its Fourier blocks, runs to its
   end, every rounding error counted (`is_below`); K, composed from them, bounds the body;
3. the scores in float64, with a bound of their distance from the exact ones (`Network`);
4. the lead over each other class, of each class in the set over each outside it, which must exceed
   radius * K * ||w_i - w_j|| (`check_points`); the sets are those the guarantee admits.

A file cannot prove whose labels (--data) and whose weights (`gloro-jax check --run`) it holds.
Trusted are IEEE float64, and a BLAS and LAPACK whose inner products are sums of products.
"""

import argparse
import hashlib
import itertools
import json
import math
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np

KNOWN = {"format": "gloro-jax certificate", "semantics": "real"}
VERSION = 2  # version 1 knew the strict guarantee only, and did not name it
DTYPES = {"F32": "<f4", "F64": "<f8", "I64": "<i8", "U8": "u1"}
POINTS = dict.fromkeys(("index", "label", "rival"), "<i8")
POINTS |= {"margin": "<f8", "needed": "<f8", "radius": "<f8", "is_certified": "u1"}
STRICT = POINTS | {"prediction": "<i8"}
RELAXED = POINTS | {"classes": "u1", "k": "<i8", "inside": "<i8"}
OPS = {
    "conv": "_linear", "dense": "_linear", "scale": "_linear", "sum": "_sum", "minmax": "_minmax",
    "normalize": "_normalize", "average_pool": "_pool", "max_pool": "_pool", "relu": "_exact",
    "abs": "_exact", "flatten": "_exact", "space_to_depth": "_exact", "mean_over_views": "_views",
    "translate": "_translate", "channel_shift": "_shift", "beta_abs": "_exact", "first": "_exact",
    "l2_pool": "_l2_pool",
}  # fmt: skip
LINEAR, WINDOWED = ("conv", "dense", "scale"), ("conv", "average_pool", "max_pool")
GEOMETRY = ("image_size", "strides", "pads", "groups")
DAMAGE = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, MemoryError)
UNIT = 2.0**-53
TINY = 1e-200  # far above what underflow adds up to, far below what any score depends on
AT_ONCE = 64  # points


class Refused(Exception):
    """The file does not prove what it claims; the text says why."""


def require(holds, reason):
    """Raises Refused with the reason unless `holds`."""
    if not holds:
        raise Refused(plain(reason))


def plain(text):
    """Text from a file, without line breaks and control characters."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def read_safetensors(path):
    """The metadata and the arrays of a file."""
    content = Path(path).read_bytes()
    size = int.from_bytes(content[:8], "little")
    require(8 + size <= len(content), "the file is truncated, or no certificate at all")
    entries = json.loads(content[8 : 8 + size])
    metadata, body, arrays, end = entries.pop("__metadata__", {}), content[8 + size :], {}, 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = entry["data_offsets"]
        require(start == end and stop <= len(body), f"the file is truncated at array {name}")
        require(entry["dtype"] in DTYPES, f"array {name} has type {entry['dtype']}")
        flat = np.frombuffer(body[start:stop], DTYPES[entry["dtype"]])
        arrays[name], end = flat.reshape([whole(n, 0) for n in entry["shape"]]), stop
    require(end == len(body), "the file goes on after its last array")
    return metadata, arrays


def whole(value, least):
    """`value`, if it is an integer of at least `least`."""
    require(type(value) is int and value >= least, f"{value!r} is no integer of at least {least}")
    return value


def digest(array):
    """SHA-256 of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def read_certificate(path):
    """The header and the arrays of a certificate, each compared with its digest."""
    metadata, arrays = read_safetensors(path)
    require("certificate" in metadata, "this is no certificate file")
    text = metadata["certificate"]
    is_sealed = metadata["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    require(is_sealed, "the header was altered: its digest does not match")
    header = json.loads(text)
    for name, known in KNOWN.items():
        require(header[name] == known, f"{name} {header[name]!r} is not known here")
    version = whole(header["version"], 1)
    require(version <= VERSION, f"version {version} is not known here")
    is_named = ("guarantee" in header) == (version > 1)
    require(is_named, f"version {version} {'has no' if version == 1 else 'names its'} guarantee")
    listed = header["arrays"]
    require(arrays.keys() <= listed.keys(), "the header does not list every array")
    for name, sha in listed.items():
        require(name in arrays or name == "inputs", f"array {name} is missing")
        is_whole = name not in arrays or digest(arrays[name]) == sha
        require(is_whole, f"array {name} was altered: its digest differs")
    return header, arrays


def gamma(n):
    """The relative error of a float64 sum of n products, in any order (Higham 2002, 3.1)."""
    return n * UNIT / (1 - n * UNIT)


def up(x):
    """Above whatever a few correctly rounded operations have rounded to `x` >= 0."""
    return x * (1 + 32 * UNIT)


def is_below(grams, bound, error):
    """Whether a proof succeeds that the eigenvalues of Hermitian matrices do not exceed `bound`.

    If Cholesky's factorisation of S = t I - G runs to its end in float64, the eigenvalues of S are
    at least -g/(1-g) trace(S) with g = gamma(n+1) (Rump 2006); the g here is eight times that, for
    complex numbers and blocked algorithms. `error` bounds the 2-norm of each error in `grams`.
    """
    n = grams.shape[-1]
    g = 4 * gamma(2 * (n + 8))
    t = bound - up(g / (1 - g) * n * bound + gamma(8) * n * bound + error)
    try:
        return t > 0 and bool(np.isfinite(np.linalg.cholesky(t * np.eye(n) - grams)).all())
    except np.linalg.LinAlgError:
        return False


def proves(step, kernel, claim):
    """Whether the claimed upper bound of a layer's norm can be proved."""
    # Squares of float32 numbers, 1e-90 to 1e77, are far from the ends of float64.
    target = claim["upper"] ** 2 * (1 - 32 * UNIT)
    pairs = matrices(step, kernel, claim)
    return not kernel.any() or all(is_below(grams, target, error) for grams, error in pairs)


def tightest(step, kernel, claim):
    """About the least norm that can be proved, for a claim that is larger than it need be."""
    for excess in (0.5, 0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7):
        while proves(step, kernel, less := {**claim, "upper": claim["upper"] * (1 - excess)}):
            claim = less
    return claim["upper"]


def matrices(step, kernel, claim):
    """Matrices whose largest eigenvalue is at least the layer's squared norm, and their errors."""
    if step["op"] != "conv":
        return [gram_of(kernel.reshape(1, 1) if step["op"] == "scale" else kernel)]
    parts = np.split(kernel, step["groups"], axis=3)
    return itertools.chain.from_iterable(conv_matrices(part, step, claim) for part in parts)


def conv_matrices(kernel, step, claim):
    """As `matrices`, for one group of a convolution, by the method of the claim."""
    size, strides, pads = step["image_size"], step["strides"], step["pads"]
    kh, kw, channels, outputs = kernel.shape
    if claim["method"] == "matrix":
        # Disjoint windows: block diagonal, and each block is this matrix or some of its rows.
        require(kh <= strides[0] and kw <= strides[1], f"the windows of {step['layer']} overlap")
        yield gram_of(kernel.reshape(-1, outputs))
    elif claim["method"] == "gram":
        # Each entry of the operator's matrix is one of the kernel, or 0: it is exact.
        inputs = math.prod(size) * channels
        require(inputs <= 8192 and inputs * outputs * math.prod(size) <= 2**28, "that is too large")
        basis = np.eye(inputs).reshape(inputs, *size, channels)
        yield gram_of(convolve(basis, kernel, strides, pads, 1).reshape(inputs, -1))
    else:
        require(claim["method"] == "torus", f"method {claim['method']!r} is not known here")
        require(claim["twist"] in ([0, 0], [0, 1], [1, 0], [1, 1]), "that twist is not known here")
        yield from torus_matrices(*in_cells(kernel, size, strides, pads), claim["twist"])


def gram_of(matrix):
    """The Gram matrix of a matrix's shorter side, and a bound of its rounding error."""
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    return short @ short.T, up(gamma(short.shape[1] + 8) * float(np.square(short).sum())) + TINY


def in_cells(kernel, size, strides, pads):
    """A strided convolution as one of stride 1 over cells; what fills up cells counts as input."""
    wide, image, borders, cells = np.asarray(kernel), [], [], []
    for axis, (n, s, (low, high)) in enumerate(zip(size, strides, pads, strict=True)):
        k, before = kernel.shape[axis], -(-low // s)
        start = before * s - low  # where the kernel begins in its first cell
        cells.append(-(-(k + start) // s))
        spread = [(0, 0)] * 4
        spread[axis] = (start, cells[axis] * s - k - start)
        wide = np.pad(wide, spread)
        after = (n + low + high - k) // s + cells[axis] - before - -(-n // s)
        image.append(-(-n // s) + min(0, after))  # without cells that no window reaches
        borders.append((before, max(0, after)))
    split = wide.reshape(cells[0], strides[0], cells[1], strides[1], *kernel.shape[2:])
    coarse = split.transpose(0, 2, 1, 3, 4, 5).reshape(*cells, -1, kernel.shape[3])
    return coarse, image, borders


def torus_matrices(kernel, size, pads, twist):
    """The Fourier blocks W(w)^H W(w) of the smallest twisted torus that holds a convolution.

    With N = max(H + max(pads), H') sites per axis, windows that wrap around meet only zeros: the
    convolution is a part of the circular one, whatever phase wrapping adds (`twist` half turns).
    """
    kh, kw, channels, outputs = kernel.shape
    axes = zip(size, (kh, kw), pads, strict=True)
    sites = [max(n + max(low, high), n + low + high - k + 1) for n, k, (low, high) in axes]
    flat = kernel.reshape(-1, outputs)
    products = (flat @ flat.T).reshape(kh, kw, channels, kh, kw, channels)
    gram = np.zeros((2 * kh - 1, 2 * kw - 1, channels, channels))
    for y, x, y2, x2 in itertools.product(range(kh), range(kw), range(kh), range(kw)):
        gram[y2 - y + kh - 1, x2 - x + kw - 1] += products[y, x, :, y2, x2, :]
    # Sums of `outputs` products, then kh kw, then all shifts, with phases good to 64 units; twice
    # that, because a factorisation reads one triangle of a block.
    depth = 2 * outputs + kh * kw + 2 * gram.shape[0] * gram.shape[1] + 64
    taps = up(float(np.sqrt(np.square(kernel).sum((2, 3))).sum()) * (1 + 1e-9))
    error = up(2 * gamma(depth) * taps**2) + TINY
    y, x = (grid.ravel() for grid in np.mgrid[: sites[0], : sites[1]])
    mirror = ((-y - twist[0]) % sites[0]) * sites[1] + (-x - twist[1]) % sites[1]
    frequencies = np.stack([y, x], 1)[y * sites[1] + x <= mirror]  # one of each conjugate pair
    at_once = max(1, 2**23 // channels**2)
    for some in np.split(frequencies, range(at_once, len(frequencies), at_once)):
        # exp(i w d) with w = 2 pi (index + twist/2) / sites; whole turns are taken off beforehand.
        turns = []
        for a, k in enumerate((kh, kw)):
            halves = (2 * some[:, [a]] + twist[a]) * np.arange(1 - k, k)
            turns.append(halves % (2 * sites[a]) / sites[a])
        phase = np.exp(1j * np.pi * (turns[0][:, :, None] + turns[1][:, None, :]))
        flat, shifts = phase.reshape(len(some), -1), gram.reshape(-1, channels**2)
        blocks = flat.real @ shifts + 1j * (flat.imag @ shifts)
        yield blocks.reshape(-1, channels, channels), error


def convolve(x, kernel, strides, pads, groups):
    """Cross-correlation of (n, H, W, C) images with a (kh, kw, C / groups, out) kernel."""
    padded = np.pad(x, ((0, 0), *map(tuple, pads), (0, 0)))
    kh, kw, channels, outputs = kernel.shape
    height = (padded.shape[1] - kh) // strides[0] + 1
    width = (padded.shape[2] - kw) // strides[1] + 1
    out = np.zeros((len(x) * height * width, outputs))
    for g, dy, dx in itertools.product(range(groups), range(kh), range(kw)):
        rows = slice(dy, dy + strides[0] * (height - 1) + 1, strides[0])
        columns = slice(dx, dx + strides[1] * (width - 1) + 1, strides[1])
        pixels = padded[:, rows, columns, g * channels : (g + 1) * channels].reshape(-1, channels)
        part = slice(g * outputs // groups, (g + 1) * outputs // groups)
        out[:, part] += pixels @ kernel[dy, dx, :, part]
    return out.reshape(len(x), height, width, outputs)


def seen(x, view):
    """A view of images: its moves put each pixel into one place or none, so its norm is at most 1.

    "mirror" left to right; "shift" down and right, where zeros come in; "roll" around the border.
    """
    require(x.ndim == 4, "only images (H, W, C) have views")
    for kind, *moves in view:
        require(kind == "mirror" or len(moves) == 2, f"a move of {len(moves)} distances")
        if kind == "mirror":
            x = x[:, :, ::-1]
            continue
        require(kind in ("shift", "roll"), f"move {kind!r} of a view is not known here")
        x = np.roll(x, moves, (1, 2))
        for axis, by in enumerate(moves, start=1) if kind == "shift" else ():
            require(abs(by) <= x.shape[axis], f"a shift by {by} of {x.shape[axis]} pixels")
            x[(slice(None),) * axis + (slice(by) if by >= 0 else slice(by, None),)] = 0.0
    return x


def lengths(x):
    """The l2 norm of each example, rounded up; squares of small entries must not vanish."""
    sizes = np.abs(x.reshape(len(x), -1))
    top = sizes.max(axis=1, keepdims=True, initial=TINY)
    return top[:, 0] * np.sqrt(np.square(sizes / top).sum(axis=1)) * (1 + 1e-9) + TINY


def every(steps):
    """All steps, those inside branches too."""
    for step in steps:
        yield step
        for branch in step.get("branches", []):
            yield from every(branch)


class Network:
    """The network in float64. Its steps map (values, errors), where `errors` bounds the l2 distance
    of each example's values from the exact ones; a layer of norm L multiplies it by L.
    """

    def __init__(self, header, arrays):
        self.steps, self.head, self.norms = header["network"], header["head"], {}
        self.linear = [step for step in every(self.steps) if step["op"] in LINEAR]
        named = {step["layer"]: step for step in self.linear}
        is_unique = all(named[step["layer"]] == step for step in self.linear)
        require(is_unique, "one layer name stands for two layers")
        used = {self.head["kernel"], self.head["bias"]}
        used.update(step[part] for step in self.linear for part in ("kernel", "bias") if step[part])
        used.update(step["offset"] for step in every(self.steps) if step["op"] == "translate")
        require(used <= arrays.keys(), f"weights are missing: {sorted(used - arrays.keys())}")
        for name in sorted(used):
            require(arrays[name].dtype == "<f4", f"weight {name} is not float32")
            require(np.isfinite(arrays[name]).all(), f"weight {name} holds NaN or infinity")
        self.weights = {name: arrays[name].astype(np.float64) for name in used}
        for step in every(self.steps):
            if step["op"] in WINDOWED:
                self._check_geometry(step)
        rows = self.weights[self.head["kernel"]].T
        squares = np.array([np.square(rows - row).sum(1) for row in rows])
        # Upper bounds of ||w_i - w_j||, (m, m).
        self.head_distances = np.sqrt(squares) * (1 + gamma(rows.shape[1] + 16)) * (1 + 1e-12)

    def _check_geometry(self, step):
        is_conv = step["op"] == "conv"
        shape = self.weights[step["kernel"]].shape if is_conv else (*step["window"], 1, 1)
        fits = len(shape) == 4 and shape[3] % whole(step.get("groups", 1), 1) == 0
        require(fits, f"a window of shape {shape} does not fit {step['op']}")
        axes = zip(step["image_size"], shape[:2], step["strides"], step["pads"], strict=True)
        for n, k, s, (low, high) in axes:
            fits = whole(n, 1) + whole(low, 0) + whole(high, 0) >= whole(k, 1) and whole(s, 1)
            require(fits, f"a window of {k} does not fit an image of {n} with padding {low, high}")
            # Windows of nothing else say nothing, and a short file could ask for a day of them.
            is_lean = max(low, high) < k + s
            require(is_lean, f"padding {low, high} holds whole windows of {k} at stride {s}")

    def lipschitz(self, steps):
        """K from the norms: along a chain they multiply, over branches they add."""
        bound = 1.0
        for factor in map(self.constant, steps):
            bound = up(max(bound * factor, TINY)) if bound and factor else 0.0
        return bound

    def constant(self, step):
        """The Lipschitz constant of one step."""
        op = step["op"]
        if op in LINEAR:
            return self.norms[step["layer"]]
        if op == "sum":
            return up(math.fsum(self.lipschitz(branch) for branch in step["branches"]))
        if op == "mean_over_views":  # the mean of maps with one constant, each of a view's pixels
            (chain,) = step["branches"]
            return self.lipschitz(chain)
        if op == "normalize":
            return up(max(abs(factor) for factor in step["factor"]))
        if op == "average_pool":  # per axis, k of k pixels in a row, at most ceil(k/s) in a column
            axes = zip(step["window"], step["strides"], strict=True)
            return up(math.prod(math.sqrt(-(-k // s) / k) for k, s in axes))
        if op == "max_pool":  # one pixel in two windows would move two outputs
            disjoint = all(s >= k for s, k in zip(step["strides"], step["window"], strict=True))
            require(disjoint, "a max-pooling whose windows overlap has no proof")
        require(op in OPS, f"layer {op!r} has no proof")
        return 1.0

    def run(self, steps, values, errors):
        """Values and errors after `steps`."""
        for step in steps:
            fits = step["op"] not in WINDOWED or list(values.shape[1:-1]) == step["image_size"]
            require(fits, f"{step['op']} does not fit an input of shape {values.shape[1:]}")
            method = getattr(self, OPS[step["op"]])
            values, errors = method(step, values, errors)
            errors = errors * (1 + 1e-9) + TINY
            # An infinity may vanish in the next step, and so would the overflow that made it.
            is_finite = np.isfinite(values).all() and np.isfinite(errors).all()
            require(is_finite, f"the values after {step['op']} overflow")
        return values, errors

    def _linear(self, step, values, errors):
        kernel = self.weights[step["kernel"]]
        absolute, terms = np.abs(kernel), math.prod(kernel.shape[:-1])
        if step["op"] == "conv":
            require(values.shape[-1] == kernel.shape[2] * step["groups"], "channels do not fit")
            image = convolve(values, kernel, step["strides"], step["pads"], step["groups"])
            # A matrix's squared norm is at most its largest row sum times its largest column sum.
            spread = math.sqrt(absolute.sum((0, 1, 2)).max() * absolute.sum((0, 1, 3)).max())
        elif step["op"] == "dense":
            require(kernel.ndim == values.ndim == 2, f"{step['layer']} does not fit its input")
            image = values @ kernel
            spread = math.sqrt(absolute.sum(0).max() * absolute.sum(1).max())
        else:
            image, terms, spread = values * kernel.reshape(()), 1, float(absolute.reshape(()))
        rounding = spread * lengths(values)
        if step["bias"]:
            bias = self.weights[step["bias"]]
            require(bias.shape == image.shape[-1:], f"the bias of {step['layer']} does not fit")
            image = image + bias
            rounding = rounding + math.sqrt(image[0].size) * np.abs(bias).max()
        rounding = gamma(2 * terms + 8) * (1 + 1e-9) * rounding
        return image, self.norms[step["layer"]] * errors + rounding

    def _sum(self, step, values, errors):
        parts = [self.run(branch, values, errors) for branch in step["branches"]]
        require(len({part.shape for part, _ in parts}) == 1, "branches of a sum differ in shape")
        rounding = gamma(len(parts)) * sum(lengths(part) for part, _ in parts)
        return sum(part for part, _ in parts), sum(e for _, e in parts) + rounding

    def _views(self, step, values, errors):
        (chain,) = step["branches"]
        parts = [self.run(chain, seen(values, view), errors) for view in step["views"]]
        rounding = gamma(len(parts) + 2) * sum(lengths(part) for part, _ in parts)
        total, error = sum(part for part, _ in parts), sum(e for _, e in parts)
        return total / len(parts), (error + rounding) / len(parts)

    def _normalize(self, step, values, errors):
        mean, factor = np.array(step["mean"], float), np.array(step["factor"], float)
        require(mean.shape == factor.shape == values.shape[-1:], "normalize has other channels")
        constant = self.constant(step)
        reach = lengths(values) + math.sqrt(values[0].size) * np.abs(mean).max()
        return (values - mean) * factor, constant * errors + gamma(4) * constant * reach

    def _pool(self, step, values, errors):
        fill = -np.inf if step["op"] == "max_pool" else 0.0
        pads, (down, right) = ((0, 0), *map(tuple, step["pads"]), (0, 0)), step["strides"]
        padded = np.pad(values, pads, constant_values=fill)
        view = np.lib.stride_tricks.sliding_window_view(padded, step["window"], axis=(1, 2))
        view, terms = view[:, ::down, ::right], math.prod(step["window"])
        constant = self.constant(step)
        if step["op"] == "max_pool":
            return view.max(axis=(4, 5)), errors
        rounding = gamma(terms + 8) * constant * lengths(values)
        return view.sum(axis=(4, 5)) / terms, constant * errors + rounding

    def _exact(self, step, values, errors):
        if step["op"] == "flatten":
            return values.reshape(len(values), -1), errors
        if step["op"] == "space_to_depth":
            b, (n, height, width, channels) = whole(step["block"], 1), values.shape
            split = values.reshape(n, height // b, b, width // b, b, channels)
            moved = split.transpose(0, 1, 3, 2, 4, 5)
            return moved.reshape(n, height // b, width // b, b * b * channels), errors
        if step["op"] in ("beta_abs", "first"):
            count = whole(step["count"], 0)
            require(count <= values.shape[-1], f"{step['op']} takes {count} of fewer features")
            kept = values[..., count:] if step["op"] == "beta_abs" else values[..., :0]
            first = values[..., :count] if step["op"] == "first" else np.abs(values[..., :count])
            return np.concatenate([first, kept], axis=-1), errors
        return np.abs(values) if step["op"] == "abs" else np.maximum(values, 0.0), errors

    def _shift(self, step, values, errors):
        count, move = whole(step["count"], 0), "roll" if step["is_circular"] else "shift"
        require(4 * count <= values.shape[-1], "more channels are shifted than there are")
        moves = [(-1, 0), (1, 0), (0, -1), (0, 1)]
        parts = [
            seen(values[..., i * count : (i + 1) * count], [[move, *by]])
            for i, by in enumerate(moves)
        ]
        return np.concatenate([*parts, values[..., 4 * count :]], axis=-1), errors

    def _translate(self, step, values, errors):
        offset = self.weights[step["offset"]]
        fits = all(a in (1, b) for a, b in zip(offset.shape, values.shape[1:], strict=True))
        require(fits, f"the offset of {step['layer']} does not fit")
        moved = values + offset
        return moved, errors + gamma(2) * lengths(moved)

    def _l2_pool(self, step, values, errors):
        require(values.ndim == 4, "l2_pool is for images")
        top = np.abs(values).max(axis=(1, 2), keepdims=True, initial=TINY)
        pooled = top[:, 0, 0] * np.sqrt(np.square(values / top).sum(axis=(1, 2)))
        return pooled, errors + gamma(values[0].size + 16) * lengths(values)

    def _minmax(self, step, values, errors):
        is_halved = {"halves": True, "adjacent": False}[step["pairing"]]
        a, b = np.split(values, 2, axis=-1) if is_halved else (values[..., ::2], values[..., 1::2])
        pair = (np.maximum(a, b), np.minimum(a, b))[:: {"max_min": 1, "min_max": -1}[step["order"]]]
        return np.stack(pair, axis=-2 if is_halved else -1).reshape(values.shape), errors

    def scores(self, x):
        """The scores (n, m), the rounding of each, and the l2 errors of the features (n,)."""
        features, errors = self.run(self.steps, x.astype(np.float64), np.zeros(len(x)))
        kernel, bias = self.weights[self.head["kernel"]], self.weights[self.head["bias"]]
        require(kernel.ndim == features.ndim == 2, "the head does not fit the features")
        require(bias.shape == kernel.shape[1:], "the head's bias does not fit its kernel")
        sides = np.sqrt(np.square(kernel).sum(0)) * lengths(features)[:, None] + np.abs(bias)
        return features @ kernel + bias, gamma(len(kernel) + 16) * (1 + 1e-9) * sides, errors

    def leads(self, scores, rounding, errors, predictions):
        """What the predicted class is ahead by of each, (n, m), and bounds of the error of that."""
        rows, spread = np.arange(len(scores)), self.head_distances[predictions]
        leads = scores[rows, predictions][:, None] - scores
        own = rounding[rows, predictions][:, None]
        allowance = own + rounding + spread * errors[:, None] + 4 * UNIT * np.abs(leads)
        return leads, allowance * (1 + 1e-9) + TINY


def check_norms(header, network, *, is_tight):
    """Proves the claimed norms, which must be of these very kernels; or finds tighter ones."""
    claims, layers = header["norms"], {step["layer"] for step in network.linear}
    require(claims.keys() == layers, f"norms of {sorted(claims)} are claimed for {sorted(layers)}")
    for step in network.linear:
        layer, claim = step["layer"], claims[step["layer"]]
        what = f"the norm claimed of {layer}"
        is_own = claim["kernel_sha256"] == header["arrays"][step["kernel"]]
        is_own = is_own and all(claim.get(name) == step.get(name) for name in GEOMETRY)
        require(is_own, f"{what} is for another kernel, image size, stride, padding or grouping")
        norm, kernel = float(claim["upper"]), network.weights[step["kernel"]]
        is_proved = 0 <= norm < math.inf and proves(step, kernel, claim)
        require(is_proved, f"{what}, {claim['upper']!r}, is not proved: it is too small")
        network.norms[layer] = tightest(step, kernel, claim) if is_tight and kernel.any() else norm


def as_float32(inputs):
    """What the network reads: bytes are divided by 255 in float32."""
    return inputs.astype(np.float32) / np.float32(255) if inputs.dtype == np.uint8 else inputs


def check_points(network, stated, epsilon, points, inputs):
    """Proves what is claimed of K and of each point; returns K, and how many claim too little.

    Of each point, arrays (l, n, m) hold what its l-th class inside is ahead by of class m; `other`
    tells the pairs that count: m is outside.
    """
    bound, weaker, distances = network.lipschitz(network.steps), 0, network.head_distances
    require(bound <= stated, f"K is stated as {stated!r}, the layers' norms give {bound!r}")
    for start in range(0, len(points["index"]), AT_ONCE):
        some = {name: array[start : start + AT_ONCE] for name, array in points.items()}
        x = as_float32(inputs[start : start + AT_ONCE])
        require(np.isfinite(x).all(), f"an input after point {start} is NaN or infinite")
        inside, other = pairs_of(some["classes"])
        scores, rounding, errors = network.scores(x)
        found = [network.leads(scores, rounding, errors, one) for one in inside]
        leads, allowance = (np.stack(parts) for parts in zip(*found, strict=True))
        require(np.isfinite(leads).all(), f"scores after point {start} overflow")
        reach, least = up(bound * distances[inside]), leads - allowance
        need = up(epsilon * reach)
        slack = np.where(other, leads - need, np.inf)
        room = 8 * allowance.max((0, 2)) + 1e-9 * need.max((0, 2))
        radius, certified = some["radius"][:, None], some["is_certified"] == 1
        rows = np.arange(len(x))
        at = ((inside == some["inside"]).argmax(0), rows, some["rival"])  # the nearest pair
        is_pair = (inside[at[0], rows] == some["inside"]) & other[at]
        held = {
            "prediction": ~(other & (leads < -allowance)).any((0, 2)),
            "margin": some["margin"] <= least[at],
            "needed margin": some["needed"] >= need[at],
            "rival": is_pair & (slack[at] <= slack.min((0, 2)) + room),
            "radius": (~other | (radius == 0) | (least > up(radius * reach))).all((0, 2)),
            "mark": ~certified | ((some["radius"] >= epsilon) & (some["margin"] > some["needed"])),
        }
        for what, holds in held.items():
            wrong = some["index"][~holds]
            require(holds.all(), f"the {what} claimed of point {wrong[:1]} is not proved")
        is_weaker = some["needed"] > need[at] * (1 + 1e-6)
        weaker += int((is_weaker | (~certified & (some["radius"] >= epsilon))).sum())
    return bound, weaker


def pairs_of(classes):
    """The classes inside, (l, n), and whether the pair of each with class m counts, (l, n, m)."""
    counts = classes.sum(axis=1)
    inside = np.argsort(~classes, axis=1, kind="stable").T[: counts.max()]
    return inside, ~classes & (np.arange(len(inside))[:, None] < counts)[:, :, None]


def check_guarantee(guarantee, points):
    """Refuses sets of classes that the guarantee does not admit, where something is claimed.

    A set of all classes cannot change, whatever the network does: it proves nothing.
    """
    classes, is_claimed = points["classes"], points["radius"] > 0
    counts, m = classes.sum(axis=1), classes.shape[1]
    wrong = points["index"][(counts != points["k"]) | (counts < 1)]
    require(not len(wrong), f"point {wrong[:1]} has another number of classes than k")
    kind = guarantee["kind"]
    if kind == "top-k":
        admitted = counts <= whole(guarantee["k"], 1)
    elif kind == "affinity":
        admitted = np.zeros(len(classes), bool)
        for one in guarantee["sets"]:
            within = np.zeros(m, bool)
            within[[whole(label, 0) for label in one]] = True
            admitted |= ~(classes & ~within).any(axis=1)
    else:
        require(kind == "strict", f"guarantee {kind!r} is not known here")
        admitted = counts == 1
    wrong = points["index"][is_claimed & ~(admitted & (counts < m))]
    require(not len(wrong), f"the guarantee does not admit the classes of point {wrong[:1]}")


def rounded_up(exact):
    """The least float64 that is not below a fraction."""
    value = float(exact)
    return value if Fraction(value) >= exact else math.nextafter(value, math.inf)


def read_claims(header, arrays):
    """Epsilon, rounded up, and the points; refuses what makes no sense or contradicts itself."""
    exact = Fraction(*(whole(header["epsilon"][part], 1) for part in ("numerator", "denominator")))
    epsilon, guarantee = rounded_up(exact), header.get("guarantee", {"kind": "strict"})
    types = STRICT if guarantee["kind"] == "strict" else RELAXED
    points = {name: arrays[name] for name in types}
    others = sorted((STRICT.keys() | RELAXED.keys()) & (arrays.keys() - types.keys()))
    require(not others, f"arrays {others} belong to another guarantee, and would not be proved")
    count, m = len(points["index"]), arrays[header["head"]["bias"]].size
    limits = dict.fromkeys(("label", "prediction", "rival", "inside"), m)
    limits |= {"is_certified": 2, "classes": 2, "k": m + 1}
    for name, array in points.items():
        shape = (count, m) if name == "classes" else (count,)
        fits = array.dtype == types[name] and array.shape == shape and count > 0
        require(fits, f"array {name} has type {array.dtype} and shape {array.shape}")
        least, most = -np.inf if name == "margin" else 0, limits.get(name, np.inf)
        inside = (array >= least) & (array < most)
        require(inside.all(), f"{name} {array[~inside][:1]} is out of range")
    require(len(np.unique(points["index"])) == count, "a point is there twice")
    counted = summary_of(points)
    require(header["summary"] == counted, f"the points give another summary: {counted}")
    if types is STRICT:  # a set of one class
        own = points["prediction"]
        points |= {"classes": own[:, None] == np.arange(m), "inside": own, "k": np.ones_like(own)}
    points["classes"] = points["classes"].astype(bool)
    check_guarantee(guarantee, points)
    return epsilon, points


def summary_of(points):
    """How many points are correct, certified, and both; without a radius nothing is claimed.

    Correct is a point whose label is predicted, or, under a relaxed guarantee, in its set.
    """
    marks, labels = points["is_certified"] == 1, points["label"]
    if "classes" in points:
        correct = points["classes"][np.arange(len(labels)), labels] == 1
    else:
        correct = points["prediction"] == labels
    counted = [marks, correct & (points["radius"] > 0)]
    certified, right, both = (int(part.sum()) for part in (*counted, counted[0] & counted[1]))
    return {"points": len(marks), "correct": right, "certified": certified, "verified": both}


def words_of(header):
    """A relaxed guarantee in words; nothing of the strict one."""
    guarantee = header.get("guarantee", {"kind": "strict"})
    if guarantee["kind"] == "strict":
        return
    which = "the k highest classes"
    if guarantee["kind"] == "affinity":
        more = " and so on" if len(guarantee["sets"]) > 9 else ""
        which += f", within one of {' '.join(map(str, guarantee['sets'][:9]))}{more},"
    limit = f" up to {guarantee['k']}" if guarantee["kind"] == "top-k" else ""
    yield f"the guarantee is relaxed: for some k{limit}, {which} stay the k highest"


def compare_with_data(header, arrays, images, labels):
    """The data's own inputs, if they and their labels are those of the file."""
    index, shape = arrays["index"], tuple(header["input"]["shape"])
    require(index.max() < len(images), f"the data hold {len(images)} images, not {index.max() + 1}")
    theirs = np.ascontiguousarray(images[index] if images.ndim != 3 else images[index, ..., None])
    is_same = theirs.shape[1:] == shape and digest(theirs) == header["arrays"]["inputs"]
    require(is_same, "the inputs are not those of the data")
    wrong = index[arrays["label"] != labels.reshape(len(images))[index]]
    require(not len(wrong), f"the label of point {wrong[:1]} is not that of the data")
    return theirs


def compare_with_run(header, arrays, network, weights):
    """Refuses a file whose layers or weights are not those of a run."""
    told = {k: header[k] for k in ("network", "head")} | {"input": header["input"]["shape"]}
    require(told == network, "the layers are not those of the run, or in another order")
    others = [name for name in weights if not np.array_equal(arrays.get(name), weights[name])]
    require(not others, f"weights that are not those of the run: {others}")


def check(path, *, data=None, run=None):
    """What a file proves; raises Refused if not all that it claims.

    `data` is (images, labels) of the split its points come from, `run` a run's (layers, weights).
    """
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            return _check(path, data, run)
    except IsADirectoryError:
        raise Refused(plain(f"{path} is a folder, and a certificate is one file")) from None
    except (*DAMAGE, RecursionError) as error:
        raise Refused(plain(f"the file is damaged: {type(error).__name__}: {error}")) from None


def _check(path, data, run):
    header, arrays = read_certificate(path)
    epsilon, points = read_claims(header, arrays)
    network = Network(header, arrays)
    if run is not None:
        compare_with_run(header, arrays, *run)
    inputs = arrays.get("inputs")
    if data is not None:
        inputs = compare_with_data(header, arrays, *data)
    require(inputs is not None, "the inputs are not in the file: bring them with --data")
    shape = (len(points["index"]), *(whole(n, 1) for n in header["input"]["shape"]))
    fits = inputs.dtype in ("u1", "<f4") and inputs.shape == shape and len(shape) > 1
    require(fits, "the inputs do not fit the points")
    stated, notes = float(header["lipschitz"]), list(words_of(header))
    for is_tight in (False, True):  # norms may be claimed larger than what the rest depends on
        check_norms(header, network, is_tight=is_tight)
        try:
            bound, weaker = check_points(network, stated, epsilon, points, inputs)
            break
        except Refused:
            if is_tight:
                raise
    claimed = {"K": stated, **{layer: claim["upper"] for layer, claim in header["norms"].items()}}
    for name, proved in {"K": bound, **network.norms}.items():
        if claimed[name] > proved * (1 + 1e-6):
            notes.append(f"{name} is claimed to be {claimed[name]:.9g}; {proved:.9g} is proved")
    summary, exact, split = header["summary"], header["epsilon"], header["source"]["split"]
    notes += [f"of {weaker} points less is claimed than is proved"] * (weaker > 0)
    notes += [f"the {split} split is no test: a network may know it by heart"] * (split != "test")
    whose = f", those of the data, {len(inputs)} of its {len(data[0])} images" if data else None
    words = [
        f"CONFIRMED: {len(inputs)} points, K <= {bound:.9g}. At epsilon {exact['numerator']}/"
        f"{exact['denominator']} ({epsilon:.4g}), {summary['certified']} are certified, "
        f"{summary['verified']} of them with the label they have: "
        f"VRA {summary['verified'] / len(inputs):.4f}",
        f"labels and inputs: {plain(split)} split{whose or ', as the file has them'}; "
        f"weights: {'those of the run' if run else 'as the file has them'}",
        *(plain(f"note: {note}") for note in notes),
    ]
    return {"header": header, "lipschitz": bound, "notes": notes, "words": words}


def main(words=None):
    """Prints what was proved; the status is 1 if the file is refused."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("file", type=Path, help="the certificate")
    parser.add_argument("--data", type=Path, help="an .npz file of the data, x_test and y_test")
    options, data = parser.parse_args(words), None
    try:
        if options.data is not None:
            split = read_certificate(options.file)[0]["source"]["split"]
            with np.load(options.data, allow_pickle=False) as file:
                data = (file[f"x_{split}"], file[f"y_{split}"])
        print("\n  ".join(check(options.file, data=data)["words"]))
    except Exception as reason:  # whatever is wrong with a file, it proves nothing
        print(f"REFUSED: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
