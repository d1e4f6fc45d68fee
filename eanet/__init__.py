"""EANet: a vision transformer with external attention (arXiv 2105.02358), in JAX."""

from eanet.sweeps import spec as sweep

__all__ = ["sweep"]
