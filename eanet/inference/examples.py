"""What a model is evaluated on: its own data, or other data that was asked for."""

import os
from dataclasses import dataclass

from eanet.data.base import Log, Split
from eanet.data.load import load_part
from eanet.data.sources import refuse_unread
from eanet.data.splits import split_validation
from eanet.errors import UserError
from eanet.inference.model import Model
from eanet.workdir.model_record import SplitRecord, difference


@dataclass(frozen=True)
class Examples:
    """Examples with the labels of a model."""

    split: Split
    fingerprint: str  # of the part of the data set that they are taken from
    other: str | None = None  # name of the data set where it is not what the model was trained on


def load_examples(
    model: Model, split: str, *, dataset: str | None = None, data_dir: str | None = None, log: Log
) -> Examples:
    """Loads one split alone, mapping its classes to those of the model by their names.

    The split is "test", "val" or "train", divided as the run divides it. Other data is asked for by
    its name in `dataset`, or by `data_dir`, where it is prepared or the folder itself; images of
    another size than the model's are then resized as the model's record says.

    Raises:
      UserError: the data cannot be had, is empty or does not suit the model; or it is not what the
        model was trained on, and neither `dataset` nor `data_dir` asks for it.
    """
    record, config = model.record.data, model.config
    divided = split != "test" and (record is None or record.holds_out)
    asked = dataset is not None or data_dir is not None
    name = config.dataset.name if dataset is None else dataset
    if dataset is None and data_dir is not None and name.startswith("folder:"):
        name = f"folder:{data_dir}"
    elif data_dir is not None:
        refuse_unread(data_dir, name)
    place = None if asked or record is None else record.place
    try:
        part = load_part(
            name,
            "train" if divided else split,
            class_names=model.class_names,
            image_shape=model.image_shape,
            bits=model.record.bits,
            image_size=model.image_shape[:2] if asked else config.dataset.image_size,
            resize=model.record.resize_policy,
            test_fraction=config.dataset.test_fraction,
            on_bad_image=config.dataset.on_bad_image,
            streaming=config.dataset.streaming,
            data_dir=config.dataset.data_dir if data_dir is None else data_dir,
            place=place,
            log=log,
        )
    except UserError as error:
        if place is None or os.path.exists(place):
            raise
        raise UserError(
            f"the data of this run is no longer in {place} ({error}); say by --data_dir=DIR where"
        ) from None
    examples = part.split
    if divided:
        fraction, how = config.dataset.val_fraction, config.dataset.val_split
        train, val = split_validation(examples, fraction, how, config.seed)
        examples = train if split == "train" else val
    if not len(examples):
        raise UserError(f"the {split} split of {name} is empty")
    # Where nothing is recorded, what was not asked for by name is taken for the model's own.
    now = SplitRecord(len(examples), part.fingerprint)
    change = difference(record.splits[split], now) if record else asked
    if change and not asked:
        here = f"folder:{part.place}" if name.startswith("folder:") else name
        raise UserError(
            f"the data is not what the model was trained on: {split} of {part.place or name} has "
            f"{change}. Restore it, or evaluate on it as other data by --dataset={here}"
        )
    return Examples(examples, part.fingerprint, name if change else None)
