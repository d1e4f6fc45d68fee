from eanet.workdir.tensorboard import write_hparams


def test_the_settings_come_before_the_scalars(tmp_path):
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    for _ in range(2):  # a run that goes on keeps the file
        write_hparams(tmp_path, {"model.memory_size": 4, "model.norm": "double"})
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert path.name < "events.out.tfevents.000000"
    data, start = path.read_bytes(), None
    while data:
        length = int.from_bytes(data[:8], "little")
        for value in Event.FromString(data[12 : 12 + length]).summary.value:
            content = HParamsPluginData.FromString(value.metadata.plugin_data.content)
            assert value.metadata.plugin_data.plugin_name == "hparams"
            start = content.session_start_info if value.tag.endswith("start_info") else start
        data = data[16 + length :]
    assert start.hparams["model.memory_size"].number_value == 4
    assert start.hparams["model.norm"].string_value == "double"
