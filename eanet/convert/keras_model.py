"""The EANet of the Keras example as a Keras 3 model: what parity is measured against.

Written from the description of that model, not from its source; only what decides how Keras names
the weights in a file is the example's: the classes of its layers, their order and attributes.
"""

import keras
from keras import layers, ops


class PatchExtract(layers.Layer):
    """Images `[B, height, width, C]` become patches `[B, N, p·p·C]`, row by row."""

    def __init__(self, patch_size: int, **options):
        super().__init__(**options)
        self.patch_size = patch_size

    def call(self, images):
        """Cuts a batch of images."""
        _, height, width, channels = images.shape
        size = self.patch_size
        rows, columns = height // size, width // size
        patches = ops.reshape(images, (-1, rows, size, columns, size, channels))
        patches = ops.transpose(patches, (0, 1, 3, 2, 4, 5))
        return ops.reshape(patches, (-1, rows * columns, size * size * channels))


class PatchEmbedding(layers.Layer):
    """A linear map of each patch plus a learned vector for its place."""

    def __init__(self, num_patch: int, embed_dim: int, **options):
        super().__init__(**options)
        self.num_patch = num_patch
        self.proj = layers.Dense(embed_dim)
        self.pos_embed = layers.Embedding(num_patch, embed_dim)

    def call(self, patches):
        """Embeds a batch of patches."""
        return self.proj(patches) + self.pos_embed(ops.arange(self.num_patch))


def augmentation() -> keras.Sequential:
    """What the example puts in front of the model; its statistics are those of `adapt`."""
    return keras.Sequential(
        [
            layers.Normalization(),
            layers.RandomFlip("horizontal"),
            layers.RandomRotation(0.1),
            layers.RandomContrast(0.1),
            layers.RandomZoom(0.2, 0.2),
        ],
        name="data_augmentation",
    )


def build(
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    patch_size: int,
    embed_dim: int,
    depth: int,
    num_heads: int,
    head_dim: int,
    memory_size: int,
    mlp_dim: int,
    attention: str = "external",
    dropout_rate: float = 0.2,
    preprocessing: keras.Sequential | None = None,
    activation: str | None = "softmax",
) -> keras.Model:
    """The whole model; `activation=None` returns logits, `preprocessing` comes first."""
    height, width, _ = image_shape
    tokens = (height // patch_size) * (width // patch_size)
    inputs = layers.Input(image_shape)
    x = inputs if preprocessing is None else preprocessing(inputs)
    x = PatchExtract(patch_size)(x)
    x = PatchEmbedding(tokens, embed_dim)(x)
    for _ in range(depth):
        before = x
        x = layers.LayerNormalization(epsilon=1e-5)(x)
        if attention == "external":
            x = _external_attention(x, num_heads, head_dim, memory_size, dropout_rate)
        else:
            x = layers.MultiHeadAttention(num_heads, head_dim, dropout=dropout_rate)(x, x)
        x = layers.add([x, before])
        before = x
        x = layers.LayerNormalization(epsilon=1e-5)(x)
        x = layers.Dense(mlp_dim, activation=keras.activations.gelu)(x)
        x = layers.Dropout(dropout_rate)(x)
        x = layers.Dense(embed_dim)(x)
        x = layers.Dropout(dropout_rate)(x)
        x = layers.add([x, before])
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(num_classes, activation=activation)(x))


def _external_attention(x, heads, head_dim, memory_size, dropout_rate):
    _, tokens, embed_dim = x.shape
    width = heads * head_dim
    x = layers.Dense(width)(x)
    x = ops.transpose(ops.reshape(x, (-1, tokens, heads, head_dim)), (0, 2, 1, 3))
    attention = layers.Dense(memory_size)(x)
    attention = layers.Softmax(axis=2)(attention)
    attention = attention / (1e-9 + ops.sum(attention, axis=-1, keepdims=True))
    attention = layers.Dropout(dropout_rate)(attention)
    x = layers.Dense(head_dim)(attention)
    x = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, tokens, width))
    return layers.Dropout(dropout_rate)(layers.Dense(embed_dim)(x))
