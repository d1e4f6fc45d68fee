from dataclasses import dataclass
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eanet import devices
from eanet.errors import UserError
from tests.helpers.training_cases import mesh_of


@pytest.mark.parametrize("batch_size, count", [(8, 2), (7, 1), (2, 2), (1, 1)])
def test_the_mesh_has_as_many_devices_as_divide_the_batch(batch_size, count):
    assert devices.make_mesh(batch_size).size == count


@pytest.mark.parametrize(
    "num_devices, batch_size, microbatch_size, at_once, expected",
    [
        (2, 128, 0, 4, 4),
        (1, 128, 0, 100, 64),
        (1, 128, 0, 2**62, 128),
        (2, 12, 0, 8, 6),
        (2, 22, 0, 8, 1),
        (2, 128, 64, 4, 32),
        (1, 12, 5, 4, 4),
        (2, 8, 1000, 4, 4),
        (2, 8, 1, 4, 1),
    ],
)
def test_a_microbatch_divides_the_share_of_a_device(
    num_devices, batch_size, microbatch_size, at_once, expected
):
    mesh = mesh_of(num_devices)
    assert devices.microbatch(mesh, batch_size, microbatch_size, at_once) == expected


@dataclass(frozen=True)
class Chip:
    """A device of a pod."""

    process_index: int
    id: int


def test_the_devices_of_a_process_are_neighbours_in_a_mesh(monkeypatch):
    """In whatever order a pod's topology has them."""
    fakes = [Chip(process, 4 * process + number) for number in range(4) for process in (1, 0, 2)]
    monkeypatch.setattr(devices, "Mesh", lambda array, names, axis_types: array)
    monkeypatch.setattr(jax, "devices", lambda: fakes)
    array = devices.make_mesh(24)
    assert [each.process_index for each in array] == [0] * 4 + [1] * 4 + [2] * 4
    for process in range(3):
        own = [each for each in array if each.process_index == process]
        mesh = SimpleNamespace(devices=array, local_devices=own, size=12)
        assert devices.own_part(mesh, 24) == slice(8 * process, 8 * process + 8)


def test_more_than_a_device_has_is_refused(monkeypatch):
    mesh = devices.make_mesh(2)
    monkeypatch.setattr(devices, "physical_memory", lambda: mesh.size * 1000 + 90)
    devices.check_memory(1000 - 90, 90, mesh)
    for model, data in ((1001 - 90, 90), (1000 - 90, 91), (0, 2000)):
        with pytest.raises(UserError, match=r"at least .* GB of memory.* lower model\.embed_dim"):
            devices.check_memory(model, data, mesh)


def test_a_part_of_a_gpu_that_does_not_suffice_is_said(monkeypatch):
    device = SimpleNamespace(memory_stats=lambda: {"bytes_limit": 4e9})
    mesh = SimpleNamespace(devices=np.array([device]), local_devices=[device], size=1)
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "0.25")
    devices.check_memory(10**9, 10**9, mesh)
    told = (
        r"a device has 4\.0 GB by XLA_CLIENT_MEM_FRACTION=0\.25; .* or start fewer processes on it$"
    )
    with pytest.raises(UserError, match=told):
        devices.check_memory(10**10, 0, mesh)


def test_what_is_broadcast_is_the_same_to_the_last_bit():
    tree = {
        "zeros": np.array([0.0, -0.0, np.nan], np.float32),
        "count": np.int32(-7),
        "half": np.ones((2, 0, 3), np.float16),
        "bits": np.arange(256, dtype=np.uint8).reshape(16, 16),
    }
    received = devices.broadcast(tree, devices.make_mesh(2))
    for name, array in tree.items():
        assert received[name].shape == array.shape and received[name].dtype == array.dtype
        assert received[name].tobytes() == array.tobytes()


def test_a_shortage_is_one_line():
    def run_out():
        raise MemoryError

    for use_up in (run_out, lambda: jnp.zeros(2**46).block_until_ready()):
        with pytest.raises(UserError, match=r"(?i)^out of memory|RESOURCE_EXHAUSTED"):
            devices.refusals()(use_up)()
    with pytest.raises(ZeroDivisionError), devices.refusals():
        _ = 1 / 0
