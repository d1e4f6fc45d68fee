"""The model in plain NumPy, float64, written from the formulas and not from the code.

Everything here is analytic, so that complex numbers go through it and `gradient` gets derivatives
without a step error: Im f(x + i·h·v) / h for a tiny h.
"""

import numpy as np
from scipy.special import erf

STEP = 1e-30


def to_float64(tree):
    if isinstance(tree, dict):
        return {key: to_float64(value) for key, value in tree.items()}
    return np.asarray(tree, np.float64)


def softmax(logits, axis):
    weights = np.exp(logits - logits.real.max(axis, keepdims=True))
    return weights / weights.sum(axis, keepdims=True)


def external_weights(params, x, norm="double", groups=1):
    """A [B, N, H, S] of tokens x [B, N, d]; every `groups`-th unit is of one group."""
    queries = np.tensordot(x, params["query_kernel"], 1) + params["query_bias"]
    logits = queries @ params["key_memory"] + params["key_memory_bias"]
    if norm == "none":
        return logits
    if groups > 1:
        weights = np.empty_like(logits)
        for group in range(groups):
            own = params | {
                name: params[name][..., group::groups] for name in ("key_memory", "key_memory_bias")
            }
            weights[..., group::groups] = external_weights(own, x, norm)
        return weights
    if norm == "softmax_memory":
        return softmax(logits, 3)
    weights = softmax(logits, 1)
    return weights / (1e-9 + weights.sum(3, keepdims=True)) if norm == "double" else weights


def external_attention(params, x, norm="double", groups=1):
    weights = external_weights(params, x, norm, groups)
    read = weights @ params["value_memory"] + params["value_memory_bias"]
    return np.tensordot(read, params["out_kernel"], 2) + params["out_bias"]


def linear(params, x):
    return x @ params["kernel"] + params["bias"]


def self_weights(params, x, num_heads):
    """Attention [B, H, N, N]."""
    query, key = (_heads(linear(params[name], x), num_heads) for name in ("query", "key"))
    return softmax(query @ key.swapaxes(2, 3) / np.sqrt(query.shape[3]), 3)


def self_attention(params, x, num_heads):
    value = _heads(linear(params["value"], x), num_heads)
    mixed = (self_weights(params, x, num_heads) @ value).swapaxes(1, 2)
    return linear(params["out"], mixed.reshape(*x.shape[:2], -1))


def _heads(x, num_heads):
    return x.reshape(*x.shape[:2], num_heads, -1).swapaxes(1, 2)


def layer_norm(params, x, epsilon=1e-5):
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    return centred / np.sqrt(variance + epsilon) * params["scale"] + params["bias"]


def gelu(x):
    return x * (1 + erf(x / np.sqrt(2))) / 2


def patches(images, size):
    """[B, H, W, C] -> [B, N, size·size·C], by the definition: one patch after the other."""
    rows, columns = images.shape[1] // size, images.shape[2] // size
    cut = [
        images[:, r * size : (r + 1) * size, c * size : (c + 1) * size].reshape(len(images), -1)
        for r in range(rows)
        for c in range(columns)
    ]
    return np.stack(cut, 1)


def neighbourhoods(x, stride):
    """[B, H, W, C] -> [B, H/stride, W/stride, 9·C], one pixel after the other."""
    batch, height, width, channels = x.shape
    found = np.zeros((batch, height // stride, width // stride, 3, 3, channels), x.dtype)
    for row, column, i, j in np.ndindex(height // stride, width // stride, 3, 3):
        y, z = row * stride + i - 1, column * stride + j - 1
        if 0 <= y < height and 0 <= z < width:
            found[:, row, column, i, j] = x[:, y, z]
    return found.reshape(*found.shape[:3], -1)


def convolutions(params, images):
    """[B, H, W, C] -> [B, N, d]."""
    x, layers = images, [params["layers"][key] for key in sorted(params["layers"])]
    for index, layer in enumerate(layers):
        if index:
            x = gelu(layer_norm(params["norms"][index - 1], x))
        x = linear(layer, neighbourhoods(x, 2))
    return x.reshape(len(x), -1, x.shape[3])


def local_mixing(params, x, grid):
    around = neighbourhoods(x.reshape(len(x), *grid, -1), 1).reshape(*x.shape[:2], 9, -1)
    return x + np.einsum("bnkd,dk->bnd", around, params["kernel"][..., 0]) + params["bias"]


def attention_pooling(params, x):
    return (softmax(x @ params["query"], 1) * x).sum(1)


def blocks(params):
    """The parameters of each block, of which the tree holds a stack."""

    def part(tree, index):
        if isinstance(tree, dict):
            return {key: part(value, index) for key, value in tree.items()}
        return tree[index]

    depth = len(params["blocks"]["mlp"]["hidden"]["kernel"])
    return [part(params["blocks"], index) for index in range(depth)]


def scale(block, name):
    return block[name]["scale"] if block.get(name) else 1.0


def model(params, images, patch_size, attention, factors=None):
    """Logits; `attention(params, x)` is one of the above, or None.

    `factors` [depth, 2, B] are of what attention and MLP of each block add to each image.
    """
    if factors is None:
        factors = np.ones((len(blocks(params)), 2, 1))
    factors = factors[..., None, None]
    embed = params["patch_embed"]
    if "projection" in embed:
        x = linear(embed["projection"], patches(images, patch_size))
    else:
        x = convolutions(embed, images)
    x = x + embed["position_embedding"]
    for block, (of_attention, of_mlp) in zip(blocks(params), factors, strict=True):
        if block.get("local_mixing"):
            grid = images.shape[1] // patch_size, images.shape[2] // patch_size
            x = local_mixing(block["local_mixing"], x, grid)
        if attention is not None:
            normed = layer_norm(block["attention_norm"], x)
            of_attention = of_attention * scale(block, "attention_scale")
            x = x + of_attention * attention(block["attention"], normed)
        hidden = gelu(linear(block["mlp"]["hidden"], layer_norm(block["mlp_norm"], x)))
        of_mlp = of_mlp * scale(block, "mlp_scale")
        x = x + of_mlp * linear(block["mlp"]["out"], hidden)
    if params.get("final_norm"):
        x = layer_norm(params["final_norm"], x)
    pooled = attention_pooling(params["pooling"], x) if params.get("pooling") else x.mean(1)
    return linear(params["head"], pooled)


def cross_entropy(logits, targets, smoothing=0.0):
    targets = (1 - smoothing) * targets + smoothing / logits.shape[-1]
    return -(targets * np.log(softmax(logits, -1))).sum(-1)


def gradient(function, array):
    """Of a scalar function with respect to every entry of a float64 array."""
    result = np.empty(array.shape)
    for index in np.ndindex(array.shape):
        moved = array.astype(complex)
        moved[index] += 1j * STEP
        result[index] = function(moved).imag / STEP
    return result


def slope(function, tree, direction):
    """The derivative of a scalar function of a tree of dicts along a direction."""

    def move(value, along):
        if isinstance(value, dict):
            return {key: move(value[key], along[key]) for key in value}
        return value + 1j * STEP * along

    return function(move(tree, direction)).imag / STEP
