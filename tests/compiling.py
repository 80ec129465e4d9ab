"""How XLA compiles in tests: imported before the first program is.

Tests compile thousands of programs that run once, so nearly all of them are compiled quickly and
not optimised, also in the processes that tests start. `AS_USERS` are the options that undo this:
conftest.py gives them to the library's own programs in the files that certify.
"""

import os

import jax

AS_USERS = {"xla_backend_optimization_level": "3", "xla_llvm_disable_expensive_passes": "False"}
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # for children; jax has read it
jax.config.update("jax_disable_most_optimizations", True)
if jax.__version_info__ < (0, 11):
    # XLA:CPU's newer code for fusions takes two thirds of the time. JAX 0.11 has no other.
    AS_USERS["xla_cpu_use_fusion_emitters"] = "True"
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_cpu_use_fusion_emitters=false"
    )
