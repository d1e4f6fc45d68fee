import socket

import pytest

from eanet.cluster.relay import Relay


def connected(server, relay):
    """Both ends of a connection through the relay."""
    host, _, port = relay.address.rpartition(":")
    near = socket.create_connection((host, int(port)), timeout=10)
    far, _ = server.accept()
    far.settimeout(10)
    return near, far


def test_what_is_sent_arrives_in_both_directions():
    with socket.create_server(("127.0.0.1", 0)) as server:
        relay = Relay(f"127.0.0.1:{server.getsockname()[1]}")
        near, far = connected(server, relay)
        near.sendall(b"question")
        assert far.recv(100) == b"question"
        far.sendall(b"answer")
        assert near.recv(100) == b"answer"
        near.close()
        assert far.recv(100) == b""  # the other side learns that this one has ended
    assert not relay.lost.wait(0.2)


def test_where_the_target_ends_the_connection_stays_and_it_is_told():
    with socket.create_server(("127.0.0.1", 0)) as server:
        relay = Relay(f"127.0.0.1:{server.getsockname()[1]}")
        near, far = connected(server, relay)
        far.close()
        assert relay.lost.wait(10)
        near.settimeout(0.2)
        with pytest.raises(TimeoutError):
            near.recv(100)  # nothing comes, and no end


def test_a_target_that_is_not_there_yet_is_not_lost():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    relay = Relay(f"127.0.0.1:{port}")
    host, _, own = relay.address.rpartition(":")
    with socket.create_connection((host, int(own)), timeout=10) as near:
        assert near.recv(100) == b""  # closed, so that JAX tries again
    assert not relay.lost.is_set()
