"""From --score to the score of a run: what it means for this model and these photographs."""

import argparse
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xgradcam.cli.bands import bands_of
from xgradcam.cli.looking import Look, has_texts, is_classifier, look_at
from xgradcam.cli.score_options import KINDS, Asked, asked_of, numbers_in
from xgradcam.errors import NothingFoundError, XGradCamError, shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from xgradcam.models.classifier import Classifier
    from xgradcam.pictures.framing import Framing
    from xgradcam.runs.scoring import Scoring, Shape
    from xgradcam.scores.score import Score

Say = Callable[[str], None]
# Words for the kinds, before "of interest".
WHAT = {"box": "detection", "similar": "likeness", "class": "class"}
# Options that are for classes alone.
OF_CLASSES = {"guided": "--guided", "augment": "--augment", "probability": "--probability"}


def scoring_of(arguments: argparse.Namespace, classifier: "Classifier", say: Say) -> "Scoring | None":
    """The score that the arguments and the model mean; None for a class. `say` is told of a default."""
    asked = None if arguments.score is None else asked_of(arguments.score)
    if asked is None and is_classifier(arguments.model):
        return None
    if asked is not None and asked.kind == "class":
        return None
    look = look_at(classifier)
    asked = _default(arguments, classifier, look, say) if asked is None else asked
    if asked is None:
        return None
    given = [option for name, option in OF_CLASSES.items() if getattr(arguments, name, None)]
    if given:
        raise XGradCamError(f"{given[0]} is for classes, and this explains {asked}: leave it out")
    return _Maker(arguments, classifier, look, say, asked).scoring()


def contrast_of(arguments: argparse.Namespace) -> list[str] | None:
    """The other classes of a contrast that --score asks for; None if it asks for none."""
    asked = None if arguments.score is None else asked_of(arguments.score)
    if asked is not None and arguments.contrast:
        raise XGradCamError("--contrast and --score: give one of them")
    return _classes_in(asked.value) if asked is not None and asked.kind == "contrast" else None


def _classes_in(value: str) -> list[str]:
    """The classes of a contrast: indices with commas between them, or one name, which may hold commas."""
    return value.split(",") if re.fullmatch(r"[+\d,\s]+", value) else [value]


def score_files(arguments: argparse.Namespace) -> list[str]:
    """The files that --score names."""
    if getattr(arguments, "score", None) is None:
        return []
    asked = asked_of(arguments.score)
    named = asked.kind == "similar" or (asked.kind == "region" and os.path.isfile(asked.value))
    return [asked.value] if named else []


def _is_default(arguments: argparse.Namespace) -> bool:
    """True if --target-index was not given, or asks for the highest score."""
    return arguments.target_index in ("-1", ["-1"])


def _default(arguments: argparse.Namespace, classifier: "Classifier", look: Look, say: Say) -> Asked | None:
    """The score by what the model returns; None for a class."""
    if look.kind == "class" and has_texts(classifier):
        raise XGradCamError(
            f'{classifier.name} compares photographs and texts: give --score text:"a cat", or similar:FILE'
        )
    if look.kind == "":
        raise XGradCamError(
            f"{classifier.name} returns {look.why}: if these are boxes and class scores (N, 4 + classes, "
            "anchors), give --score box:0; else --output says where the scores are"
        )
    if look.kind == "value":
        # Of a class, where anything about classes is given.
        if classifier.labels is not None or not _is_default(arguments) or _of_classes(arguments):
            return None
        say("the model returns one number: explaining it (--score value:0; --score class: as a class)")
        return Asked("value", "0")
    if look.kind == "box":
        say("the model returns detections: explaining the best one (--score box:0)")
        return Asked("box", "0")
    if look.kind == "region":
        if not _is_default(arguments):
            raise XGradCamError(
                f"{classifier.name} returns a segmentation: give the class by --score region:CLASS"
            )
        say(
            "the model returns a segmentation: explaining its largest class where it says so (--score region)"
        )
        return Asked("region")
    return None


def _of_classes(arguments: argparse.Namespace) -> bool:
    return any(getattr(arguments, name, None) for name in OF_CLASSES)


@dataclass(frozen=True)
class _Maker:
    """Makes the score of a run from what is asked for; a method for each kind."""

    arguments: argparse.Namespace
    classifier: "Classifier"
    look: Look
    say: Say
    asked: Asked

    def scoring(self) -> "Scoring":
        from xgradcam.runs.scoring import Scoring

        kind = self.asked.kind
        takes_class = kind in ("contrast", "box", "pixel") or self._mask() is not None
        if not takes_class and not _is_default(self.arguments):
            raise XGradCamError(
                f"--target-index is for classes, and this explains {self.asked}: leave it out"
            )
        make, said = getattr(self, f"_{kind}")()
        what = WHAT.get(kind, kind)
        return Scoring(str(self.asked), what, make, self.classifier.labels, said)

    def _class(self, value: str) -> int | None:
        from xgradcam.cli.setup import class_index

        return class_index(value, self.classifier.labels, self.say)

    def _target(self) -> int | None:
        """The class of --target-index; None for the model's own."""
        from xgradcam.cli.setup import TOP

        given = self.arguments.target_index
        values = [given] if isinstance(given, str) else given
        if len(values) != 1 or TOP.fullmatch(values[0]):
            raise XGradCamError(
                f"--score {self.asked} takes one class by --target-index, not {shown(values)}"
            )
        return self._class(values[0])

    def _contrast(self) -> "tuple[Callable[..., Score], str]":
        from xgradcam.scores.score import Contrast

        given = map(self._class, _classes_in(self.asked.value))
        others = tuple(one for one in given if one is not None)
        target = self._target()
        if target in others:
            raise XGradCamError(
                f"--score {self.asked} has the class of interest, {target}: name other classes"
            )
        score = Contrast(target, others, output=self.classifier.output)
        return (lambda _framing, _shapes: score), ""

    def _region(self) -> "tuple[Callable[..., Score], str]":
        from xgradcam.scores.regions import PredictedRegion

        if (path := self._mask()) is not None:
            return self._masked(path)
        labels = self.classifier.labels or ()
        background = [i for i, label in enumerate(labels) if label.strip("_ ").lower() == "background"]
        target = self._class(self.asked.value) if self.asked.value else None
        score = PredictedRegion(target, self.look.output, background[0] if background else None)
        return (lambda _framing, _shapes: score), ""

    def _mask(self) -> str | None:
        """The path of the mask that a region names; None for a class."""
        value = self.asked.value
        if self.asked.kind != "region" or not value or re.fullmatch(r"[+-]?\d+", value):
            return None
        looks_like_a_file = bool(re.search(r"[./\\]\w{2,5}$", value)) and self.classifier.labels is None
        return value if os.path.isfile(value) or looks_like_a_file else None

    def _masked(self, path: str) -> "tuple[Callable[..., Score], str]":
        import torch

        from xgradcam.pictures.masks import read_mask
        from xgradcam.scores.regions import RegionMean

        mask, target = read_mask(path), self._target()
        planes = self._planes()

        def make(framing: "Framing", shapes: "Sequence[Shape]") -> "Score":
            regions = [self._on_planes(mask, planes, framing, shape) for shape in shapes]
            return RegionMean(target, torch.stack(regions), self.look.output)

        return make, f", in {path}"

    def _planes(self) -> tuple[int, int]:
        """Height and width of the segmentation; XGradCamError for a model that returns none."""
        if self.look.kind != "region":
            raise XGradCamError(
                f"--score {self.asked} needs a segmentation, class scores (N, classes, H, W), and "
                f"{self.classifier.name} returns none: --output says where it is, if it is beside others"
            )
        return self.look.planes

    def _on_planes(
        self, mask: "NDArray[np.bool_]", planes: tuple[int, int], framing: "Framing", shape: "Shape"
    ) -> "Tensor":
        """The share of each of the segmentation's pixels in the mask, (h, w)."""
        import cv2
        import numpy as np
        import torch

        if mask.shape != tuple(shape):
            raise NothingFoundError(
                f"the mask is {mask.shape[1]} x {mask.shape[0]} pixels, the photograph {shape[1]} x "
                f"{shape[0]}: give a mask of the photograph's size"
            )
        white = np.repeat(np.uint8(255) * mask[..., None], 3, axis=2).astype(np.uint8)
        seen = framing.pixels(white)[..., 0].astype(np.float32) / 255
        shares = cv2.resize(seen, planes[::-1], interpolation=cv2.INTER_AREA)
        if not shares.any():
            raise NothingFoundError(
                "the mask is black or transparent where the network sees the photograph: nothing is in it"
            )
        return torch.from_numpy(np.asarray(shares))

    def _box(self) -> "tuple[Callable[..., Score], str]":
        import numpy as np
        import torch

        from xgradcam.scores.boxes import BoxScore

        target, output = self._target(), self.classifier.output
        rank, corners = numbers_in(self.asked, 1), numbers_in(self.asked, 4)
        if rank is not None and rank[0] >= 0 and rank[0].is_integer():
            score = BoxScore(int(rank[0]), target, output)
            return (lambda _framing, _shapes: score), ""
        right = corners is not None and corners[0] < corners[2] and corners[1] < corners[3]
        if corners is None or not right or not np.isfinite(corners).all():
            raise XGradCamError(f"--score {self.asked}: give {KINDS['box']}, with x0 < x1 and y0 < y1")
        points = np.array(corners).reshape(2, 2)

        def make(framing: "Framing", shapes: "Sequence[Shape]") -> "Score":
            size = framing.size[::-1] if self.look.relative else (1, 1)
            for height, width in shapes:
                shares = points / (width, height)
                if not (shares[0] < 1).all() or not (shares[1] > 0).all() or abs(shares).max() > 2:
                    raise NothingFoundError(
                        f"--score {self.asked} lies outside of a photograph of {width} x {height} pixels"
                    )
            boxes = [(framing.in_input(points, shape) / size).flatten() for shape in shapes]
            return BoxScore(torch.from_numpy(np.stack(boxes)), target, output)

        return make, ""

    def _pixel(self) -> "tuple[Callable[..., Score], str]":
        import numpy as np
        import torch

        from xgradcam.scores.regions import PixelScore

        numbers, target = numbers_in(self.asked, 2), self._target()
        if numbers is None:
            raise XGradCamError(f"--score {self.asked}: give {KINDS['pixel']}")
        scale = np.array(self._planes()[::-1])

        def make(framing: "Framing", shapes: "Sequence[Shape]") -> "Score":
            places = []
            for shape in shapes:
                at = (framing.in_input(np.array(numbers) + 0.5, shape) / framing.size[::-1] * scale).tolist()
                if not all(0 <= place < most for place, most in zip(at, scale.tolist(), strict=True)):
                    raise NothingFoundError(
                        f"--score {self.asked}: the network sees no such pixel of a photograph of "
                        f"{shape[1]} x {shape[0]}"
                    )
                places.append([int(at[1]), int(at[0])])
            return PixelScore(target, torch.tensor(places), self.look.output)

        return make, f", at {self.asked.value}"

    def _text(self) -> "tuple[Callable[..., Score], str]":
        from xgradcam.scores.text import Text

        module = self.classifier.module
        if not has_texts(self.classifier):
            raise XGradCamError(
                f"{self.classifier.name} encodes no texts: --score text needs a model with "
                "get_image_features and get_text_features, or encode_image and encode_text, such as CLIP"
            )
        own = getattr(module, "tokenizer", None) or getattr(module, "processor", None)
        tokenizer = self.classifier.tokenizer or own
        if tokenizer is None:
            raise XGradCamError(
                f"{self.classifier.name} has no tokenizer: set one as the model's attribute `tokenizer`"
            )
        score = Text(self.asked.value, tokenizer, module, self.classifier.output)
        return (lambda _framing, _shapes: score), self.asked.value

    def _similar(self) -> "tuple[Callable[..., Score], str]":
        from xgradcam.cli.setup import range_of
        from xgradcam.lending.borrowing import borrowed
        from xgradcam.runs.sources import read_photograph
        from xgradcam.scores.outputs import is_scores, select_output
        from xgradcam.scores.score import Similarity

        # As the photographs that are explained.
        bands = bands_of(self.arguments, self.classifier, lambda _line: None)
        reading = read_photograph(self.asked.value, range_of(self.arguments), bands=bands)
        for line in reading.notes:
            self.say(f"{self.asked.value}: {line}")
        pixels = reading.photograph if reading.bands is None else reading.bands
        crop = bool(getattr(self.arguments, "crop", False))
        with borrowed(self.classifier.module) as run:
            embedding = select_output(run(self.classifier.inputs(pixels, crop)), self.classifier.output)
        if not is_scores(embedding) or embedding.ndim != 2:
            raise XGradCamError(
                f"--score {self.asked} needs a model that returns features (N, D), alone or at --output"
            )
        score = Similarity(embedding[0].detach().clone(), self.classifier.output)
        return (lambda _framing, _shapes: score), f"to {self.asked.value}"

    def _value(self) -> "tuple[Callable[..., Score], str]":
        from xgradcam.scores.single import Regression

        number = numbers_in(self.asked, 1)
        if number is None or not number[0].is_integer() or number[0] < 0:
            raise XGradCamError(f"--score {self.asked}: give {KINDS['value']}, such as value:0")
        score = Regression(int(number[0]), self.classifier.output)
        return (lambda _framing, _shapes: score), f"output {int(number[0])}"
