"""The program of a frozen network: traced once, examined, and the one that runs."""

from gloro_jax.program.static import Static as Static
from gloro_jax.program.trace import Program as Program
from gloro_jax.program.trace import body_of as body_of
from gloro_jax.program.trace import trace as trace
