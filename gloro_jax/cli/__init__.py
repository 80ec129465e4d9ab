"""The command line: one file per group of commands, imported when it is asked for."""

from gloro_jax.cli.main import main as main
