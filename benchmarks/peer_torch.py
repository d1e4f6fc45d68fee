"""A hand-written torch model of the Keras example, eager or by `torch.compile`.

Float32, as many threads as cores, fused AdamW, memory of gradients given back by `zero_grad`; with
`torch.compile` model and loss are one graph, compiled by Inductor in its default mode.
"""

import os
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.contestant import (
    Prepared,
    fastest_batch_size,
    on_gpu,
    random_images,
    repeat,
    serve,
)


class ExternalAttention(nn.Module):
    """Multi-head external attention, `[B, N, d]` to `[B, N, d]`, formula by formula."""

    def __init__(
        self, embed_dim: int, num_heads: int, head_dim: int, memory_size: int, dropout_rate: float
    ):
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(embed_dim, num_heads * head_dim)
        self.key_memory = nn.Linear(head_dim, memory_size)
        self.value_memory = nn.Linear(memory_size, head_dim)
        self.out = nn.Linear(num_heads * head_dim, embed_dim)
        self.dropout = nn.Dropout(dropout_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Attends."""
        query = self.query(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        attention = self.key_memory(query).softmax(dim=2)
        attention = attention / (1e-9 + attention.sum(dim=3, keepdim=True))
        read = self.value_memory(self.dropout(attention))
        return self.dropout(self.out(read.transpose(1, 2).flatten(2)))


class SelfAttention(nn.Module):
    """Multi-head self-attention, `[B, N, d]` to `[B, N, d]`, by torch's fused kernels."""

    def __init__(self, embed_dim: int, num_heads: int, head_dim: int, dropout_rate: float):
        super().__init__()
        self.num_heads = num_heads
        self.projections = nn.Linear(embed_dim, 3 * num_heads * head_dim)
        self.out = nn.Linear(num_heads * head_dim, embed_dim)
        self.dropout = nn.Dropout(dropout_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Attends."""
        heads = self.projections(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        rate = self.dropout.p if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(*heads, dropout_p=rate)
        return self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))


class Block(nn.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`."""

    def __init__(
        self,
        embed_dim: int,
        mlp_dim: int,
        dropout_rate: float,
        attention: str,
        num_heads: int,
        head_dim: int,
        memory_size: int,
    ):
        super().__init__()
        self.attention_norm = nn.LayerNorm(embed_dim)
        heads = (embed_dim, num_heads, head_dim)
        if attention == "external":
            self.attention = ExternalAttention(*heads, memory_size, dropout_rate)
        else:
            self.attention = SelfAttention(*heads, dropout_rate)
        self.mlp = nn.Sequential(
            nn.LayerNorm(embed_dim),
            nn.Linear(embed_dim, mlp_dim),
            nn.GELU(),
            nn.Dropout(dropout_rate),
            nn.Linear(mlp_dim, embed_dim),
            nn.Dropout(dropout_rate),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Mixes and maps the tokens."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(x)


class EANet(nn.Module):
    """Normalised images `[B, H, W, C]` to logits."""

    def __init__(
        self,
        num_classes: int,
        image_shape: tuple[int, int, int],
        *,
        patch_size: int,
        embed_dim: int,
        depth: int,
        **block: Any,
    ):
        super().__init__()
        height, width, channels = image_shape
        tokens = (height // patch_size) * (width // patch_size)
        self.patch_size = patch_size
        self.projection = nn.Linear(patch_size * patch_size * channels, embed_dim)
        self.position_embedding = nn.Parameter(torch.empty(tokens, embed_dim).uniform_(-0.05, 0.05))
        self.blocks = nn.Sequential(*(Block(embed_dim, **block) for _ in range(depth)))
        self.head = nn.Linear(embed_dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        size = self.patch_size
        patches = images.unflatten(2, (-1, size)).unflatten(1, (-1, size)).transpose(2, 3)
        x = self.projection(patches.flatten(3).flatten(1, 2)) + self.position_embedding
        return self.head(self.blocks(x).mean(dim=1))


BLOCK_KEYS = ("attention", "num_heads", "head_dim", "memory_size", "mlp_dim", "dropout_rate")


def prepare(task: dict[str, Any]) -> Prepared:
    """Builds the model; the fastest batch size is chosen for evaluation."""
    config = task["config"]
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if on_gpu():
        torch.set_default_device("cuda")
        torch.set_float32_matmul_precision("high")  # TensorFloat-32, as JAX by default
    keys = ("patch_size", "embed_dim", "depth", *BLOCK_KEYS)
    model = EANet(
        task["num_classes"], task["image_shape"], **{key: config["model"][key] for key in keys}
    )

    def loss(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = model((images.float() - 127.5) / 63.75)
        smoothing = config["label_smoothing"]
        return functional.cross_entropy(logits, labels, label_smoothing=smoothing), logits

    if task["compiled"]:
        loss = torch.compile(loss, dynamic=False)
    data = [torch.tensor(x) for x in random_images(task, max(1024, config["batch_size"]))]
    data[1] = data[1].long()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    facts = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    if not task["evaluated"]:
        work = training(model, loss, data, config)
        return Prepared(work, config["batch_size"], parameters, facts)
    model.eval()
    evaluated = partial(evaluate, loss, [x[: task["evaluated"]] for x in data])
    chosen = fastest_batch_size(evaluated)
    work = repeat(partial(evaluated, chosen))
    return Prepared(work, task["evaluated"], parameters, facts | {"batch_size": chosen})


def hits(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """How many labels are the largest logit, and among the five largest."""
    found = logits.topk(5).indices == labels[:, None]
    return found[:, 0].sum(), found.sum()


def training(model: nn.Module, loss: Any, data: list[Tensor], config: dict[str, Any]) -> Any:
    """Training steps with the metrics of ours."""
    options = config["optimizer"]
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=options["learning_rate"],
        betas=(options["b1"], options["b2"]),
        eps=options["epsilon"],
        weight_decay=options["weight_decay"],
        fused=True,
    )
    batches = list(zip(*(x.split(config["batch_size"]) for x in data), strict=True))
    batches = [batch for batch in batches if len(batch[0]) == config["batch_size"]]

    def work(count: int) -> None:
        for index in range(count):
            images, labels = batches[index % len(batches)]
            optimizer.zero_grad(set_to_none=True)
            value, logits = loss(images, labels)
            value.backward()
            optimizer.step()
            hits(logits.detach(), labels)
        if on_gpu():
            torch.cuda.synchronize()

    return work


@torch.inference_mode()
def evaluate(loss: Any, data: list[Tensor], batch_size: int) -> None:
    """Loss and hits of all images."""
    for images, labels in zip(*(x.split(batch_size) for x in data), strict=True):
        value, logits = loss(images, labels)
        value.item(), hits(logits, labels)


if __name__ == "__main__":
    serve(prepare)
