"""Training: a pure step, a way to run it on many devices, and the loop around it."""

from gloro_jax.training.config import TrainConfig as TrainConfig
from gloro_jax.training.interrupt import Interrupted as Interrupted
from gloro_jax.training.loop import Epochs as Epochs
from gloro_jax.training.loop import epochs as epochs
from gloro_jax.training.loop import fit as fit
from gloro_jax.training.scaling.parallel import data_parallel as data_parallel
from gloro_jax.training.session import Session as Session
from gloro_jax.training.sitting import TrainResult as TrainResult
from gloro_jax.training.state import TrainState as TrainState
