"""Event files of TensorBoard, read without it."""


def values(path):
    """The values in an event file, in their order."""
    from tensorboardX.proto.event_pb2 import Event

    data = path.read_bytes()
    while data:
        length = int.from_bytes(data[:8], "little")
        yield from Event.FromString(data[12 : 12 + length]).summary.value
        data = data[16 + length :]
