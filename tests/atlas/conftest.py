import dataclasses

import pytest

import eanet
from eanet.data.load import load_dataset
from eanet.training.run import build_model


@pytest.fixture(scope="session")
def model(trained):
    return eanet.load(trained)


@pytest.fixture(scope="session")
def examples(model):
    return load_dataset(**model.config.dataset, log=print).test[:300]


@pytest.fixture
def changed(model):
    """A copy of the model with other parameters of its attention, and other options."""

    def change(options=None, **attention):
        config = model.config.copy_and_resolve_references()
        config.model.update(options or {})
        blocks = model.params["blocks"]
        blocks = {**blocks, "attention": {**blocks["attention"], **attention}}
        network = build_model(config, len(model.class_names), model.image_shape)
        params = {**model.params, "blocks": blocks}
        return dataclasses.replace(model, config=config, params=params, network=network)

    return change
