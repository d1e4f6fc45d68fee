import pytest
from training_cases import mesh_of

from eanet import devices


@pytest.mark.parametrize("batch_size, count", [(8, 2), (7, 1), (2, 2), (1, 1)])
def test_the_mesh_has_as_many_devices_as_divide_the_batch(batch_size, count):
    assert devices.make_mesh(batch_size).size == count


@pytest.mark.parametrize(
    "num_devices, batch_size, microbatch_size, expected",
    [
        (2, 128, 0, 8),
        (1, 128, 0, 8),
        (2, 12, 0, 6),
        (2, 22, 0, 1),
        (2, 128, 64, 32),
        (1, 12, 5, 4),
        (2, 8, 1000, 4),
        (2, 8, 1, 1),
    ],
)
def test_images_per_pass_divide_the_share_of_a_device(
    num_devices, batch_size, microbatch_size, expected
):
    assert devices.images_per_pass(mesh_of(num_devices), batch_size, microbatch_size) == expected


@pytest.mark.parametrize("kilobytes, expected", [(1, 8), (128, 8), (256, 4), (1024, 2), (10**6, 2)])
def test_a_pass_on_a_cpu_fits_the_cache_of_a_core(kilobytes, expected):
    assert devices.images_per_pass(mesh_of(2), 128, 0, 1024 * kilobytes) == expected
    assert devices.images_per_pass(mesh_of(2), 128, 32, 1024 * kilobytes) == 16
