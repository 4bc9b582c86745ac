"""The likeness of a photograph and a text, on a small network and on transformers' own if it is there."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tests.scores.support import Contrastive, by_autograd, images, seeded
from xgradcam import Similarity, Text, XGradCamError, explain_score, image_encoder, list_layers, verify


def tokenizer(texts):
    """Letters as numbers, padded to the longest text."""
    longest = max(map(len, texts))
    return torch.tensor([[ord(letter) % 30 for letter in text.ljust(longest)] for text in texts])


class Tokenizer:
    """Called as transformers' are."""

    model_input_names = ("input_ids", "attention_mask")

    def __init__(self):
        self.given = None

    def __call__(self, texts, **options):
        self.given = options
        tokens = tokenizer(texts)
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


@pytest.fixture
def model():
    return seeded(Contrastive).train()


def test_the_likeness_is_the_cosine_of_features(model):
    inputs = images()
    with torch.no_grad():
        goal = model.words(tokenizer(["a cat"])).mean(dim=1)[0]
    encoder = image_encoder(model)
    score = Text("a cat", tokenizer, model)
    torch.testing.assert_close(score.embedding, goal)

    def by_hand(features):
        return (features * goal).sum(dim=1) / (features.norm(dim=1) * goal.norm())

    expected, signed = by_autograd(encoder, inputs, by_hand)
    found = explain_score(encoder, inputs, "features", score, ["hires-cam", "ablation-cam"])
    torch.testing.assert_close(found.score, expected)
    torch.testing.assert_close(found.maps["hires-cam"], signed)
    same = explain_score(encoder, inputs, "features", Similarity(goal), ["ablation-cam"])
    torch.testing.assert_close(found.maps["ablation-cam"], same.maps["ablation-cam"])
    assert verify(encoder, inputs, "features.2", score=score).closes.all()


def test_each_photograph_can_have_its_text(model):
    inputs, texts = images(), ["a cat", "dogs"]
    encoder = image_encoder(model)
    together = explain_score(encoder, inputs, "features", Text(texts, tokenizer, model), ["ablation-cam"])
    for n, text in enumerate(texts):
        # Padded alike, since the small network sees the padding.
        goal = Text(texts, tokenizer, model).embedding[n]
        alone = explain_score(encoder, inputs[n : n + 1], "features", Similarity(goal), ["ablation-cam"])
        torch.testing.assert_close(together.maps["ablation-cam"][n : n + 1], alone.maps["ablation-cam"])
        assert together.sample(n).score_of.text == text


def test_the_model_is_left_as_it_was(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    names = [name for name, _ in model.named_modules()]
    encoder = image_encoder(model)
    explain_score(encoder, images(), "features", Text("a cat", tokenizer, model))
    assert all(module.training for module in model.modules())
    assert "forward" not in vars(model)
    assert [name for name, _ in encoder.named_modules()] == names
    assert encoder.features is model.features
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    # The dropout was off while the text was encoded, and the random numbers are where they were.
    state = torch.get_rng_state()
    Text("a cat", tokenizer, model)
    assert torch.equal(torch.get_rng_state(), state)
    assert "features.4" in [layer.name for layer in list_layers(encoder, images())]


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2"])
def test_a_tokenizer_of_transformers_is_called_as_the_model_was_trained(model, kind):
    model.config = SimpleNamespace(model_type=kind)
    own = Tokenizer()
    plain = Text("a cat", tokenizer, model)
    torch.testing.assert_close(Text("a cat", own, model).embedding, plain.embedding)
    assert own.given["padding"] == ("max_length" if kind.startswith("siglip") else True)
    processor = SimpleNamespace(tokenizer=own, image_processor=None)
    torch.testing.assert_close(Text("a cat", processor, model).embedding, plain.embedding)


def test_a_model_as_of_open_clip_explains_photographs_by_itself(model):
    class Open(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def encode_image(self, photographs):
            return self.inner.get_image_features(photographs)

        def encode_text(self, tokens):
            return self.inner.get_text_features(tokens).pooler_output

        def forward(self, photographs=None, text=None):
            return self.encode_image(photographs), None, self.inner.words.weight.sum()

    both, inputs = Open(), images()
    score = Text("a cat", tokenizer, both)
    found = explain_score(both, inputs, "inner.features", score)
    expected = explain_score(image_encoder(model), inputs, "features", Text("a cat", tokenizer, model))
    torch.testing.assert_close(found.score, expected.score)
    again = explain_score(image_encoder(both), inputs, "inner.features", score)
    torch.testing.assert_close(again.score, expected.score)
    with torch.no_grad():
        features = model.get_image_features(inputs)
    torch.testing.assert_close(found.score_of({"text": 1, "image_features": features}), found.score)


@pytest.mark.parametrize(
    ("text", "tokens", "message"),
    [
        ("", tokenizer, "the text is '': give words"),
        (["a", 3], tokenizer, "the text is .'a', 3.: give words"),
        (5, tokenizer, "the text is 5: give words"),
        ("a cat", lambda _texts: torch.tensor([[99]]), "the text 'a cat' cannot be encoded: IndexError"),
        ("a cat", 7, "the text 'a cat' cannot be encoded: TypeError"),
    ],
)
def test_a_wrong_text_is_told(model, text, tokens, message):
    with pytest.raises(XGradCamError, match=message):
        Text(text, tokens, model)


def test_a_model_without_texts_is_told(model):
    with pytest.raises(
        XGradCamError, match="does not encode texts: it has neither get_text_features nor enc"
    ):
        Text("a cat", tokenizer, nn.Linear(2, 2))
    with pytest.raises(XGradCamError, match="does not encode photographs"):
        image_encoder(nn.Linear(2, 2))
    with pytest.raises(XGradCamError, match=r"explain image_encoder\(model\)"):
        Text("a cat", tokenizer, model)({"logits": torch.rand(2, 3)})
    with pytest.raises(XGradCamError, match=r"needs an output \(N, 5\)"):
        Text("a cat", tokenizer, model)(torch.rand(2, 3))


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_models_of_transformers(kind):
    # Before, CLIP cannot compute in float64 and the layers of Siglip return tuples.
    transformers = pytest.importorskip("transformers", minversion="5.8")
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**text, "image_size": 16, "patch_size": 4}
    text |= {"vocab_size": 40, "max_position_embeddings": 12, "eos_token_id": 29, "pad_token_id": 1}
    config = getattr(transformers, f"{kind}Config")(text_config=text, vision_config=vision)
    model = seeded(lambda: getattr(transformers, f"{kind}Model")(config))
    inputs, encoder = images(), image_encoder(model)
    score = Text("a cat", lambda texts: tokenizer(texts), model)
    layer = "vision_model.encoder.layers.0"
    found = explain_score(encoder, inputs, layer, score, ["grad-cam"])
    features = model(input_ids=tokenizer(["a cat"]), pixel_values=inputs)
    expected = features.image_embeds @ features.text_embeds[0]
    torch.testing.assert_close(found.score, expected.detach())
    assert found.maps["grad-cam"].shape == (2, 4, 4)


def test_a_model_that_takes_texts_too_is_told_what_to_explain(model):
    score = Text("a cat", tokenizer, model)
    with pytest.raises(XGradCamError, match=r"takes more than photographs: give image_encoder\(model\)"):
        explain_score(model, images(), "features", score)
