"""Small detectors, segmenters and a network for photographs and texts, each in the form of a known one."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn


def seeded(build, seed=0):
    """What `build` makes, with its random numbers from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().double().eval()


class Trunk(nn.Module):
    """Maps (N, 8, 8, 8) of images (N, 3, 16, 16)."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Conv2d(8, outputs, 1)

    def planes(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


class Yolo(Trunk):
    """(N, 4 + 3 classes, 64 anchors), as YOLO's, first in a tuple if `whole`."""

    def __init__(self, whole: bool = False) -> None:
        super().__init__(7)
        self.whole = whole

    def forward(self, images: Tensor):
        planes = self.planes(images)
        rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
        centres = 2 * torch.stack([columns, rows]).to(planes) + 1 + planes[:, :2].tanh()
        sizes = 4 * planes[:, 2:4].exp()
        found = torch.cat([centres, sizes, (3 * planes[:, 4:]).sigmoid()], dim=1).flatten(2)
        return (found, [planes]) if self.whole else found


class DetrObjectDetectionOutput(SimpleNamespace):
    """Named as transformers' output: logits (N, queries, classes and "no object"), pred_boxes."""


class Detr(Trunk):
    """Six queries of four classes and "no object"; a mapping as the original's, or an object."""

    def __init__(self, mapping: bool = True) -> None:
        super().__init__(6)
        self.mapping = mapping
        self.boxes, self.logits = nn.Linear(64, 4), nn.Linear(64, 5)

    def forward(self, images: Tensor):
        queries = self.planes(images).flatten(2)
        logits, boxes = 3 * self.logits(queries), self.boxes(queries).sigmoid()
        if self.mapping:
            return {"pred_logits": logits, "pred_boxes": boxes}
        return DetrObjectDetectionOutput(logits=logits, pred_boxes=boxes, loss=None)


class Listing(Yolo):
    """A list of dictionaries, as torchvision's detectors: those above a threshold, the best first."""

    least = 0.6

    def forward(self, images: Tensor):
        found = super().forward(images).mT
        each = []
        for boxes, scores in zip(found[..., :4], found[..., 4:], strict=True):
            best, labels = scores.max(dim=1)
            corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], dim=1)
            order = best.argsort(descending=True)
            order = order[best[order] > self.least]
            each.append({"boxes": corners[order], "labels": labels[order] + 1, "scores": best[order]})
        return each


class Segmenter(Trunk):
    """(N, classes, 8, 8), each plane of mean 0, so that every class is somewhere."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__(classes)

    def forward(self, images: Tensor) -> Tensor:
        planes = self.planes(images)
        return planes - planes.mean(dim=(2, 3), keepdim=True)


class Contrastive(Trunk):
    """Features (N, 5) of photographs and of texts of numbers, by methods of these names, as CLIP."""

    def __init__(self) -> None:
        super().__init__(5)
        self.words, self.dropout = nn.Embedding(30, 5), nn.Dropout(0.5)

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        return self.planes(pixel_values).mean(dim=(2, 3))

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None):
        return SimpleNamespace(pooler_output=self.dropout(self.words(input_ids)).mean(dim=1))

    def forward(self, input_ids: Tensor, pixel_values: Tensor):
        return self.get_text_features(input_ids), self.get_image_features(pixel_values)


def images(count=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 16, 16, generator=generator, dtype=torch.float64)


def by_autograd(model, inputs, score_of):
    """HiResCAM's map of a score at `features`, from the graph of the whole network: (N, 8, 8)."""
    kept = []
    handle = model.features.register_forward_hook(lambda _m, _i, output: kept.append(output))
    score = score_of(model(inputs))
    handle.remove()
    (gradient,) = torch.autograd.grad(score.sum(), kept[0])
    return score.detach(), (gradient * kept[0]).sum(dim=1).detach()
