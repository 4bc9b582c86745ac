import torch
from torch import nn

from tests.cam.support import head
from xgradcam.cam.explain import explain


def test_note_that_the_maps_coincide(batch):
    pooled = head(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
    with torch.no_grad():
        pooled[0].bias.fill_(5)
        pooled[4].weight.copy_(pooled[4].weight.abs())
    explanation = explain(pooled, batch, "1")
    torch.testing.assert_close(explanation.maps["grad-cam"], explanation.maps["xgrad-cam"])
    assert all(
        len(lines) == 1 and lines[0].startswith("the two maps coincide here") for lines in explanation.notes
    )
    assert explain(pooled, batch, "1", methods=("xgrad-cam",)).notes == ((), (), ())
    with torch.no_grad():
        pooled[0].weight.mul_(1e-7)
        pooled[0].bias.fill_(1e-8)
    vanishing = explain(pooled, batch, "1")
    assert not torch.allclose(vanishing.maps["grad-cam"], vanishing.maps["xgrad-cam"], rtol=0.01, atol=0)
    assert vanishing.notes == ((), (), ())
    assert explain(pooled, batch, "1", methods=()).notes == ((), (), ())


def test_no_note_where_the_maps_differ_and_have_evidence(net, batch):
    explanation = explain(net, batch, "features.4", 2)
    positive = {method: (signed > 0).flatten(1).any(dim=1) for method, signed in explanation.maps.items()}
    assert positive["xgrad-cam"].any()
    for sample, lines in enumerate(explanation.notes):
        blank = [method for method, found in positive.items() if not found[sample]]
        assert [line.split(" map ")[0] for line in lines] == [
            f"no positive evidence: the {method}" for method in blank
        ]


def test_note_that_there_is_no_positive_evidence(batch):
    against = head(nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 3))
    with torch.no_grad():
        against[0].bias.fill_(5)
        against[4].weight.copy_(-against[4].weight.abs())
    explanation = explain(against, batch, "1", 0)
    assert all((signed <= 0).all() for signed in explanation.maps["xgrad-cam"])
    for lines in explanation.notes:
        assert [line.split(":")[0] for line in lines] == ["no positive evidence", "no positive evidence"]
    assert not explanation.heatmap("grad-cam", (8, 8)).any()


def test_note_of_a_map_that_is_the_same_everywhere(batch):
    constant = head(
        nn.AdaptiveAvgPool2d(1), nn.Upsample(size=(4, 4)), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 1)
    )
    with torch.no_grad():
        constant[0].bias.fill_(5)
        constant[5].weight.fill_(1)
    notes = explain(constant, batch, "2").notes[0]
    assert any(line.startswith("no contrast") for line in notes)


def test_note_that_activations_are_signed(batch):
    signed = head(nn.Flatten(), nn.Linear(128, 3))
    with torch.no_grad():
        signed[0].bias.copy_(torch.tensor([100.0, 0.0]))
    explanation = explain(signed, batch, "0")
    for lines in explanation.notes:
        assert any(line.startswith("signed activations: 1 of 2 channels") for line in lines)
    assert not any("signed" in line for line in explain(signed, batch, "0", methods=("grad-cam",)).notes[0])


def test_a_map_that_is_not_finite_is_blank_and_noted(batch):
    class Rooted(nn.Module):
        def __init__(self):
            super().__init__()
            self.maps, self.head = head(nn.ReLU()), nn.Linear(2, 3).double()

        def forward(self, images):
            return self.head(self.maps(images).mean(dim=(2, 3)).sqrt())  # of a dead channel: no slope

    model = Rooted()
    with torch.no_grad():
        model.maps[0].bias.copy_(torch.tensor([100.0, -100.0]))
    explanation = explain(model, batch, "maps.1", 1)
    assert explanation.logits.isfinite().all()
    assert all(
        any(line.startswith("not finite: the xgrad-cam map") for line in lines) for lines in explanation.notes
    )
    assert not explanation.heatmap("xgrad-cam", (8, 8)).any()
