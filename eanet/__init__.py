"""EANet: a vision transformer with external attention (arXiv 2105.02358), in JAX.

    import eanet
    model = eanet.load("runs/eanet_digits")
    probabilities = model.predict(images)

What is named here is imported when it is first asked for: `import eanet` itself imports no JAX.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from eanet.version import __version__

if TYPE_CHECKING:
    from eanet.inference.load import load
    from eanet.models.attention import ExternalAttention
    from eanet.models.eanet import EANet
    from eanet.models.self_attention import SelfAttention
    from eanet.sweeps import spec as sweep

__all__ = ["EANet", "ExternalAttention", "SelfAttention", "__version__", "load", "sweep"]

_HOMES = {
    "EANet": "eanet.models.eanet",
    "ExternalAttention": "eanet.models.attention",
    "SelfAttention": "eanet.models.self_attention",
    "load": "eanet.inference.load",
}


def __getattr__(name: str) -> Any:
    if name == "sweep":
        return import_module("eanet.sweeps.spec")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
