"""`python -m beit make-lists`: list files for a tree of class folders, so that `-dataset=imagenet2012` reads it.

A tree <class>/<image> is split; a tree with train/ and val/ (or valid/, validation/), or with archives for them, keeps its
split. test/ is left out. ImageNet is taken as it is distributed: the official tars or their trees with the devkit, Kaggle's
tree or zip with LOC_val_solution.csv. Existing files are never overwritten.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from beit.data.make_lists import make_lists
from beit.data.random_split import SEED, VAL_SHARE
from beit.flags import Parser
from beit.printable import printable
from beit.tools.arguments import verb_parser

EXAMPLES = ("python -m beit make-lists flowers --val 0.2 --seed 0",)


def build_parser() -> Parser:
    """The parser of the verb's arguments."""
    parser = verb_parser("make-lists", __doc__, EXAMPLES)
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        type=Path,
        help="holds <class>/<image>, or train/ and val/ with <class>/<image> each, or ImageNet as it is distributed",
    )
    parser.add_argument(
        "--val",
        type=float,
        default=VAL_SHARE,
        help=f"share of each class for validation (default: {VAL_SHARE})",
    )
    parser.add_argument("--seed", type=int, default=SEED, help=f"seed of the split (default: {SEED})")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Write the list files; print their sizes and the flags to train with them."""
    given = build_parser().parse_args(argv)
    lists = make_lists(given.folder, val=given.val, seed=given.seed)
    number, is_trained = len(lists.class_names), "train" in lists.counts
    sizes = " and ".join(
        f"{lists.counts[split]} {word}"
        for split, word in (("train", "training"), ("val", "validation"))
        if split in lists.counts
    )
    print(f"{lists.folder}: {sizes} images of {number} classes")
    for note in lists.notes:
        print(printable(f"note: {note}"))
    action = "train with:" if is_trained else "evaluate with: -eval"
    # Training takes the number of classes from the data.
    classes = "" if is_trained else f" -opts MODEL.NUM_CLASSES {number}"
    print(f"{action} -dataset=imagenet2012 -data_path={shlex.quote(str(lists.folder))}{classes}")
