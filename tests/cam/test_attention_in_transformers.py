"""LeGrad and Chefer's relevance of models of transformers, beside their own attention weights."""

import pytest
import torch
from torch import nn

from tests.cam.attention import chefer_by_hand, images, legrad_by_hand
from xgradcam import explain

# Before, layers return tuples, CLIP cannot compute in float64, and some attention is not handed out.
transformers = pytest.importorskip("transformers", minversion="5.8")

VISION = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
TEXT = {
    **VISION, "vocab_size": 20, "max_position_embeddings": 6, "bos_token_id": 0, "eos_token_id": 1,
    "pad_token_id": 1, "projection_size": 16,
}  # fmt: skip
GRID, BOTH, TARGETS = (4, 4), ["legrad", "chefer"], [2, 0]


class Double(nn.Module):
    """A model of transformers, of which one field is returned."""

    def __init__(self, model, field="logits", **given):
        super().__init__()
        self.model, self.field, self.given = model, field, given

    def forward(self, pixels):
        return getattr(self.model(pixel_values=pixels, **self.given), self.field)


def assert_same(found, expected):
    # The open attention of transformers computes its softmax in float32.
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def chosen(logits):
    return logits.gather(1, torch.tensor(TARGETS)[:, None])[:, 0]


def openly(model, pixels, **given):
    """What the model returns with its own attention weights, in a graph."""
    with torch.enable_grad():
        model.set_attn_implementation("eager")
        return model(pixel_values=pixels, output_attentions=True, output_hidden_states=True, **given)


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("how", ["sdpa", "eager"])
@pytest.mark.parametrize(("kind", "prefix", "rows"), [("ViT", 1, [0]), ("DeiT", 2, [0])])
def test_classifiers(kind, prefix, rows, how):
    config = getattr(transformers, f"{kind}Config")(**VISION, num_labels=5, attn_implementation=how)
    model = getattr(transformers, f"{kind}ForImageClassification")(config).double().eval()
    batch = images(2, (32, 32))
    encoder = getattr(model, kind.lower())
    layers = f"{kind.lower()}.layers" if hasattr(encoder, "layers") else f"{kind.lower()}.encoder.layer"
    found = explain(Double(model), batch, f"model.{layers}.0", TARGETS, BOTH)
    returned = openly(model, batch)
    scores = []
    for tokens in returned.hidden_states[1:]:
        mean = encoder.layernorm(tokens.mean(dim=1))
        scores.append(chosen(model.classifier(mean)))
    legrad = legrad_by_hand(returned.attentions, scores, prefix, GRID).sum(dim=1)
    assert_same(found.maps["legrad"], legrad.double())
    chefer = chefer_by_hand(returned.attentions, chosen(returned.logits), rows, prefix, GRID)
    assert_same(found.maps["chefer"], chefer.double())


@pytest.mark.parametrize("frozen", [False, True])
def test_in_a_whole_clip_the_tower_of_the_image_is_told_from_that_of_the_text(frozen):
    config = transformers.CLIPConfig(vision_config=VISION, text_config=TEXT, projection_dim=8)
    model = transformers.CLIPModel(config).double().eval().requires_grad_(not frozen)
    ids = torch.tensor([[0, 5, 7, 9, 3, 1], [0, 8, 2, 4, 6, 1], [0, 3, 3, 2, 5, 1]])
    batch = images(2, (32, 32))
    whole = Double(model, "logits_per_image", input_ids=ids)
    layer = "model.vision_model.encoder.layers.1.layer_norm1"
    found = explain(whole, batch, layer, TARGETS, BOTH)
    model.requires_grad_()
    returned = openly(model, batch, input_ids=ids)
    vision = returned.vision_model_output
    chefer = chefer_by_hand(vision.attentions, chosen(returned.logits_per_image), [0], 1, GRID)
    assert_same(found.maps["chefer"], chefer.double())
    assert len(found.depth["chefer"]) == len(vision.attentions)
    scores = []
    for tokens in vision.hidden_states[1:]:
        own = model.visual_projection(model.vision_model.post_layernorm(tokens.mean(dim=1)))
        cosines = nn.functional.normalize(own, dim=-1) @ returned.text_embeds.mT
        scores.append(chosen(model.logit_scale.exp() * cosines))
    legrad = legrad_by_hand(vision.attentions, scores, 1, GRID).sum(dim=1)
    assert_same(found.maps["legrad"], legrad.double())


def pooled_by_hand(head, tokens):
    """What SigLIP's pooling head makes of tokens, and its weights."""
    own = head.attention
    projected = [
        nn.functional.linear(one, weight, bias).unflatten(2, (own.num_heads, -1)).transpose(1, 2)
        for one, weight, bias in zip(
            (head.probe.expand(len(tokens), -1, -1), tokens, tokens),
            own.in_proj_weight.chunk(3),
            own.in_proj_bias.chunk(3),
            strict=True,
        )
    ]
    q, k, v = projected
    weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1)
    pooled = own.out_proj((weights @ v).transpose(1, 2).flatten(2))
    return (pooled + head.mlp(head.layernorm(pooled)))[:, 0], weights


def test_siglip_pools_by_attention():
    config = transformers.SiglipConfig(vision_config=VISION, text_config=TEXT)
    model = transformers.SiglipModel(config).double().eval()
    ids, batch = (
        torch.tensor([[0, 5, 7, 9, 3, 1], [0, 8, 2, 4, 6, 1], [0, 3, 3, 2, 5, 1]]),
        images(2, (32, 32)),
    )
    whole = Double(model, "logits_per_image", input_ids=ids)
    found = explain(whole, batch, "model.vision_model.encoder.layers.0", TARGETS, BOTH)
    returned = openly(model, batch, input_ids=ids)
    vision = returned.vision_model_output
    weights, scores = [], []
    for tokens in vision.hidden_states[1:]:
        own, weight = pooled_by_hand(model.vision_model.head, model.vision_model.post_layernorm(tokens))
        cosines = nn.functional.normalize(own, dim=-1) @ returned.text_embeds.mT
        scores.append(chosen(model.logit_scale.exp() * cosines + model.logit_bias))
        weights.append(weight)
    assert_same(found.maps["legrad"], legrad_by_hand(weights, scores, 0, GRID).sum(dim=1).double())
    *gradients, last = torch.autograd.grad(scores[-1].sum(), [*vision.attentions, weights[-1]])
    expected = (weights[-1] * last).clamp(min=0).mean(dim=1)
    for weight, gradient in reversed([*zip(vision.attentions, gradients, strict=True)]):
        expected = expected + expected @ (weight * gradient).clamp(min=0).mean(dim=1).double()
    assert_same(found.maps["chefer"], expected.detach().view(2, *GRID))


def test_a_pooling_head_that_the_score_does_not_read_counts_for_nothing():
    config = transformers.SiglipConfig(vision_config=VISION, text_config=TEXT, num_labels=5)
    model = transformers.SiglipForImageClassification(config).double().eval()
    nn.init.normal_(model.classifier.weight)
    batch = images(2, (32, 32))
    found = explain(Double(model), batch, "model.vision_model.encoder.layers.0", TARGETS, BOTH)
    returned = openly(model, batch)
    assert len(found.depth["chefer"]) == 2
    chefer = chefer_by_hand(returned.attentions, chosen(returned.logits), slice(None), 0, GRID)
    assert_same(found.maps["chefer"], chefer.double())
