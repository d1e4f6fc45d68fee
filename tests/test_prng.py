"""Are the counter-based bits random enough? Each bound is some 5 standard errors wide.

The seeds are fixed, so a test that passes once passes always.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

from eanet.prng import bits_per_example, random_key

COUNT = 1 << 18


def words(key, shape=(COUNT,), dtype="uint32"):
    return np.asarray(jax.random.bits(key, shape, dtype))


def uniform(bits):
    """Numbers in [−0.5, 0.5) of variance 1/12."""
    return bits.astype(np.float64) / 2.0 ** (8 * bits.dtype.itemsize) - 0.5


def correlation(left, right):
    return 12 * np.mean(uniform(left) * uniform(right))


def assert_uncorrelated(left, right):
    assert abs(correlation(left, right)) < 5 / np.sqrt(left.size)
    # Whole words may be uncorrelated where single bits are not.
    agree = np.unpackbits((~(left ^ right)).view(np.uint8).reshape(-1, 4), axis=1).mean(0)
    assert np.abs(agree - 0.5).max() < 5 * 0.5 / np.sqrt(left.size)


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
def test_each_bit_is_set_in_half_of_the_words(seed):
    bits = np.unpackbits(words(random_key(seed)).view(np.uint8).reshape(-1, 4), axis=1)
    assert np.abs(bits.mean(0) - 0.5).max() < 5 * 0.5 / np.sqrt(COUNT)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.2, 0.5, 0.9])
def test_bernoulli_has_its_mean_and_variance_in_blocks(rate):
    draws = np.asarray(jax.random.bernoulli(random_key(7), rate, (COUNT,)))
    assert abs(draws.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / COUNT)
    # Sums over 64 neighbours vary as those of independent draws do.
    sums = draws.reshape(-1, 64).sum(1)
    assert abs(sums.var() / (64 * rate * (1 - rate)) - 1) < 0.12


def test_words_fill_the_range_evenly():
    counts = np.bincount(words(random_key(1)) >> 20, minlength=4096)
    assert 1e-4 < stats.chisquare(counts).pvalue < 1 - 1e-4


@pytest.mark.parametrize("distance", [1, 2, 16, 64, 256, 4096])
@pytest.mark.parametrize("part", ["high", "low"])
def test_pairs_fill_the_square_evenly(distance, part):
    bits = words(random_key(2))
    digits = bits >> 27 if part == "high" else bits & 31
    counts = np.bincount(digits[:-distance] * 32 + digits[distance:], minlength=1024)
    assert 1e-4 < stats.chisquare(counts).pvalue < 1 - 1e-4


def test_triples_fill_the_cube_evenly():
    digits = words(random_key(3)) >> 28
    counts = np.bincount(digits[:-2] * 256 + digits[1:-1] * 16 + digits[2:], minlength=4096)
    assert 1e-4 < stats.chisquare(counts).pvalue < 1 - 1e-4


@pytest.mark.parametrize("seed", [0, 1, 6, 2**20])
def test_neighbouring_seeds_have_nothing_in_common(seed):
    assert_uncorrelated(words(random_key(seed)), words(random_key(seed + 1)))


def test_no_word_says_anything_about_a_later_one():
    bits = words(random_key(4))
    for lag in (*range(1, 20), 64, 100, 256, 1024, 65_536):
        assert_uncorrelated(bits[:-lag], bits[lag:])


def test_no_period_shows_in_the_spectrum():
    power = np.abs(np.fft.rfft(uniform(words(random_key(5)))))[1:-1] ** 2 * 12 / COUNT
    # Of exponential distribution where all is independent.
    assert abs(power.mean() - 1) < 0.02
    assert power.max() < np.log(COUNT) + 10


def test_no_pattern_shows_in_a_picture():
    picture = uniform(words(random_key(6), (512, 512)))
    for along in (0, 1):
        means = picture.mean(along) * np.sqrt(12 * 512)
        assert np.abs(means).max() < 5 and abs(means.var() - 1) < 0.35
    power = np.abs(np.fft.fft2(picture)) ** 2 * 12 / picture.size
    assert power.max() < np.log(picture.size) + 10


@pytest.mark.parametrize(
    "pair",
    [
        lambda: tuple(jax.random.fold_in(random_key(seed), 1) for seed in (0, 1)),
        lambda: tuple(jax.random.split(random_key(0))),
        lambda: tuple(jax.random.fold_in(random_key(0), step) for step in (41, 42)),
        lambda: (random_key(0), jax.random.split(random_key(0))[0]),
    ],
    ids=["seeds", "split", "fold_in", "parent"],
)
def test_keys_are_independent(pair):
    left, right = (words(key, (1 << 16,)) for key in pair())
    for lag in (0, 1, 2, 3, 256):
        assert_uncorrelated(left[lag:].copy(), right[: len(right) - lag].copy())
        assert_uncorrelated(right[lag:].copy(), left[: len(left) - lag].copy())
    assert len(np.intersect1d(left, right)) < 8  # of 2^32 words, about one by chance


def test_keys_whose_sequences_meet_are_independent_where_they_do():
    """The first words of these keys put their positions 1000 apart in one sequence.

    Low bits by themselves then agree a little too often, numbers and masks do not.
    """
    shift = 1000
    first = np.array([7, 7 + shift * 0x9E3779B9], np.uint64).astype(np.uint32)
    second = np.array([0x243F6A88, 0x85A308D3], np.uint32)
    implementation = jax.random.key_impl(random_key(0))
    data = jnp.asarray(np.stack([first, second], 1))
    left, right = (words(key) for key in jax.random.wrap_key_data(data, impl=implementation))
    left, right = left[shift:], right[:-shift]
    assert abs(correlation(left, right)) < 0.02
    for rate in (0.1, 0.2, 0.5):
        dropped = ((bits < rate * 2**32) - rate for bits in (left, right))
        assert abs(np.mean(np.prod(list(dropped), 0)) / (rate * (1 - rate))) < 0.02


def test_layers_and_steps_draw_independent_masks():
    """As the model does: a key for each step, split over the examples, then over layers."""
    masks = []
    for step in range(3):
        examples = jax.random.split(jax.random.fold_in(random_key(0), step), 3)
        for example in examples:
            for key in jax.random.split(example, 4):
                masks.append(words(key, (4096,)) < 0.2 * 2**32)
    centred = np.stack(masks) - 0.2
    correlations = centred @ centred.T / (4096 * 0.16)
    np.testing.assert_allclose(np.diag(correlations), 1, atol=0.2)
    assert np.abs(correlations - np.diag(np.diag(correlations))).max() < 5 / 64


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_narrow_words(dtype):
    bits = words(random_key(8), dtype=dtype)
    assert bits.dtype == dtype
    assert 1e-4 < stats.chisquare(np.bincount(bits & 255, minlength=256)).pvalue < 1 - 1e-4
    assert abs(correlation(bits[1:], bits[:-1])) < 5 / np.sqrt(COUNT)


def test_wide_words():
    with jax.enable_x64(True):
        bits = words(random_key(9), (COUNT // 4,), "uint64")
    assert bits.dtype == np.uint64
    high, low = (bits >> np.uint64(32)).astype(np.uint32), bits.astype(np.uint32)
    assert_uncorrelated(high, low)
    assert len(np.unique(bits)) == bits.size


@pytest.mark.parametrize(
    "batch_axis, implementation",
    [(0, "counter"), (1, "counter"), (2, "counter"), (3, "counter"), (1, "threefry2x32")],
)
def test_bits_per_example_are_those_of_each_key(batch_axis, implementation):
    keys = jax.random.split(random_key(5, implementation), 3)
    example = (2, 5, 4)
    shape = (*example[:batch_axis], 3, *example[batch_axis:])
    bits = bits_per_example(keys, shape, batch_axis)
    assert bits.shape == shape and bits.dtype == jnp.uint32
    single = np.moveaxis(bits, batch_axis, 0)[1]
    np.testing.assert_array_equal(single, words(keys[1], example))
    mapped = jax.vmap(lambda key: jax.random.bits(key, example), out_axes=batch_axis)(keys)
    np.testing.assert_array_equal(bits, mapped)


def test_keys_are_split_and_folded_by_threefry():
    counter = random_key(11)
    threefry = jax.random.wrap_key_data(jax.random.key_data(counter), impl="threefry2x32")
    for derive in (
        lambda key: jax.random.split(key, (3, 2)),
        lambda key: jax.random.fold_in(key, 5),
        lambda key: jax.vmap(lambda k: jax.random.fold_in(k, 2**32 - 1))(jax.random.split(key, 4)),
    ):
        np.testing.assert_array_equal(
            jax.random.key_data(derive(counter)), jax.random.key_data(derive(threefry))
        )


def test_it_is_a_generator_like_any_other():
    key = random_key(12)
    keys = jax.random.split(key, 3)
    assert abs(np.mean(jax.random.uniform(keys[0], (10_000,))) - 0.5) < 0.015
    assert stats.kstest(np.asarray(jax.random.normal(keys[1], (10_000,))), "norm").pvalue > 1e-3
    order = np.asarray(jax.random.permutation(keys[2], 1000))
    np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    assert abs(stats.spearmanr(order, np.arange(1000)).statistic) < 0.15
    dropped = nnx.Dropout(0.25, deterministic=False)(jnp.ones(10_000), rngs=key)
    assert abs(np.mean(dropped == 0) - 0.25) < 0.02
    assert str(jax.random.key_impl(key)) != str(jax.random.key_impl(random_key(0, "threefry2x32")))


def test_bits_are_the_same_in_jit_and_in_parts():
    key = random_key(13)
    expected = words(key, (40, 50))
    draw = jax.jit(lambda key: jax.random.bits(key, (40, 50)))
    np.testing.assert_array_equal(draw(key), expected)
    np.testing.assert_array_equal(words(key, (2000,)), expected.reshape(-1))
