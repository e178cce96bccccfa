"""Command lines of the verbs: parsers, and arguments that several verbs share."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from beit.files import require_writable
from beit.flags import Parser, add_config_flags
from beit.predict.inputs import find_images
from beit.preprocessing import PIL_FILTERS, Preprocessing
from beit.tables import refuse_other_table

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")
"""Endings of the files that matplotlib writes and browsers show."""


def verb_parser(verb: str, description: str | None, examples: Sequence[str]) -> Parser:
    """The parser of a verb, whose help ends with examples."""
    return Parser(f"python -m beit {verb}", description, examples)


def config_parser(verb: str, description: str | None, examples: Sequence[str]) -> Parser:
    """The parser of a verb that takes the flags of training; `beit.flags.config_from` makes the config of them."""
    parser = verb_parser(verb, description, examples)
    add_config_flags(parser)
    return parser


def picture(text: str) -> Path:
    """The path of a picture to write, for `type` of an argument: refused before anything is computed.

    Raises:
        ArgumentTypeError: it is a folder, or has no ending of a picture.
    """
    path = Path(text)
    if path.suffix.lower() not in _PICTURES or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: expected a file that ends in {', '.join(_PICTURES)}")
    return path


def positive(text: str) -> int:
    """A count, for `type` of an argument.

    Raises:
        ArgumentTypeError: it is not a whole number, or below 1.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number of 1 or more")
    return int(text)


def positive_number(text: str) -> float:
    """A size, for `type` of an argument.

    Raises:
        ArgumentTypeError: it is not a number, not above 0, or infinite.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0")
    return value


def check_picture(output: Path, sources: Iterable[str], titles: Sequence[str] = ()) -> list[Path]:
    """The images of some sources, once it is clear that the results can be written: to call before anything is computed.

    Args:
        output: picture to write.
        sources: files, folders and patterns of images.
        titles: columns of the table that is written beside the picture, as `.csv`; empty for none.

    Raises:
        FileNotFoundError, ValueError: as `find_images`.
        ValueError: the picture is one of the images, or another file has the name of the table.
        OSError: the picture cannot be written.
    """
    files = [file for source in sources for file in find_images(source)]
    if output.exists() and any(output.samefile(file) for file in files):
        raise ValueError(f"--output {output} is also read; name another file to write")
    output.parent.mkdir(parents=True, exist_ok=True)
    require_writable(output)
    if titles:
        refuse_other_table(output.with_suffix(".csv"), titles)
    return files


def write_into_folder(description: str | None, write: Callable[[Path], Path]) -> None:
    """Run a script with one argument, the folder that it writes into, and print what it returns.

    A mistake of the user ends the process with status 2 and one line.

    Args:
        description: for the help text.
        write: called with the folder.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder to write into")
    folder = parser.parse_args().folder
    try:
        print(write(folder))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def add_preprocessing(parser: argparse.ArgumentParser) -> None:
    """Add flags for the preprocessing of weights that do not store theirs."""
    group = parser.add_argument_group("preprocessing, for weights that do not store theirs")
    group.add_argument("--mean", type=float, nargs=3, metavar="M", help="channel means, for pixels in [0, 1]")
    group.add_argument(
        "--std", type=float, nargs=3, metavar="S", help="channel deviations, for pixels in [0, 1]"
    )
    group.add_argument("--crop-pct", type=float, metavar="C", help="crop side / resized shorter side")
    group.add_argument("--interpolation", choices=PIL_FILTERS, help="resize filter")


def preprocessing_from(given: argparse.Namespace) -> Preprocessing | None:
    """The preprocessing of the flags that `add_preprocessing` added; None if none of them was used."""
    if all(value is None for value in (given.mean, given.std, given.crop_pct, given.interpolation)):
        return None
    return Preprocessing(
        mean=tuple(given.mean) if given.mean else None,
        std=tuple(given.std) if given.std else None,
        crop_pct=given.crop_pct,
        interpolation=given.interpolation or "",
        source="command line",
    )
