"""Photographs anywhere on the command line, and options that are not there."""

import os
import random
import shutil
from pathlib import Path

import pytest

from tests.cli.support import OWN
from xgradcam.cli.evaluate import evaluation_parser
from xgradcam.cli.options import parse, proof_verify_parser, xgrad_cam_parser
from xgradcam.cli.xgrad_cam import main

FILES = ("photo.jpg", "other.png", "cat")
FOLDERS = ("photos", "dog")


@pytest.fixture(autouse=True)
def there(own_folder):
    for name in FILES:
        Path(name).touch()
    for name in FOLDERS:
        Path(name).mkdir()
    Path("photos/a.jpg").touch()


def parsed(line):
    return parse(xgrad_cam_parser(), line.split())


def said_of(parser, line, capsys, several=True):
    with pytest.raises(SystemExit, match=r"^2$"):
        parse(parser, line.split(), several=several)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("line", "photographs", "options"),
    [
        ("photo.jpg", ["photo.jpg"], {"target_index": ["-1"]}),
        ("photo.jpg other.png photos", ["photo.jpg", "other.png", "photos"], {}),
        ("photo.jpg --image-path other.png", ["photo.jpg", "other.png"], {}),
        ("--image-path photo.jpg other.png", ["photo.jpg", "other.png"], {}),
        ("--image-path=photo.jpg other.png", ["other.png", "photo.jpg"], {}),
        ("--target-index 3 photo.jpg", ["photo.jpg"], {"target_index": ["3"]}),
        ("--target espresso photo.jpg", ["photo.jpg"], {"target_index": ["espresso"]}),
        ("--target=espresso photo.jpg", ["photo.jpg"], {"target_index": ["espresso"]}),
        ("--target -1 -1 photo.jpg", ["photo.jpg"], {"target_index": ["-1", "-1"]}),
        ("--method grad-cam photo.jpg other.png", ["photo.jpg", "other.png"], {"method": ["grad-cam"]}),
        ("--target-layer a.b c.* photo.jpg", ["photo.jpg"], {"target_layer": ["a.b", "c.*"]}),
        ("--input-size 8 9 photos", ["photos"], {"input_size": [8, 9]}),
        ("--input-size 8 photos --image-path cat", ["photos", "cat"], {"input_size": [8]}),
        ("--mean .1 .2 .3 cat --std 1 dog", ["cat", "dog"], {"mean": [0.1, 0.2, 0.3], "std": [1.0]}),
        ("--range -5 5 photo.jpg", ["photo.jpg"], {"value_range": [-5.0, 5.0]}),
        ("--bands 1 2 3 photo.jpg", ["photo.jpg"], {"bands": [1, 2, 3]}),
        ("--json photo.jpg --html other.png", ["photo.jpg", "other.png"], {"json": True, "html": True}),
        ("--model vgg16 photo.jpg", ["photo.jpg"], {"model": "vgg16"}),
        ("--target 3 s3://b/*", ["s3://b/*"], {"target_index": ["3"]}),
        ("--target 3 s-{0..9}.tar t.parquet", ["s-{0..9}.tar", "t.parquet"], {"target_index": ["3"]}),
        ("--target a photo.jpg --method b other.png", ["photo.jpg", "other.png"], {"method": ["b"]}),
        # Not there, but called as no class is: the error about the file comes when it is read.
        ("--target espresso missing.jpeg", ["missing.jpeg"], {"target_index": ["espresso"]}),
        ("--target espresso *.JPG", ["*.JPG"], {"target_index": ["espresso"]}),
        ("--target espresso photos/", ["photos/"], {"target_index": ["espresso"]}),
        ("--target espresso ./photos", ["./photos"], {"target_index": ["espresso"]}),
        ("--target espresso phot*/a*", ["phot*/a*"], {"target_index": ["espresso"]}),
        ("--target espresso -", ["-"], {"target_index": ["espresso"]}),
        ("-", ["-"], {}),
        # A class may be called as a file or a folder is: without another photograph it is the photograph.
        ("--target espresso dog", ["dog"], {"target_index": ["espresso"]}),
        ("--target espresso cat", ["cat"], {"target_index": ["espresso"]}),
        ("photo.jpg --target cat dog", ["photo.jpg"], {"target_index": ["cat", "dog"]}),
        ("--target cat dog --image-path photo.jpg", ["photo.jpg"], {"target_index": ["cat", "dog"]}),
        ("photo.jpg --target cat photo.jpg", ["photo.jpg"], {"target_index": ["cat", "photo.jpg"]}),
        ("--target cat -- dog photos", ["dog", "photos"], {"target_index": ["cat"]}),
        ("--json -- --html", ["--html"], {"json": True, "html": False}),
        ("--list-layers --target-layer a photo.jpg", [], {"target_layer": ["a", "photo.jpg"]}),
    ],
)
def test_photographs_stand_anywhere(line, photographs, options):
    arguments = parsed(line)
    assert arguments.image_path == photographs
    assert {name: getattr(arguments, name) for name in options} == options


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "which photograph? as in: xgrad-cam photo.jpg ("),
        ("--target espresso", "which photograph? as in: xgrad-cam photo.jpg ("),
        ("--target photo.jpg", "photo.jpg behind --target-index is read as its value: give the photographs"),
        ("--method photo.jpg photos/ x", "photo.jpg, photos/ behind --method is read as its value"),
        (
            "--target espresso cat dog",
            "'cat' may be a value of --target or a path: give the photographs first",
        ),
        ("--target espresso dog photo.jpg", "'dog' may be a value of --target or a path"),
        ("--target a photo.jpg --target-layer b dog", "'dog' may be a value of --target-layer or a path"),
    ],
)
def test_what_may_be_a_photograph_or_not_is_refused_with_the_remedy(line, said, capsys):
    assert said in said_of(xgrad_cam_parser(), line, capsys)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("photo.jpg --method grad-cam other.png", "other.png behind --method is read as its value"),
        ("photo.jpg --target cup other.png", "other.png behind --target-index is read as its value"),
        (
            "photo.jpg --target-layer features.0 other.png",
            "other.png behind --target-layer is read as its value",
        ),
        # An error about something else has no such hint.
        ("photo.jpg --target cup other.png --colormap virids", "no colour map 'virids'"),
    ],
)
def test_a_photograph_behind_an_option_is_said_where_its_value_is_wrong(line, said, own_models, both, capsys):
    shutil.copy(both, "photo.jpg")
    Path("labels.txt").write_text("cup\nb\nc\nd\n")
    assert main([*line.split(), *OWN, "--labels", "labels.txt"]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert ("photographs first" in err) == ("virids" not in line)


def test_a_class_that_is_called_as_a_file_is_no_mistake(own_models, both):
    """Labels may be names of files: beside a photograph they are classes."""
    Path("labels.txt").write_text("other.png\nb\nc\nd\n")
    assert main([str(both), "--target", "other.png", "b", *OWN, "--labels", "labels.txt"]) == 0


@pytest.mark.parametrize(
    ("line", "photograph"),
    [
        ("photo.jpg", "photo.jpg"),
        ("--target espresso photo.jpg", "photo.jpg"),
        ("--contrast 3 4 photo.jpg", "photo.jpg"),
        ("--contrast 3 dog", "dog"),
        ("--image-path photo.jpg --plot x.png", "photo.jpg"),
        ("--list-layers", None),
    ],
)
def test_the_proof_takes_its_photograph_alike(line, photograph):
    assert parse(proof_verify_parser(), line.split(), several=False).image_path == photograph


@pytest.mark.parametrize("line", ["photo.jpg other.png", "photo.jpg --image-path other.png"])
def test_the_proof_takes_one_photograph(line, capsys):
    said = said_of(proof_verify_parser(), line, capsys, several=False)
    assert "2 photographs, photo.jpg, other.png: proof-verify takes one" in said


@pytest.mark.parametrize(
    ("line", "folders", "layers"),
    [
        ("photos --target-layer a b", ["photos"], ["a", "b"]),
        ("--target-layer a b photos", ["photos"], ["a", "b"]),
        ("--removed 0.2 0.4 photos", ["photos"], None),
        ("--installed --target-layer photos dog", [], ["photos", "dog"]),
    ],
)
def test_the_evaluation_takes_its_folders_alike(line, folders, layers):
    arguments = evaluation_parser().parse_args(line.split())
    assert (arguments.folders, arguments.target_layer) == (folders, layers)


def test_the_order_of_options_and_photographs_does_not_matter():
    options = [
        ["--target", "cat", "3"],
        ["--json"],
        ["--mean", ".5"],
        ["--model", "vgg16"],
        ["--range", "0", "9"],
    ]
    chance = random.Random(0)
    expected = None
    for _ in range(50):
        chance.shuffle(options)
        # Between options that cannot take it, or behind the numbers of one.
        words = [word for option in [["photo.jpg"], *options] for word in option]
        place = words.index("--json") + chance.choice([0, 1])
        if words[place - 1 : place] != ["3"]:
            words.insert(place, "other.png")
            found = vars(parsed(" ".join(words)))
            assert found.pop("image_path") == ["photo.jpg", "other.png"]
            expected = expected or found
            assert found == expected
    assert expected["target_index"] == ["cat", "3"]


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("--colour", "--colormap"),
        ("--image_path", "--image-path"),
        ("-image-path", "--image-path"),
        ("--Method", "--method"),
        ("--img", "--image-path"),
        ("--layer", "--target-layer"),
        ("--cuda", "--use-cuda"),
        ("--out=here", "--output-dir"),
        ("--resolution", "--full-resolution"),
        ("--target-lay", "--target-layer"),
        ("--methods=all", "--method"),
        ("--verbos", "--verbose"),
        ("-o", "--output-dir or --output-format or --output"),
        ("-q", "--quiet"),
    ],
)
def test_a_wrong_option_gets_the_nearest(option, meant, capsys):
    name = option.partition("=")[0]
    assert f"no option {name}; did you mean {meant}? (" in said_of(
        xgrad_cam_parser(), f"photo.jpg {option}", capsys
    )


def test_an_option_that_is_near_to_none_is_named_alone(capsys):
    for name in ("--qqqq", "-x", "-c"):
        assert f"no option {name} (" in said_of(xgrad_cam_parser(), f"photo.jpg {name}", capsys)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "--precision bf61",
            "invalid choice: 'bf61'; did you mean 'bf16'? (choose from float32, tf32, bf16)",
        ),
        ("--probability soft-max", "did you mean 'softmax'?"),
    ],
)
def test_a_wrong_choice_gets_the_nearest(line, said, capsys):
    assert said in said_of(xgrad_cam_parser(), f"photo.jpg {line}", capsys)


def test_a_value_with_a_space_belongs_to_its_option():
    arguments = parse(xgrad_cam_parser(), ["photo.jpg", "--weights=my file.pth", "--target", "Egyptian cat"])
    assert (arguments.weights, arguments.target_index) == ("my file.pth", ["Egyptian cat"])
    arguments = parse(xgrad_cam_parser(), ["--target", "-a b", os.path.abspath("photo.jpg")])
    assert arguments.target_index == ["-a b"]


ALL_PARSERS = {
    "xgrad-cam": xgrad_cam_parser, "proof-verify": proof_verify_parser, "evaluation": evaluation_parser,
}  # fmt: skip
# Two values of each type that options take.
TWO = {None: ("one", "two"), int: ("3", "5"), float: ("0.25", "0.5"), Path: ("one", "two")}
SPECIAL = {
    "--dpi": ("72", "300"), "--batch-size": ("3", "5"), "--workers": ("3", "5"), "--shard-size": ("3", "5"),
    "--gpus-per-worker": ("1", "2"), "--shard": ("1/3", "2/3"),
    "--layout": ("channels-first", "channels-last"),
}  # fmt: skip


def options_of_values():
    """Each option of each command that takes values, with two values for it, and whether they add up."""
    for command, make in ALL_PARSERS.items():
        for action in make()._actions:
            if action.nargs == 0 or not action.option_strings or action.default == "==SUPPRESS==":
                continue
            option = action.option_strings[0]
            choices = [str(one) for one in action.choices or ()]
            one, two = choices[:2] if len(choices) > 1 else SPECIAL.get(option) or TWO[action.type]
            times = action.nargs if isinstance(action.nargs, int) else 1
            if option == "--engine":
                continue
            adds_up = action.nargs == "+" and option not in ("--input-size", "--mean", "--std")
            yield pytest.param(make, option, [one] * times, [two] * times, adds_up, id=f"{command} {option}")


@pytest.mark.parametrize(("make", "option", "one", "two", "adds_up"), list(options_of_values()))
def test_an_option_given_twice_adds_up_or_its_last_value_counts_with_a_line(
    make, option, one, two, adds_up, capsys
):
    parser = make()
    dest = parser._option_string_actions[option].dest
    photographs = ["photo.jpg"] if option != "--image-path" else []

    def value(*arguments):
        return getattr(parser.parse_args([*photographs, *arguments]), dest)

    first, last = value(option, *one), value(option, *two)
    assert first != last
    capsys.readouterr()
    if adds_up:
        assert value(option, *one, option, *two) == value(option, *one, *two) == [*first, *last]
        assert value(f"{option}={one[0]}", option, *two) == [*first, *last]
        assert capsys.readouterr().err == ""
        return
    assert value(option, *one, option, *two) == last
    line = f"{parser.prog}: {option} {' '.join(two)} counts, not the earlier {' '.join(one)}\n"
    assert capsys.readouterr().err == line
    assert value(option, *one, option, *one) == first
    assert capsys.readouterr().err == ""
    if len(one) == 1:
        assert value(f"{option}={one[0]}", option, *two) == last
        assert capsys.readouterr().err == line


def test_both_names_of_an_option_are_one():
    assert parsed("photo.jpg --target 1 --target-index 2 --target 3").target_index == ["1", "2", "3"]


def test_an_option_of_the_line_counts_before_that_of_a_file_and_says_so(capsys):
    Path("inner").write_text("--model vgg16 --target 1 --target 2 --alpha 0.25 --html\n")
    Path("outer").write_text("--model resnet18 @inner --crop other.png --image-path cat\n")
    found = parsed("photo.jpg --target 7 @outer --target 8")
    assert (found.model, found.target_index, found.alpha) == ("resnet18", ["7", "8"], 0.25)
    assert found.html
    assert found.crop
    # Photographs add up, as they do on a line.
    assert found.image_path == ["photo.jpg", "other.png", "cat"]
    assert capsys.readouterr().err == (
        "xgrad-cam: --target 7 8 counts, not 1 2 from inner\n"
        "xgrad-cam: --model resnet18 counts, not vgg16 from inner\n"
    )


@pytest.mark.parametrize(
    ("line", "model", "said"),
    [
        ("@one @two photo.jpg", "resnet18", "--model resnet18 counts, not vgg16 from one"),
        ("@two @one photo.jpg", "vgg16", "--model vgg16 counts, not resnet18 from two"),
        ("@one photo.jpg @one", "vgg16", ""),
        ("@one photo.jpg --model=vgg16", "vgg16", ""),
        ("@one photo.jpg --model=alexnet", "alexnet", "--model alexnet counts, not vgg16 from one"),
        ("@one photo.jpg --model=alexnet --quiet", "alexnet", ""),
        ("@both photo.jpg", "resnet18", "--model resnet18 counts, not vgg16 from both"),
    ],
)
def test_of_two_files_the_later_counts(line, model, said, capsys):
    Path("one").write_text("--model vgg16")
    Path("two").write_text("--model resnet18")
    Path("both").write_text("--model vgg16\n--model resnet18")
    assert parsed(line).model == model
    assert capsys.readouterr().err == f"xgrad-cam: {said}\n" * bool(said)


def test_lines_on_what_counts_are_short_and_quote_as_a_shell(capsys):
    Path("many").write_text(f"--target {' '.join(map(str, range(1000)))}\n--model 'my model'\n")
    arguments = ["@many", "photo.jpg", "--target", "Egyptian cat", "--model="]
    assert parse(xgrad_cam_parser(), arguments).target_index == ["Egyptian cat"]
    classes, model = capsys.readouterr().err.splitlines()
    assert classes.startswith("xgrad-cam: --target 'Egyptian cat' counts, not 0 1 2 ")
    assert classes.endswith("… from many")
    assert len(classes) < 150
    assert model == "xgrad-cam: --model '' counts, not 'my model' from many"


def test_photographs_behind_an_option_that_does_not_count_are_not_lost(capsys):
    Path("three").write_text("--target 3")
    # No photograph stands elsewhere, so these are the photographs.
    assert parsed("@three photo.jpg --target 5").image_path == ["photo.jpg"]
    with pytest.raises(SystemExit):
        parsed("first.jpg @three photo.jpg --target 5")
    assert (
        "photo.jpg behind --target is read as its value: give the photographs first"
        in capsys.readouterr().err
    )
