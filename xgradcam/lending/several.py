"""Models of several inputs, as models of one: the others are given beside it."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from torch import Tensor, nn

from xgradcam.errors import XGradCamError, shown
from xgradcam.operations.calls import refuse_exported, substitute, tensors_of

# The name or the position of an input.
Place: TypeAlias = str | int


class Beside(nn.Module):
    """A model of several inputs as one of a single input (M, ...), the image, for N samples of the others.

    It has the modules of the model under their own names. Each run gets copies of the others. For another
    number of rows than N, those of a single sample are repeated.
    given: the positional and the named inputs. image: the place of the one that is left open.
    """

    model: nn.Module
    given: tuple[list[Any], dict[str, Any]]
    image: Place

    def __init__(self, model: nn.Module, given: tuple[list[Any], dict[str, Any]], image: Place) -> None:
        super().__init__()
        # Not as a module of this one, which would change all names.
        vars(self).update(model=model, given=given, image=image)
        args, named = given
        self.samples = len(args[image] if isinstance(image, int) else named[image])

    def forward(self, image: Tensor) -> Any:
        """Run the model on the image beside the others."""
        if len(image) != self.samples != 1:
            raise ValueError(f"{len(image)} rows of the image for {self.samples} samples of the other inputs")

        def fitted(tensor: Tensor) -> Tensor:
            repeated = tensor.ndim > 0 and len(image) != self.samples
            return tensor.repeat(len(image), *[1] * (tensor.ndim - 1)) if repeated else tensor.clone()

        args, named = substitute(self.given, fitted)
        if isinstance(self.image, int):
            args[self.image] = image
        else:
            named[self.image] = image
        return self.model(*args, **named)

    def named_modules(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Module]]:
        """The model's own."""
        yield from self.model.named_modules(*args, **kwargs)

    def of_sample(self, sample: int) -> "Beside":
        """The model beside one sample of the others."""
        rows = slice(sample, sample + 1)
        args, named = substitute(self.given, lambda tensor: tensor[rows] if tensor.ndim else tensor)
        return Beside(self.model, (args, named), self.image)


def for_sample(model: nn.Module, sample: int) -> nn.Module:
    """The model for one sample of those that are explained, repeated to any number of rows."""
    return model.of_sample(sample) if isinstance(model, Beside) else model


def with_model(model: nn.Module, other: nn.Module) -> nn.Module:
    """Another model, with the same inputs beside it."""
    return Beside(other, model.given, model.image) if isinstance(model, Beside) else other


def without_others(model: nn.Module) -> nn.Module:
    """The model itself, of all its inputs."""
    return model.model if isinstance(model, Beside) else model


def beside(model: nn.Module, inputs: Any, image: Place | None) -> tuple[Beside, Tensor] | None:
    """The model beside all inputs but the image, and the image; None where these are no inputs of the model.

    inputs: a tuple or a list of positional inputs, or a mapping of named ones. image: its place; None for the
    first tensor of floats with three axes or more.
    Raises XGradCamError for inputs of different numbers of samples, and where no input is the image.
    """
    given = _given(inputs)
    each: dict[Any, Any] = {**dict(enumerate(given[0])), **given[1]}
    if not any(True for _ in tensors_of(given)) or why_not_taken(model, inputs):
        return None
    refuse_exported(model)
    place = _image_of(each, image)
    samples = len(each[place])
    for name, value in each.items():
        for tensor in tensors_of([value]):
            if tensor.ndim and len(tensor) != samples:
                raise XGradCamError(
                    f"input {name!r} is {tuple(tensor.shape)} for {samples} samples of the image {place!r}: "
                    "give it a row for each sample; what is the same for all belongs into the model"
                )
    return Beside(model, given, place), each[place]


def _given(inputs: Any) -> tuple[list[Any], dict[str, Any]]:
    """The positional and the named inputs in a sequence or a mapping."""
    return ([], dict(inputs)) if isinstance(inputs, Mapping) else ([*inputs], {})


def why_not_taken(model: nn.Module, inputs: Any) -> str:
    """The reason why the model's forward does not take these as several inputs; empty if it does."""
    args, named = _given(inputs)
    try:
        inspect.signature(model.forward).bind(*args, **named)
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


def _image_of(each: Mapping[Any, Any], image: Place | None) -> Place:
    """The place of the image among the inputs."""
    tensors = {place: value for place, value in each.items() if isinstance(value, Tensor) and value.ndim}
    if image is not None:
        if image in tensors and not isinstance(image, bool):
            return image
        raise XGradCamError(f"no input {shown(image)}: image= takes one of {', '.join(map(repr, tensors))}")
    for place, value in tensors.items():
        if value.is_floating_point() and value.ndim > 2:
            return place  # type: ignore[no-any-return]
    raise XGradCamError(
        "none of the inputs is an image, floats of three axes or more: name the one to be explained by "
        f"image=, one of {', '.join(map(repr, tensors))}"
    )
