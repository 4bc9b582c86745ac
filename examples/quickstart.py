"""From a photograph to heatmaps: the bundled network, a photograph of a cat and a cup, and both classes.

python examples/quickstart.py
"""

from pathlib import Path

from xgradcam import explain, imagenet_labels, load_classifier, read_image

photograph = read_image(Path(__file__).with_name("cat-and-coffee.jpg"))
classifier = load_classifier("efficientnet-lite0")  # `explain` takes any nn.Module
inputs = classifier.inputs(photograph)  # (1, 3, 224, 224)

for target in (285, 967):
    explanation = explain(classifier.module, inputs, layer="bn2", targets=target)
    signed = explanation.maps["xgrad-cam"][0]  # (7, 7): evidence for (> 0) and against (< 0)
    heatmap = explanation.heatmap("xgrad-cam", photograph.shape[:2])[0]  # (400, 700) in [0, 1]
    column = int(heatmap.amax(dim=0).argmax())
    print(f"{imagenet_labels()[target]}: score {explanation.score[0]:.2f}, evidence {signed.sum():.2f},")
    print(f"  strongest in column {column} of {photograph.shape[1]}")
    for note in explanation.notes[0]:
        print(f"  note: {note}")
