"""The report of a run as one HTML page that holds its pictures and loads nothing."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from string import Template

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from xgradcam.cam.explanation import heatmap
from xgradcam.cam.methods import METHODS, title_of
from xgradcam.errors import XGradCamError
from xgradcam.evaluation.clusters import FEWEST, Maps, typical, unusual
from xgradcam.evaluation.overview import Explained, Overview, Record, signed_map
from xgradcam.evaluation.overview_words import (
    class_words,
    confidence,
    facts,
    first_name,
    group_words,
    half,
    mean_of,
    number,
    percent,
    place_words,
    right,
    text,
    wrong,
)
from xgradcam.figures.sizing import at_size
from xgradcam.files import write_files
from xgradcam.layouts.padding import WHOLE
from xgradcam.pictures.paint import Style, colours_of, paint
from xgradcam.pictures.photograph import Photograph
from xgradcam.pictures.signed import signed_shares
from xgradcam.runs.gallery import PAGE, page_part
from xgradcam.runs.outputs import REPORT
from xgradcam.runs.verdicts import right_of

# Pictures of a group, and pairs of pictures of the whole page: so its size is bounded, at about 10 MB.
OF_GROUP, MOST_PAIRS = 3, 600
# Layers whose maps are beside a photograph.
MOST_LAYERS = 4
# Classes and contrasts with pictures of their own; the table has all classes.
MOST_CLASSES, MOST_CONTRASTS = 60, 12
THUMBNAIL, MEAN_MAP, SMALL_MAP = 128, 128, 56
# The most that a thumbnail is wider than high.
WIDEST = 2
QUALITY = 75
MOST_CONFIDENT = "Most confident"


def write_report(folder: Path, overview: Overview, title: str) -> Path:
    """Write `report.html` into the folder of a run, whole or not at all, and return its path."""
    path = folder / REPORT
    write_files({path: render_report(overview, title).encode("utf-8", "replace")})
    return path


def render_report(overview: Overview, title: str) -> str:
    """The page as HTML text."""
    page = _Page(overview, MOST_PAIRS)
    return Template(_part("overview.html")).substitute(
        title=text(title),
        style=page_part("theme.css") + _part("overview.css"),
        ramp=_ramp(overview.run.writing.style),
        summary="\n".join(f"<p>{line}</p>" for line in page.summary()),
        table=page.table(),
        mistakes=page.mistakes(),
        classes="\n".join(page.section(one, place) for place, one in enumerate(page.detailed)),
    )


def _part(name: str) -> str:
    return (files("xgradcam.evaluation") / name).read_text(encoding="utf-8")


@dataclass
class _Page:
    """Makes the parts of the page; pairs: of pictures that it may still have."""

    overview: Overview
    pairs: int

    @property
    def detailed(self) -> Sequence[Explained]:
        """The classes that have pictures of their own."""
        return self.overview.classes[:MOST_CLASSES]

    def summary(self) -> Iterator[str]:
        """Lines on the whole run, as HTML."""
        view = self.overview
        count = f"{view.photographs:,} photograph{'s' * (view.photographs != 1)}"
        if view.verdicts:
            right, judged = right_of(view.verdicts)
            count += f", <strong>{right:,} of {judged:,} right ({right / judged:.1%})</strong>"
        yield f"{count}; {len(view.classes):,} class{'es' * (len(view.classes) != 1)} explained."
        names = view.run.layers
        at = f" at {text(view.layer)}, the first of {len(names)} layers" if len(names) > 1 else ""
        yield f"The maps are those of {text(title_of(view.method))}{at}{_about(view.method)}."
        if len(names) > 1:
            layers = text(", ".join(names[:MOST_LAYERS]))
            yield f"Beside each photograph are its maps at {layers} (--target-layer gives the order)."
        if view.run.writing.style.signed:
            colours = "blue is against, red for"
            if view.run.writing.style.named:
                colours = "in the colours of the bar below, from the most against to the most for"
            yield f"The maps beside photographs show evidence for and against: {colours}."
        for remark in view.remarks:
            yield f"{text(remark[:1].upper() + remark[1:])}."
        if view.run.writing.page:
            yield f'<a href="{PAGE}">All pictures of the run</a>'

    def table(self) -> str:
        """All classes with their numbers."""
        has_truth, has_boxes = bool(self.overview.verdicts), any(one.inside for one in self.overview.classes)
        heads = ["Class", "Maps", *["Right", "Predicted"] * has_truth, "Mean map", "Half of it in"]
        heads += ["In boxes"] * has_boxes + ["In features", "Nowhere", "Conservation error", "Groups"]
        lines = []
        for place, one in enumerate(self.overview.classes):
            name = text(class_words(one))
            cells = [f'<a href="#class-{place}">{name}</a>' if place < len(self.detailed) else name]
            cells += [f"{len(one.records):,}"]
            cells += [right(one), f"{one.predicted or 0:,}"] * has_truth
            cells += [self._mean(one.mean(), SMALL_MAP), half(one.mean())]
            cells += [percent(mean_of(one.inside))] * has_boxes
            cells += [
                percent(one.share("feature")),
                percent(one.share("nowhere")),
                number(one.conservation),
            ]
            cells += [str(one.groups.count) if len(one.shown) >= FEWEST else "-"]
            first, *others = cells
            row = "".join(f"<td>{cell}</td>" for cell in others)
            lines.append(f'<tr><th scope="row">{first}</th>{row}</tr>')
        head = "".join(f'<th scope="col">{one}</th>' for one in heads)
        return f"<thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(lines) + "\n</tbody>"

    def mistakes(self) -> str:
        """The most frequent mistakes, with what speaks for the predicted class and not for the true one."""
        contrasts = self.overview.contrasts[:MOST_CONTRASTS]
        if not contrasts:
            return ""
        parts = []
        for one in contrasts:
            sure = np.argsort([-confidence(record) for record in one.records], kind="stable").tolist()
            truth, taken = (text(first_name(one.records[0][key]["name"])) for key in ("truth", "prediction"))
            times = f"{len(one.records)} time{'s' * (len(one.records) > 1)}"
            lead = self._figure(one.mean(), "Mean of the contrast")
            examples = self._examples(one, sure[:OF_GROUP], MOST_CONFIDENT)
            parts.append(f"<h3>{truth} taken for {taken}, {times}</h3>\n{_row(lead, examples)}")
        left = len(self.overview.contrasts) - len(contrasts)
        more = f"<p>And {left:,} other mistakes, which are less frequent.</p>" if left else ""
        return (
            '<section aria-labelledby="mistakes">\n<h2 id="mistakes">Mistakes</h2>\n<p class="quiet">What '
            "speaks for the predicted class and not for the true one.</p>\n"
            + "\n".join(parts)
            + more
            + "</section>"
        )

    def section(self, one: Explained, place: int) -> str:
        """One class: mean map, groups of maps, the most typical and the most unusual ones."""
        groups, blank = one.groups, len(one.records) - len(one.shown)
        head = f'<h2 id="class-{place}">{text(class_words(one))}</h2>'
        parts = [f'<section aria-labelledby="class-{place}">\n{head}', f"<p>{'; '.join(facts(one))}.</p>"]
        parts.append('<p class="quiet"><a href="#all">all classes</a></p>')
        if blank:
            parts.append(f"<p>{blank} without positive evidence: they are in no mean and no group.</p>")
        if one.shown:
            several = groups.count > 1
            for index in range(groups.count):
                members = [one.shown[member] for member in groups.members(index)]
                if several:
                    parts.append(f"<h3>Group {index + 1}: {group_words(one, members)}</h3>")
                parts.append(_row(self._figure(one.mean(members), "Mean map"), self._typical(one, members)))
            if len(one.shown) > OF_GROUP:
                odd = [one.shown[member] for member in unusual(one.maps[one.shown], OF_GROUP)]
                lead = self._figure(one.mean(), "Mean of all maps") if several else ""
                parts.append("<h3>The most unusual maps</h3>")
                parts.append(_row(lead, self._examples(one, odd, "Unusual")))
        return "\n".join(parts) + "\n</section>"

    def _typical(self, one: Explained, members: Sequence[int]) -> str:
        return self._examples(one, typical(one.maps, members, OF_GROUP), "Typical")

    def _examples(self, one: Explained, places: Sequence[int], kind: str) -> str:
        return "".join(self._example(one, one.records[place], kind) for place in places)

    def _example(self, one: Explained, record: Record, kind: str) -> str:
        """A photograph and its map as a figure; nothing once the page has enough pictures."""
        if self.pairs <= 0:
            return ""
        records = self.overview.at_layers(record)[:MOST_LAYERS]
        self.pairs -= len(records)
        image, name = record["image"], text(Path(record["image"]).name)
        words = f"{kind}: {name}{_sure(record) if kind == MOST_CONFIDENT else wrong(record)}"
        photograph = self._thumbnail(image)
        if photograph is None:
            missing = '<p class="missing">not to be read now</p>'
            return f'<figure class="pair">{missing}<figcaption>{words}</figcaption></figure>'
        pictures = _picture(photograph, f"Photograph {name}")
        for each in records:
            layer = f" at {text(each['layer'])}" if len(records) > 1 else ""
            pictures += _picture(
                self._painted(photograph, each, one.method), f"Its map{layer}, for {text(one.name)}"
            )
        return f'<figure class="pair"><div>{pictures}</div><figcaption>{words}</figcaption></figure>'

    def _painted(self, photograph: Photograph, record: Record, method: str) -> Photograph:
        """The map of an explanation over its photograph, as in the pictures of the run."""
        run = self.overview.run
        signed = torch.from_numpy(signed_map(run, record, method))
        style = replace(run.writing.style, full_resolution=False)

        def at(size: tuple[int, int]) -> NDArray[np.float32]:
            if style.signed:
                return signed_shares(at_size(signed, size, WHOLE))
            return np.asarray(heatmap(signed[None], size)[0])

        return paint(photograph, at, run.framing, (photograph.shape[0], photograph.shape[1]), style)

    def _thumbnail(self, image: str) -> Photograph | None:
        """The photograph, small; None where it cannot be read any more."""
        source = self.overview.sources.get(image)
        try:
            whole = None if source is None else source.read(self.overview.run.value_range).photograph
        except XGradCamError:
            whole = None
        return None if whole is None else _resized(whole, THUMBNAIL)

    def _figure(self, mean: Maps, caption: str) -> str:
        return f'<figure class="mean">{self._mean(mean, MEAN_MAP)}<figcaption>{caption}</figcaption></figure>'

    def _mean(self, mean: Maps, height: int) -> str:
        """A mean map in the colours of the legend, in the shape of the network's input."""
        if not mean.any():
            return "none"
        rows, columns = self.overview.run.framing.size
        size = min(WIDEST * height, max(1, round(height * columns / rows))), height
        large = cv2.resize(mean, size, interpolation=cv2.INTER_LINEAR)
        levels = np.asarray(255 * large / large.max(), np.uint8)
        return _picture(
            colours_of(self.overview.run.writing.style.colours)[levels],
            f"Mean map: {half(mean)} of the picture holds half of the evidence, {place_words(mean)}",
        )


def _ramp(style: Style) -> str:
    """The colours of the legend as an attribute; empty for those of the style sheet."""
    if style.named is None:
        return ""
    stops = ", ".join(
        f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in colours_of(style.named)[::15]
    )
    return f' style="background: linear-gradient(90deg, {stops})"'


def _sure(record: Record) -> str:
    return f" ({confidence(record):.0%})"


def _about(method: str) -> str:
    """The sum of the method's maps in words."""
    if METHODS[method].complete:
        return "; with what is nowhere they add up to the score"
    return " (--method complete-cam gives maps that add up to the score)"


def _row(lead: str, examples: str) -> str:
    return f'<div class="row">{lead}{examples}</div>'


def _resized(photograph: Photograph, height: int) -> Photograph:
    """The photograph at this height, and at most twice as wide."""
    width = max(1, round(height * photograph.shape[1] / photograph.shape[0]))
    if width > WIDEST * height:
        height, width = max(1, round(WIDEST * height * height / width)), WIDEST * height
    return np.asarray(cv2.resize(photograph, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _picture(picture: Photograph, words: str) -> str:
    """A picture as an element that holds its bytes. words: for those who do not see it, as HTML."""
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, QUALITY))[1].tobytes()
    data = base64.b64encode(encoded).decode()
    height, width = picture.shape[:2]
    return f'<img alt="{words}" width="{width}" height="{height}" src="data:image/jpeg;base64,{data}">'
