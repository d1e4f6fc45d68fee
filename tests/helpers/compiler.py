"""How programs are compiled in the tests' own process: quickly, for most of them run once.

What a test starts with `tests.helpers.command_line` is compiled as it is for users.
"""

import os

import jax
from jaxlib import xla_client

# `compiler_options` of `jax.jit` and of `compile` for what only these programs can show.
AS_FOR_USERS = {
    "xla_cpu_use_fusion_emitters": True,
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
}

_XLA_FLAG = "--xla_cpu_use_fusion_emitters=false"
# For the environment of a process that is to compile quickly too.
QUICKLY_COMPILED = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": _XLA_FLAG}


def compile_quickly() -> None:
    """In a quarter of the time for a training step, which then takes longer itself.

    XLA reads its flags once, so processes that are started later don't find this one.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    given = os.environ.get("XLA_FLAGS")
    os.environ["XLA_FLAGS"] = f"{given or ''} {_XLA_FLAG}".strip()
    xla_client.CompileOptions()
    if given is None:
        del os.environ["XLA_FLAGS"]
    else:
        os.environ["XLA_FLAGS"] = given
