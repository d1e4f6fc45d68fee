from eanet.workdir.tensorboard import write_hparams, write_reported
from tests.helpers.event_files import values


def test_the_settings_come_before_the_scalars(tmp_path):
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    for _ in range(2):  # a run that goes on keeps the file
        write_hparams(tmp_path, {"model.memory_size": 4, "model.norm": "double"})
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert path.name < "events.out.tfevents.000000"
    found = {}
    for value in values(path):
        assert value.metadata.plugin_data.plugin_name == "hparams"
        content = HParamsPluginData.FromString(value.metadata.plugin_data.content)
        found[content.WhichOneof("data")] = content
    start = found["session_start_info"].session_start_info
    assert start.hparams["model.memory_size"].number_value == 4
    assert start.hparams["model.norm"].string_value == "double"
    # TensorBoard joins the run of the settings and the group to the run of the scalars.
    metrics = [each.name for each in found["experiment"].experiment.metric_infos]
    assert [(name.group, name.tag) for name in metrics] == [
        ("report", "val_accuracy"), ("report", "test_accuracy")
    ]  # fmt: skip


def test_what_the_report_says_is_replaced(tmp_path):
    write_reported(tmp_path, 3, {"val_accuracy": 0.5})
    assert not list(tmp_path.iterdir())  # no run of a sweep
    write_hparams(tmp_path, {"seed": 0})
    for scalars in ({"val_accuracy": 0.5, "test_accuracy": 0.25}, {"val_accuracy": 0.75}):
        write_reported(tmp_path, 3, scalars)
        (path,) = (tmp_path / "tensorboard/report").iterdir()
        assert {value.tag: value.simple_value for value in values(path)} == scalars
