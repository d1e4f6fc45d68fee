import pytest

from eanet import devices
from tests.helpers.training_cases import mesh_of


@pytest.mark.parametrize("batch_size, count", [(8, 2), (7, 1), (2, 2), (1, 1)])
def test_the_mesh_has_as_many_devices_as_divide_the_batch(batch_size, count):
    assert devices.make_mesh(batch_size).size == count


@pytest.mark.parametrize(
    "num_devices, batch_size, microbatch_size, in_cache, expected",
    [
        (2, 128, 0, 0, 2),
        (2, 128, 0, 4, 4),
        (1, 128, 0, 100, 8),
        (2, 12, 0, 8, 6),
        (2, 22, 0, 8, 1),
        (2, 128, 64, 4, 32),
        (1, 12, 5, 4, 4),
        (2, 8, 1000, 4, 4),
        (2, 8, 1, 4, 1),
    ],
)
def test_a_microbatch_divides_the_share_of_a_device(
    num_devices, batch_size, microbatch_size, in_cache, expected
):
    mesh = mesh_of(num_devices)
    assert devices.microbatch(mesh, batch_size, microbatch_size, in_cache) == expected
