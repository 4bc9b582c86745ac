"""Drawing of explanations: their maps as matplotlib's figures, and the words on them.

Imports matplotlib and the picture libraries only when something is drawn.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from xgradcam.errors import XGradCamError, shown
from xgradcam.figures.reprs import BriefExplanation
from xgradcam.scores.score import Contrast, of_sample

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from torch import Tensor

    from xgradcam.figures.figure import Look, Shown
    from xgradcam.layouts.padding import Share
    from xgradcam.pictures.framing import Framing

# Methods whose maps are in the score's unit: weights are gradients or constants, and no shares or ranks.
IN_UNITS_OF_THE_SCORE = {
    *("grad-cam", "xgrad-cam", "cam", "grad-cam++", "smooth-grad-cam++", "hires-cam", "complete-cam"),
    *("complete-xgrad-cam", "grad-cam-elementwise", "layer-cam", "shapley-cam", "finer-cam"),
}
PREFERRED = "xgrad-cam"
# Height of a figure of one map in inches, and the widths that it may have.
HEIGHT, NARROWEST, WIDEST = 3.6, 3.2, 8.0
SIGNAL_SIZE = (7.0, 2.8)


class Drawable(BriefExplanation):
    """The drawing of an `Explanation`."""

    if TYPE_CHECKING:
        maps: Mapping[str, Tensor]
        score: Tensor
        share: Share
        score_of: Any

    @staticmethod
    def titled(method: str) -> str:
        """The name of a method as the field writes it."""
        return method

    def plot(
        self,
        photograph: Any = None,
        ax: "Axes | None" = None,
        method: str | None = None,
        signed: bool = False,
        *,
        sample: int = 0,
        name: str | None = None,
        title: str | None = None,
        framing: "Framing | None" = None,
        depth: int | None = None,
        colormap: "str | Colormap | None" = None,
        alpha: float | None = None,
        limits: tuple[float, float] | None = None,
        bar: bool = True,
        grey: bool = True,
    ) -> "Axes":
        """Draw a map over its photograph, with a colour bar in the score's unit; return matplotlib's axes.

        photograph: a path, an image of Pillow's, pixels (H, W, 3) uint8 or a tensor of them; of signals (L,)
        or (C, L), of volumes (D, H, W); or N of these. None: the map alone, at the layer's size.
        ax: axes to draw into; None for a new figure of pyplot's.
        method: of `maps`; None for XGrad-CAM, or the first. signed: evidence against in blue, too.
        sample: of the batch. name: of what is explained, for the colour bar. title: None for the method's.
        framing: how the photograph became the input, as `Classifier.framing` gives it; None: stretched.
        depth: the slice of a volume or frame of a video; None for the middle one.
        colormap: a name of OpenCV's or matplotlib's; None for viridis, or red and blue if signed. alpha: the
        share of the colours; None for more where there is more evidence. limits: the values of the first and
        the last colour. bar: draw a colour bar. grey: the photograph in grey, on which all colours show.
        Colours are not stretched: 0 is no evidence, and the colour bar has the map's values a cell.
        Raises XGradCamError for a wrong method, sample, photograph or colours.
        """
        from xgradcam.figures.figure import Look

        look = Look(bool(signed), colormap, alpha, limits, bar, grey)
        content = self.shown(
            photograph, method, signed, sample=sample, name=name, title=title, framing=framing, depth=depth
        )
        return _drawn(ax, content, look)

    def show(self, photograph: Any = None, **how: Any) -> None:
        """Draw as `plot` does, and show the figure: in a window, or below the notebook's cell."""
        from matplotlib import pyplot

        self.plot(photograph, **how)
        pyplot.show()

    def save(self, path: Any, photograph: Any = None, *, dpi: float | None = None, **how: Any) -> None:
        """Draw as `plot` does, into a file: `figure.pdf`, `.svg`, `.png`, ... Text stays text.

        dpi: of pixels, and of the photograph in a vector file. The file is there whole or not at all.
        Raises XGradCamError where it cannot be written, and as `plot` does.
        """
        from xgradcam.figures.figure import new_figure, save_figure

        figure = new_figure(WIDEST, HEIGHT, dpi)
        axes = self.plot(photograph, figure.add_subplot(), **how)
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        figure.set_size_inches(size_for(right - left, bottom - top))
        save_figure(figure, path, dpi)

    def shown(
        self,
        photograph: Any = None,
        method: str | None = None,
        signed: bool = False,
        *,
        sample: int = 0,
        name: str | None = None,
        title: str | None = None,
        framing: "Framing | None" = None,
        depth: int | None = None,
    ) -> "Shown":
        """The plain arrays and words that `plot` draws; arguments as of `plot`."""
        from xgradcam.figures.placing import placed

        method = self._method(method)
        of_map = self.maps[method]
        index = _checked_index(sample, len(of_map))
        values = of_map[index].detach().double().cpu()
        words = self.titled(method) if title is None else str(title)
        if not signed:
            words += "" if bool((values > 0).any()) else ": no positive evidence"
            values = values.clamp(min=0)
        return placed(
            values, photograph, index, len(of_map), self.label_of(method, index, signed, name), words,
            framing=framing, share=self.share, depth=depth,
            score_of=None if self.score_of is None else of_sample(self.score_of, index),
        )  # fmt: skip

    def label_of(self, method: str, sample: int = 0, signed: bool = False, name: str | None = None) -> str:
        """The words at the colour bar: the map's values and their unit."""
        from xgradcam.figures.figure import named

        unit = f"{self.unit} per cell" if method in IN_UNITS_OF_THE_SCORE else "no unit"
        what = named(self.explained(sample) if name is None else str(name))
        return f"evidence for {what}\n{unit}{', below 0: against' if signed else ''}"

    @property
    def unit(self) -> str:
        """The unit of the score: `logit` of a class, `probability` where the model returns those."""
        if getattr(self, "targets", None) is None:
            return "score"
        return "probability" if getattr(self, "probability_rule", None) == "none" else "logit"

    def explained(self, sample: int = 0) -> str:
        """The thing that is explained in a sample, in words: `class 285`, `the score`."""
        targets = getattr(self, "targets", None)
        if targets is not None:
            return f"class {int(targets[sample])}"
        found: Sequence[Any] = getattr(self.score_of, "detections", ())
        if found:
            return f"detection of class {found[min(sample, len(found) - 1)].target}"
        if isinstance(self.score_of, Contrast) and self.score_of.targets:
            own = self.score_of.targets[min(sample, len(self.score_of.targets) - 1)]
            return f"class {own} in contrast to {', '.join(map(str, self.score_of.others))}"
        return "the score"

    def _method(self, method: str | None) -> str:
        """The method, or the default one; XGradCamError for one that has no map here."""
        if method is None:
            method = PREFERRED if PREFERRED in self.maps else next(iter(self.maps), None)
        if not isinstance(method, str) or method not in self.maps:
            raise XGradCamError(f"no map of {shown(method)} here; there are: {', '.join(self.maps)}")
        return method


def _drawn(ax: Any, content: "Shown", look: "Look") -> "Axes":
    """The axes, or those of a new figure of pyplot's, with the map in them."""
    from xgradcam.figures.figure import draw_into

    if ax is not None:
        if not hasattr(ax, "imshow"):
            raise XGradCamError(f"ax is {shown(ax)}: give axes of matplotlib's, as plt.gca()")
        draw_into(ax, content, look)
        return ax  # type: ignore[no-any-return]
    from matplotlib import pyplot

    new = pyplot.figure(figsize=size_of(content), layout="constrained").add_subplot()
    draw_into(new, content, look)
    pyplot.sca(new)
    return new


def _checked_index(index: Any, count: int) -> int:
    """The sample's index from 0; XGradCamError where there is none of this number."""
    whole = hasattr(index, "__index__") and not isinstance(index, bool)
    if not whole or not -count <= int(index) < count:
        raise XGradCamError(f"the sample is {shown(index)}: the batch has {count}, give 0 to {count - 1}")
    return int(index) % count


def size_of(content: "Shown") -> tuple[float, float]:
    """The size in inches of a figure of one map."""
    return size_for(*content.extent)


def size_for(width: float, height: float) -> tuple[float, float]:
    """The size in inches of a figure of axes with these sides; a signal's have the height 1."""
    if height == 1:
        return SIGNAL_SIZE
    return min(max(NARROWEST, HEIGHT * width / height + 0.9), WIDEST), HEIGHT
