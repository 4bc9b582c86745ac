"""Where a photograph is like a text, for a model of photographs and texts as CLIP is.

python examples/text.py

With CLIP itself: `CLIPModel.from_pretrained(...)` and `CLIPTokenizer.from_pretrained(...)`.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from xgradcam import Text, explain_score, image_encoder, read_image, to_input


class TinyClip(nn.Module):
    """Random features (N, 16) of photographs and of texts."""

    def __init__(self) -> None:
        super().__init__()
        self.vision = nn.Sequential(nn.Conv2d(3, 16, 8, stride=8), nn.ReLU(), nn.Conv2d(16, 16, 3))
        self.words = nn.Embedding(128, 16)

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Features of photographs (N, 3, H, W)."""
        features: Tensor = self.vision(pixel_values).mean(dim=(2, 3))
        return features

    def get_text_features(self, input_ids: Tensor) -> Tensor:
        """Features of the letters of texts, (N, letters)."""
        features: Tensor = self.words(input_ids).mean(dim=1)
        return features


def tokenizer(texts: list[str]) -> dict[str, Tensor]:
    """Numbers of letters."""
    return {"input_ids": torch.tensor([[ord(letter) for letter in text] for text in texts])}


torch.manual_seed(0)
model = TinyClip()
photograph = read_image(Path(__file__).with_name("cat-and-coffee.jpg"))
inputs = to_input(photograph, (224, 224), (0.481, 0.458, 0.408), (0.269, 0.261, 0.276))

encoder = image_encoder(model)  # the same layers, and takes photographs alone
for text in ("a cat", "a cup of coffee"):
    explanation = explain_score(encoder, inputs, "vision.1", Text(text, tokenizer, model), ["xgrad-cam"])
    print(f"{text}: similarity {explanation.score[0]:.2f}, map {tuple(explanation.maps['xgrad-cam'].shape)}")
