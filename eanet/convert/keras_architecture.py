"""What the Keras example's model can be: its sizes, and which of our models is one.

Any other model, also one with a config key of tomorrow, is refused by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eanet.config_history import ADDED
from eanet.errors import UserError
from eanet.models.attentions import attention_class, attention_rules
from eanet.models.eanet import EANet
from eanet.models.functional import SplitModel, split_model

# The keys of `config.model` that the example's model has: those of its sizes, those that change no
# prediction, and those of which it has certain values only.
_SIZES = ("patch_size", "embed_dim", "depth", "num_heads", "head_dim", "mlp_dim", "memory_size")
_INDIFFERENT = ("implementation", "dropout_rate", "stochastic_depth", "dtype", "param_dtype")
_ONLY = {"attention": ("external", "self"), "norm": ("double",), "final_norm": (False,)}


@dataclass(frozen=True)
class Architecture:
    """The sizes that a model of the example is made of; `memory_size` is 0 for self-attention."""

    num_classes: int
    image_shape: tuple[int, int, int]
    patch_size: int
    embed_dim: int
    depth: int
    num_heads: int
    head_dim: int
    memory_size: int
    mlp_dim: int
    attention: str

    def model_options(self) -> dict[str, Any]:
        """Those that are keys of `config.model`."""
        names = _SIZES if self.attention == "external" else _SIZES[:-1]
        return {"attention": self.attention} | {name: getattr(self, name) for name in names}

    def __str__(self) -> str:
        height, width, channels = self.image_shape
        memory = f"S {self.memory_size}, " if self.memory_size else ""
        return (
            f"{self.attention} attention, images {height}x{width}x{channels}, patch "
            f"{self.patch_size}, d {self.embed_dim}, {self.depth} blocks, {self.num_heads} heads "
            f"of {self.head_dim}, {memory}MLP {self.mlp_dim}, {self.num_classes} classes"
        )


def architecture_of(
    options: Mapping[str, Any], num_classes: int, image_shape: tuple[int, int, int]
) -> Architecture:
    """The sizes in a `config.model`.

    A key that is not known here passes with the value that it had before it existed.

    Raises:
      UserError: the Keras example's model has other values only; the first such key is named.
    """
    kind = attention_class(options["attention"], options["implementation"])
    of_other_attentions = attention_rules().keys() - kind.RULES.keys()
    for key in ("attention", *options):
        if key in _SIZES + _INDIFFERENT or key in of_other_attentions:
            continue
        name = f"model.{key}"
        allowed = _ONLY.get(key) or [keys[name] for keys in ADDED.values() if name in keys]
        if options[key] not in allowed:
            only = f", only {' or '.join(map(repr, allowed))}" if allowed else ""
            raise UserError(
                f"the Keras example's model cannot express {name}={options[key]!r}{only}"
            )
    sizes = {name: options[name] for name in _SIZES}
    if options["attention"] == "self":
        sizes["memory_size"] = 0
    return Architecture(num_classes, image_shape, attention=options["attention"], **sizes)


def our_model(architecture: Architecture) -> SplitModel:
    """The model of these sizes, with nothing computed yet."""
    sizes = architecture.num_classes, architecture.image_shape
    options = architecture.model_options()
    return split_model(lambda rngs: EANet(*sizes, rngs=rngs, **options))
