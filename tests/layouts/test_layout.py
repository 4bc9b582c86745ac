import pytest
import torch

from xgradcam.errors import XGradCamError
from xgradcam.layouts.layout import PREFIXES, Layout, image_grids, parse_layout, said_layout, token_layouts

MAPS = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
OTHERS = torch.full((2, 2, 3), -1.0)
TOKENS = torch.cat([OTHERS, MAPS.flatten(2).mT, OTHERS[:, :1]], dim=1)
LAYOUTS = {
    "maps": (Layout("maps", 4, 5), MAPS),
    "channels last": (Layout("channels last", 4, 5), MAPS.movedim(1, -1)),
    "tokens before and after": (Layout("tokens", 4, 5, 2), TOKENS),
    "chosen": (said_layout(lambda y: y[:, 2:-1].mT.unflatten(2, (4, 5)), TOKENS), TOKENS),
    "chosen of permuted": (
        said_layout(lambda y: y.permute(0, 3, 1, 2), MAPS.movedim(1, -1)),
        MAPS.movedim(1, -1),
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_maps_go_out_of_an_output_and_back_into_it(name):
    layout, output = LAYOUTS[name]
    assert torch.equal(layout.to_maps(output), MAPS)
    variants = torch.cat([MAPS[:1] + 100, MAPS[:1] * 2, -MAPS[:1]])
    kept = output.clone()
    filled = layout.with_maps(output[:1], variants)
    assert torch.equal(layout.to_maps(filled), variants)
    if len(output[0]) == 23:
        # The tokens that are no places stay as they are.
        assert (filled[:, [0, 1, 22]] == -1).all()
    assert torch.equal(output, kept)


def test_maps_are_put_into_an_output_in_channels_last_memory():
    output = MAPS[:1].clone(memory_format=torch.channels_last)
    layout = said_layout(lambda y: y[:, 1:, :, 1:], output)
    filled = layout.with_maps(output, layout.to_maps(output) + 100)
    assert torch.equal(filled[:, 1:, :, 1:], output[:, 1:, :, 1:] + 100)
    assert torch.equal(filled[:, :1], output[:, :1])


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("14x14+1", Layout("tokens", 14, 14, 1)),
        ("7X5", Layout("tokens", 7, 5)),
        (" 37x37 + 5 ", Layout("tokens", 37, 37, 5)),
        ((4, 5), Layout("tokens", 4, 5)),
        ((4, 5, 2), Layout("tokens", 4, 5, 2)),
        ("channels-first", Layout("maps", 0, 0)),
        ("Channels-Last", Layout("channels last", 0, 0)),
    ],
)
def test_a_layout_is_parsed_from_what_is_said_and_shown_as_it_is_parsed(said, expected):
    assert parse_layout(said) == expected
    assert parse_layout(str(expected)) == expected


@pytest.mark.parametrize(
    "said", ["", "14", "14x", "0x3", "14x14-1", "tokens", "channels", None, 14, (1, 2, 3, 4)]
)
def test_what_is_no_layout_is_refused_with_those_that_are(said):
    with pytest.raises(XGradCamError, match=r"no layout .*: take channels-first, channels-last, or a grid"):
        parse_layout(said)


def test_the_output_tells_the_size_of_maps():
    assert said_layout("channels-first", MAPS) == Layout("maps", 4, 5)
    assert said_layout("channels-last", MAPS) == Layout("channels last", 3, 4)
    assert said_layout(Layout("tokens", 4, 5, 1), TOKENS) == Layout("tokens", 4, 5, 1)


@pytest.mark.parametrize(
    ("said", "output"), [("channels-first", TOKENS), ("4x5+4", TOKENS), ("4x5", MAPS), ("5x5", TOKENS)]
)
def test_a_layout_that_does_not_fit_is_refused(said, output):
    with pytest.raises(XGradCamError, match="does not fit"):
        said_layout(said, output)


@pytest.mark.parametrize(
    "function",
    [
        lambda y: y.relu(),
        lambda y: y.abs(),
        lambda y: 2 * y,
        lambda y: y.mean(dim=1, keepdim=True),
        lambda y: y[:, :1].expand(-1, 3, -1, -1),
        lambda y: torch.cat([y, y], dim=1),
        lambda y: y.flip(0),
        lambda y: y[:1],
        lambda y: y.flatten(1),
        lambda y: torch.nn.functional.pad(y, (1, 1)),
        lambda y: y.softmax(dim=1),
    ],
)
def test_a_function_that_does_more_than_choose_is_refused(function):
    with pytest.raises(
        XGradCamError, match="by choosing and ordering the output's entries, each at most once"
    ):
        said_layout(function, MAPS)


def test_a_function_that_fails_is_named():
    with pytest.raises(XGradCamError, match=r"the layout function fails on its output: .*size"):
        said_layout(lambda y: y.reshape(2, 3, 7, 7), MAPS)


@pytest.mark.parametrize("patch", [8, 14, 16, 32])
@pytest.mark.parametrize("image", [(224, 224), (225, 224), (240, 300), (190, 333), (97, 400)])
def test_the_true_grid_is_among_those_of_an_image_however_its_rest_is_treated(patch, image):
    """So that a single one is the true one."""
    for grid in [(image[0] // patch, image[1] // patch), (-(-image[0] // patch), -(-image[1] // patch))]:
        for prefix in (0, 1, 2, 5):
            tokens = grid[0] * grid[1] + prefix
            assert Layout("tokens", *grid, prefix) in token_layouts(tokens, image_grids(image), PREFIXES)


def test_a_list_is_a_layout_as_a_tuple_is():
    assert said_layout([4, 5, 1], TOKENS) == said_layout((4, 5, 1), TOKENS) == Layout("tokens", 4, 5, 1)


@pytest.mark.parametrize("function", [lambda y: None, lambda y: [y], lambda y: y.sum()])
def test_a_function_that_makes_no_maps_is_refused_in_a_line(function):
    with pytest.raises(XGradCamError, match=r"^the layout function makes .*each at most once$"):
        said_layout(function, MAPS)


def test_a_function_is_asked_about_two_samples_whatever_the_batch_and_the_default_device():
    seen = []

    def read(output):
        seen.append((output.shape, output.device))
        return output.movedim(-1, 1)

    output = torch.zeros(7, 4, 5, 3)
    torch.set_default_device("meta")
    try:
        layout = said_layout(read, output)
    finally:
        torch.set_default_device(None)
    assert set(seen) == {((2, 4, 5, 3), output.device)}
    assert (layout.height, layout.width) == (4, 5)


def test_the_choice_of_one_output_is_none_of_another_shape():
    layout = said_layout(lambda y: y.movedim(-1, 1), torch.zeros(1, 4, 5, 3))
    assert said_layout(layout, torch.zeros(2, 4, 5, 3)) == layout
    for shape in [(1, 5, 4, 3), (1, 8, 5, 3), (1, 60)]:
        with pytest.raises(XGradCamError, match="does not fit"):
            said_layout(layout, torch.zeros(shape))
