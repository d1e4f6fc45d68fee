import pytest

from eanet.cluster.address import Address, address_of
from eanet.errors import UserError


def test_without_flags_there_is_no_address():
    assert address_of(None, None, None) is None


def test_three_flags_are_an_address():
    assert address_of("node7:1234", 4, 3) == Address("node7:1234", 4, 3)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("node7:1234", None, None), "--num_processes and --process_id missing"),
        ((None, 2, 0), "--coordinator missing"),
        (("node7", 2, 0), "--coordinator=node7 must be HOST:PORT"),
        (("node7:", 2, 0), "must be HOST:PORT"),
        (("node7:1234", 2, 2), "--process_id=2 must be less than --num_processes=2"),
    ],
)
def test_what_cannot_be_is_refused(flags, said):
    with pytest.raises(UserError, match=said):
        address_of(*flags)
