"""Every augmentation by name: the one table that a new one is added to, and how it is applied."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Key

from eanet.augment import mixing, policies, transforms
from eanet.augment.mixing import Images, Targets
from eanet.augment.operations import HIGHEST_LEVEL, Pixels
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
    pixels: bool = False  # changes images as they are stored, before they are normalised
    strong: bool = False  # left out while augmentation is mild, as are those that mix
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


# In the order of application, but strong ones come after all others, and last those that mix. Above
# 1, contrast would turn dark into light; above 0.99, zoom would shrink a view to nothing.
AUGMENTATIONS: dict[str, Augmentation] = {
    "trivial_augment": Augmentation(
        Switch(),
        policies.trivial_augment,
        pixels=True,
        strong=True,
        check=partial(policies.check, "trivial_augment"),
    ),
    "rand_augment": Augmentation(
        Number(0, HIGHEST_LEVEL, whole=True),
        policies.rand_augment,
        pixels=True,
        strong=True,
        check=partial(policies.check, "rand_augment"),
    ),
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
    "random_resized_crop": Augmentation(Number(0, 1), transforms.random_resized_crop),
    "random_erasing": Augmentation(Number(0, 1), transforms.random_erasing, strong=True, stream=5),
    "mixup": Augmentation(Number(0, 1000), mixing.mixup, mixes=True, stream=7),
    "cutmix": Augmentation(Number(0, 1000), mixing.cutmix, mixes=True, stream=8),
}
_CHOICE_STREAM = 6  # of one among several that mix
_SPLIT_STREAMS = 9
MIX_PROBABILITY = "mix_probability"  # the key: how likely a batch is mixed at all


def augmentation_rules() -> dict[str, Rule]:
    """The rules of the section `augment` of a config."""
    rules: dict[str, Rule] = {MIX_PROBABILITY: Number(0, 1)}
    for name, augmentation in AUGMENTATIONS.items():
        rules |= {name: augmentation.rule, **augmentation.options}
    return rules


def check(image_shape: tuple[int, ...], **values: Any) -> None:
    """Raises `UserError` unless `augment` can do this to images `[height, width, channels]`."""
    for name, augmentation in AUGMENTATIONS.items():
        if augmentation.check and values.get(name):
            augmentation.check(values[name], image_shape)


def augment_pixels(
    key: Key[Array, ""], images: Pixels, *, mild: Bool[Array, ""] | None = None, **values: Any
) -> Pixels:
    """Applies what changes images before they are normalised; arguments are those of `augment`."""
    for name, one in AUGMENTATIONS.items():
        if one.pixels and values.get(name):
            change = one.applied(_named_stream(key, name), name, values)
            images = _unless(mild if one.strong else None, change, images)
    return images


def augment(
    key: Key[Array, ""],
    images: Images,
    targets: Targets,
    *,
    mild: Bool[Array, ""] | None = None,
    **values: Any,
) -> tuple[Images, Targets]:
    """Applies, in the order of the table, what is switched on; the rest leaves no operation.

    Before it comes `augment_pixels`. The key decides all that is random. Images are normalised and
    keep their type, targets are probabilities, values are as `augmentation_rules` allows them; what
    is missing is off, but for the probability with which a batch is mixed, which is then 1. Where
    `mild` is true, strong augmentations are left out; the others draw what they draw otherwise.
    """
    if unknown := values.keys() - augmentation_rules():
        raise TypeError(f"there is no augmentation {', '.join(sorted(unknown))}")
    switched_on = {
        name: one for name, one in AUGMENTATIONS.items() if values.get(name) and not one.pixels
    }
    if not switched_on:
        return images, targets
    streams = jax.random.split(key, _SPLIT_STREAMS)  # all at once, which compiles faster

    def applied(name: str) -> Callable[..., Any]:
        stream = AUGMENTATIONS[name].stream
        own_key = _named_stream(key, name) if stream is None else streams[stream]
        return AUGMENTATIONS[name].applied(own_key, name, values)

    def strengthen(examples: tuple[Array, Array]) -> tuple[Array, Array]:
        images, targets = examples
        for name in strong:
            images = applied(name)(images)
        mix = partial(_mix, [applied(name) for name in mixers], streams)
        return _unless(unmixed, mix, (images, targets))

    mixers = [name for name, one in switched_on.items() if one.mixes]
    strong = [name for name, one in switched_on.items() if one.strong and not one.mixes]
    unmixed, probability = None, values.get(MIX_PROBABILITY, 1.0)
    if mixers and probability < 1.0:
        unmixed = jax.random.bernoulli(_named_stream(key, MIX_PROBABILITY), 1.0 - probability)
    changed = images.astype(jnp.float32)
    for name in switched_on:
        if name not in (*strong, *mixers):
            changed = applied(name)(changed)
    if strong or mixers:
        changed, targets = _unless(mild, strengthen, (changed, targets))
    return changed.astype(images.dtype), targets


def _named_stream(key: Key[Array, ""], name: str) -> Key[Array, ""]:
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def _mix(
    mixers: Sequence[Callable[..., Any]], streams: Array, examples: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Lets one of several mix the batch, at even odds."""
    if len(mixers) < 2:
        return mixers[0](*examples) if mixers else examples
    draw = jax.random.uniform(streams[_CHOICE_STREAM], dtype=jnp.float32)
    choice = (draw * len(mixers)).astype(jnp.int32)
    return jax.lax.switch(choice, mixers, *examples)


def _unless(left_out: Bool[Array, ""] | None, change: Callable[[Any], Any], examples: Any) -> Any:
    """The changed examples, or the same where the change is left out; None: it never is."""
    if left_out is None:
        return change(examples)
    return jax.lax.cond(left_out, lambda same: same, change, examples)
