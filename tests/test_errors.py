from xgradcam.errors import did_you_mean, listed


def test_the_nearest_names_are_given():
    known = ["vgg11", "vgg16", "vgg19", "resnet18", "features.3"]
    assert did_you_mean("feature.3", known) == "; did you mean 'features.3'?"
    assert did_you_mean("vgg61", iter(known), count=2) == "; did you mean 'vgg19' or 'vgg16'?"
    assert did_you_mean("vgg61", known, count=1) == "; did you mean 'vgg19'?"
    assert did_you_mean("swin_t", known) == ""


def test_long_lists_are_cut():
    assert listed(iter("abc"), 3) == "a, b, c"
    assert listed("abcdef", 3) == "a, b, c and 3 more"
    assert listed([], 3) == ""
