"""Fit a photograph (H, W, 3) to the network's input (h, w), and put a heatmap back on the photograph."""

from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xgradcam.errors import XGradCamError
from xgradcam.pictures.bounds import MAX_PIXELS
from xgradcam.pictures.photograph import Photograph, stretch

Pixel = TypeVar("Pixel", np.uint8, np.float32)


class Window(NamedTuple):
    """The part of a photograph that the network sees, in its pixels; padding lies beyond its edges."""

    top: float
    left: float
    bottom: float
    right: float


class PixelWindow(NamedTuple):
    """A window in whole pixels of a picture."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left


@dataclass(frozen=True)
class Framing:
    """Fits a photograph to an input of `size` (h, w).

    resize: None stretches the photograph, as the original scripts do. A number is the length of the shorter
    side before the centre is cropped, as most published weights expect it.
    interpolation: the filter of that resize, one of Pillow's: `bilinear`, `bicubic`, ...
    """

    size: tuple[int, int]
    resize: int | None = None
    interpolation: str = "bilinear"

    def scene(self, photograph: Photograph) -> Photograph:
        """The whole photograph at the scale at which the network sees it."""
        if self.resize is None:
            return stretch(photograph, self.size)
        height, width = self._scene_size(photograph.shape[:2])
        if height * width > MAX_PIXELS:
            shape = f"{photograph.shape[1]} x {photograph.shape[0]}"
            raise XGradCamError(f"too long and narrow for a centre crop: {shape} pixels: stretch it instead")
        if (height, width) == photograph.shape[:2]:
            return photograph
        # Pillow's own: its antialiasing is what the weights were trained and evaluated with.
        resampling = Image.Resampling[self.interpolation.upper()]
        return np.asarray(Image.fromarray(photograph).resize((width, height), resampling))

    def pixels(self, photograph: Photograph) -> Photograph:
        """The pixels that the network sees: (h, w, 3); black where the scene is smaller than the crop."""
        return self.seen(self.scene(photograph))

    def seen(self, scene: Photograph) -> Photograph:
        """The pixels that the network sees of a `scene`, as `pixels` returns them."""
        if self.resize is None:
            return scene
        window = self._crop(scene.shape[:2])
        pixels = np.zeros((*self.size, 3), np.uint8)
        rows, columns = visible(window, scene.shape[:2])
        top, left = max(0, -window.top), max(0, -window.left)
        seen = scene[rows, columns]
        pixels[top : top + seen.shape[0], left : left + seen.shape[1]] = seen
        return pixels

    def window(self, shape: tuple[int, int]) -> Window:
        """The part of a photograph of this shape (H, W) that the network sees."""
        if self.resize is None:
            return Window(0, 0, *shape)
        scene = self._scene_size(shape)
        vertical, horizontal = shape[0] / scene[0], shape[1] / scene[1]
        top, left, bottom, right = self._crop(scene)
        return Window(top * vertical, left * horizontal, bottom * vertical, right * horizontal)

    def pixel_window(self, shape: tuple[int, int], resolution: tuple[int, int]) -> PixelWindow:
        """The window on a picture of the whole photograph (H, W) at this resolution (rows, columns)."""
        window = self.window(shape)
        vertical, horizontal = resolution[0] / shape[0], resolution[1] / shape[1]
        top, bottom = _whole(window.top * vertical, window.bottom * vertical, resolution[0])
        left, right = _whole(window.left * horizontal, window.right * horizontal, resolution[1])
        return PixelWindow(top, left, bottom, right)

    def put_back(
        self, heatmap: NDArray[Pixel], shape: tuple[int, int], resolution: tuple[int, int]
    ) -> NDArray[Pixel]:
        """The input's heatmap on the whole photograph: of this resolution (rows, columns), 0 outside.

        heatmap: at any size; interpolated if the window has another. shape: the photograph's, (H, W).
        """
        window = self.pixel_window(shape, resolution)
        if heatmap.shape != window.size:
            resized = cv2.resize(heatmap, window.size[::-1], interpolation=cv2.INTER_LINEAR)
            heatmap = np.asarray(resized, heatmap.dtype)
        if window == (0, 0, *resolution):
            return heatmap
        whole = np.zeros(resolution, heatmap.dtype)
        rows, columns = visible(window, resolution)
        inside = heatmap[rows.start - window.top :, columns.start - window.left :]
        whole[rows, columns] = inside[: rows.stop - rows.start, : columns.stop - columns.start]
        return whole

    def in_input(self, points: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
        """Points (..., 2), x and y on a photograph (H, W), in pixels of the input; some lie outside of it."""
        start, scale = self._place_of_input(shape)
        return (points - start) / scale

    def in_photograph(self, points: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
        """Points (..., 2), x and y in pixels of the input, on a photograph (H, W)."""
        start, scale = self._place_of_input(shape)
        return start + points * scale

    def _place_of_input(self, shape: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The input's corner on a photograph, and the size there of one of its pixels: (x, y) each."""
        top, left, bottom, right = self.window(shape)
        height, width = self.size
        return np.array([left, top]), np.array([(right - left) / width, (bottom - top) / height])

    def _scene_size(self, shape: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the scene; the longer side is rounded down, as in torchvision."""
        if self.resize is None:
            return self.size
        height, width = shape
        if width <= height:
            return int(self.resize * height / width), self.resize
        return self.resize, int(self.resize * width / height)

    def _crop(self, scene: tuple[int, int]) -> PixelWindow:
        top, left = (_start(whole, part) for whole, part in zip(scene, self.size, strict=True))
        return PixelWindow(top, left, top + self.size[0], left + self.size[1])


def visible(window: PixelWindow, resolution: tuple[int, int]) -> tuple[slice, slice]:
    """The rows and columns of a picture that a window covers."""
    rows = slice(max(0, window.top), min(resolution[0], window.bottom))
    return rows, slice(max(0, window.left), min(resolution[1], window.right))


def _start(whole: int, part: int) -> int:
    """The start of torchvision's centre crop: halves go to the even pixel, odd padding to the end."""
    return round((whole - part) / 2) if whole >= part else -((part - whole) // 2)


def _whole(start: float, stop: float, length: int) -> tuple[int, int]:
    """The nearest whole pixels, at least one of them within `length`."""
    first = min(round(start), length - 1)
    return first, max(round(stop), first + 1)
