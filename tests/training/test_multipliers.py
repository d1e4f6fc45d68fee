"""Learning rates of parts of the model."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eanet.errors import UserError
from eanet.training.optimizer import OPTIMIZERS, OptimizerOptions, make_optimizer

PARAMS = {
    "patch_embed": {"kernel": jnp.full((2, 3), 0.5)},
    "blocks": {"mlp": {"kernel": jnp.full((4, 3, 3), 0.5), "bias": jnp.full((4, 3), 0.5)}},
    "final_norm": {"scale": jnp.full(3, 0.5)},
    "head": {"kernel": jnp.full((3, 2), 0.5)},
}
KERNELS = {
    "patch_embed": {"kernel": "io"},
    "blocks": {"mlp": {"kernel": "io", "bias": ""}},
    "final_norm": {"scale": ""},
    "head": {"kernel": "io"},
}


def updates(gradients=1.0, **options):
    options = OptimizerOptions(name=options.pop("name", "sgd"), **options)
    optimizer = make_optimizer(options, optax.constant_schedule(1.0), KERNELS, depth=4)
    given = jax.tree.map(lambda leaf: jnp.full(leaf.shape, gradients), PARAMS)
    return optimizer.update(given, optimizer.init(PARAMS), PARAMS)[0]


def test_layers_learn_slower_the_deeper_they_lie_and_the_head_as_asked():
    plain, found = updates(), updates(head_multiplier=10.0, layer_decay=0.5)
    ratios = jax.tree.map(lambda one, other: np.asarray(one / other), found, plain)
    np.testing.assert_allclose(ratios["head"]["kernel"], 10.0, rtol=1e-6)
    np.testing.assert_allclose(ratios["final_norm"]["scale"], 1.0)
    np.testing.assert_allclose(ratios["patch_embed"]["kernel"], 0.5**5)
    for leaf in ratios["blocks"]["mlp"].values():
        expected = 0.5 ** np.array([4, 3, 2, 1])
        np.testing.assert_allclose(
            leaf, np.broadcast_to(expected.reshape(4, *[1] * (leaf.ndim - 1)), leaf.shape)
        )


@pytest.mark.parametrize(
    "name", sorted(OPTIMIZERS.keys() & {"adamw", "adam", "sgd", "lion", "muon"})
)
def test_what_is_frozen_stays_and_the_rest_is_as_without_it(name):
    decay = 0.0 if name == "adam" else 0.1
    options = {"name": name, "weight_decay": decay, "decay": "all"}
    found = updates(freeze="patch_embed/*, blocks/*", **options)
    for part in ("patch_embed", "blocks"):
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(found[part]))
    plain = updates(**options)
    for part in ("final_norm", "head"):
        jax.tree.map(np.testing.assert_array_equal, found[part], plain[part])


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
@pytest.mark.parametrize(
    ("pattern", "blocks", "parts"),
    [
        ("blocks/0/*", [0], ("kernel", "bias")),
        ("blocks/[1-2]/mlp/*, blocks/3/*", [1, 2, 3], ("kernel", "bias")),
        ("head/*, blocks/[0-3]/mlp/bias", [0, 1, 2, 3], ("bias",)),
        ("blocks/[0-3]/*", [0, 1, 2, 3], ("kernel", "bias")),
    ],
)
def test_single_blocks_are_frozen_by_their_index(name, pattern, blocks, parts):
    decay = 0.0 if name == "adam" else 0.1
    options = {"name": name, "weight_decay": decay, "decay": "all"}
    found, plain = updates(freeze=pattern, **options), updates(**options)
    for part in ("kernel", "bias"):
        expected = np.array(plain["blocks"]["mlp"][part])
        assert np.all(expected)
        expected[blocks if part in parts else []] = 0
        np.testing.assert_array_equal(found["blocks"]["mlp"][part], expected)
    assert np.any(found["head"]["kernel"]) == ("head" not in pattern)
    jax.tree.map(np.testing.assert_array_equal, found["patch_embed"], plain["patch_embed"])


def test_the_norm_that_clips_is_that_of_what_is_trained():
    found = updates(freeze="blocks/*, patch_embed/*, final_norm/*", clip_norm=1.0, momentum=0.0)
    np.testing.assert_allclose(found["head"]["kernel"], -1 / np.sqrt(6), rtol=1e-6)


def test_a_frozen_gradient_that_is_not_finite_changes_nothing():
    found = updates(float("nan"), freeze="blocks/*")
    assert not np.any(found["blocks"]["mlp"]["kernel"])
    found = updates(float("nan"), freeze="blocks/1/*")
    assert not np.any(found["blocks"]["mlp"]["kernel"][1])


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        ("bloks/*", "'bloks/.' matches no parameter; there are blocks/mlp/bias, "),
        ("head/*,", "'' matches no parameter"),
        ("*", "leaves nothing to train"),
        ("patch_embed/*, final_norm/*, head/*, blocks/[0-3]/*", "leaves nothing to train"),
        ("blocks/4/*", "'blocks/4/.' matches no parameter; there are .* blocks/0/ to blocks/3/"),
        ("blocks/0", "'blocks/0' matches no parameter"),
        ("blocks/0/head/*", "matches no parameter"),
        ("blocks/[0-11]/*", "'blocks/.0-11./.': a range in brackets is of single digits"),
    ],
)
def test_patterns_that_cannot_be_meant_are_refused(patterns, said):
    with pytest.raises(UserError, match=said):
        updates(freeze=patterns)
