"""Evaluations without their pictures: to draw them takes two seconds, most of what they take."""

import io

from PIL import Image

from eanet import files


def leave_undrawn(patch) -> None:
    """From now on evaluations write empty pictures, until `patch`, a `MonkeyPatch`, is undone."""
    picture = io.BytesIO()
    Image.new("RGB", (1, 1)).save(picture, "png")
    for name in ("calibration", "confusion", "mistakes"):
        patch.setattr(f"eanet.display.evaluation_pictures.draw_{name}", lambda *_: None)
    patch.setattr("eanet.display.plot_style.saved", lambda *_: picture.getvalue())

    def plot_curves(workdir, title, figures):
        for kind in figures:
            files.write(workdir / f"curves.{kind}", picture.getvalue())

    patch.setattr("eanet.inference.evaluate.plot_curves", plot_curves)
