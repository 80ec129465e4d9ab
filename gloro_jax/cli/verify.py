"""verify: several verifiers on the same images of a run."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gloro_jax import verifiers
from gloro_jax.cli.bars import Bar
from gloro_jax.cli.opened import Opened, Selection, open_run
from gloro_jax.cli.words import check_new_file, known, parse
from gloro_jax.data.batches import as_float
from gloro_jax.data.dataset import Split
from gloro_jax.evaluation.findings import drawn
from gloro_jax.evaluation.vra import check_reach
from gloro_jax.plain import in_words, number
from gloro_jax.verifiers import Status, Verdicts, Verifier
from gloro_jax.version import __version__


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifyOptions(Selection):
    """Verify images of a run with several methods: does a whole ball keep the image's class?

    Methods: lipschitz, interval, ball-box, fast-lin, dual, crown, alpha-crown (incomplete: what
    they verify is proved with float64 rounding counted); projections, branch-and-bound,
    mixed-integer (complete, for small networks, within --time-limit; verdicts are numerical);
    smoothing (of the smoothed classifier, with a probability). docs/which-verifier.md says which to
    take. The table counts proofs that count rounding and numerical verdicts apart.

    Attributes:
        run: the run folder.
        methods: names joined by commas.
        norm: of the ball.
        radius: of the ball, images in [0, 1], 0.3 or 2/255; the run's own for l2 unless given.
        box: two numbers, 0 1, that pixels keep to, as published linf tables have it; all of R^n
            unless given.
        examples: this many images, drawn at random with a fixed seed; 100 unless given.
        time_limit: seconds an image for the complete methods.
        sigma: of smoothing; half the radius unless given.
        out: also write everything to this new .json file: which images of the split, their
            verdicts, and the witnesses.
    """

    run: Annotated[Path, tyro.conf.Positional]
    methods: Annotated[str, tyro.conf.arg(name="with")] = "lipschitz,interval,crown"
    norm: Literal["linf", "l2"] = "l2"
    radius: str | None = None
    box: tuple[float, float] | None = None
    examples: int = 100
    time_limit: float = 60.0
    sigma: float | None = None
    out: Path | None = None


_ONE_BY_ONE = ("projections", "branch-and-bound", "mixed-integer", "smoothing")
_EXAMPLE = {"linf": "--norm linf --radius 2/255", "l2": "--norm l2"}
_METHODS = {
    "lipschitz": verifiers.Lipschitz,
    "interval": verifiers.IntervalBounds,
    "ball-box": verifiers.BallBox,
    "fast-lin": verifiers.FastLin,
    "dual": verifiers.Dual,
    "crown": verifiers.Crown,
    "alpha-crown": verifiers.AlphaCrown,
    "projections": verifiers.Projections,
    "branch-and-bound": verifiers.BranchAndBound,
    "mixed-integer": verifiers.MixedInteger,
    "smoothing": verifiers.Smoothing,
}


def verify(words: list[str]) -> int:
    """`gloro-jax verify`."""
    options: VerifyOptions = parse(VerifyOptions, "verify", words)
    check_new_file(options.out, "--out", ends=".json")
    if options.examples < 1:
        raise ValueError(f"--examples is at least 1, got {options.examples}.")
    if options.norm == "linf" and options.radius is None:
        raise ValueError("--radius says how large the linf ball is, 2/255 for example.")
    if options.epsilon is not None and (options.norm == "linf" or options.radius is not None):
        raise ValueError(
            f"--radius says how large the {options.norm} ball is; --epsilon is the same for l2 "
            "alone. Leave --epsilon out."
        )
    names = [name.strip() for name in options.methods.split(",")]
    for name in names:
        known(name, _METHODS, what="method of --with")
        if options.norm not in _METHODS[name].norms:
            raise ValueError(
                f"{name} verifies {' and '.join(_METHODS[name].norms)} balls, and --norm is "
                f"{options.norm}: {_EXAMPLE[_METHODS[name].norms[0]]}, for example."
            )
    opened = open_run(options.run, options)
    radius = opened.epsilon if options.radius is None else number(options.radius)
    check_reach(radius, opened.frozen.input_shape, norm=options.norm, what="--radius")
    methods = {name: _method(name, options, radius) for name in names}
    places = drawn(len(opened.split), options.examples)
    split = Split(opened.split.images[places], opened.split.labels[places])
    opened = opened._replace(split=split)
    found = _verdicts(opened, methods, options, radius)
    Console(highlight=False).print(_table(opened, found, options, radius))
    if options.out is not None:
        options.out.write_text(json.dumps(_plain(opened, places, methods, found, options, radius)))
        Console(highlight=False).print(f"Every verdict: {escape(str(options.out))}")
    return 0


def _method(name: str, options: VerifyOptions, radius: float) -> Verifier:
    if name == "smoothing":
        sigma = radius / 2 if options.sigma is None else options.sigma
        return verifiers.Smoothing(sigma=sigma)
    made: Any = _METHODS[name]
    return made(time_limit=options.time_limit) if name in _ONE_BY_ONE else made()


def _verdicts(
    opened: Opened, methods: dict[str, Verifier], options: VerifyOptions, radius: float
) -> dict[str, Verdicts]:
    images, labels = as_float(opened.split.images), np.asarray(opened.split.labels)
    about: Any = {"norm": options.norm, "radius": radius, "box": options.box}
    found = {}
    with Bar() as bar:
        task = bar.add_task("verifying", total=len(images) * len(methods))
        for name, method in methods.items():
            parts = []
            # Batches of one size, so that one program serves; slow methods show how far they are.
            size = 1 if name in _ONE_BY_ONE else len(images)
            for first in range(0, len(images), size):
                some = slice(first, first + size)
                parts.append(method.verify(opened.frozen, images[some], labels[some], **about))
                bar.advance(task, len(parts[-1].status))
            fields = [field.name for field in dataclasses.fields(Verdicts)]
            joined = {f: np.concatenate([getattr(part, f) for part in parts]) for f in fields}
            found[name] = Verdicts(**joined)
    return found


def _table(
    opened: Opened, found: dict[str, Verdicts], options: VerifyOptions, radius: float
) -> Table:
    box = options.box
    where = "all of R^n" if box is None else f"pixels between {box[0]:g} and {box[1]:g}"
    ball = f"{options.norm} {in_words(radius)}, {where}"
    table = Table(title=escape(f"{opened.title}: {len(opened.split)} images, {ball}"))
    table.add_column("method", no_wrap=True)
    for column in ("verified (rounded)", "verified (numerical)", "falsified", "unknown"):
        table.add_column(column, justify="right")
    table.add_column("s/image", justify="right")
    for name, verdicts in found.items():
        table.add_row(
            name,
            *(str(count) for count in _counts(verdicts).values()),
            f"{verdicts.seconds.mean():.3g}",
        )
    return table


def _counts(verdicts: Verdicts) -> dict[str, int]:
    return {
        "verified_rounded": int((verdicts.semantics == "rounded").sum()),
        "verified_numerical": int((verdicts.semantics == "numerical").sum()),
        "falsified": int((verdicts.status == Status.FALSIFIED).sum()),
        "unknown": int((verdicts.status == Status.UNKNOWN).sum()),
    }


def _plain(
    opened: Opened,
    places: np.ndarray,
    methods: dict[str, Verifier],
    found: dict[str, Verdicts],
    options: VerifyOptions,
    radius: float,
) -> dict[str, Any]:
    return {
        "gloro_jax": __version__,
        "run": options.run.name,
        "network": opened.frozen.digest,
        "images": opened.source,
        "places": places.tolist(),
        "labels": np.asarray(opened.split.labels).tolist(),
        "norm": options.norm,
        "radius": radius,
        "box": options.box,
        "methods": {
            name: {
                "options": dataclasses.asdict(methods[name]),  # type: ignore[call-overload]
                **_counts(verdicts),
                "status": [Status(int(status)).name for status in verdicts.status],
                "semantics": verdicts.semantics.tolist(),
                "seconds": verdicts.seconds.tolist(),
                "witnesses": {
                    int(places[i]): verdicts.witness[i].tolist()
                    for i in np.flatnonzero(verdicts.status == Status.FALSIFIED)
                },
            }
            for name, verdicts in found.items()
        },
    }
