"""Command line flags: one style for all commands, and those that set config keys."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from yacs.config import CfgNode

from beit.config import get_config, with_options
from beit.metadata.architecture import DALLE_DECODER, DALLE_ENCODER
from beit.printable import did_you_mean
from beit.schema import SCHEMA
from beit.zoo.table import PUBLISHED

FLAGS: dict[str, tuple[str, str]] = {
    "dataset": (
        "DATA.DATASET",
        "imagenet2012 (lists), folder, csv, test_folder, flat, webdataset, parquet, cifar10, cifar100, ade20k, image_mask",
    ),
    "data_path": ("DATA.DATA_PATH", "folder that holds the data"),
    "output": ("SAVE", "folder for logs and checkpoints"),
    "batch_size": ("DATA.BATCH_SIZE", "images per device; with -eval also in evaluation"),
    "batch_size_eval": ("DATA.BATCH_SIZE_EVAL", "images per device in evaluation"),
    "image_size": ("DATA.IMAGE_SIZE", "pixels"),
    "accum_iter": ("TRAIN.ACCUM_ITER", "micro-batches per optimizer step"),
    "pretrained": (
        "MODEL.PRETRAINED",
        "weights to start from or to evaluate: file, folder or published name",
    ),
    "resume": ("MODEL.RESUME", "training checkpoint to continue, or auto"),
    "last_epoch": ("TRAIN.LAST_EPOCH", "epochs already done"),
    "eval": ("EVAL", "evaluate only"),
    "amp": ("AMP", "mixed precision"),
    "device": ("DEVICE", "auto, cpu or gpu"),
    "engine": ("ENGINE", "what runs the model with -eval: auto, openvino, onnxruntime or paddle"),
    "precision": ("PRECISION", "of the engine with -eval: float32, bfloat16 or int8"),
    "nprocs": ("NPROCS", "ranks on this machine; auto: one per GPU or CPU core"),
}
"""Command line flag -> config key and help. Flags take one dash or two."""

_FLAG = re.compile(r"--?[A-Za-z]")


class Parser(argparse.ArgumentParser):
    """Takes every flag with one dash or two and with `-` or `_` between words: `-batch_size`, `--batch-size`.

    For an unknown or abbreviated flag the process ends with status 2 and one line that names the nearest flag.

    Args:
        prog: name in the help text.
        description: of the help text.
        examples: command lines at the end of the help text.
        options: further arguments of `argparse.ArgumentParser`.
    """

    def __init__(
        self, prog: str, description: str | None, examples: Sequence[str] = (), **options: Any
    ) -> None:
        title = f"example{'s' if len(examples) > 1 else ''}:"
        super().__init__(
            prog=prog,
            description=description,
            epilog="\n".join([title, *(f"  {line}" for line in examples)]) if examples else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **options,
        )

    def parse_known_args(  # type: ignore[override]  # `parse_args` calls it with these arguments
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As the method of argparse, with each flag in the spelling of its definition."""
        words = list(sys.argv[1:] if args is None else args)
        if self._subparsers is not None:  # the parser of the chosen command reads its own flags
            return super().parse_known_args(words, namespace)
        end = words.index("--") if "--" in words else len(words)
        flags = [self._defined(word) if _FLAG.match(word) else word for word in words[:end]]
        return super().parse_known_args([*flags, *words[end:]], namespace)

    def error(self, message: str) -> NoReturn:
        """As the method of argparse; where a config is meant, says with which flags it is named."""
        if message.startswith("unrecognized arguments") and "-cfg" in self._option_string_actions:
            message += "; a config is named by -cfg=…, weights by -pretrained=…"
        super().error(message)

    def _defined(self, word: str) -> str:
        """A flag with or without `=value`, in the spelling of its definition."""
        name, equals, value = word.partition("=")
        defined = {_plain(flag): flag for flag in self._option_string_actions}
        plain = _plain(name)
        if plain not in defined:
            near = difflib.get_close_matches(plain, defined, n=1) or [
                flag for flag in defined if flag.startswith(plain)
            ]
            self.error(f"unknown flag {name}" + (f"; did you mean {defined[near[0]]}?" if near else ""))
        return defined[plain] + equals + value


def _plain(flag: str) -> str:
    return flag.lstrip("-").replace("_", "-")


def add_config_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that set config keys, for `config_from`."""
    group = parser.add_argument_group("config")
    group.add_argument(
        "-cfg",
        "-c",
        dest="cfg",
        metavar="FILE",
        help="YAML config file, or name of a shipped config or of published weights",
    )
    for name, (key, meaning) in FLAGS.items():
        is_switch = isinstance(SCHEMA[key].default, bool)
        switch: dict[str, Any] = {"nargs": "?", "const": "True"} if is_switch else {}
        group.add_argument(f"-{name}", dest=name, metavar="VALUE", help=f"{meaning} ({key})", **switch)
    group.add_argument(
        "-opts", "-o", dest="opts", nargs="*", action="extend", default=[], metavar="KEY VALUE",
        help="any other key, as KEY VALUE or KEY=VALUE; beit config --keys describes them",
    )  # fmt: skip


def config_from(given: argparse.Namespace) -> CfgNode:
    """The frozen config of the flags that `add_config_flags` added.

    Raises:
        FileNotFoundError, ValueError: as `get_config` and `refuse_resume`.
    """
    values = vars(given)
    # The PRETRAINED_KEY of a config is for the weights that the config names, not for those of the flag.
    opts: list[Any] = [] if given.pretrained is None else ["MODEL.PRETRAINED_KEY", ""]
    for name, (key, _) in FLAGS.items():
        if values[name] is not None:
            opts += [key, values[name]]
    others = option_pairs(given.opts)
    source, published = _config_of(given.cfg)
    config = get_config(source, [*published, *opts, *others])
    refuse_resume(config, [*opts, *others])
    sets_eval_batch = given.batch_size_eval is not None or "DATA.BATCH_SIZE_EVAL" in others[::2]
    if config.EVAL and given.batch_size is not None and not sets_eval_batch:
        # As in PaddleViT, -batch_size with -eval is the evaluation batch.
        return with_options(config, ["DATA.BATCH_SIZE_EVAL", given.batch_size])
    return config


def refuse_resume(config: CfgNode, options: Sequence[Any]) -> None:
    """Refuse options of an evaluation that name a checkpoint to continue, which it would not read.

    The file of the config may name one: that of a resumed run does.

    Args:
        config: made with the options.
        options: keys and values in turn.

    Raises:
        ValueError: they do.
    """
    if config.EVAL and config.MODEL.RESUME and "MODEL.RESUME" in options[::2]:
        raise ValueError(
            f"-resume {config.MODEL.RESUME} with -eval: an evaluation continues no run; name the weights with -pretrained"
        )


def _config_of(name: str | None) -> tuple[str | None, tuple[object, ...]]:
    """The config and the options of a published checkpoint; any other name, and the path of a file, unchanged."""
    entry = PUBLISHED.get(name or "")
    if entry is None or Path(entry.name).is_file() or entry.kind in (DALLE_ENCODER, DALLE_DECODER):
        return name, ()
    return entry.config, entry.options


def option_pairs(words: Sequence[str]) -> list[str]:
    """Keys and values in turn, of words that are `KEY VALUE` or `KEY=VALUE`; the last value may be missing."""
    pairs: list[str] = []
    for word in words:
        is_key = len(pairs) % 2 == 0
        key, equals, value = word.partition("=")
        pairs += [key, value] if is_key and equals else [word]
    return pairs


def keyword_options(keywords: Mapping[str, Any]) -> list[Any]:
    """Keys and values in turn, of Python keywords.

    Args:
        keywords: by flag (`batch_size`), by the last part of a key in any case (`num_epochs`), or by the whole key with
            dots or double underscores (`model__embed_dim`).

    Raises:
        ValueError: no key or several keys have that name.
    """
    options: list[Any] = []
    for name, value in keywords.items():
        full = name.upper().replace("__", ".")
        if name in FLAGS:
            found = [FLAGS[name][0]]
        else:
            found = [key for key in SCHEMA if full in (key, key.rpartition(".")[2])]
        if len(found) > 1:
            raise ValueError(
                f"{name} is the name of {', '.join(found)}; write {found[0].lower().replace('.', '__')}, …"
            )
        if not found:
            known = [*FLAGS, *(key.rpartition(".")[2].lower() for key in SCHEMA)]
            hint = did_you_mean(name.lower(), known) or "every key stands in beit/schema.py"
            raise ValueError(f"unknown option {name}; {hint}")
        options += [found[0], str(value) if isinstance(value, Path) else value]
    return options


def training_parser(program: str, examples: Sequence[str] = ()) -> Parser:
    """The parser of the commands that train and evaluate.

    Args:
        program: name in the help text.
        examples: command lines at the end of the help text.
    """
    parser = Parser(program, "Train or evaluate BEiT.", examples)
    add_config_flags(parser)
    return parser


def config_from_arguments(argv: Sequence[str] | None = None, parser: Parser | None = None) -> CfgNode:
    """Build the frozen config from the documented flags, e.g. `-cfg=... -dataset=... -batch_size=256 -eval -amp`.

    Every other key is set with `-opts KEY VALUE ...`.

    Args:
        argv: flags; None for those of the process.
        parser: of `training_parser`; None for that of main_multi_gpu.py.

    Raises:
        FileNotFoundError, ValueError: as `get_config`.
    """
    return config_from((parser or training_parser("main_multi_gpu.py")).parse_args(argv))
