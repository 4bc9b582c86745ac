import numpy as np
import pytest
import torch

from xgradcam.cam.explanation import Explanation, heatmap
from xgradcam.runs.views import View

INF, NAN = float("inf"), float("nan")
MAPS = {
    "usual": torch.randn(1, 7, 7, generator=torch.Generator().manual_seed(0)),
    "large": 1e30 * torch.rand(1, 14, 9, generator=torch.Generator().manual_seed(1)),
    "one cell": torch.ones(1, 1, 1),
    "nothing positive": -torch.ones(1, 3, 3),
    "zeros": torch.zeros(1, 3, 3),
    "the same everywhere": torch.full((1, 4, 4), 0.7),
    "nearly the same": torch.tensor([[[1.0, 1.0 + 2e-5], [1.0, 1.0 + 5e-6]]]),
    "just not the same": torch.tensor([[[1.0, 1.0 + 9e-6], [1.0, 1.0]]]),
    "tiny": torch.tensor([[[1e-44, 0.0], [3e-44, 1e-42]]]),
    "infinite": torch.tensor([[[1.0, INF], [0.0, 2.0]]]),
    "no number": torch.tensor([[[1.0, NAN], [0.0, 2.0]]]),
    "half": torch.tensor([[[1.0, 0.5], [0.0, 2.0]]], dtype=torch.float16),
    "double": torch.tensor([[[1.0, 0.5], [0.0, 2.0]]], dtype=torch.float64),
}


def seen(signed, share=(1.0, 1.0)):
    sample = Explanation({"grad-cam": signed}, torch.ones(1), ((),), share=share)
    return View("features", (sample,), (30, 40)).heatmaps()["grad-cam"]


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("size", [(7, 7), (33, 20), (1, 1), (224, 224)])
def test_a_heatmap_has_the_bytes_of_the_public_function_s(name, size):
    signed = MAPS[name]
    before = signed.clone()
    expected = heatmap(signed, size)[0].numpy()
    for _ in range(2):  # the map is not written into
        found = seen(signed)(size)
        assert found.dtype == expected.dtype
        assert found.tobytes() == expected.tobytes()
    assert torch.equal(signed.nan_to_num(), before.nan_to_num())


def test_a_map_over_padding_is_cut_to_the_picture():
    signed = MAPS["usual"]
    sample = Explanation({"grad-cam": signed}, torch.ones(1), ((),), share=(0.5, 0.75))
    expected = sample.heatmap("grad-cam", (30, 40))[0].numpy()
    assert np.array_equal(seen(signed, (0.5, 0.75))((30, 40)), expected)
    assert not np.array_equal(expected, seen(signed)((30, 40)))
