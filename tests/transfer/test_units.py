"""Memory units that are merged, against the formulas of the attention in NumPy."""

import numpy as np
import pytest

from eanet.models.attention import NORMS
from eanet.transfer.units import Memory, merge

WIDTH, TOKENS = 5, 9
VALUES = np.random.default_rng(0)
QUERIES = VALUES.normal(size=(TOKENS, 3, WIDTH))  # of three heads


def memory(units, seed=0):
    values = np.random.default_rng(seed)
    shapes = (WIDTH, units), units, (units, WIDTH)
    return Memory(*(values.normal(size=shape) for shape in shapes))


def repeated(memory, units):
    return Memory(memory.keys[:, units], memory.bias[units], memory.values[units])


def read(memory, norm, groups=1):
    """`[N, H, h]` in float64: Y of the attention, but for the bias of the values."""
    logits = QUERIES @ memory.keys + memory.bias
    logits = logits.reshape(*logits.shape[:2], -1, groups)
    if norm in ("double", "softmax_tokens"):
        weights = np.exp(logits) / np.exp(logits).sum(0)
        if norm == "double":
            weights = weights / (1e-9 + weights.sum(2, keepdims=True))
    elif norm == "softmax_memory":
        weights = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    else:
        weights = logits
    return weights.reshape(TOKENS, 3, -1) @ memory.values


def difference(one, other, norm, groups=1):
    """Largest of what is read, in units of its deviation."""
    whole = read(one, norm, groups)
    return np.abs(whole - read(other, norm, groups)).max() / whole.std()


@pytest.mark.parametrize("norm", sorted(NORMS.keys() - {"double"}))
def test_units_that_stand_twice_or_more_merge_to_the_same_function(norm):
    twice = repeated(memory(4), [0, 1, 1, 2, 0, 3, 1])
    found = merge(twice, 4, norm)
    assert difference(twice, found, norm) < 1e-12
    if norm == "softmax_memory":  # which allows for any bias, and so do the values
        twice = Memory(twice.keys, memory(7).bias, memory(7).values)
        assert difference(twice, merge(twice, 4, norm), norm) < 1e-12


def test_units_that_all_stand_as_often_merge_to_the_same_function_of_the_double_norm():
    """The softmax over the tokens cancels the bias; values may be any."""
    thrice = repeated(memory(4), [0, 1, 2, 3] * 3)
    thrice = Memory(thrice.keys, memory(12).bias, memory(12).values)
    assert difference(thrice, merge(thrice, 4, "double"), "double") < 1e-6  # the epsilon


def test_with_the_double_norm_a_unit_that_stood_twice_is_what_it_was_once():
    once = memory(4)
    found = merge(repeated(once, [0, 1, 2, 3, 1]), 4, "double")
    for part, expected in zip(found, once, strict=True):
        np.testing.assert_allclose(part, expected, rtol=1e-12)


@pytest.mark.parametrize("norm", ["double", "softmax_memory"])
def test_where_all_values_are_equal_they_are_what_is_read(norm):
    constant = memory(6)._replace(values=np.ones((6, WIDTH)))
    np.testing.assert_allclose(read(merge(constant, 2, norm), norm), 1.0, rtol=1e-6)


@pytest.mark.parametrize("norm", sorted(NORMS))
def test_units_nearly_equal_merge_to_nearly_the_same_function(norm):
    """To first order in what the keys differ by: a tenth of it is a hundredth of the error."""
    errors = []
    for size in (1e-2, 1e-3):
        near = repeated(memory(4), [0, 1, 2, 3, 0, 1, 2, 3])
        near = near._replace(keys=near.keys + size * memory(8, seed=1).keys)
        errors.append(difference(near, merge(near, 4, norm), norm))
    assert errors[0] < 1e-3 and errors[1] < errors[0] / 50 + 1e-12


def by_members(memory, size, norm):
    """The same from sets of units, each key, bias and value from all of its members anew."""
    mass = np.exp(memory.bias) if norm == "softmax_memory" else np.ones(len(memory.bias))

    def mean(part, units):
        return (part[units] * mass[units, None]).sum(0) / mass[units].sum()

    def similarity(one, other):
        a, b = mean(memory.keys.T, one), mean(memory.keys.T, other)
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    sets = [[unit] for unit in range(len(mass))]
    while len(sets) > size:
        pairs = [(similarity(a, b), a, b) for i, b in enumerate(sets) for a in sets[:i]]
        _, first, second = max(pairs)
        sets.remove(second)
        first += second
    times = [len(units) if norm in ("none", "softmax_tokens") else 1 for units in sets]
    bias = [mean(memory.bias[:, None], units)[0] for units in sets]
    return Memory(
        np.stack([mean(memory.keys.T, units) for units in sets], 1),
        np.log([mass[units].sum() for units in sets]) if norm == "softmax_memory" else bias,
        np.stack([mean(memory.values, units) * m for units, m in zip(sets, times, strict=True)]),
    )


@pytest.mark.parametrize("norm", sorted(NORMS))
def test_the_nearest_are_merged_again_and_again(norm):
    for seed in range(3):
        found, expected = merge(memory(9, seed), 3, norm), by_members(memory(9, seed), 3, norm)
        for part, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(part, wanted, rtol=1e-9)


def test_near_is_of_one_direction_whatever_the_length():
    keys = np.array([[1.0, 0.0], [0.9, 0.8], [5.0, 0.1], [0.0, 0.0]]).T
    found = merge(Memory(keys, np.zeros(4), np.eye(4, 2)), 3, "double")
    np.testing.assert_allclose(found.keys.T, [[3.0, 0.05], [0.9, 0.8], [0.0, 0.0]])


@pytest.mark.parametrize("norm", ["double", "softmax_memory"])
def test_units_are_merged_in_their_group(norm):
    twice = repeated(memory(4), [0, 1, 0, 1, 2, 3, 2, 3])  # unit s is of group s mod 2
    found = merge(twice, 4, norm, groups=2)
    np.testing.assert_allclose(found.keys, memory(4).keys)
    assert difference(twice, found, norm, groups=2) < 1e-6
    apart = repeated(memory(4), [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(*(merge(apart, 4, norm, 2).keys[:, of::2] for of in range(2)))


def test_weights_of_any_size_stay_finite():
    large = memory(6)._replace(bias=np.array([1e4, -1e4, 1e4, 0, -1e4, 1e3]))
    assert all(np.isfinite(part).all() for part in merge(large, 1, "softmax_memory"))
