"""A classifier with names of its classes: those given, or its own."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from xgradcam.errors import XGradCamError
from xgradcam.models.classifier import Classifier
from xgradcam.models.names import Names, names_of
from xgradcam.models.order import in_order

PLACEHOLDER = re.compile(r"LABEL_\d+")


def with_names(classifier: Classifier, labels: object, say: Callable[[str], None]) -> Classifier:
    """The classifier with these names of its classes: `Names`, what `names_of` takes, or None for its own.

    Its own are those of its configuration, if it has as many as classes, or else those that it comes with.
    say: is called with a line if there are fewer names than classes, or their order is in doubt. The classes
    are counted by showing the model a blank photograph; if it does not run on one, they are not.
    Raises XGradCamError for more names than classes, names in a wrong order, and what is no list of names.
    """
    if labels is None:
        return _with_own_names(classifier)
    names = labels if isinstance(labels, Names) else names_of(labels)
    # A checkpoint of the user's may have the classes in another order than the network's own.
    own = _with_own_names(classifier).labels if classifier.weights is None else None
    count = classifier.class_count()
    if count is not None:
        names.for_classes(count, classifier.name)
    fitting = in_order(names, own, classifier.name, say).names
    if count is not None and len(fitting) < count:
        few = f"{len(fitting)} names for the {count} classes of {classifier.name}"
        say(f"{names.source}: {few}: the others are called by their index")
    return replace(classifier, labels=fitting)


def _with_own_names(classifier: Classifier) -> Classifier:
    """The classifier with the names in a configuration of Hugging Face or timm that its model carries."""
    id2label = getattr(getattr(classifier.module, "config", None), "id2label", None)
    of_timm = getattr(classifier.module, "pretrained_cfg", None)
    carried = [id2label] if isinstance(id2label, Mapping) else []
    if isinstance(of_timm, Mapping) and of_timm.get("label_names"):
        carried.append(of_timm)
    for labels in carried:
        try:
            names = names_of(labels).names
        except XGradCamError:
            continue
        # Hugging Face calls the classes of models without names LABEL_0, LABEL_1, ...
        if not all(map(PLACEHOLDER.fullmatch, names)) and len(names) == classifier.class_count():
            return replace(classifier, labels=names)
    return classifier
