"""What suits which platform: the one place that decides by it.

| JAX's platform | images in a model at once | `model.implementation="auto"` | measured |
| --- | --- | --- | --- |
| cpu | as many as fit the caches of a core, from 2 to 8 | fast | docs/performance.md |
| gpu, tpu | its share of the batch, or what fits its memory | fast; plain where fast loops | no |

Self-attention has 512 kB of weights of an example at once on a CPU, 16 MB elsewhere.

Why, where nothing was measured: docs/accelerators.md.
"""

import sys

import jax

# Of a device's memory, what images may take that are estimated to fit: XLA holds things in other
# order than the estimate, and what is fragmented cannot be used.
_FILLED = 0.7


def platform() -> str:
    """The platform that computes: "cpu", "gpu" or "tpu"."""
    return jax.default_backend()


def suits(*, loops: bool) -> bool:
    """Whether a form of attention is one to take here.

    `loops` says that it computes one head after the other, so that little exists at a time. That
    keeps a CPU in its caches. An accelerator has none to stay in, and waits for each small product.
    """
    return not loops or platform() == "cpu"


def attention_weights_at_once() -> int:
    """How many weights of self-attention, of all heads of an example, are computed at a time.

    On a CPU a chunk of these stays in the cache of a core. Elsewhere chunks only keep memory linear
    in the tokens: 1,024 of them and four heads are one.
    """
    return 2**17 if platform() == "cpu" else 2**22


def images_at_once(device: jax.Device, *, in_cache: int, image_bytes: int, held: int) -> int:
    """How many images a device best takes through a model at once, where it has so many.

    Args:
      device: of a mesh.
      in_cache: images that fit the caches of a core.
      image_bytes: that each takes of a device's memory meanwhile.
      held: bytes that are taken all the time.
    """
    if device.platform == "cpu":
        return min(max(in_cache, 2), 8)
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit is None:
        return sys.maxsize
    return max(1, int(_FILLED * (limit - held)) // image_bytes)
