"""The likeness of a photograph and a text, for models that see both, as CLIP does."""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from xgradcam.errors import XGradCamError, shown, users_code
from xgradcam.lending.borrowing import borrowed, wrapped
from xgradcam.scores.outputs import described, is_scores, named_outputs, select_output
from xgradcam.scores.score import Similarity

# Methods of models for photographs and texts: of transformers' and of open_clip's and others.
IMAGE_METHODS = ("get_image_features", "encode_image")
TEXT_METHODS = ("get_text_features", "encode_text")
# Names that such models give to a photograph's features beside the text's.
IMAGE_FEATURES = ("image_embeds", "image_features")


@dataclass(frozen=True, eq=False)
class Text:
    """The cosine of a photograph's and a text's features: S = ⟨f, t⟩ / (|f| |t|), f (N, D) and t (D,).

    text: one for all samples, or N of them. tokenizer: of transformers (or a processor), or a function from a
    list of texts to tokens, as of open_clip. model: encodes the text once, by `get_text_features` or
    `encode_text`; it is left as it was found. output: of the photograph's features, if the model that is
    explained returns more; `image_embeds`, `image_features` and the first of a tuple are found.

    The model explained must take photographs alone: `image_encoder(model)` does.
    """

    text: str | Sequence[str]
    tokenizer: Callable[..., Any]
    model: nn.Module = field(repr=False)
    output: str | int | None = None
    embedding: Tensor = field(default=None, kw_only=True, repr=False)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.embedding is None:
            object.__setattr__(self, "embedding", _encoded(self.text, self.tokenizer, self.model))

    def __call__(self, returned: Any) -> Tensor:
        """The scores, (N,); XGradCamError if what the model returned does not fit."""
        return Similarity(self.embedding)(_image_features(select_output(returned, self.output)))

    def alone(self, sample: int) -> "Text":
        """The score with one sample's text, for any number of rows."""
        if isinstance(self.text, str) or len(self.text) == 1:
            return self
        return replace(self, text=self.text[sample], embedding=self.embedding[sample])


def image_encoder(model: nn.Module) -> nn.Module:
    """The part of a model for photographs and texts that takes photographs alone: (N, 3, H, W) to (N, D).

    It shares all modules and weights with the model, under the same names. model: one with
    `get_image_features` (transformers: CLIP, SigLIP, ...) or `encode_image` (open_clip).
    Raises XGradCamError for another model.
    """
    while (inner := wrapped(model)) is not None:
        model = inner
    method = _method(model, IMAGE_METHODS, "photographs")
    # Not a wrapper around the model, in which its layers would have other names.
    encoder = copy(model)
    encoder.forward = partial(_encode_images, encoder, method)
    return encoder


def _encode_images(model: nn.Module, method: str, images: Tensor) -> Tensor:
    given = {"pixel_values": images} if method == IMAGE_METHODS[0] else {}
    returned = getattr(model, method)(**given) if given else getattr(model, method)(images)
    return _features(returned, f"{type(model).__name__}.{method}")


def _method(model: Any, names: Sequence[str], what: str) -> str:
    found = next((name for name in names if callable(getattr(model, name, None))), None)
    if found is None:
        raise XGradCamError(
            f"the {type(model).__name__} does not encode {what}: it has neither {' nor '.join(names)}"
        )
    return found


def _encoded(text: Any, tokenizer: Any, model: Any) -> Tensor:
    """The features of a text, (D,), or of several, (N, D)."""
    texts = [text] if isinstance(text, str) else list(text) if isinstance(text, Sequence) else []
    if not texts or not all(isinstance(one, str) and one.strip() for one in texts):
        raise XGradCamError(f'the text is {shown(text)}: give words, such as "a cat", or one for each sample')
    while (inner := wrapped(model)) is not None:
        model = inner
    method = _method(model, TEXT_METHODS, "texts")
    with users_code(f"the text {shown(text)} cannot be encoded"), borrowed(model):
        tokens = _tokens(texts, tokenizer, model)
        encode = getattr(model, method)
        returned = encode(**tokens) if isinstance(tokens, Mapping) else encode(tokens)
        features = _features(returned, f"{type(model).__name__}.{method}").detach().clone()
    if len(features) != len(texts):
        raise XGradCamError(f"{len(texts)} texts have features {tuple(features.shape)}: one row each is due")
    return features[0] if isinstance(text, str) else features


def _tokens(texts: Sequence[str], tokenizer: Any, model: nn.Module) -> Any:
    """The tokens of the texts, on the model's device, as its method takes them."""
    if hasattr(tokenizer, "image_processor"):
        tokenizer = tokenizer.tokenizer
    parameter = next(model.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    if not hasattr(tokenizer, "model_input_names"):
        tokens = tokenizer(texts)
        if isinstance(tokens, Mapping):
            return {name: torch.as_tensor(of).to(device) for name, of in tokens.items()}
        return torch.as_tensor(tokens).to(device)
    # SigLIP was trained on texts of full length.
    kind = str(getattr(getattr(model, "config", None), "model_type", ""))
    padding = "max_length" if kind.startswith("siglip") else True
    tokens = tokenizer(texts, padding=padding, truncation=True, return_tensors="pt")
    return {name: of.to(device) for name, of in tokens.items()}


def _features(returned: Any, source: str) -> Tensor:
    """The features (N, D) that a method returned by themselves, or as transformers' pooled output."""
    features = returned if isinstance(returned, Tensor) else getattr(returned, "pooler_output", None)
    if is_scores(features) and features.ndim == 2:
        return features
    what, _ = described(returned if features is None else features)
    raise XGradCamError(f"{source} returns {what}, not features (N, D)")


def _image_features(returned: Any) -> Tensor:
    """The features of photographs in what a model returned for them."""
    if isinstance(returned, Tensor):
        return returned
    named = dict(named_outputs(returned))
    first = returned[0] if isinstance(returned, tuple) and returned else None
    found = next((named[name] for name in IMAGE_FEATURES if is_scores(named.get(name))), first)
    if is_scores(found):
        return found
    what, _ = described(returned)
    raise XGradCamError(
        f"the model returns {what}, without features of photographs: explain image_encoder(model), or say "
        "where they are by output="
    )
