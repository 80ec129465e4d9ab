"""`python -m gloro_jax`: the same as `gloro-jax`."""

from gloro_jax.cli import main

if __name__ == "__main__":
    main()
