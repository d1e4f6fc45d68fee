"""What the page shows, and how it answers an image."""

from pathlib import Path
from typing import Any

from eanet.atlas import sheets
from eanet.atlas.markup import SHEETS, text
from eanet.atlas.photos import Viewer
from eanet.errors import UserError, as_line, printable

# A sheet scrolls in itself; without the containment it would make the page of Gradio as wide.
STYLE = f"""{SHEETS}
.scroll {{ contain: inline-size }}
summary {{ cursor: pointer; padding: .3rem 0 }}
.gradio-container {{ width: 100%; max-width: 68rem; margin: 0 auto }}
"""
_NARROW = 300  # pixels: beside one another on a screen, below one another on a phone


def answer(viewer: Viewer, path: str | None) -> tuple[dict[str, float] | None, str]:
    """Probabilities of the likeliest classes of an image file, and HTML with the attention on it.

    Without a file there is neither; of a file that is no image the HTML says what is wrong.
    """
    if path is None:
        return None, ""
    try:
        (photo,) = viewer.files([path])
    except UserError as error:
        place, sent = as_line(path), as_line(Path(path).name)  # nobody knows where it was put
        return None, f"<p>{text(str(error).replace(place, sent))}</p>"
    attention = sheets.of_photo(photo, viewer.grid, "photo", units=viewer.units)
    return (
        {printable(name): probability for name, probability in photo.predicted},
        f"<p>{text(sheets.explained(viewer.units))}</p>{attention}",
    )


def build(gradio: Any, viewer: Viewer, name: str, about: str) -> Any:
    """The page as `gradio.Blocks`, about a run of this name."""
    with gradio.Blocks(title=printable(name), analytics_enabled=False) as page:
        gradio.HTML(f"<h1>{text(name)}</h1><p>{text(about)}</p>")
        with gradio.Row():
            image = gradio.File(label="Image", file_types=["image"], height=180, min_width=_NARROW)
            classes = gradio.Label(label="Likeliest classes", min_width=_NARROW)
        attention = gradio.HTML()
        image.change(
            lambda path: answer(viewer, path), image, [classes, attention], api_name="answer"
        )
    return page
