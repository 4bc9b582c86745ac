"""The complete maps that `proof-verify --maps` draws and writes."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from xgradcam.cli.proof_report import Row, grid_of, share
from xgradcam.errors import CannotWriteError, XGradCamError
from xgradcam.files import make_folder, open_regular

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from xgradcam.capture.layers import Layer
    from xgradcam.pictures.photograph import Photograph
    from xgradcam.scores.score import Score

FIGURE, ARRAYS = "maps", "maps.npz"
# Formats of the figure.
PNG, JPG, VECTORS = "png", "jpg", ("pdf", "svg")
# Dots per inch of a figure, and the words on its colours.
DPI, LABEL = 150, "evidence, as a share\nof each map's largest"
METHOD = "complete-cam"
# Maps in the figure, beside those of the input; fewer layers than these are not left out.
MOST, FEW = 11, 8
HEIGHT, WIDEST = 288, 480


def layers_to_draw(layers: "Sequence[Layer]") -> list[str]:
    """The names of at most `MOST` of the layers, in their order: the last of each size, others in between.

    Where there are enough blocks, the layers inside of them are left out.
    """
    names = [layer.name for layer in layers]
    outer = [
        layer for layer in layers if not any(layer.name.startswith(f"{other}.") for other in names if other)
    ]
    layers = outer if len(outer) >= FEW else layers
    last = {grid_of(layer): place for place, layer in enumerate(layers)}
    places = set(last.values())
    while len(places) < min(MOST, len(layers)):
        known = sorted({-1, *places})
        before, after = max(pairwise(known), key=lambda pair: pair[1] - pair[0])
        places.add((before + after) // 2)
    return [layers[place].name for place in sorted(places)[-MOST:]]


def complete_maps(
    model: "nn.Module", inputs: "Tensor", layers: Sequence[str], score_of: "Score"
) -> "dict[str, NDArray[np.float32]]":
    """The complete map at each layer that has one: signed, (h, w), float32."""
    from xgradcam.cam.explain import explain_score
    from xgradcam.lending.precision import FLOAT32, computing_in

    maps = {}
    problem = None
    for layer in layers:
        try:
            with computing_in(FLOAT32, inputs.device.type):
                found = explain_score(model, inputs, layer, score_of, [METHOD])
        except XGradCamError as error:
            problem = error
            continue
        maps[layer] = found.maps[METHOD][0].float().cpu().numpy()
    if not maps:
        raise XGradCamError(f"no complete map at these layers: {problem}")
    return maps


def write_maps(
    folder: Path,
    photograph: "Photograph",
    maps: "Mapping[str, NDArray[np.float32]]",
    rows: Mapping[str, Row],
    title: str,
    kind: str = PNG,
) -> None:
    """Write the figure, of a kind of `FORMATS`, and the arrays into the folder."""
    from xgradcam.files import write_files

    captions = {}
    for layer, signed in maps.items():
        height, across = signed.shape
        captions[layer] = f"{layer}, {height} x {across}, features {share(rows[layer].parts['feature'])}"
    named = {captions[layer]: signed for layer, signed in maps.items()}
    draw = _vector if kind in VECTORS else _raster
    picture = draw(photograph, named, title, kind)
    try:
        write_files({folder / f"{FIGURE}.{kind}": picture, folder / ARRAYS: _npz(maps)})
    except CannotWriteError as error:
        raise XGradCamError(f"{error}: make room there, or choose another folder for --maps") from None


def _raster(
    photograph: "Photograph", maps: "Mapping[str, NDArray[np.float32]]", title: str, kind: str
) -> bytes:
    """The photograph and the maps over it side by side, as PNG or JPEG. maps: by their captions."""
    import cv2
    import numpy as np

    from xgradcam.pictures.panel import panel
    from xgradcam.pictures.photograph import encode_jpeg
    from xgradcam.pictures.signed import signed_overlay

    width = min(WIDEST, max(HEIGHT // 2, round(HEIGHT * photograph.shape[1] / photograph.shape[0])))
    shown = np.asarray(cv2.resize(photograph, (width, HEIGHT), interpolation=cv2.INTER_AREA), np.uint8)
    pictures = {"photograph": shown}
    for caption, signed in maps.items():
        pictures[caption] = signed_overlay(shown, signed)
    figure = panel(pictures, title, "red: for the class, blue: against; features: their share of the score")
    return encode_jpeg(figure) if kind == JPG else _png(figure)


def _vector(
    photograph: "Photograph", maps: "Mapping[str, NDArray[np.float32]]", title: str, kind: str
) -> bytes:
    """The same as a figure of PDF or SVG, with one colour bar, whose text stays text."""
    import numpy as np
    import torch

    from xgradcam.figures.comparing import Comparison, in_rows
    from xgradcam.figures.figure import Look, Shown, content_of_figure, plain, safe
    from xgradcam.figures.sizing import at_size
    from xgradcam.layouts.padding import WHOLE
    from xgradcam.pictures.marks import marked
    from xgradcam.pictures.signed import signed_shares

    height, width = photograph.shape[:2]
    size = (
        max(1, round(height * HEIGHT / max(height, width))),
        max(1, round(width * HEIGHT / max(height, width))),
    )
    cells = [
        Shown(
            signed_shares(at_size(torch.from_numpy(np.asarray(signed)), size, WHOLE)).astype(np.float64),
            (float(width), float(height)), LABEL, caption, photograph,
        )
        for caption, signed in maps.items()
    ]  # fmt: skip
    rows = tuple(map(tuple, in_rows(cells)))
    figure = Comparison(rows, ("",) * len(rows), Look(True, None, None, (-1.0, 1.0)), "all").figure(DPI)
    across, down = figure.get_size_inches()
    figure.set_size_inches(across, down + 0.4)
    safe(figure.suptitle(plain(title), fontsize="medium"))
    return marked(content_of_figure(figure, kind, DPI), kind)


def _png(picture: "Photograph") -> bytes:
    from PIL import Image, PngImagePlugin

    from xgradcam.proof.plot import MARK

    marked = PngImagePlugin.PngInfo()
    marked.add_text("Creator", MARK)
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "PNG", pnginfo=marked)
    return content.getvalue()


def _npz(maps: "Mapping[str, NDArray[np.float32]]") -> bytes:
    """An array for each layer, by its name; the archive's comment is our mark."""
    import numpy as np

    from xgradcam.proof.plot import MARK

    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for layer, signed in maps.items():
            with archive.open(f"{layer}.npy", "w") as file:
                np.lib.format.write_array(file, np.ascontiguousarray(signed), allow_pickle=False)
        archive.comment = MARK.encode()
    return content.getvalue()


def files_in(folder: Path, kind: str = PNG) -> list[Path]:
    """The files that `write_maps` writes; the folder is made, if it is missing."""
    if folder.exists() and not folder.is_dir():
        raise XGradCamError(f"cannot make the folder {folder}: a file has that name")
    make_folder(folder)
    return [folder / f"{FIGURE}.{kind}", folder / ARRAYS]


def is_ours(path: Path) -> bool:
    """True for a plot, a figure or maps that an earlier call has written."""
    from xgradcam.pictures.marks import is_marked_picture
    from xgradcam.proof.plot import MARK, is_plot

    try:
        with open_regular(path) as file:
            content = file.read()
    except (OSError, XGradCamError):
        return False
    if path.suffix == ".npz":
        return content.endswith(MARK.encode())
    return is_plot(content) or is_marked_picture(content)
