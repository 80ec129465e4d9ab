"""The run folder: what a training run leaves behind, and how it is loaded again.

    config.json            the model, the data and the training, as plain data
    metrics.jsonl          one line per epoch
    checkpoints/           what an unfinished run needs to go on
    weights/best.safetensors, weights/last.safetensors
                           weights as executed, guaranteed norms, and a digest over both
    weights/best.variables.safetensors, weights/last.variables.safetensors
                           what training moved, to start another training from
    summary.json           how a finished run ended

Loading reads JSON and arrays; it never executes anything a file says.
"""

from gloro_jax.runs.folder import check_model as check_model
from gloro_jax.runs.folder import check_new as check_new
from gloro_jax.runs.folder import comparable as comparable
from gloro_jax.runs.folder import create as create
from gloro_jax.runs.folder import identity as identity
from gloro_jax.runs.folder import is_unborn as is_unborn
from gloro_jax.runs.folder import read_config as read_config
from gloro_jax.runs.folder import read_metrics as read_metrics
from gloro_jax.runs.folder import read_summary as read_summary
from gloro_jax.runs.folder import reopen as reopen
from gloro_jax.runs.folder import set_aside as set_aside
from gloro_jax.runs.folder import unfinished as unfinished
from gloro_jax.runs.folder import write_atomically as write_atomically
from gloro_jax.runs.folder import write_config as write_config
from gloro_jax.runs.folder import write_summary as write_summary
from gloro_jax.runs.weights import Checkpoint as Checkpoint
from gloro_jax.runs.weights import frozen_content as frozen_content
from gloro_jax.runs.weights import load as load
from gloro_jax.runs.weights import load_variables as load_variables
from gloro_jax.runs.weights import save_frozen as save_frozen
from gloro_jax.runs.weights import save_variables as save_variables
from gloro_jax.runs.weights import variables_digest as variables_digest
