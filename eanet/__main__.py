"""The tools beside training, by name: `python -m eanet` lists them.

A tool is a module with `main(arguments, prog) -> exit code or None`, imported when it is called.
"""

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import NoReturn

from eanet import cli, host
from eanet.errors import UserError

TOOLS: dict[str, tuple[str, str]] = {  # name: (module, what it does)
    "prepare": ("eanet.tools.prepare", "download, prepare and cache a data set"),
    "preview": ("eanet.tools.augment_preview", "draw images before and after augmentation"),
    "export": ("eanet.export.command", "write a trained model as a file for other programs"),
    "import-keras": ("eanet.convert.keras_import", "make a run of weights of the Keras example"),
    "export-keras": ("eanet.export.keras_command", "the same as export --format=keras"),
    "verify-keras": ("eanet.convert.keras_verify", "compare the model with Keras, block by block"),
    "launch": ("eanet.tools.launch", "train by several processes on this machine"),
    "verify-resume": ("eanet.tools.verify_resume", "prove that a stopped run ends as any other"),
    "report": ("eanet.sweeps.report", "write the report of a sweep anew"),
    "compare": ("eanet.tools.compare", "compare runs on the same images"),
    "atlas": ("eanet.atlas.command", "show what the memory of a trained run holds"),
    "demo": ("eanet.demo.command", "try a trained run in a browser"),
    "push": ("eanet.tools.push", "put a trained run at the Hugging Face Hub"),
    "latency": ("eanet.sweeps.latency", "measure the models of a sweep, one image at a time"),
}
# These run beside a training, whose accelerator they leave alone.
_COMPUTE_NOTHING = ("launch", "prepare", "report", "compare")


def main() -> NoReturn:
    """Runs the tool that the command line names, and exits as `eanet.cli.run` does."""
    cli.run(lambda: call(sys.argv[1:]))


def call(arguments: Sequence[str]) -> int | None:
    """Calls a tool, or lists them, and returns the exit code; `UserError` for an unknown tool."""
    program = "eanet" if os.path.basename(sys.argv[0]) == "eanet" else "python -m eanet"
    name, *rest = arguments or ["--help"]
    if name in ("--help", "-h"):
        print(f"Tools; `{program} NAME --help` explains one:\n")
        width = max(map(len, TOOLS))
        for tool, (_, summary) in TOOLS.items():
            print(f"  {tool:<{width}}  {summary}")
        return 0
    if name not in TOOLS:
        near = difflib.get_close_matches(name, TOOLS, 1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(TOOLS)}"
        raise UserError(f"{program} has no tool {name!r}; {hint}")
    host.set_up()
    host.import_jax()
    from eanet import devices

    module = importlib.import_module(TOOLS[name][0])
    with nullcontext() if name in _COMPUTE_NOTHING else devices.refusals():
        return module.main(rest, f"{program} {name}")


if __name__ == "__main__":
    main()
