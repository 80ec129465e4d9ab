"""train and demo."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape

from gloro_jax import runs
from gloro_jax.cli.attack import attack_twice, verdict
from gloro_jax.cli.opened import Opened, certified
from gloro_jax.cli.rehearse import rehearse
from gloro_jax.cli.words import known, parse
from gloro_jax.data import DataConfig, Dataset, open_data
from gloro_jax.data.npz import is_npz
from gloro_jax.evaluation.tables import add_attack_rows, norms, settings, summary
from gloro_jax.models import ModelConfig, from_plain_model
from gloro_jax.paths import place
from gloro_jax.plain import in_words
from gloro_jax.recipes import RECIPES
from gloro_jax.training import Session, TrainConfig, TrainResult, fit
from gloro_jax.training.beginning import check
from gloro_jax.training.scaling import processes


@dataclasses.dataclass(frozen=True, kw_only=True)
class SittingOptions:
    """What no recipe says: where, from which weights, and on which machines.

    Attributes:
        run: a new folder for config, metrics, checkpoints and weights.
        data_dir: where prepared sets are; $TFDS_DATA_DIR or ~/tensorflow_datasets unless given.
        init_from: start from the weights of this run, of training or of import-torch, and train
            its network in place of the recipe's.
        resume: go on from the newest checkpoint in RUN; start where there is none.
        resume_step: go on from the checkpoint of this step instead.
        checkpoint_seconds: save a checkpoint when the last one is this old.
        tensorboard: also write event files, RUN/tensorboard.
        profile: record ten training steps with JAX's profiler, RUN/profile.
        coordinator: HOST:PORT of process 0, where several processes train together; every one runs
            this command. A TPU pod and a Slurm step are recognised without it.
        processes: how many there are.
        process: which one this is, from 0; 0 writes and prints.
        dry_run: compile the training step for devices that need not be here, and say what it takes:
            memory, collectives, an estimate of the time. Nothing is written.
        topology: of a TPU for --dry-run, v5e:4x4 for example; takes the extra tpu-rehearsal.
        devices: how many virtual CPU devices --dry-run compiles for, in place of a topology.
    """

    run: Path
    data_dir: Path | None = None
    init_from: Path | None = None
    resume: bool = False
    resume_step: int | None = None
    checkpoint_seconds: float = 60.0
    tensorboard: bool = False
    profile: bool = False
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    dry_run: bool = False
    topology: str | None = None
    devices: int | None = None


@dataclasses.dataclass(frozen=True)
class DemoOptions:
    """Train on scikit-learn's digits, certify, attack, and print one table.

    Attributes:
        runs: the folder in which a new run folder demo-1, demo-2, ... is made.
        epochs: passes over the training images.
    """

    runs: Path = Path("runs")
    epochs: int = 100


def train(words: list[str]) -> int:
    """`gloro-jax train`."""
    if not words or words[0].startswith("-"):
        print("usage: gloro-jax train RECIPE --run DIR [options]\n\nRecipes:")
        widest = max(map(len, RECIPES)) + 2
        for name, recipe in RECIPES.items():
            print(f"  {name:<{widest}}{(recipe.__doc__ or '').splitlines()[0]}")
        print("\n`gloro-jax train RECIPE --help` lists every option with its default.")
        return 0 if words[:1] in (["-h"], ["--help"]) else 2
    name = known(words[0], RECIPES, what="recipe")
    options = parse(_options(name), f"train {name}", _with_folder(words[1:]))
    if options.init_from is not None and any(word.startswith("--model.") for word in words):
        raise ValueError(
            f"--init-from trains the network of {options.init_from}, so the model options do not "
            "apply: leave them out."
        )
    recipe = RECIPES[name]()
    data = _data(options, seed=recipe.data.seed)
    if options.dry_run:
        model = _start(options)[0]
        has_classes = options.init_from is not None or _gives_classes(words)
        return rehearse(options, recipe, model, data, is_given_classes=has_classes)
    if options.topology or options.devices is not None:
        raise ValueError("--topology and --devices go with --dry-run.")
    processes.join(
        coordinator=options.coordinator, processes=options.processes, process=options.process
    )
    session = Session(
        is_resuming=options.resume,
        resume_step=options.resume_step,
        checkpoint_seconds=options.checkpoint_seconds,
        is_writing_tensorboard=options.tensorboard,
        is_profiling=options.profile,
    )
    model, initial = _start(options)
    opened = open_data(data)
    if initial is None and not _gives_classes(words):
        model = dataclasses.replace(model, num_classes=opened.num_classes)
    _fit(model, opened, options.training, options.run, session, initial)
    return 0


def _data(options: Any, *, seed: int) -> DataConfig:
    source = str(Path(options.data).resolve()) if is_npz(options.data) else options.data
    directory = str(options.data_dir) if options.data_dir else None
    return DataConfig(source, options.validation, seed, directory, options.image_size)


def _with_folder(words: list[str]) -> list[str]:
    """A rehearsal writes nothing, so it needs no --run."""
    has_folder = any(word == "--run" or word.startswith("--run=") for word in words)
    return [*words, "--run", "-"] if "--dry-run" in words and not has_folder else words


def _gives_classes(words: list[str]) -> bool:
    """Whether the user said how many; the data do otherwise."""
    return any(word.replace("_", "-").startswith("--model.num-classes") for word in words)


def _start(options: Any) -> tuple[ModelConfig, Any]:
    """The network to train, and the weights to start from."""
    if options.resume and (place(options.run) / "config.json").is_file():
        there = runs.read_config(options.run)
        if there.get("initial") and there.get("model"):  # its checkpoint holds all it needs
            return from_plain_model(there["model"]), None
    initial = None if options.init_from is None else runs.load_variables(options.init_from)
    return _network(options), initial


def _network(options: Any) -> ModelConfig:
    """The network of the options, or of the run to start from."""
    if options.init_from is None:
        return options.model
    stored = runs.read_config(options.init_from).get("model")
    if stored is None:
        raise ValueError(
            f"{options.init_from} holds a network of one's own, which the command line cannot "
            "build: use gj.training.fit(net, ..., initial=gj.runs.load_variables(run))."
        )
    return from_plain_model(stored)


def _options(name: str) -> Any:
    recipe = RECIPES[name]()

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class TrainOptions(SittingOptions):
        """Train, keep the best epoch by validation, freeze it with guaranteed bounds.

        Attributes:
            data: a prepared set (`gloro-jax data list`), or an .npz file of x_train, y_train,
                x_test and y_test.
            validation: share of the training images held out to choose the best epoch.
            image_size: height and width that the network sees of photographs read from disk.
            training: how to train.
            model: the network.
        """

        data: str = recipe.data.source
        validation: float = recipe.data.validation
        image_size: int | None = recipe.data.image_size
        training: Annotated[TrainConfig, tyro.conf.arg(name="")] = recipe.training
        model: type(recipe.model) = recipe.model  # type: ignore[valid-type]

    return TrainOptions


def demo(words: list[str]) -> int:
    """`gloro-jax demo`."""
    options: DemoOptions = parse(DemoOptions, "demo", words)
    recipe = RECIPES["digits"]()
    taken = {path.name for path in options.runs.glob("demo-*")}
    run = options.runs / next(n for i in range(1, 10**6) if (n := f"demo-{i}") not in taken)
    training = dataclasses.replace(recipe.training, epochs=options.epochs)
    console = Console(highlight=False)
    console.print(f"Training a GloRo Net on scikit-learn's digits, into {escape(str(run))} ...")
    data = open_data(recipe.data)
    _fit(recipe.model, data, training, run, Session())
    what = "digits, test split"
    opened = Opened(runs.load(run), data.test, training.epsilon, source=what, title=what)
    report = certified(opened)
    console.print(f"Attacking all {report.count} test images, at every other class ...")
    inside, at_epsilon = attack_twice(opened, report, steps=50, restarts=1)
    table = summary(report, title=opened.title)
    add_attack_rows(table, report, inside, at_epsilon)
    console.print(table)
    console.print(norms(opened.frozen))
    return verdict(opened.frozen, inside)


def _fit(
    model: ModelConfig,
    data: Dataset,
    training: TrainConfig,
    run: Path,
    session: Session,
    initial: Any = None,
) -> TrainResult:
    console = Console(highlight=False, soft_wrap=True, quiet=not processes.is_first())
    check(model.build(), data, training)  # what is wrong is said before a page of settings
    config = {"model": model, "data": data.origin or DataConfig(data.name), "training": training}
    console.print(settings({name: dataclasses.asdict(part) for name, part in config.items()}))
    result = fit(model, data, training, run=run, session=session, initial=initial)
    report, name = result.validation, escape(str(result.run))
    following, about = f"gloro-jax certify {name}", ""
    if training.is_verified:
        size = f"--norm {training.norm} --radius {in_words(training.epsilon)}"
        following = f"gloro-jax verify {name} --with interval,crown {size} --box 0 1"
        about = ", about what it was trained for"
    console.print(
        f"{escape(data.name)}: best epoch {result.best_epoch} of {training.epochs}, "
        f"{result.seconds:.1f} s. Validation: clean {report.clean_accuracy:.3f}, "
        f"VRA {report.vra:.3f} at l2 radius {in_words(training.epsilon)}, guaranteed. "
        f"Saved in {name}; next{about}: {following}"
    )
    console.print(_time_split(result.history))
    if session.is_profiling:
        console.print(
            f"Profile: open the .trace.json.gz under {escape(str(run))}/profile at ui.perfetto.dev."
        )
    if session.is_writing_tensorboard:
        console.print(f"Event files: tensorboard --logdir {escape(str(run))}/tensorboard")
    return result


def _time_split(history: list[dict[str, Any]]) -> str:
    """Where the time of the epochs went, in percent."""
    spent: dict[str, float] = {}
    for row in history:
        for name, seconds in row["timing"].items():
            if name != "images_per_second":
                spent[name] = spent.get(name, 0.0) + seconds
    total = sum(spent.values()) or 1.0
    shares = ", ".join(f"{name} {100 * part / total:.1f} %" for name, part in spent.items())
    return f"Time: {shares}"
