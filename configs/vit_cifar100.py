"""The self-attention baseline of the Keras example: the same network with self-attention.

    python main.py --config=configs/vit_cifar100.py              # key_dim = d, the example's
    python main.py --config=configs/vit_cifar100.py:per_head     # key_dim = d / heads, the usual

The example compares with key_dim = embed_dim = 64 (4 heads of width 64); the usual choice divides
the width among the heads (4 heads of width 16) and has fewer parameters than the EANet.
"""

from ml_collections import ConfigDict

from configs import eanet_cifar100

NUM_HEADS = 4


def get_config(key_dim: str = "full") -> ConfigDict:
    """`key_dim` is "full" (each head as wide as the token) or "per_head" (the width shared)."""
    config = eanet_cifar100.get_config()
    widths = {"full": config.model.embed_dim, "per_head": config.model.embed_dim // NUM_HEADS}
    if key_dim not in widths:
        raise ValueError(f"the argument must be one of {', '.join(widths)}, not {key_dim!r}")
    config.model.attention = "self"
    config.model.num_heads = NUM_HEADS
    config.model.head_dim = widths[key_dim]
    return config
