"""Weights of one model as the start of another."""

import jax
import numpy as np
import pytest

from eanet.checkpoints import storage
from eanet.errors import UserError
from eanet.models.attention import NORMS
from eanet.models.eanet import EANet
from eanet.models.functional import split_model
from eanet.models.stems import STEMS
from eanet.transfer.fit import fit
from eanet.transfer.units import Memory, merge
from eanet.transfer.weights import Weights

SMALL = {"patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2, "head_dim": 4}
SMALL |= {"memory_size": 4, "mlp_dim": 8}
NAMES = ("cat", "dog", "owl")


def model(image_shape=(8, 8, 1), classes=3, **options):
    options = SMALL | options
    return split_model(lambda rngs: EANet(classes, image_shape, rngs=rngs, **options)), options


def random_params(network, seed):
    """Values to be told apart; the model's own initial ones take long to compile."""
    values = np.random.default_rng(seed)
    shapes = jax.eval_shape(network.init, 0)
    return jax.tree.map(lambda leaf: values.normal(size=leaf.shape).astype(leaf.dtype), shapes)


def weights(names=NAMES, **options):
    network, options = model(**options)
    grid = network.abstract.patch_embed.grid
    return Weights("runs/old", random_params(network, 0), grid, options, names)


def fitted(source, names=NAMES, **options):
    network, options = model(classes=len(names), **options)
    initial = random_params(network, 1)
    params, rows = fit(
        source,
        initial,
        grid=network.abstract.patch_embed.grid,
        model=options,
        class_names=names,
    )
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, initial)
    return params, initial, {row.name: row.outcome for row in rows}


def equal(one, other):
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


def test_a_model_of_the_same_form_starts_as_the_other_ended():
    source = weights()
    params, _, outcomes = fitted(source)
    assert equal(params, source.params)
    assert set(outcomes.values()) == {"taken"}


def test_other_classes_have_a_new_head_and_nothing_else_is_new():
    source = weights()
    params, initial, outcomes = fitted(source, ("hen", "ant", "Cat"))
    assert equal(params["head"], initial["head"])
    assert equal(params["blocks"], source.params["blocks"])
    new = {name: said for name, said in outcomes.items() if said != "taken"}
    assert new == {"head/bias": "new: other classes", "head/kernel": "new: other classes"}


@pytest.mark.parametrize("attention", ["external", "self"])
@pytest.mark.parametrize("size", [2, 8])
def test_a_width_as_large_as_the_memory_is_no_number_of_units(attention, size):
    assert SMALL["head_dim"] == SMALL["memory_size"]
    source = weights(attention=attention)
    with pytest.raises(UserError, match=r"model\.head_dim is 4 there"):
        fitted(source, attention=attention, head_dim=size, memory_size=size)


@pytest.mark.parametrize(
    ("names", "old", "said"),
    [
        (("owl", "cat", "dog"), [2, 0, 1], "3 of 3 classes, by name"),
        (("owl", "cat"), [2, 0], "2 of 2 classes, by name, 1 left"),
        (
            ("ant", "dog", "cat", "hen", "owl"),
            [None, 1, 0, None, 2],
            "3 of 5 classes, by name, 2 new",
        ),
        (("ant", "owl"), [None, 2], "1 of 2 classes, by name, 1 new, 2 left"),
    ],
)
def test_the_head_is_taken_by_the_names_of_classes(names, old, said):
    source = weights()
    params, initial, outcomes = fitted(source, names)
    for part in ("kernel", "bias"):
        assert outcomes[f"head/{part}"] == f"taken: {said}"
        found, own, there = (tree["head"][part] for tree in (params, initial, source.params))
        for here, column in enumerate(old):
            expected = own[..., here] if column is None else there[..., column]
            np.testing.assert_array_equal(found[..., here], expected)


def test_blocks_and_memory_units_are_taken_from_the_first_on():
    source = weights()
    params, initial, outcomes = fitted(source, depth=3, memory_size=6)
    keys, old, own = (
        np.asarray(tree["blocks"]["attention"]["key_memory"])
        for tree in (params, source.params, initial)
    )
    np.testing.assert_array_equal(keys[:2, :, :4], old)
    np.testing.assert_array_equal(keys[2], own[2])
    np.testing.assert_array_equal(keys[:, :, 4:], own[:, :, 4:])
    assert outcomes["blocks/attention/key_memory"] == "taken: 2 blocks, 1 new; 4 units, 2 new"
    assert outcomes["blocks/mlp/out/kernel"] == "taken: 2 blocks, 1 new"


@pytest.mark.parametrize("norm", sorted(NORMS))
def test_units_that_are_too_many_are_merged_block_by_block(norm):
    source = weights(depth=3, memory_size=6, norm=norm)
    params, _, outcomes = fitted(source, norm=norm)
    names = "key_memory", "key_memory_bias", "value_memory"
    old, new = (
        [tree["blocks"]["attention"][name] for name in names] for tree in (source.params, params)
    )
    for block in range(2):
        expected = merge(Memory(*(part[block] for part in old)), 4, norm)
        for part, wanted in zip(new, expected, strict=True):
            np.testing.assert_array_equal(part[block], wanted.astype(np.float32))
    for name in names:
        said = "taken: the first 2 of 3 blocks, 1 left; 6 units merged into 4"
        assert outcomes[f"blocks/attention/{name}"] == said
    assert (
        outcomes["blocks/attention/value_memory_bias"] == "taken: the first 2 of 3 blocks, 1 left"
    )


@pytest.mark.parametrize(("implementation", "groups"), [("plain", 2), ("fast", 1)])
def test_a_model_of_units_that_all_stood_twice_answers_as_before(implementation, groups):
    """The units of a group alternate, and merged they have the place of the first."""
    options = {"implementation": implementation, "norm_groups": groups}
    source = weights(memory_size=8, **options)
    attention = source.params["blocks"]["attention"]
    for name, axis in (("key_memory", 2), ("key_memory_bias", 1), ("value_memory", 1)):
        attention[name] = np.concatenate([np.take(attention[name], range(4), axis)] * 2, axis)
    params, _, _ = fitted(source, **options)
    images = jax.numpy.asarray(np.random.default_rng(2).normal(size=(5, 8, 8, 1)), "float32")
    before, after = (
        jax.jit(model(memory_size=size, **options)[0].apply)(tree, images)
        for size, tree in ((8, source.params), (4, params))
    )
    np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-4)


def test_embeddings_of_places_follow_the_grid_and_keep_what_is_linear_in_it():
    source = weights(image_shape=(16, 32, 1))  # 4 by 8 tokens
    rows, columns = np.mgrid[:4, :8]
    plane = np.repeat((2.0 * rows + columns).reshape(-1, 1), 8, axis=1).astype(np.float32)
    source.params["patch_embed"]["position_embedding"] = plane
    params, _, outcomes = fitted(source, image_shape=(32, 64, 1))  # 8 by 16
    found = np.asarray(params["patch_embed"]["position_embedding"])[:, 0].reshape(8, 16)
    rows, columns = np.mgrid[:8, :16]
    expected = 2.0 * ((rows + 0.5) / 2 - 0.5) + (columns + 0.5) / 2 - 0.5
    np.testing.assert_allclose(found[3:-3, 3:-3], expected[3:-3, 3:-3], atol=1e-5)
    said = outcomes["patch_embed/position_embedding"]
    assert said == "interpolated from 4×8 to 8×16 tokens"


def test_as_many_tokens_in_another_grid_are_not_taken_for_the_same_places():
    _, _, outcomes = fitted(weights(image_shape=(8, 32, 1)), image_shape=(16, 16, 1))
    said = outcomes["patch_embed/position_embedding"]
    assert said == "interpolated from 2×8 to 4×4 tokens"


def test_what_only_one_side_has_is_said():
    params, initial, outcomes = fitted(weights(local_mixing=True), final_norm=True, patch_size=2)
    assert outcomes["blocks/local_mixing/kernel"] == "left"
    assert outcomes["final_norm/scale"] == "new: the weights have none"
    assert outcomes["patch_embed/projection/kernel"] == "new: other patches or channels"
    assert equal(params["final_norm"], initial["final_norm"])


@pytest.mark.parametrize("stem", sorted(STEMS))
@pytest.mark.parametrize(
    ("there", "here"),
    [
        ({}, {"image_shape": (8, 8, 3)}),
        ({"patch_size": 2}, {"patch_size": 4}),
        ({"patch_size": 8}, {"patch_size": 2}),
        ({"patch_size": 4}, {"patch_size": 8}),
    ],
)
def test_a_module_is_taken_as_a_whole_or_not_at_all(stem, there, here):
    source = weights(stem=stem, **there)
    params, initial, outcomes = fitted(source, stem=stem, **here)
    fates: dict[str, set[str]] = {}
    for name, said in outcomes.items():
        fates.setdefault(name.rpartition("/")[0], set()).add(said)
    assert all(len(said) == 1 for said in fates.values())
    stem = {name for name in fates if name.startswith("patch_embed/")}
    assert "new: other patches or channels" in set().union(*(fates[name] for name in stem))
    named, own = (storage.named(tree) for tree in (params, initial))
    for name in own:
        if outcomes[name].startswith("new"):
            np.testing.assert_array_equal(named[name], own[name])


@pytest.mark.parametrize("key", ["embed_dim", "mlp_dim", "head_dim", "num_heads"])
def test_other_sizes_are_refused_by_name(key):
    said = rf"init_from=runs/old: .* there, .* here \(model.{key} is {SMALL[key]} there, 16 here\)"
    with pytest.raises(UserError, match=said):
        fitted(weights(), **{key: 16})


def test_weights_without_names_of_classes_keep_their_head_where_as_many_are_wanted():
    source = weights(names=())
    params, _, outcomes = fitted(source)
    assert equal(params["head"], source.params["head"])
    said = "taken in their order: the weights do not name their classes"
    assert outcomes["head/kernel"] == outcomes["head/bias"] == said
    _, _, outcomes = fitted(source, ("cat", "dog"))
    assert outcomes["head/kernel"] == "new: other classes"
