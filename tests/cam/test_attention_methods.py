"""LeGrad and Chefer's relevance, beside plain autograd from open attention."""

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional
from torchvision.models import VisionTransformer, resnet18, swin_t

from tests.cam.attention import PlainViT, chefer_by_hand, images, legrad_by_hand
from tests.support import assert_same_state, state_of
from xgradcam import Explainer, XGradCamError, explain, explain_classes, explain_score
from xgradcam.cam.methods import METHODS
from xgradcam.errors import NotApplicableError

BOTH = ["legrad", "chefer"]
TARGETS = [2, 0, 3]
GRID = (2, 3)
ROWS = {"class": [0], "places": slice(1, None), "all": slice(None)}


def chosen(logits, targets=TARGETS):
    return logits.gather(1, torch.tensor(targets)[:, None])[:, 0]


def own_scores(behind, end):
    """Each block's score: that of the mean of its tokens, for the class of each sample."""
    return [chosen(end(tokens.mean(dim=1, keepdim=True).expand_as(tokens))) for tokens in behind]


def assert_same(found, expected):
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11 * float(expected.abs().max()))


@pytest.mark.parametrize("how", ["fused", "open", "folded"])
@pytest.mark.parametrize(("prefix", "pool"), [(1, "class"), (1, "places"), (4, "class"), (0, "all")])
def test_the_maps_are_those_of_plain_autograd(how, prefix, pool):
    net, batch = PlainViT(how, prefix, pool), images()
    found = explain(net, batch, "blocks.2.norm1", TARGETS, BOTH)
    logits, attention, behind = net.openly(batch)
    parts = legrad_by_hand(attention, own_scores(behind, net.end), prefix, GRID)
    assert_same(found.maps["legrad"], parts.sum(dim=1))
    shares = parts.sum(dim=(2, 3)) / parts.sum(dim=(1, 2, 3))[:, None]
    torch.testing.assert_close(torch.stack([*found.depth["legrad"].values()], dim=1), shares)
    rows = slice(prefix, None) if pool == "places" else ROWS[pool]
    expected = chefer_by_hand(attention, chosen(logits), rows, prefix, GRID)
    assert_same(found.maps["chefer"], expected)


def test_the_depth_is_the_share_of_each_block():
    net, batch = PlainViT(), images()
    found = explain(net, batch, "blocks.0", TARGETS, BOTH)
    for method in BOTH:
        shares = torch.stack([*found.depth[method].values()], dim=1)
        assert list(found.depth[method]) == ["blocks.0", "blocks.1", "blocks.2"]
        assert (shares > 0).all()
        torch.testing.assert_close(shares.sum(dim=1), torch.ones(3, dtype=torch.float64))
        assert not any(one.requires_grad for one in (*found.depth[method].values(), found.maps[method]))
    # With the last block's attention alone, relevance is that block's part.
    logits, attention, _ = net.openly(batch)
    last = chefer_by_hand(attention[2:], chosen(logits), [0], 1, GRID)
    whole = found.maps["chefer"].sum(dim=(1, 2))
    torch.testing.assert_close(found.depth["chefer"]["blocks.2"] * whole, last.sum(dim=(1, 2)))
    assert found.sample(1).depth["legrad"]["blocks.1"].shape == (1,)
    assert found.to("cpu").depth["chefer"].keys() == found.depth["chefer"].keys()
    assert explain(net, batch, "blocks.0", 1, ["hires-cam"]).depth == {}


def test_the_layer_does_not_matter_but_for_the_other_methods():
    net, batch = PlainViT(), images()
    methods = [*BOTH, "hires-cam"]
    first, last = (explain(net, batch, layer, 1, methods) for layer in ("patches", "blocks.2.norm1"))
    for method in BOTH:
        torch.testing.assert_close(first.maps[method], last.maps[method], rtol=0, atol=0)
    assert not torch.allclose(first.maps["hires-cam"], last.maps["hires-cam"])


@pytest.mark.parametrize("method", BOTH)
def test_a_batch_is_its_samples_and_several_classes_share_a_forward(method):
    net, batch, forwards = PlainViT("open"), images(), []
    together = explain(net, batch, "blocks.1", TARGETS, [method]).maps[method]
    for n, target in enumerate(TARGETS):
        alone = explain(net, batch[n : n + 1], "blocks.1", target, [method]).maps[method]
        torch.testing.assert_close(together[n : n + 1], alone, rtol=1e-9, atol=1e-14)
    explain(net, batch, "blocks.1", 0, [method])  # finds the layouts
    net.head.register_forward_hook(lambda *_: forwards.append(1))
    explain(net, batch, "blocks.1", 0, [method])
    of_one = len(forwards)
    classes = explain_classes(net, batch, "blocks.1", [0, 3, TARGETS], [method])
    assert len(forwards) == 2 * of_one
    torch.testing.assert_close(classes[2].maps[method], together)
    assert not torch.allclose(classes[0].maps[method], classes[1].maps[method])


@pytest.mark.parametrize("method", BOTH)
def test_any_score_an_explainer_and_an_average(method):
    net, batch = PlainViT(), images()
    expected = explain(net, batch, "blocks.1", 1, [method]).maps[method]
    score = explain_score(net, batch, "blocks.1", lambda output: output[:, 1] + 3, [method])
    torch.testing.assert_close(score.maps[method], expected)
    assert score.depth[method].keys() == {"blocks.0", "blocks.1", "blocks.2"}
    explainer = Explainer(net, "blocks.1", [method])
    for _ in range(5):
        torch.testing.assert_close(explainer(batch, 1).maps[method], expected)
    averaged = explain(net, batch, "blocks.1", 1, [method], augment=True).maps[method]
    mirrored = explain(net, batch.flip(3), "blocks.1", 1, [method]).maps[method].flip(2)
    parts = [expected, mirrored] + [
        explain(net, contrast * batch, "blocks.1", 1, [method]).maps[method] for contrast in (0.9, 1.1)
    ]
    parts += [
        explain(net, contrast * batch.flip(3), "blocks.1", 1, [method]).maps[method].flip(2)
        for contrast in (0.9, 1.1)
    ]
    torch.testing.assert_close(averaged, torch.stack(parts).mean(dim=0))


class Compared(nn.Module):
    """Scores of two images, each by a transformer of its own, or by the same one."""

    def __init__(self, shared):
        super().__init__()
        self.left = PlainViT()
        self.right = self.left if shared else PlainViT(seed=1)

    def forward(self, left, right):
        return self.left(left) - 2 * self.right(right)


@pytest.mark.parametrize(("shared", "methods"), [(False, BOTH), (True, ["chefer"])])
def test_the_image_of_several_inputs_that_the_layer_sees(shared, methods):
    net, pair = Compared(shared), (images(), images(seed=2))
    for place, tower in enumerate((net.left, net.right)):
        layer = f"{'left' if shared or not place else 'right'}.blocks.2.norm1"
        run = place if shared else None
        found = explain(net, pair, layer, TARGETS, methods, image=place, run=run)
        logits, attention, behind = tower.openly(pair[place])
        factor = -2 if place else 1
        expected = chefer_by_hand(attention, factor * chosen(logits), ROWS["class"], 1, GRID)
        assert_same(found.maps["chefer"], expected)
        if "legrad" in methods:
            scores = [factor * one for one in own_scores(behind, tower.end)]
            assert_same(found.maps["legrad"], legrad_by_hand(attention, scores, 1, GRID).sum(dim=1))
        for method in methods:  # of the other image than its other maps
            with pytest.raises(XGradCamError, match="name another by image="):
                explain(net, pair, layer, TARGETS, ["grad-cam", method], image=1 - place, run=run)


def test_a_batch_of_none():
    found = explain(PlainViT(), images()[:0], "blocks.1", methods=BOTH, layout="2x3+1")
    assert {found.maps[method].shape for method in BOTH} == {(0, 2, 3)}


def test_axioms_leave_out_what_weighs_no_channel():
    found = explain(PlainViT(), images(), "blocks.1", 1, [*BOTH, "hires-cam"], axioms=True)
    assert set(found.sensitivity) == {"hires-cam"}
    assert set(found.conservation) == {*BOTH, "hires-cam"}


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize("frozen", [False, True])
def test_the_model_is_left_as_it_was(method, frozen):
    net, batch = PlainViT().train().requires_grad_(not frozen), images()
    before, given = state_of(net), batch.clone()
    for target in (1, 99):
        with torch.inference_mode():
            try:
                assert explain(net, batch, "blocks.1", target, [method]).maps[method].any()
            except XGradCamError:
                assert target == 99
    assert_same_state(state_of(net), before)
    assert torch.equal(batch, given)
    assert not torch.overrides._get_current_function_mode_stack()
    assert all(parameter.grad is None for parameter in net.parameters())


def torchvision_openly(net, batch):
    """As `PlainViT.openly`, from the parameters of nn.MultiheadAttention."""
    tokens = net._process_input(batch)
    tokens = torch.cat([net.class_token.expand(len(batch), -1, -1), tokens], dim=1)
    tokens, kept, behind = tokens + net.encoder.pos_embedding, [], []
    for block in net.encoder.layers:
        own = block.self_attention
        qkv = functional.linear(block.ln_1(tokens), own.in_proj_weight, own.in_proj_bias)
        q, k, v = (one.unflatten(2, (own.num_heads, -1)).transpose(1, 2) for one in qkv.chunk(3, dim=2))
        kept.append((q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1))
        tokens = tokens + own.out_proj((kept[-1] @ v).transpose(1, 2).flatten(2))
        tokens = tokens + block.mlp(block.ln_2(tokens))
        behind.append(tokens)
    return kept, behind, lambda tokens: net.heads(net.encoder.ln(tokens)[:, 0])


@pytest.mark.parametrize("depth", [1, 2])
def test_torchvision(depth):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = VisionTransformer(32, 8, depth, 2, 16, 32, num_classes=5).double().eval()
        nn.init.normal_(net.heads.head.weight)
    batch = images(size=(32, 32))
    found = explain(net, batch, "encoder.layers.encoder_layer_0", TARGETS, BOTH)
    attention, behind, end = torchvision_openly(net, batch)
    legrad = legrad_by_hand(attention, own_scores(behind, end), 1, (4, 4))
    assert_same(found.maps["legrad"], legrad.sum(dim=1))
    assert_same(found.maps["chefer"], chefer_by_hand(attention, chosen(end(behind[-1])), [0], 1, (4, 4)))
    assert list(found.depth["legrad"]) == [f"encoder.layers.encoder_layer_{i}" for i in range(depth)]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("name", "options", "rows", "prefix"),
    [
        ("vit_tiny_patch16_224", {}, [0], 1),
        ("vit_tiny_patch16_224", {"global_pool": "avg"}, slice(1, None), 1),
        ("deit_tiny_distilled_patch16_224", {}, [0, 1], 2),
        ("vit_small_patch14_reg4_dinov2", {"embed_dim": 48, "num_heads": 3}, [0], 5),
    ],
)
def test_timm(name, options, rows, prefix, fused):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = timm.create_model(name, num_classes=5, img_size=32, patch_size=8, depth=2, **options)
    net, batch = net.double().eval(), images(size=(32, 32))
    for block in net.blocks:
        block.attn.fused_attn = fused
    found = explain(net, batch, "blocks.1.norm1", TARGETS, BOTH)
    attention, behind = [], []
    for block in net.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _m, _i, weights: attention.append(weights))
        block.register_forward_hook(lambda _m, _i, tokens: behind.append(tokens))
    logits = net(batch)
    legrad = legrad_by_hand(
        attention, own_scores(behind, lambda tokens: net.forward_head(net.norm(tokens))), prefix, (4, 4)
    )
    assert_same(found.maps["legrad"], legrad.sum(dim=1))
    assert_same(found.maps["chefer"], chefer_by_hand(attention, chosen(logits), rows, prefix, (4, 4)))


def siglip_pooling_by_hand(pool, tokens):
    """What timm's pooling by attention makes of tokens, and its weights."""
    q = pool.q(pool.latent.expand(len(tokens), -1, -1)).unflatten(2, (pool.num_heads, -1)).transpose(1, 2)
    k, v = (one.unflatten(2, (pool.num_heads, -1)).transpose(1, 2) for one in pool.kv(tokens).chunk(2, dim=2))
    weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1)
    pooled = pool.proj((weights @ v).transpose(1, 2).flatten(2))
    return (pooled + pool.mlp(pool.norm(pooled)))[:, 0], weights


def test_pooling_by_attention():
    """LeGrad looks at the pooling's attention for each block's tokens; relevance begins at its row."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = timm.create_model(
            "vit_base_patch16_siglip_224",
            img_size=32, patch_size=8, depth=2, embed_dim=24, num_heads=2, num_classes=5,
        )  # fmt: skip
    net, batch = net.double().eval(), images(size=(32, 32))
    nn.init.normal_(net.attn_pool.latent)
    found = explain(net, batch, "blocks.0", TARGETS, BOTH)
    attention, behind = [], []
    for block in net.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _m, _i, weights: attention.append(weights))
        block.register_forward_hook(lambda _m, _i, tokens: behind.append(tokens))
    net(batch)
    pooled = [siglip_pooling_by_hand(net.attn_pool, net.norm(tokens)) for tokens in behind]
    scores = [chosen(net.head(net.fc_norm(one))) for one, _ in pooled]
    legrad = legrad_by_hand([weights for _, weights in pooled], scores, 0, (4, 4))
    assert_same(found.maps["legrad"], legrad.sum(dim=1))
    assert list(found.depth["legrad"]) == ["blocks.0", "blocks.1"]
    *gradients, last = torch.autograd.grad(scores[1].sum(), [*attention, pooled[1][1]])
    row = (pooled[1][1] * last).clamp(min=0).mean(dim=1)
    expected = row
    for weights, gradient in reversed([*zip(attention, gradients, strict=True)]):
        expected = expected + expected @ (weights * gradient).clamp(min=0).mean(dim=1)
    assert_same(found.maps["chefer"], expected.view(3, 4, 4).detach())
    assert list(found.depth["chefer"]) == ["blocks.0", "blocks.1", "attn_pool"]


@pytest.mark.parametrize("method", BOTH)
def test_half_precision_gives_the_maps_of_single(method):
    net, batch = PlainViT(), images()
    expected = explain(net, batch, "blocks.1", 1, [method]).maps[method]
    found = explain(net.bfloat16(), batch.bfloat16(), "blocks.1", 1, [method]).maps[method]
    assert found.dtype == torch.float32
    assert (found.double() - expected).abs().max() < 0.1 * expected.abs().max()


class Checkpointed(PlainViT):
    def forward(self, images):
        tokens = self.begin(images)
        for block in self.blocks:
            tokens = torch.utils.checkpoint.checkpoint(block, tokens, use_reentrant=False)
        return self.end(tokens)


@pytest.mark.parametrize("method", BOTH)
def test_checkpointed_blocks(method):
    batch = images()
    expected = explain(PlainViT(), batch, "patches", 1, [method]).maps[method]
    torch.testing.assert_close(explain(Checkpointed(), batch, "patches", 1, [method]).maps[method], expected)


class Both(PlainViT):
    """The score reads the class token and the places."""

    def end(self, tokens):
        tokens = self.norm(tokens)
        return self.head(tokens[:, 0] + tokens[:, 1:].mean(dim=1))


class Past(PlainViT):
    """The score knows the input past the blocks too."""

    def forward(self, images):
        return super().forward(images) + images.mean(dim=(1, 2, 3))[:, None]


class Twice(PlainViT):
    def forward(self, images):
        return self.end(self.blocks[0](self.blocks[0](self.begin(images))))


class Channels(PlainViT):
    """As many channels in a head as there are tokens, between which it has attention."""

    def __init__(self):
        super().__init__(prefix=0, pool="all", depth=1)
        self.position = nn.Parameter(self.position[:, :6])
        self.patches, self.norm, self.head = nn.Conv2d(3, 6, 8, 8), nn.LayerNorm(6), nn.Linear(6, 5)
        self.first, self.position = nn.Parameter(torch.zeros(1, 0, 6)), nn.Parameter(torch.randn(1, 6, 6))

        class Between(nn.Module):
            def forward(self, tokens):
                weights = (tokens.mT @ tokens).softmax(dim=-1)
                return tokens + (weights[:, None] @ tokens.mT[:, None])[:, 0].mT

        self.blocks = nn.ModuleList([Between()])
        self.double()


class Permuted(PlainViT):
    """Attention among the tokens in another order."""

    def __init__(self):
        super().__init__("open")
        for block in self.blocks:
            block.attend = lambda tokens, kept=None, block=block: (
                type(block).attend(block, tokens.flip(1), kept).flip(1)
            )


REFUSED = {
    "a convolutional network": (resnet18, "computes no attention", (1, 3, 32, 32), "layer3"),
    "windows": (lambda: swin_t(num_classes=5), "attention of shape", (1, 3, 64, 64), "features.1"),
    "a score past the blocks": (Past, "past 'blocks", (2, 3, 16, 24), "patches"),
    "a block that runs twice": (Twice, "more than once", (2, 3, 16, 24), "patches"),
    "channels": (Channels, "such as channels", (2, 3, 16, 24), "patches"),
    "another order": (Permuted, "ordered anew", (2, 3, 16, 24), "patches"),
    "class attention": (
        lambda: timm.create_model("cait_xxs24_224", img_size=32, patch_size=8, depth=2, num_classes=5),
        "1 queries to 17 keys",
        (1, 3, 32, 32),
        "blocks.0",
    ),
    "channels of XCiT": (
        lambda: timm.create_model("xcit_nano_12_p16_224", img_size=32, depth=2, num_classes=5),
        "32 queries to 32 keys",
        (1, 3, 32, 32),
        "blocks.0",
    ),
    "pooled keys": (
        lambda: timm.create_model("pvt_v2_b0", num_classes=5),
        "queries to 4 keys",
        (1, 3, 64, 64),
        "stages.3",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("method", BOTH)
def test_what_has_no_rule_is_refused_with_the_reason(case, method):
    make, reason, shape, layer = REFUSED[case]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = make().double().eval()
    batch = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.raises(NotApplicableError, match=reason) as caught:
        explain(net, batch, layer, 1, [method])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_relevance_has_no_row_where_class_token_and_places_are_read():
    net, batch = Both(), images()
    with pytest.raises(NotApplicableError, match="alike: chefer has a rule for one of them"):
        explain(net, batch, "patches", 1, ["chefer"])
    _, attention, behind = net.openly(batch)
    found = explain(net, batch, "patches", TARGETS, ["legrad"]).maps["legrad"]
    assert_same(found, legrad_by_hand(attention, own_scores(behind, net.end), 1, GRID).sum(dim=1))


class Uncertain(PlainViT):
    """Blocks whose layout is not certain: the patches are no convolution's, and of a trained order."""

    def __init__(self):
        super().__init__()
        self.order = [4, 0, 3, 5, 1, 2]

    def begin(self, images):
        tokens = self.patches(images).flatten(2).mT[:, self.order]
        return torch.cat([self.first.expand(len(images), -1, -1), tokens], dim=1) + self.position


def test_a_layout_that_is_not_certain_is_refused_and_taken_if_it_is_said():
    net, batch = Uncertain(), images()
    with pytest.raises(NotApplicableError, match=r"not certain: say it by layout=.*at a layer in a block"):
        explain(net, batch, "patches", 1, ["legrad"])
    found = explain(net, batch, "blocks.1", TARGETS, ["legrad"], layout="2x3+1").maps["legrad"]
    _, attention, behind = net.openly(batch)
    assert_same(found, legrad_by_hand(attention, own_scores(behind, net.end), 1, GRID).sum(dim=1))


def test_the_table_says_which_they_are():
    assert [name for name, method in METHODS.items() if method.of_attention] == BOTH
