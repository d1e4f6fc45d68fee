"""Every augmentation by name: the one table that a new one is added to, and how it is applied."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from eanet.augment import mixing, transforms
from eanet.augment.mixing import Images, Targets
from eanet.rules import Number, Rule, Switch


@dataclass(frozen=True)
class Augmentation:
    """A key of the config's section `augment`; zero or false switches it off."""

    rule: Rule  # of the key's value
    # `apply(key, images, value, **options)` gives images; one that mixes examples,
    # `apply(key, images, targets, value, **options)`, gives images and targets. That of a `Switch`
    # is called without the value. Computes in float32.
    apply: Callable[..., Any]
    mixes: bool = False  # mixes examples; of several such a batch takes one, at even odds
    # Rules of further keys, which have no effect while this one is off.
    options: Mapping[str, Rule] = field(default_factory=dict)
    # `check(value, image_shape)` raises `UserError` where the images are not fit for it.
    check: Callable[[Any, tuple[int, ...]], None] | None = None
    # Which of the random streams that come from one split is its own; None for a stream of its
    # name. Neither its place in the table nor what else is on moves it.
    stream: int | None = None

    def applied(
        self, key: Key[Array, ""], name: str, values: Mapping[str, Any]
    ) -> Callable[..., Any]:
        """`apply` as a function of the examples alone."""
        value = () if isinstance(self.rule, Switch) else (values[name],)
        options = {option: values[option] for option in self.options if option in values}
        return lambda *examples: self.apply(key, *examples, *value, **options)


# In the order of application; those that mix come last whatever their place here. Above 1, contrast
# would turn dark into light; above 0.99, zoom would shrink a view to nothing.
AUGMENTATIONS: dict[str, Augmentation] = {
    "flip": Augmentation(Switch(), transforms.random_flip, stream=0),
    "rotation": Augmentation(Number(0, 0.5), transforms.random_rotation, stream=1),
    "contrast": Augmentation(
        Number(0, 1),
        transforms.random_contrast,
        options={"keras3_contrast_clip": Switch()},
        stream=2,
    ),
    "zoom": Augmentation(Number(0, 0.99), transforms.random_zoom, stream=3),
    "pad_crop": Augmentation(
        Number(0, 1000, whole=True),
        transforms.pad_and_crop,
        check=transforms.check_pad_and_crop,
        stream=4,
    ),
    "random_erasing": Augmentation(Number(0, 1), transforms.random_erasing, stream=5),
    "mixup": Augmentation(Number(0, 1000), mixing.mixup, mixes=True, stream=7),
    "cutmix": Augmentation(Number(0, 1000), mixing.cutmix, mixes=True, stream=8),
}
_CHOICE_STREAM = 6  # of one among several that mix
_SPLIT_STREAMS = 9


def augmentation_rules() -> dict[str, Rule]:
    """The rules of the section `augment` of a config."""
    rules: dict[str, Rule] = {}
    for name, augmentation in AUGMENTATIONS.items():
        rules |= {name: augmentation.rule, **augmentation.options}
    return rules


def check(image_shape: tuple[int, ...], **values: Any) -> None:
    """Raises `UserError` unless `augment` can do this to images `[height, width, channels]`."""
    for name, augmentation in AUGMENTATIONS.items():
        if augmentation.check and values.get(name):
            augmentation.check(values[name], image_shape)


def augment(
    key: Key[Array, ""], images: Images, targets: Targets, **values: Any
) -> tuple[Images, Targets]:
    """Applies, in the order of the table, what is switched on; the rest leaves no operation.

    The key decides all that is random. Images are normalised and keep their type, targets are
    probabilities, values are as `augmentation_rules` allows them; what is missing is off.
    """
    if unknown := values.keys() - augmentation_rules():
        raise TypeError(f"there is no augmentation {', '.join(sorted(unknown))}")
    switched_on = {name: one for name, one in AUGMENTATIONS.items() if values.get(name)}
    if not switched_on:
        return images, targets
    streams = jax.random.split(key, _SPLIT_STREAMS)  # all at once, which compiles faster
    changed = images.astype(jnp.float32)
    mixers = []
    for name, augmentation in switched_on.items():
        if augmentation.stream is None:
            stream = jax.random.fold_in(key, zlib.crc32(name.encode()))
        else:
            stream = streams[augmentation.stream]
        applied = augmentation.applied(stream, name, values)
        if augmentation.mixes:
            mixers.append(applied)
        else:
            changed = applied(changed)
    if len(mixers) > 1:
        draw = jax.random.uniform(streams[_CHOICE_STREAM], dtype=jnp.float32)
        choice = (draw * len(mixers)).astype(jnp.int32)
        changed, targets = jax.lax.switch(choice, mixers, changed, targets)
    elif mixers:
        changed, targets = mixers[0](changed, targets)
    return changed.astype(images.dtype), targets
