"""Writes a trained model as a file for other programs.

Before the file is left, what it is for runs it on 64 images of the test split; if a probability
differs by more than 1e-5 there is no file. What was written and measured stands beside it, in
FILE.json.
"""

import argparse
import hashlib
import os
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from eanet import files, libraries, rules
from eanet.cli import Parser
from eanet.display.console import Console
from eanet.environment import environment
from eanet.errors import UserError
from eanet.export import check
from eanet.export.form import Form, Images
from eanet.export.formats import FORMATS, Format
from eanet.inference.load import load
from eanet.inference.model import Model
from eanet.inference.place import ABOUT, Place
from eanet.training.run import build_model

_BATCH = rules.Number(1, 65_536, whole=True)
_ELSEWHERE = "make room, or write it elsewhere"


def main(arguments: list[str], prog: str) -> None:
    """The command `export`."""
    options = _parse(arguments, prog)
    format, form = FORMATS[options.format], Form(options.batch, options.bare)
    for library in format.libraries:
        libraries.require(library, "requirements-export.txt")
    place = Place.of(options.run)
    out = place.out(options.out, f"export/model{format.ending}")
    _refuse_taken(out, format)
    console = Console()
    model = load(place.text, options.checkpoint, log=console.warn)
    if not format.run_type and (dtype := model.config.model.dtype) != "float32":
        model = _in_float32(model)
        console.note(f"written in float32, of a run that computes in {dtype}")
    files.check_place(out, _ELSEWHERE)
    content = format.write(model, form)
    images, which = check.images_for(model, options.dataset, options.data_dir, console)
    difference = _difference(model, out.name, content, format, form, images)
    measured = f"largest difference of a probability {difference:.1e}"
    on = f"on {len(images)} images, {which}"
    if not difference <= check.TOLERANCE:  # so NaN fails too
        raise UserError(
            f"{format.runner} does not compute what the model does: {measured} {on}, more than "
            f"{check.TOLERANCE:g}; nothing is written"
        )
    record = {
        "format": options.format,
        "bytes": len(content),
        "sha256_of_file": hashlib.sha256(content).hexdigest(),
        "run": place.name,
        "step": model.step,
        **_interface(model, form),
        "run_by": format.runner,
        "libraries": {name: metadata.version(name) for name in format.libraries},
        "images": which,
        "num_images": len(images),
        "largest_difference": difference,
        "tolerance": check.TOLERANCE,
        **environment(),
    }
    files.write(out, content, _ELSEWHERE)
    files.write_record(_record_of(out), record, _ELSEWHERE)
    console.note(f"run again by {format.runner} {on}: {measured}")
    console.note(f"written to {out}, {len(content):,} bytes; recorded in {_record_of(out).name}")


def _parse(arguments: list[str], prog: str) -> argparse.Namespace:
    parser = Parser(prog, __doc__)
    parser.add_argument("run", metavar="RUN", help=ABOUT)
    formats = "; ".join(f"{name}: {format.about}" for name, format in FORMATS.items())
    parser.add_argument("--format", required=True, choices=FORMATS, help=formats)
    parser.add_argument("--out", metavar="FILE", help="default: RUN/export/model.ENDING")
    parser.add_argument("--checkpoint", default="best", help="best (the default), latest or a step")
    parser.add_argument(
        "--batch", type=int, metavar="N", help="images at once; default: any number (programs only)"
    )
    parser.add_argument(
        "--bare",
        action="store_true",
        help="the network alone: normalised images in and logits out, in place of pixels from 0 to "
        "255 and probabilities (programs only)",
    )
    parser.add_argument("--dataset", metavar="NAME", help="other data to check on")
    parser.add_argument("--data_dir", metavar="DIR", help="where the data to check on is")
    options = parser.parse_args(arguments)
    if not FORMATS[options.format].program:
        for flag in ("batch", "bare"):
            if getattr(options, flag):
                raise UserError(
                    f"--{flag} is about programs, and --format={options.format} is none"
                )
    if options.batch is not None:
        rules.check({"batch": _BATCH}, {"batch": options.batch}, "--")
    return options


def _in_float32(model: Model) -> Model:
    """The same parameters, with which it computes in float32.

    Two programs round to a shorter type in different places, so that neither could be held to what
    the other answers.
    """
    config = model.config.copy_and_resolve_references()
    with config.unlocked():
        config.model.dtype = config.model.param_dtype = "float32"
    network = build_model(config, len(model.class_names), model.image_shape)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), model.params)
    return Model(config, model.record, model.step, params, network)


def _refuse_taken(out: Path, format: Format) -> None:
    if not out.name.endswith(format.ending):
        raise UserError(f"the name of this file must end in {format.ending}: {out}")
    for path in (out, _record_of(out)):
        if os.path.lexists(path):
            raise UserError(f"{path} is there already; remove it, or choose another name")


def _record_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.json")


def _difference(
    model: Model, name: str, content: bytes, format: Format, form: Form, images: Images
) -> float:
    """As `check.largest_difference`, of a file that nobody takes for the export yet."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / name
        file.write_bytes(content)
        return check.largest_difference(model, file, format, form, images)


def _interface(model: Model, form: Form) -> dict[str, Any]:
    """What goes into the file and what comes out."""
    batch = form.batch or "batch"
    image = ", ".join(map(str, model.image_shape))
    return {
        "input": f"{form.dtype}[{batch}, {image}], {form.input}",
        "output": f"float32[{batch}, {len(model.class_names)}], {form.output}",
        "class_names": model.class_names,
        "mean": model.record.mean,
        "std": model.record.std,
        "resize": model.record.resize_policy,
    }
