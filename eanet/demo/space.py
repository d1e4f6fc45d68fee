"""The folder of a Space of Hugging Face: the page, this package, and the weights of a run.

    app.py             starts `python -m eanet demo` with the run beside it
    requirements.txt   the pins of this project
    README.md          what a Space says of itself
    eanet/             this package
    runs/NAME/         config, classes and statistics, and the weights, as `eanet.load` takes them

Nothing in it tells where training data or first weights lay; the optimizer's state is left out.
"""

import dataclasses
import json
import os
import re
import sys
import tempfile
from pathlib import Path

import jax

import eanet
from eanet import cli, files
from eanet import config as config_lib
from eanet.checkpoints.manager import Checkpoints
from eanet.errors import UserError, printable
from eanet.inference.model import Model
from eanet.workdir import model_record

_APP = '''"""The page of a trained EANet: python app.py, or a Space of Hugging Face."""

import os
from pathlib import Path

from eanet import cli
from eanet.__main__ import call

host = "0.0.0.0" if "SPACE_ID" in os.environ else "127.0.0.1"
run = Path(__file__).with_name("runs") / "NAME"
cli.run(lambda: call(["demo", str(run), f"--host={host}"]))
'''
_ADVICE = "make room, or choose another --space"


def check_place(out: Path) -> None:
    """Raises `UserError` for a folder that is there: it may be somebody's clone of a Space."""
    if os.path.lexists(out):
        raise UserError(f"{out} is there; choose another --space, or move it away")


def write(out: Path, name: str, model: Model) -> None:
    """Writes the folder of a Space for the model of a run of this name.

    Raises:
      UserError: it cannot be written, or this is no checkout, which alone has the pins.
    """
    advice = "write the folder of a Space there"
    pins, own = (
        cli.in_checkout(file, advice).read_text()
        for file in ("requirements.txt", "requirements-demo.txt")
    )
    own = own.replace("-r requirements.txt\n\n", "")
    package = Path(eanet.__file__).parent
    folder = re.sub(r"[^\w.-]", "_", name) or "run"  # whatever stands in a name, not in a program
    content = {
        "app.py": _APP.replace("NAME", folder).encode(),
        "requirements.txt": f"{pins}\n{own}".encode(),
        "README.md": _readme(name, own).encode(),
        **{
            f"eanet/{path.relative_to(package)}": path.read_bytes()
            for path in sorted(package.rglob("*.py"))
        },
        **{f"runs/{folder}/{path}": data for path, data in _run(model).items()},
    }
    files.write_directory(out, content, _ADVICE)


def _readme(name: str, own: str) -> str:
    found = re.search(r"^gradio==(\S+)", own, re.M)
    assert found is not None
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    title = json.dumps(printable(name))  # a string of JSON is one of YAML
    return (
        f"---\ntitle: {title}\nsdk: gradio\nsdk_version: {found[1]}\n"
        f'python_version: "{python}"\napp_file: app.py\n---\n\n'
        "Drop an image: its likeliest classes, and the attention of each block's units on it.\n"
        "Here: `pip install -r requirements.txt`, then `python app.py`.\n"
    )


def _run(model: Model) -> dict[str, bytes]:
    """The files of a run that has this model alone, by name."""
    dataset = model.config.dataset
    kind, colon, place = dataset.name.partition(":")
    name = f"{kind}{colon}{Path(place).name}"
    unplaced = {"dataset.name": name, "dataset.data_dir": "", "init_from": ""}
    config = config_lib.override(model.config, unplaced)
    record = model.record
    if record.data is not None:
        data = dataclasses.replace(record.data, name=name, place=None)
        record = dataclasses.replace(record, data=data)
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch)
        files.write(run / "config.json", config_lib.to_json(config))
        model_record.write(run, record)
        with Checkpoints(run / "checkpoints", config=dict(config_lib.flatten(config))) as saved:
            saved.save(model.step, {"params": jax.device_put(model.params)})
        return {
            path.relative_to(run).as_posix(): path.read_bytes()
            for path in sorted(run.rglob("*"))
            if path.is_file()
        }
