"""Command lines in which the photographs stand anywhere, put in the order that argparse needs."""

import argparse
import difflib
import glob
import os
import re
import shlex
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from xgradcam.cli.argument_files import Origin
from xgradcam.cli.waiting import HOLDING
from xgradcam.errors import XGradCamError, listed, short, shown
from xgradcam.pictures.formats import SUFFIXES

STDIN = "-"
# The endings of photographs, of arrays of bands, and of what holds or names photographs.
ENDINGS = (*SUFFIXES, ".npy", *HOLDING)
IMAGE_PATH = "--image-path"
# Letters by which a path is known in an error.
SURE = 40
# Options that an error names for one that is not there.
MOST_MEANT = 3
# Letters of values in a line on what counts.
LONGEST = 60
NUMBERS = (int, float)
# Options of several numbers that are one value together.
ONE_VALUE = frozenset(("--input-size", "--mean", "--std"))
# Names of options in other programs.
ELSEWHERE = {
    "--img": "--image-path",
    "--input": "--image-path",
    "--class": "--target-index",
    "--label": "--target-index",
    "--checkpoint": "--weights",
    "--ckpt": "--weights",
    "--arch": "--model",
    "--cmap": "--colormap",
    "--out": "--output-dir",
    "--gpu": "--use-cuda",
    "--cuda": "--use-cuda",
    "--layer": "--target-layer",
    "--layers": "--target-layer",
}
# What begins with a dash and is a value, as argparse has it: a negative number, or what has a space.
DASHED_VALUE = re.compile(r"-(?:\d+|\d*\.\d+)?|.* .*", re.DOTALL)


@dataclass
class Given:
    """An option as it was given: the words of it, of which the first may hold a value behind `=`.

    origin: the place where it stands.
    """

    option: str
    words: list[str]
    action: argparse.Action
    origin: Origin

    @property
    def takes_several(self) -> bool:
        """True for an option of several values that are no numbers, given without `=`."""
        return self.action.nargs == "+" and self.action.type not in NUMBERS and self.words[0] == self.option

    @property
    def values(self) -> list[str]:
        """The values as they were given."""
        _, equals, value = self.words[0].partition("=")
        return [value] * bool(equals) + self.words[1:]


def arranged(
    arguments: Sequence[str], options: Mapping[str, argparse.Action], instead: Collection[str]
) -> tuple[list[str], list[str]]:
    """The arguments with the photographs, wherever they stood, behind `--` at the end; and lines on others.

    Each option takes as many values as it has. One that takes several takes all up to the next option; one
    that takes several numbers, all that are numbers. If no photograph is left, the last values that are
    paths are the photographs: no other reading makes a whole command. Of an option that stands on the line
    and in an argument file, or in several, the nearest counts; the lines say so.

    options: by their names. instead: names of options with which no photograph is needed.
    Raises XGradCamError for an unknown option, and for values that may be photographs or not.
    """
    given, photographs = _parsed(arguments, options)
    if not photographs and not any(one.option in (IMAGE_PATH, *instead) for one in given):
        photographs = _taken_back([one for one in given if one.takes_several])
    given, lines = _nearest_only(given)
    words = [word for one in given for word in one.words]
    return [*words, "--", *photographs] if photographs else words, lines


def adds_up(action: argparse.Action) -> bool:
    """True for an option whose values add up where it is given again."""
    return action.nargs == "+" and not ONE_VALUE.intersection(action.option_strings)


def _nearest_only(given: Sequence[Given]) -> tuple[list[Given], list[str]]:
    """The options without those that nearer ones replace, and a line for each of these.

    The line is nearer than its argument files. Of one place the last counts, unless the values add up; those
    of photographs do in all places.
    """
    of_each: defaultdict[str, list[list[Given]]] = defaultdict(list)
    for one in given:
        if one.action.nargs == 0 or (one.option == IMAGE_PATH and adds_up(one.action)):
            continue
        together = of_each[one.action.dest]
        same = [others for others in together if others[0].origin == one.origin and adds_up(one.action)]
        if same:
            same[0].append(one)
        else:
            together.append([one])
    replaced, lines = list[Given](), list[str]()
    for together in of_each.values():
        nearest = max(reversed(together), key=lambda one: one[0].origin.nearness)
        for others in (others for others in together if others is not nearest):
            replaced += others
            said, left = ([value for one in two for value in one.values] for two in (nearest, others))
            if others[0].takes_several and (paths := list(filter(_is_surely_path, left))):
                raise XGradCamError(misplaced({others[0].option: paths}).removeprefix("; "))
            path = others[0].origin.path
            where = f"{_in_words(left)} from {path}" if path else f"the earlier {_in_words(left)}"
            lines += [f"{nearest[0].option} {_in_words(said)} counts, not {where}"] * (said != left)
    kept = [one for one in given if not any(one is other for other in replaced)]
    return kept, list(dict.fromkeys(lines))


def _in_words(values: Sequence[str]) -> str:
    """The values as on a line, and cut to `LONGEST` letters."""
    return short(" ".join(map(shlex.quote, values[:LONGEST])), LONGEST)


def _parsed(
    arguments: Sequence[str], options: Mapping[str, argparse.Action]
) -> tuple[list[Given], list[str]]:
    """The options with their values, and all else."""
    given: list[Given] = []
    rest: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        if word == "--":
            return given, [*rest, *map(str, words)]
        if not _is_option(word, options):
            rest.append(str(word))
            continue
        name, equals, _ = word.partition("=")
        if name not in options:
            raise XGradCamError(f"no option {name}{_meant(name, options)}")
        one = Given(name, [str(word)], options[name], getattr(word, "origin", Origin()))
        given.append(one)
        if not equals:
            until = next((at for at, word in enumerate(words) if _is_option(word, options)), len(words))
            one.words += map(str, _values(one.action, words, until))
    return given, rest


def _is_option(word: str, options: Collection[str]) -> bool:
    """True for options, known or not, and for `--`."""
    known = word.partition("=")[0] in options
    return known or (word.startswith("-") and not DASHED_VALUE.fullmatch(word))


def _values(action: argparse.Action, words: list[str], until: int) -> list[str]:
    """The values of an option, taken from the words that follow it; until: the place of the next option."""
    if isinstance(action.nargs, int):
        until = min(until, action.nargs)
    elif action.nargs in (None, "?"):
        until = min(until, 1)
    elif action.type in NUMBERS:
        until = next((place for place in range(1, until) if not _is_number(words[place])), until)
    values = words[:until]
    del words[:until]
    return values


def _taken_back(given: Sequence[Given]) -> list[str]:
    """The last values of the options that are paths, taken from them; at least one value stays with each."""
    found = []
    for one in given:
        place = len(one.words)
        while place > 2 and _is_path(one.words[place - 1]):
            place -= 1
        found.append((one, one.words[place:]))
    paths = [path for _, values in found for path in values]
    unsure = [path for path in paths if not _is_surely_path(path)]
    if unsure and len(paths) > 1:
        option = next(one.option for one, values in found if unsure[0] in values)
        raise XGradCamError(
            f"{shown(unsure[0])} may be a value of {option} or a path: give the photographs first"
        )
    for one, values in found:
        del one.words[len(one.words) - len(values) :]
    return paths


def paths_among(options: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The values of options that are paths, for those that have some."""
    found = {option: [value for value in values if _is_path(value)] for option, values in options.items()}
    return {option: paths for option, paths in found.items() if paths}


def misplaced(paths: Mapping[str, Sequence[str]], message: str | None = None) -> str:
    """A hint at photographs that options have taken for values; '' if there are none.

    paths: of each option. message: the hint is at what this error names, which may have shortened it.
    """
    for option, values in paths.items():
        named = [value for value in values if message is None or value[:SURE] in message]
        if named:
            return f"; {listed(named, 3)} behind {option} is read as its value: give the photographs first"
    return ""


def _is_path(value: str) -> bool:
    return _is_surely_path(value) or (bool(value) and "\0" not in value and os.path.exists(value))


def _is_surely_path(value: str) -> bool:
    """True for what no class, layer or method is called: a photograph's ending, a folder in it, or a URL."""
    if value == STDIN or os.path.splitext(value)[1].lower() in ENDINGS or "://" in value:
        return True
    separators = [sign for sign in (os.sep, os.altsep) if sign]
    is_folder = any(sign in value for sign in separators) and "\0" not in value
    return is_folder and (os.path.exists(value) or value[-1] in separators or bool(glob.glob(value)))


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _meant(name: str, options: Collection[str]) -> str:
    """The options that may be meant: those that begin so, those that are very near, or have such a word."""
    plain = "--" + name.lstrip("-").replace("_", "-").lower()
    known = [option for option in options if option.startswith("--")]
    meant = [option for option in [ELSEWHERE.get(plain, "")] if option in known]
    begin = [option for option in known if option.startswith(plain)]
    if len(plain) == len("--x"):
        # Of a letter nothing is near but what begins so.
        meant = meant or begin * (len(begin) <= MOST_MEANT)
    else:
        meant = meant or begin
        meant = meant or difflib.get_close_matches(plain, known, n=1, cutoff=0.85)
        meant = meant or [option for option in known if plain[2:] in option[2:].split("-")]
        meant = meant or difflib.get_close_matches(plain, known, n=1)
    return f"; did you mean {' or '.join(meant[:MOST_MEANT])}?" if meant else ""
