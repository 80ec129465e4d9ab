"""The door: picks the command, and turns errors into messages and exit statuses."""

import importlib
import os
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from gloro_jax.version import __version__

_USAGE = """\
gloro-jax: train classifiers and certify them with guaranteed Lipschitz bounds

  gloro-jax demo                     train, certify and attack scikit-learn's digits, in a minute
  gloro-jax data list|show|prepare   which data sets are there; prepare one, once
  gloro-jax train RECIPE --run DIR   train a network and keep it, frozen, in a folder DIR
  gloro-jax certify DIR              certify the test images of a run, with guaranteed bounds
  gloro-jax check FILE               prove a certificate file again (certify DIR --out FILE)
  gloro-jax verify DIR               bounds of other verifiers, and complete ones, on its images
  gloro-jax ensemble DIR DIR...      several runs as one classifier, by voting or mean scores
  gloro-jax attack DIR               search for a change of prediction inside certified radii
  gloro-jax report DIR...            one page per run, or one that compares several
  gloro-jax views DIR --out NEW --views identity mirror   a run averaged over views of each image
  gloro-jax export DIR --out NEW     a StableHLO program that certifies without this library
  gloro-jax import-torch FILE --out DIR   weights of the LiResNet authors' PyTorch code, as a run

Each command explains its options with --help, and `gloro-jax train` lists the recipes;
`gloro-jax --version` tells the version.
"""

_RUN_ERRORS = (
    ValueError, TypeError, OSError, ImportError, FloatingPointError, RuntimeError
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command; exits with 2 on bad input, 1 on a refuted or unproved certificate."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        status = _dispatch(words)
        sys.stdout.flush()
        sys.exit(status)
    except BrokenPipeError:  # of gloro-jax ... | head: whoever read has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except _RUN_ERRORS as error:
        if isinstance(error, RuntimeError) and type(error) is not RuntimeError:
            raise  # of XLA, or a mistake of ours
        console.print(f"[bold red]error:[/] {_in_words(error)}")
        sys.exit(1 if isinstance(error, ChildProcessError) else 2)  # 1: the input was not bad
    except KeyboardInterrupt as stopped:
        if str(stopped):  # training says how to go on
            console.print(_in_words(stopped))
        sys.exit(128 + getattr(stopped, "signal", 2))


def _in_words(error: BaseException) -> str:
    """What it says and what was added on the way, for a console."""
    notes = [note for note in getattr(error, "__notes__", ()) if "JAX_TRACEBACK" not in note]
    return escape("\n".join([str(error), *notes]))


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_USAGE, end="")
        return 0 if words else 2
    if words[0] == "--version":
        print(f"gloro-jax {__version__}")
        return 0
    from gloro_jax.cli.words import known  # with its imports, which the lines above do without

    command, rest = words[0], words[1:]
    file = _FILES[known(command, _FILES, what="command")]
    module = importlib.import_module(f"gloro_jax.cli.{file}")
    return getattr(module, command.replace("-", "_"))(rest)


# The file of each command's function, which has its name; imported when it is asked for.
_FILES = {
    "train": "train",
    "demo": "train",
    "certify": "certify",
    "attack": "attack",
    "verify": "verify",
    "ensemble": "ensemble",
    "check": "check",
    "views": "views",
    "report": "report",
    "data": "data",
    "export": "exchange",
    "import-torch": "exchange",
}
