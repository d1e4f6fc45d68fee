import jax.numpy as jnp
import pytest

from eanet.checkpoints import manifest
from eanet.checkpoints.manager import Checkpoints
from eanet.errors import UserError

# Of an attention that this project has never seen.
CONFIG = {"model.attention": "toy", "model.toy_width": 3, "optimizer.name": "sgd", "seed": 0}


def state(width):
    return {"params": {"blocks": {"attention": {"toy": jnp.ones((2, width))}}}}


def refusal(directory, width, config):
    with (
        pytest.raises(UserError, match="does not fit this config") as caught,
        Checkpoints(directory, config=config) as checkpoints,
    ):
        checkpoints.restore("latest", state(width))
    return str(caught.value)


@pytest.fixture
def directory(tmp_path):
    with Checkpoints(tmp_path / "c", config=CONFIG) as checkpoints:
        checkpoints.save(1, state(3))
    return tmp_path / "c"


def test_keys_of_any_attention_are_named(directory):
    said = refusal(directory, 5, CONFIG | {"model.toy_width": 5, "seed": 1})
    assert "model.toy_width is 3 in the checkpoint and 5 here; params/blocks" in said
    assert "seed" not in said and "model.attention" not in said
    said = refusal(directory, 5, CONFIG | {"model.attention": "other", "optimizer.name": "adamw"})
    assert "model.attention is toy in the checkpoint and other here" in said
    assert "optimizer.name is sgd in the checkpoint and adamw here" in said


def test_where_no_config_is_known_the_tensors_tell(directory):
    """As of a checkpoint of the first version, which recorded none."""
    said = refusal(directory, 5, {})
    assert "toy is float32[2, 3] in the checkpoint and float32[2, 5] here" in said
    assert "model." not in said
    metadata = manifest.metadata_of(directory / "1")
    first = {key: metadata[key] for key in ("step", "val_accuracy", "tensors", "format")}
    manifest.amend(directory / "1", first | {"version": 1})
    said = refusal(directory, 5, {**CONFIG, "model.attention": "external"})
    assert "model.attention is self in the checkpoint and external here" in said
    with Checkpoints(directory, config=CONFIG) as checkpoints:
        assert checkpoints.restore("latest", state(3))[0] == 1
        checkpoints.save(1, state(3), val_accuracy=0.5)
        checkpoints.wait()
    metadata = manifest.metadata_of(directory / "1")
    assert (metadata["version"], metadata["val_accuracy"]) == (2, 0.5)
    assert metadata["config"]["model.attention"] == "toy"
