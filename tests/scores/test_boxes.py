"""The score of a detection, against plain autograd and another package."""

import numpy as np
import pytest
import torch
from pytorch_grad_cam.utils.model_targets import FasterRCNNBoxScoreTarget
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn, retinanet_resnet50_fpn

from tests.scores.support import Detr, Listing, Segmenter, Yolo, by_autograd, images, seeded
from xgradcam import BoxScore, XGradCamError, explain_score, verify
from xgradcam.errors import NothingFoundError
from xgradcam.scores.detections import candidates_in, overlaps

DETECTORS = {
    "yolo": Yolo,
    "yolo in a tuple": lambda: Yolo(whole=True),
    "detr": Detr,
    "detr of transformers": lambda: Detr(mapping=False),
    "listing": Listing,
}


def table(returned):
    """Each sample's candidates by hand: boxes as corners, and S and the rank's number for each class."""
    if isinstance(returned, tuple):
        returned = returned[0]
    if isinstance(returned, list):
        each = []
        for one in returned:
            scores = torch.zeros(len(one["labels"]), 4, dtype=torch.float64)
            scores = scores.scatter(1, one["labels"][:, None], one["scores"][:, None])
            each.append((one["boxes"], scores, scores))
        return each
    if torch.is_tensor(returned):
        rows = returned.mT
        boxes, scores = rows[..., :4], rows[..., 4:]
        chances = scores
    else:
        returned = returned if isinstance(returned, dict) else vars(returned)
        boxes, scores = returned["pred_boxes"], returned.get("pred_logits", returned.get("logits"))
        chances = scores.softmax(2)[..., :-1]
    corners = torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], 2)
    return list(zip(corners, scores, chances, strict=True))


def iou(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return float(width * height / (area - width * height))


@pytest.mark.parametrize("name", DETECTORS)
def test_the_best_detection_is_explained(name):
    model, inputs = seeded(DETECTORS[name]), images()
    with torch.no_grad():
        tables = table(model(inputs))
    places = [divmod(int(chances.argmax()), chances.shape[1]) for _, _, chances in tables]

    def score(returned):
        return torch.stack([of[1][place] for of, place in zip(table(returned), places, strict=True)])

    expected, signed = by_autograd(model, inputs, score)
    found = explain_score(model, inputs, "features", BoxScore(), ["hires-cam"])
    torch.testing.assert_close(found.score, expected)
    torch.testing.assert_close(found.maps["hires-cam"], signed)
    for detection, (boxes, scores, _), (row, target) in zip(found.detections, tables, places, strict=True):
        assert (detection.index, detection.target, detection.overlap) == (row, target, 1.0)
        assert detection.box == pytest.approx(boxes[row].tolist())
        assert detection.score == pytest.approx(float(scores[row, target]))
        assert detection.relative is name.startswith("detr")


@pytest.mark.parametrize("name", DETECTORS)
def test_the_detection_at_a_box_is_explained_for_each_sample(name):
    model, inputs = seeded(DETECTORS[name]), images()
    with torch.no_grad():
        returned = model(inputs)
    # The third by rank, moved a little: what overlaps it most is that one, or a better one of its class.
    asked = [BoxScore(2).settled(returned).detections[n] for n in range(2)]
    boxes = torch.tensor([one.box for one in asked]) + (0.001 if "detr" in name else 0.05)
    targets = [one.target for one in asked]
    found = explain_score(model, inputs, "features", BoxScore(boxes, targets), ["hires-cam"])
    for n, detection in enumerate(found.detections):
        assert (detection.index, detection.target) == (asked[n].index, targets[n])
        assert detection.overlap == pytest.approx(iou(boxes[n], asked[n].box), abs=1e-5)
        assert 0.8 < detection.overlap < 1
        alone = explain_score(model, inputs[n : n + 1], "features", BoxScore(boxes[n], targets[n]))
        assert alone.detections == (detection,)
    expected, signed = by_autograd(
        model,
        inputs,
        lambda returned: torch.stack(
            [of[1][one.index, one.target] for of, one in zip(table(returned), asked, strict=True)]
        ),
    )
    torch.testing.assert_close(found.score, expected)
    torch.testing.assert_close(found.maps["hires-cam"], signed)
    one = found.sample(1)
    assert one.detections == found.detections[1:]
    torch.testing.assert_close(one.score, found.score[1:])


def test_boxes_of_one_class_that_overlap_are_one_detection():
    boxes = torch.tensor([[5.0, 5, 4, 4], [5.2, 5, 4, 4], [12, 12, 4, 4], [5.1, 5, 4, 4], [1, 1, 1, 1]]).mT
    scores = torch.tensor([[0.6, 0.9, 0.3, 0.1, 0.0], [0.1, 0.0, 0.2, 0.8, 0.1]])
    returned = torch.cat([boxes, scores])[None]
    assert [BoxScore(rank).settled(returned).detections[0].index for rank in range(4)] == [1, 3, 2, 4]
    assert BoxScore(1, 0).settled(returned).detections[0].index == 2
    # The box fits that of the worse one of the class, and a worse class.
    assert BoxScore((3, 3, 7, 7), 0).settled(returned).detections[0].index == 1
    assert BoxScore((3, 3, 7, 7)).settled(returned).detections[0].index == 3
    # What is hardly likely is no detection where another is likely.
    assert BoxScore((0.5, 0.5, 1.5, 1.5)).settled(returned).detections[0].index == 4
    returned[0, 5, 4] = 0.01
    with pytest.raises(NothingFoundError, match="no detection overlaps the box"):
        BoxScore((0.5, 0.5, 1.5, 1.5))(returned)


def anchored(classes=3, anchors=20, more=0):
    """(1, 4 + classes + more, anchors): boxes in pixels, chances, and numbers of another kind, as large."""
    generator = torch.Generator().manual_seed(0)
    chances = torch.rand(1, classes, anchors, generator=generator)
    boxes = 10 + 20 * torch.rand(1, 4, anchors, generator=generator)
    return torch.cat(
        [boxes, chances, 50 * torch.randn(1, more, anchors, generator=generator)], dim=1
    ), chances


@pytest.mark.parametrize("form", [lambda raw: raw, lambda raw: {"one2many": {}, "one2one": raw}])
def test_raw_predictions_beside_yolos_tell_which_rows_are_of_classes(form):
    for classes, anchors, more in ((3, 20, 6), (1, 20, 51), (80, 63, 0)):
        returned, chances = anchored(classes, anchors, more)
        score = BoxScore().settled((returned, form({"scores": chances})))
        (detection,) = score.detections
        assert (detection.target, detection.index) == divmod(int(chances[0].argmax()), anchors)
        assert float(score((returned, form({"scores": chances})))) == float(chances.max())


@pytest.mark.parametrize(
    "returned",
    [
        # Boxes that are turned.
        (anchored()[0], {"scores": anchored()[1], "angle": torch.zeros(1, 1, 20)}),
        # A row for each query: boxes as shares, and chances.
        torch.rand(1, 300, 84, generator=torch.Generator().manual_seed(0)),
        # Final rows: corners, score and class.
        (torch.cat([40 * torch.rand(1, 300, 4), torch.rand(1, 300, 1), torch.ones(1, 300, 1)], dim=2), {}),
    ],
)
def test_rows_that_are_not_yolos_classes_are_refused(returned):
    with pytest.raises(XGradCamError, match=r"not detections: .* \(N, 4 \+ classes, anchors\)"):
        BoxScore()(returned)


@pytest.mark.parametrize("returned", [anchored(more=6)[0], (anchored(more=6)[0], [torch.zeros(1, 9, 4, 4)])])
def test_masks_and_points_that_nothing_counts_are_refused(returned):
    with pytest.raises(XGradCamError, match=r"of 9 rows after the boxes 3 are chances .* output\[:, :7\]$"):
        BoxScore()(returned)


def test_yolos_of_small_images_have_more_rows_than_anchors():
    returned, chances = anchored(classes=80, anchors=63)
    assert float(BoxScore()(returned)) == float(chances.max())


@pytest.mark.parametrize("method", ["ablation-cam", "score-cam"])
@pytest.mark.parametrize("name", ["yolo", "listing"])
def test_methods_that_ask_again_ask_for_the_same_detection(name, method):
    model, inputs = seeded(DETECTORS[name]), images(1)
    model.least = 0.55
    with torch.no_grad():
        (detection,) = BoxScore(1).settled(model(inputs)).detections
        kept = []
        handle = model.features.register_forward_hook(lambda _m, _i, output: kept.append(output))
        model(inputs)
        handle.remove()

        def again(returned):
            boxes, scores, _ = table(returned)[0]
            if name == "yolo":
                return float(scores[detection.index, detection.target])
            rows = [row for row in range(len(boxes)) if scores[row, detection.target] > 0]
            near = max(rows, key=lambda row: iou(boxes[row], detection.box), default=None)
            if near is None or iou(boxes[near], detection.box) <= 0.5:
                return 0.0
            return float(scores[near, detection.target])

        expected = []
        for channel in range(8):
            if method == "ablation-cam":
                maps = kept[0].clone()
                maps[:, channel] = 0
                handle = model.features.register_forward_hook(lambda _m, _i, _o, maps=maps: maps)
                expected.append((detection.score - again(model(inputs))) / detection.score)
                handle.remove()
            else:
                plane = kept[0][:, channel : channel + 1]
                mask = (plane - plane.min()) / (plane.max() - plane.min())
                masked = inputs * torch.nn.functional.interpolate(mask, (16, 16), mode="bilinear")
                expected.append(again(model(masked)))
        weights = torch.tensor(expected, dtype=torch.float64)
    weights = weights if method == "ablation-cam" else weights.softmax(0)
    found = explain_score(model, inputs, "features", BoxScore(1), [method])
    torch.testing.assert_close(found.maps[method][0], (weights[:, None, None] * kept[0][0]).sum(0))
    if name == "listing":
        assert len({round(value, 6) for value in expected}) > 2


def test_a_detection_that_is_gone_has_the_score_0():
    one = {"boxes": torch.tensor([[0.0, 0, 4, 4]]), "labels": torch.tensor([1])}
    score = BoxScore().settled([{**one, "scores": torch.tensor([0.9])}])
    moved = {**one, "boxes": torch.tensor([[3.0, 3, 9, 9]]), "scores": torch.tensor([0.8])}
    other = {**one, "labels": torch.tensor([2]), "scores": torch.tensor([0.8])}
    none = {key: value[:0] for key, value in moved.items()}
    near = {**moved, "boxes": torch.tensor([[0.0, 0, 4, 5]])}
    assert score([moved, other, none, near]).tolist() == pytest.approx([0, 0, 0, 0.8])
    assert BoxScore()([near]).tolist() == pytest.approx([0.8])


@pytest.fixture(scope="module")
def faster():
    torch.manual_seed(0)
    model = fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=3, box_score_thresh=0, min_size=64, max_size=64
    )
    with torch.no_grad():
        # Otherwise all detections are the same, and do not depend on the photograph.
        model.roi_heads.box_predictor.cls_score.weight.mul_(300)
        for parameter in model.backbone.body.parameters():
            parameter.mul_(1.5)
    return model.eval()


def test_a_detector_of_torchvision_as_with_another_package(faster):
    inputs = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        returned = faster(inputs)
    ranks = [2, 2]
    boxes = torch.stack([one["boxes"][rank] for one, rank in zip(returned, ranks, strict=True)])
    labels = [int(one["labels"][rank]) for one, rank in zip(returned, ranks, strict=True)]
    layer = "backbone.body.13"
    found = explain_score(faster, inputs, layer, BoxScore(boxes, labels), ["hires-cam"])
    kept = []
    handle = faster.backbone.body["13"].register_forward_hook(lambda _m, _i, output: kept.append(output))
    outputs = faster(inputs)
    handle.remove()
    total = 0
    for n, one in enumerate(outputs):
        # Theirs adds the overlap, which is 1 here.
        fixed = {**one, "boxes": one["boxes"].detach()}
        theirs = FasterRCNNBoxScoreTarget([labels[n]], boxes[n : n + 1].numpy())(fixed)[0] - 1
        assert float(found.score[n]) == pytest.approx(float(theirs.detach()), rel=1e-4)
        total = total + theirs
    (gradient,) = torch.autograd.grad(total, kept[0])
    expected = (gradient * kept[0]).sum(dim=1).detach()
    assert expected.abs().amax() > 0
    torch.testing.assert_close(
        found.maps["hires-cam"], expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max())
    )
    assert [one.target for one in found.detections] == labels


def test_eq_5_is_verified_where_all_operations_are_seen(faster):
    inputs = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with pytest.raises(XGradCamError, match=r"roi_align.*(its constants cannot be found|not supported)"):
        verify(faster, inputs, "backbone.body.13", score=BoxScore())
    torch.manual_seed(0)
    one_stage = retinanet_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=3, score_thresh=0, min_size=64, max_size=64
    ).eval()
    with torch.no_grad():
        score = one_stage(inputs)[0]["scores"][:1]
    found = verify(one_stage, inputs, "backbone.fpn.layer_blocks.0.0", score=BoxScore())
    torch.testing.assert_close(found.score, score.double())
    assert found.closes.all()


@pytest.mark.parametrize("name", ["yolo", "detr"])
def test_eq_5_of_a_detection(name):
    model, inputs = seeded(DETECTORS[name]), images()
    found = verify(model, inputs, "features.2", score=BoxScore(1))
    expected = explain_score(model, inputs, "features", BoxScore(1), ["grad-cam"]).score
    torch.testing.assert_close(found.score, expected)
    assert found.closes.all()


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (BoxScore(-1), "the detection is -1: give its rank, 0 for the best"),
        (BoxScore(70), r"no detection 70 in sample 0: there are \d+, the best is 0"),
        (BoxScore(0, 3), "no class 3: this model's classes are 0 to 2"),
        (BoxScore(0, "cat"), "the class is 'cat'"),
        (BoxScore((1, 2, 3)), "the box is .1, 2, 3.: give the rank of a detection, or x0, y0, x1, y1"),
        (BoxScore((5, 5, 3, 9)), "x0 < x1 and y0 < y1"),
        (BoxScore("best"), "the box is 'best'"),
        (BoxScore(True), "the box is True"),
        (
            BoxScore((100, 100, 110, 110)),
            "no detection overlaps the box 100,100,110,110 in sample 0; the best",
        ),
        (BoxScore([(1, 2, 3, 4)] * 3), r"\(4,\) for all samples or \(2, 4\)"),
    ],
)
def test_a_wrong_box_is_told(score, message):
    with pytest.raises(XGradCamError, match=message):
        explain_score(seeded(Yolo), images(), "features", score)


def test_what_holds_no_detections_is_told():
    with pytest.raises(XGradCamError, match=r"returns shape \(2, 4, 8, 8\), not detections: boxes, labels"):
        explain_score(seeded(Segmenter), images(), "features", BoxScore())
    with pytest.raises(XGradCamError, match="not detections"):
        BoxScore()(torch.rand(1, 60, 7) * 20)  # anchors and classes exchanged
    with pytest.raises(XGradCamError, match="shares of the input's width and height"):
        explain_score(seeded(Detr), images(), "features", BoxScore((1, 1, 9, 9)))
    empty = seeded(Listing)
    empty.least = 2.0
    with pytest.raises(NothingFoundError, match="the model detects nothing of class 2 in sample 0"):
        explain_score(empty, images(), "features", BoxScore(0, 2))


def test_overlaps_are_those_by_hand():
    boxes = torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6], [1, 1, 1, 1]])
    assert overlaps(boxes[0], boxes).tolist() == pytest.approx([1, 1 / 7, 0, 0])
    assert overlaps(boxes[3], boxes)[3] == 1


def test_a_last_class_is_no_object_unless_a_sigmoid_is_known_to_follow():
    class RTDetrObjectDetectionOutput(type(Detr(False)(torch.rand(1, 3, 16, 16)))):
        pass

    logits, boxes = torch.tensor([[[0.0, 1.0, 3.0]]]), torch.full((1, 1, 4), 0.5)
    (mapping,) = candidates_in({"pred_logits": logits, "pred_boxes": boxes}, None)
    assert mapping.chances.shape == (1, 2)
    (known,) = candidates_in(RTDetrObjectDetectionOutput(logits=logits, pred_boxes=boxes), None)
    torch.testing.assert_close(known.chances, logits[0].sigmoid())
    assert BoxScore().settled({"pred_logits": logits, "pred_boxes": boxes}).detections[0].target == 1


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("where", [0, (0, 0, 9, 9)])
def test_rows_after_the_classes_are_no_classes(classes, where):
    class More(Yolo):
        """As YOLO's for masks and keypoints."""

        def forward(self, images):
            found = super().forward(images)
            found = found[:, : 4 + classes]
            return torch.cat([found, 5 * images.flatten(2)[:, :2, :64] - 1, found[:, 4:5]], dim=1)

    with pytest.raises(XGradCamError, match=rf"of {classes + 3} rows .* output\[:, :{4 + classes}\]"):
        explain_score(seeded(More), images(), "features", BoxScore(where))


def test_logits_of_classes_may_be_any_numbers():
    class Logits(Yolo):
        """Logits in place of chances."""

        def forward(self, images):
            found = super().forward(images)
            return torch.cat([found[:, :4], found[:, 4:].logit()], dim=1)

    methods = ["grad-cam", "ablation-cam"]
    found = explain_score(seeded(Logits), images(), "features", BoxScore(1), methods)
    of_chances = explain_score(seeded(Yolo), images(), "features", BoxScore(1), methods)
    assert [one.index for one in found.detections] == [one.index for one in of_chances.detections]


@pytest.mark.parametrize("rank", [np.int64(1), torch.tensor(1)])
def test_a_rank_may_be_of_any_kind_of_integer(rank):
    found = explain_score(seeded(Yolo), images(), "features", BoxScore(rank), ["grad-cam", "score-cam"])
    expected = explain_score(seeded(Yolo), images(), "features", BoxScore(1), ["grad-cam", "score-cam"])
    assert found.detections == expected.detections
    for method, signed in expected.maps.items():
        torch.testing.assert_close(found.maps[method], signed, rtol=0, atol=0)


@pytest.mark.parametrize(("no_object", "classes"), [(None, 4), (True, 4), (False, 5)])
def test_the_last_class_is_no_object_unless_that_is_denied(no_object, classes):
    net, batch = seeded(Detr), images()
    logits = net(batch)["pred_logits"].detach()
    chances = logits.softmax(2)[..., :-1] if classes == 4 else logits.sigmoid()
    found = explain_score(net, batch, "features", BoxScore(no_object=no_object), ["score-cam"])
    for sample, detection in enumerate(found.detections):
        best = int(chances[sample].flatten().argmax())
        assert (detection.index, detection.target) == divmod(best, classes)
    last = BoxScore(0, 4, no_object=no_object)
    if classes == 4:
        with pytest.raises(XGradCamError, match="no class 4"):
            explain_score(net, batch, "features", last)
    else:
        assert {one.target for one in explain_score(net, batch, "features", last).detections} == {4}
