"""Runs for the tests of the page: records, and a small one with maps of its own."""

import numpy as np
import pytest
import torch

from xgradcam.cam.explanation import Explanation
from xgradcam.pictures.framing import Framing
from xgradcam.pictures.paint import DEFAULT_STYLE
from xgradcam.runs.gallery import write_gallery
from xgradcam.runs.page_maps import facts_of_page, maps_script, page_pictures

# By commands of the browser that Playwright has for Chromium alone, or by what is the same in both.
ONLY_IN_CHROMIUM = pytest.mark.parametrize("browsers", ["Chromium"], indirect=True)

HOSTILE = [
    "</script><script>document.title='owned'</script>",
    "<!-- <script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "\"'`&amp;&#60;",
    "line\u2028separator\u2029s",
    "50% #1? a+b;c:d \\ ~",
    "猫 🐈 é e\u0301",
    "javascript:alert(1)",
    "$title ${records} $$ {title}",
]


def record(image="photos/cat.jpg", **changes):
    """A record as the run's JSON has it; its pictures need not exist."""
    return {
        "image": image,
        "class_index": 285,
        "class_name": "n02124075 Egyptian cat",
        "score": 8.0,
        "probability": 0.19,
        "rank": 2,
        "model": "efficientnet-lite0",
        "layer": "bn2",
        "photograph": "photograph.jpg",
        "files": {"grad-cam": "cam.jpg", "xgrad-cam": "X_cam.jpg"},
        "notes": [],
        **changes,
    }


SIZE = (56, 40)
SHAPE = (84, 60)
METHODS = ["grad-cam", "xgrad-cam", "layer-cam"]
BLANK = "no positive evidence: the layer-cam map has no positive value; its picture is the photograph"


def signed(seed, height, width, middle=0.3):
    return np.random.default_rng(seed).normal(middle, 1, (height, width))


def explanation(maps, share=(1.0, 1.0), notes=()):
    tensors = {name: torch.as_tensor(values[None]) for name, values in zip(METHODS, maps, strict=True)}
    return Explanation(tensors, torch.ones(1), (tuple(notes),), share=share)


# Layers of one photograph; of each a map of another kind for each method.
LAYERS = {
    "late": explanation(
        [signed(0, 7, 5), signed(1, 7, 5, 4), -np.abs(signed(2, 7, 5))], notes=[BLANK, "plain"]
    ),
    "early": explanation([signed(3, 80, 70), signed(4, 28, 20), np.full((3, 2), 2.0)]),
    "padded": explanation([signed(5, 14, 10), signed(6, 1, 9), signed(7, 112, 80)], share=(0.8, 0.7)),
}
FUSED = " + ".join(LAYERS)


def live_run(folder, framing=None, outline=None, style=DEFAULT_STYLE):
    """A run of one photograph, two classes, three layers and their fused maps, without pictures."""
    photograph = np.full((*SHAPE, 3), (0, 128, 0), np.uint8)
    every = list(LAYERS.values())
    views = [*([one] for one in every), every]
    pictures = page_pictures(photograph)
    script = maps_script(views * 2, outline, framing or Framing(SIZE), SHAPE, pictures.small)
    (folder / "cat_photograph.jpg").write_bytes(pictures.large)
    (folder / "cat_maps.js").write_bytes(script)
    records = []
    for target in (285, 967):
        for name, view in zip([*LAYERS, FUSED], views, strict=True):
            alone = len(view) == 1
            records.append(
                record(
                    "cat.jpg", class_index=target, class_name=f"n00000000 class {target}", layer=name,
                    photograph="cat_photograph.jpg", page_maps="cat_maps.js", files={},
                    notes=list(view[0].notes[0]) if alone else [],
                    **({"conservation_error": dict.fromkeys(METHODS, 0.25)} if alone else {}),
                    **facts_of_page(view),
                )
            )  # fmt: skip
    write_gallery(folder, records, "Live", style)
    return folder
