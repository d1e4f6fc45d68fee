"""How exact products of float32 are, where the device can trade that for speed.

A GPU from Ampere on multiplies float32 with 10 of its 23 bits of mantissa (TensorFloat-32), a TPU
as bfloat16, unless it is told otherwise; a CPU multiplies what is there.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax

from eanet.platforms import platform
from eanet.rules import Choice, Rule

R = TypeVar("R")

_SETTING = "jax_default_matmul_precision"

# By JAX's names; "" leaves it to JAX and its settings.
RULES: dict[str, Rule] = {"matmul_precision": Choice("", "tensorfloat32", "highest")}


def at(matmul_precision: str, function: Callable[..., R]) -> Callable[..., R]:
    """The function, with this precision of all products that are traced in it."""
    if not matmul_precision:
        return function

    @functools.wraps(function)
    def traced(*arguments: Any, **options: Any) -> R:
        with jax.default_matmul_precision(matmul_precision):
            return function(*arguments, **options)

    return traced


def in_force(matmul_precision: str) -> str:
    """What products of float32 have where this process computes, for the record of results."""
    if platform() == "cpu":
        return "float32"
    return matmul_precision or str(getattr(jax.config, _SETTING) or "default")


def without_effect(matmul_precision: str, dtype: str) -> str:
    """What to tell of a precision that is asked for and changes little or nothing; or ""."""
    if not matmul_precision:
        return ""
    told = f"matmul_precision={matmul_precision} has no effect on "
    if platform() == "cpu":
        return told + "a CPU, which multiplies float32 in full"
    if dtype != "float32":
        return told + f"products of model.dtype={dtype}, which are nearly all of the model"
    return ""
