"""The measures of an atlas, against their definitions in NumPy, float64, and planted structure."""

import numpy as np
import pytest
from scipy.special import entr

from eanet.atlas import measure

ignore = lambda _: None  # noqa: E731


@pytest.fixture(scope="module")
def measured(model, examples):
    return measure.units(model, examples, ignore)


@pytest.fixture(scope="module")
def maps(model, examples):
    return [a.astype(np.float64) for a in model.attention_maps(examples.images)]


def cosine(a, b):
    return (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())


def test_shares_and_entropies_are_those_of_all_maps(measured, maps):
    for block, a in zip(measured, maps, strict=True):
        share = a.sum((0, 1, 2)) / a.sum()
        np.testing.assert_allclose(block["share"], share, rtol=1e-5)
        np.testing.assert_allclose(block["share"], a.mean((0, 1, 2)), rtol=1e-5)
        by_head = a.sum((0, 2)) / a.sum((0, 2, 3))[:, None]
        np.testing.assert_allclose(block["share_by_head"], by_head, rtol=1e-5)
        over_units = entr(a / a.sum(3, keepdims=True)).sum(3).mean((0, 2)) / np.log(8)
        np.testing.assert_allclose(block["entropy_over_units"], over_units, rtol=1e-5)
        over_tokens = entr(a / a.sum(2, keepdims=True)).sum(2).mean((0, 1)) / np.log(a.shape[2])
        np.testing.assert_allclose(block["entropy_over_tokens"], over_tokens, rtol=1e-5)
        assert block["effective_units"] == pytest.approx(np.exp(entr(share).sum()), rel=1e-5)


def test_similarities_are_cosines(measured, maps, model):
    keys = np.asarray(model.params["blocks"]["attention"]["key_memory"], np.float64)
    for block, a, key in zip(measured, maps, keys, strict=True):
        for s, t in ((0, 0), (1, 5), (7, 2)):
            same = cosine(a[..., s], a[..., t])
            assert block["attention_similarity"][s, t] == pytest.approx(same, abs=1e-5)
            same = cosine(key[:, s], key[:, t])
            assert block["key_similarity"][s, t] == pytest.approx(same, abs=1e-9)


def test_profiles_are_ratios_to_the_mean(measured, maps, examples):
    for block, a in zip(measured, maps, strict=True):
        mean = a.mean((0, 1, 2))
        ofs = [a[examples.labels == label].mean((0, 1, 2)) / mean for label in range(10)]
        np.testing.assert_allclose(block["classes"], np.stack(ofs, 1), rtol=1e-5)
        np.testing.assert_allclose(block["positions"].T, a.mean((0, 1)) / mean, rtol=1e-5)


def test_the_best_patch_of_each_image_is_kept(measured, maps):
    for block, a in zip(measured, maps, strict=True):
        scores = a.mean(1)
        best = np.sort(scores.max(1), axis=0)[::-1][: measure.PATCHES]
        found = block["patches"]
        np.testing.assert_allclose(found["score"].T, best, rtol=1e-6)
        for unit in range(8):
            assert len(set(found["image"][unit])) == measure.PATCHES
            at = scores[found["image"][unit], found["token"][unit], unit]
            np.testing.assert_allclose(at, found["score"][unit], rtol=1e-6)


def test_batches_change_nothing(measured, model, examples, monkeypatch):
    monkeypatch.setattr(measure, "_BATCH", 7)
    again = measure.units(model, examples, ignore)
    for one, other in zip(measured, again, strict=True):
        np.testing.assert_array_equal(one["patches"]["image"], other["patches"]["image"])
        np.testing.assert_allclose(one["share"], other["share"], rtol=1e-6)
        np.testing.assert_allclose(one["classes"], other["classes"], rtol=1e-6)


def test_planted_twins_and_dead_units_are_found(changed, model, examples):
    memory = model.params["blocks"]["attention"]
    keys, bias = (np.array(memory[name]) for name in ("key_memory", "key_memory_bias"))
    keys[0, :, 6], bias[0, 6] = keys[0, :, 2], bias[0, 2]
    bias[1, 3] = -1e4  # softmax over the units leaves nothing for it
    planted = changed({"norm": "softmax_memory"}, key_memory=keys, key_memory_bias=bias)
    first, second = measure.units(planted, examples, ignore)
    assert [2, 6] in first["twins"].tolist() and not len(first["dead"])
    assert second["dead"].tolist() == [3] and second["share"][3] == 0
    assert np.isnan(second["classes"][3]).all() and second["entropy_over_tokens"][3] == 0


def test_a_unit_that_answers_light_patches_is_shown_with_them(changed, model, examples):
    """The first feature of a token is made its brightness, and one key to ask for that."""
    import dataclasses

    attention = model.params["blocks"]["attention"]
    query, keys = (np.zeros_like(attention[n]) for n in ("query_kernel", "key_memory"))
    query[0, 0, :, 0] = 1
    keys[0, 0, 5] = 1
    planted = changed(query_kernel=query, key_memory=keys)
    embed = {
        "position_embedding": np.zeros_like(model.params["patch_embed"]["position_embedding"]),
        "projection": {n: np.zeros_like(v) for n, v in
                       model.params["patch_embed"]["projection"].items()},
    }  # fmt: skip
    embed["projection"]["kernel"][:, 0] = 1
    embed["projection"]["bias"][1] = 5.0
    planted = dataclasses.replace(planted, params={**planted.params, "patch_embed": embed})
    found = measure.units(planted, examples, ignore)[0]
    images = examples.images[..., 0].reshape(-1, 2, 4, 2, 4).mean((2, 4)).reshape(-1, 4)
    patches = found["patches"]
    for image, token in zip(patches["image"][5], patches["token"][5], strict=True):
        assert token == images[image].argmax()


def test_rollout_is_the_product_of_half_attention_and_half_residual():
    a = np.random.default_rng(0).dirichlet(np.ones(5), (3, 2, 4, 5)).astype(np.float32)
    found = measure.rollout(list(a))
    mixing = (a.mean(2) + np.eye(5)) / 2
    np.testing.assert_allclose(found[0], mixing[0], rtol=1e-5)
    np.testing.assert_allclose(found[2], mixing[2] @ mixing[1] @ mixing[0], rtol=1e-5)
    np.testing.assert_allclose(np.asarray(found[2]).sum(2), 1, rtol=1e-5)


@pytest.mark.parametrize("units", [1, 2])
def test_one_unit_has_all_attention(units):
    kept = measure.of_images(np.full((3, 2, 4, units), 1 / units, np.float32))
    sums = measure.UnitSums(np.array([3]))
    sums.add({n: np.asarray(v) for n, v in kept.items()}, np.zeros(3, int), 0)
    result = sums.result(np.ones((2, units)))
    np.testing.assert_allclose(result["share"], 1 / units)
    assert result["entropy_over_units"] == pytest.approx([0.0 if units == 1 else 1.0] * 2)
    assert len(result["twins"]) == units - 1
