"""The command line: train, certify, attack, demo."""

import dataclasses
import difflib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console

if TYPE_CHECKING:
    from gloro_jax.data import Dataset, Split
    from gloro_jax.evaluation import AttackReport, Report
    from gloro_jax.frozen_net import FrozenNet
    from gloro_jax.runs import Checkpoint

_USAGE = """\
gloro-jax: train classifiers and certify them with guaranteed Lipschitz bounds

  gloro-jax train RECIPE --run DIR   train a network and keep it, frozen, in a new folder DIR
  gloro-jax certify DIR              certify the test images of a run, with guaranteed bounds
  gloro-jax attack DIR               search for a change of prediction inside certified radii
  gloro-jax demo                     all three on scikit-learn's digits, in about a minute

Each command explains its options with --help. Recipes: {recipes}
"""

_RUN_ERRORS = (ValueError, TypeError, FileExistsError, FileNotFoundError, FloatingPointError)


@dataclasses.dataclass(frozen=True)
class CertifyOptions:
    """Certify a split of a run's data with the guaranteed bounds stored in the run.

    Attributes:
        run: the run folder.
        epsilon: the l2 radius, images in [0, 1]; the run's own unless given.
        split: which images; "test" is for reporting, "validation" for choosing.
        checkpoint: "best" by validation, or "last".
        save: also write labels, predictions, radii and decisions to this .npz file.
    """

    run: Annotated[Path, tyro.conf.Positional]
    epsilon: float | None = None
    split: Literal["test", "validation"] = "test"
    checkpoint: "Literal['best', 'last']" = "best"
    save: Path | None = None


@dataclasses.dataclass(frozen=True)
class AttackOptions:
    """Attack a run: inside each image's certified radius, and at epsilon.

    An attack that succeeds inside a certified radius refutes the certificate; the command then
    exits with status 1.

    Attributes:
        run: the run folder.
        epsilon: the l2 radius, images in [0, 1]; the run's own unless given.
        split: which images.
        checkpoint: "best" by validation, or "last".
        steps: gradient steps per restart and target class.
        restarts: starts per target class; the first is at the image.
        examples: attack only this many images, the first ones; all unless given.
    """

    run: Annotated[Path, tyro.conf.Positional]
    epsilon: float | None = None
    split: Literal["test", "validation"] = "test"
    checkpoint: "Literal['best', 'last']" = "best"
    steps: int = 50
    restarts: int = 2
    examples: int | None = None


@dataclasses.dataclass(frozen=True)
class DemoOptions:
    """Train on scikit-learn's digits, certify, attack, and print one table.

    Attributes:
        runs: the folder in which a new run folder demo-1, demo-2, ... is made.
        epochs: passes over the training images.
    """

    runs: Path = Path("runs")
    epochs: int = 100


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command; exits with status 2 on bad input, 1 on a refuted certificate."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.exit(_dispatch(words))
    except _RUN_ERRORS as error:
        Console(stderr=True, highlight=False).print("[bold red]error:[/]", str(error), markup=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _dispatch(words: list[str]) -> int:
    from gloro_jax.recipes import RECIPES

    if not words or words[0] in ("-h", "--help", "help"):
        print(_USAGE.format(recipes=", ".join(RECIPES)))
        return 0 if words else 2
    commands: dict[str, Callable[[list[str]], int]] = {
        "train": _train,
        "certify": lambda rest: _certify(_parse(CertifyOptions, "certify", rest)),
        "attack": lambda rest: _attack(_parse(AttackOptions, "attack", rest)),
        "demo": lambda rest: _demo(_parse(DemoOptions, "demo", rest)),
    }
    command, rest = words[0], words[1:]
    return commands[_known(command, commands, what="command")](rest)


def _parse(options: Any, command: str, words: list[str], default: Any = None) -> Any:
    prog = f"gloro-jax {command}"
    if default is None:
        return tyro.cli(options, prog=prog, args=words)
    return tyro.cli(options, prog=prog, args=words, default=default)


def _train(words: list[str]) -> int:
    from gloro_jax.models import ModelConfig
    from gloro_jax.recipes import RECIPES
    from gloro_jax.training import TrainConfig

    if not words or words[0].startswith("-"):
        print("usage: gloro-jax train RECIPE --run DIR [options]\n\nRecipes:")
        for name, recipe in RECIPES.items():
            print(f"  {name}: {(recipe.__doc__ or '').splitlines()[0]}")
        print("\n`gloro-jax train RECIPE --help` lists every option with its default.")
        return 0 if words else 2
    name = _known(words[0], RECIPES, what="recipe")
    recipe = RECIPES[name]()

    @dataclasses.dataclass(frozen=True)
    class TrainOptions:
        """Train, keep the best epoch by validation, freeze it with guaranteed bounds.

        Attributes:
            run: a new folder for config, metrics and weights.
            training: how to train.
            model: the network.
        """

        run: Path
        training: Annotated[TrainConfig, tyro.conf.arg(name="")] = recipe.training
        model: ModelConfig = recipe.model

    options = _parse(TrainOptions, f"train {name}", words[1:])
    _fit(options.model, recipe.data, options.training, options.run)
    return 0


def _fit(model: Any, data_name: str, training: Any, run: Path) -> "Dataset":
    from gloro_jax.data.sources import SOURCES
    from gloro_jax.training import fit

    data = SOURCES[data_name]()
    result = fit(model, data, training, run=run)
    report = result.validation
    Console(highlight=False).print(
        f"{data.name}: best epoch {result.best_epoch} of {training.epochs}, "
        f"{result.seconds:.1f} s. Validation: clean {report.clean_accuracy:.3f}, "
        f"VRA {report.vra:.3f} at epsilon {training.epsilon:g}, guaranteed. "
        f"Saved in {result.run}; next: gloro-jax certify {result.run}"
    )
    return data


def _certify(options: CertifyOptions) -> int:
    from gloro_jax.evaluation.tables import norms, summary

    if options.save is not None and (options.save.suffix != ".npz" or options.save.exists()):
        raise ValueError(f"--save takes a new file that ends in .npz, got {options.save}.")
    frozen, split, epsilon = _open(options.run, options.checkpoint, options.split, options.epsilon)
    report = _report(frozen, split, epsilon)
    console = Console(highlight=False)
    console.print(summary(report, title=f"{options.run}, {options.split} split"))
    console.print(norms(frozen))
    if options.save is not None:
        fields = ("labels", "predictions", "radii", "is_certified")
        arrays = {name: getattr(report, name) for name in fields}
        np.savez(options.save, epsilon=epsilon, **arrays)  # type: ignore[arg-type]
        console.print(f"Every example's certificate: {options.save}")
    return 0


def _attack(options: AttackOptions) -> int:
    from gloro_jax.data import Split
    from gloro_jax.evaluation.tables import add_attack_rows, summary

    frozen, split, epsilon = _open(options.run, options.checkpoint, options.split, options.epsilon)
    chosen = Split(split.images[: options.examples], split.labels[: options.examples])
    report = _report(frozen, chosen, epsilon)
    inside, at_epsilon = _attack_twice(
        frozen, chosen, report, steps=options.steps, restarts=options.restarts
    )
    table = summary(report, title=f"{options.run}, {options.split} split")
    add_attack_rows(table, report, inside, at_epsilon)
    Console(highlight=False).print(table)
    return _verdict(inside)


def _demo(options: DemoOptions) -> int:
    from gloro_jax import runs
    from gloro_jax.evaluation.tables import add_attack_rows, norms, summary
    from gloro_jax.recipes import digits

    recipe = digits()
    taken = {path.name for path in options.runs.glob("demo-*")}
    run = options.runs / next(n for i in range(1, 10**6) if (n := f"demo-{i}") not in taken)
    training = dataclasses.replace(recipe.training, epochs=options.epochs)
    console = Console(highlight=False)
    console.print(f"Training a GloRo Net on scikit-learn's digits, into {run} ...")
    data = _fit(recipe.model, recipe.data, training, run)
    frozen = runs.load(run)
    report = _report(frozen, data.test, training.epsilon)
    console.print(f"Attacking all {report.count} test images, at every other class ...")
    inside, at_epsilon = _attack_twice(frozen, data.test, report, steps=50, restarts=1)
    table = summary(report, title="digits, test split")
    add_attack_rows(table, report, inside, at_epsilon)
    console.print(table)
    console.print(norms(frozen))
    return _verdict(inside)


def _open(
    run: Path, checkpoint: "Checkpoint", split: str, epsilon: float | None
) -> tuple["FrozenNet", "Split", float]:
    from gloro_jax import runs
    from gloro_jax.data.sources import SOURCES

    config = runs.read_config(run)
    frozen = runs.load(run, checkpoint=checkpoint)
    name = config["data"]["name"]
    if name not in SOURCES:
        raise ValueError(
            f"{run} was trained on {name!r}, which the command line does not know. Certify from "
            "Python: gj.evaluation.verified_robust_accuracy(gj.load(run), ...)."
        )
    radius = config["training"]["epsilon"] if epsilon is None else epsilon
    return frozen, getattr(SOURCES[name](), split), float(radius)


def _report(frozen: "FrozenNet", split: "Split", epsilon: float) -> "Report":
    from gloro_jax.evaluation import verified_robust_accuracy

    return verified_robust_accuracy(frozen, [(split.images, split.labels)], epsilon=epsilon)


def _attack_twice(
    frozen: "FrozenNet", split: "Split", report: "Report", *, steps: int, restarts: int
) -> tuple["AttackReport", "AttackReport"]:
    from gloro_jax.evaluation import attack

    inside = attack(frozen, split.images, radii=report.radii, steps=steps, restarts=restarts)
    at_epsilon = attack(frozen, split.images, radii=report.epsilon, steps=steps, restarts=restarts)
    return inside, at_epsilon


def _verdict(inside: "AttackReport") -> int:
    if not inside.successes:
        return 0
    Console(stderr=True, highlight=False).print(
        f"[bold red]{inside.successes} certificates are refuted.[/] This is a bug in gloro-jax, or "
        "the run folder was forged. Please report it with the run folder (SECURITY.md)."
    )
    return 1


def _known(word: str, table: dict[str, Any], *, what: str) -> str:
    if word in table:
        return word
    near = difflib.get_close_matches(word, table) or sorted(table)
    raise ValueError(f"There is no {what} {word!r}; did you mean {', '.join(near)}?")


if __name__ == "__main__":
    main()
