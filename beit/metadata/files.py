"""The files beside the weights, read and written: JSON of timm and transformers, config and class names of a run.

`metadata` is the merged JSON: the keys of `config.json` (timm's or transformers'), the content of
`preprocessor_config.json` under that name, and this package's `pretrained_cfg`, `class_names` (a list, or the name
of one) and `palette`. Files beside the weights, which can be edited, take precedence over metadata inside of them.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from yacs.config import CfgNode

from beit.config import parse_yaml
from beit.containers.errors import CheckpointError, listed
from beit.files import replacing, write_text
from beit.metadata.agreement import check_agreement, preprocessing_differences
from beit.metadata.class_names import parse_class_names
from beit.metadata.precedence import merge, read_preprocessing
from beit.metadata.processor_config import FILE, PROCESSOR
from beit.metadata.stated import MODEL_ARGS, MULTI_LABEL, NOT_IN_TENSORS, PROBLEM_TYPE
from beit.preprocessing import ImageSize, Preprocessing, as_size, preprocessing_of
from beit.printable import printable
from beit.text_files import parse_json, read_json, read_text

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Weights in a folder of transformers or timm, the first that exists."""
RUN_CONFIG = "config.yaml"
"""Resolved config of a run, in its output folder."""
RUN_CONFIG_KEY = "run_config"
"""Key of this config, as YAML, in the metadata inside of the weights of a run."""
RESULTS_KEY = "results"
"""Key of the results of a run there: metrics of the last evaluation, and `TRAINING_IMAGES`."""
TRAINING_IMAGES = "training_images"
"""Key of the number of training images, among the results."""
RUN_WEIGHTS = ("model.pdparams", "best.pdparams", "latest.pdparams")
"""Weights in the output folder of a run, in order of preference."""
OUT_INDICES = "out_indices"
"""Key of the blocks (from 0) whose outputs a segmentation head takes, as in transformers' config.json."""
PALETTE = "palette"
"""Key of the colors of the classes of a segmentation model, `[[red, green, blue], …]`."""
Palette = Sequence[tuple[int, int, int]]
RUN_CLASS_NAMES = "class_names.txt"
"""Names of the classes of a run, one a line, in its output folder."""


class Metadata(NamedTuple):
    """What is known of weights beside their tensors.

    Args:
        stated: the merged JSON.
        preprocessing: of the run that wrote the weights, if it was one.
        notes: sentences for the report.
        run_config: YAML of that run's config, from inside of the weights; "" without one.
        results: see `RESULTS_KEY`; empty without them.
    """

    stated: dict[str, object]
    preprocessing: Preprocessing | None = None
    notes: tuple[str, ...] = ()
    run_config: str = ""
    results: dict[str, float] = {}  # noqa: RUF012


_OWN_KEYS = {
    "pretrained_cfg": dict,
    "class_names": list | str,
    OUT_INDICES: list,
    MODEL_ARGS: dict,
    PALETTE: list,
    PROBLEM_TYPE: str,
}
"""Keys that `describe_weights` writes, with their types."""
_RunFacts = tuple[dict[str, object], Preprocessing | None]
_RUN_WEIGHTS = re.compile(r"(latest|best|model|epoch_\d+|adapter|best_adapter)\.pdparams")
FOLDER_JSON = ("config.json", FILE)
"""Files beside the weights in a folder of transformers or timm."""


# ---- reading -------------------------------------------------------------------------------------------------------


def is_run_file(path: Path) -> bool:
    """Whether a weights file was written by a run of this package and has the run's config beside it."""
    return bool(_RUN_WEIGHTS.fullmatch(path.name)) and path.with_name(RUN_CONFIG).is_file()


def sidecar_path(weights: Path) -> Path:
    """The JSON that `python -m beit convert` writes beside a `.pdparams` or `.pth` file."""
    return weights.with_suffix(".pretrained_cfg.json")


def read_metadata(weights: Path, header: Mapping[str, str], *, in_model_folder: bool = False) -> Metadata:
    """What is known of a weights file beside its tensors.

    Args:
        weights: the file.
        header: metadata inside of the file.
        in_model_folder: the weights are those of a folder of timm or transformers.
    Raises:
        CheckpointError: a JSON file or the config beside the weights is invalid, or two of these files state different
            values.
    """
    inside = _read_header(header)
    run_config = header.get(RUN_CONFIG_KEY, "")
    trained = _read_run_config(run_config, "the config inside of the weights")
    is_run = bool(_RUN_WEIGHTS.fullmatch(weights.name))
    beside, preprocessing = _read_run_folder(weights) if is_run else ({}, None)
    run_notes = []
    if trained[1] and preprocessing and not _agree(trained, (beside, preprocessing)):
        run_notes.append(
            f"{RUN_CONFIG} beside the weights describes another model or preprocessing than they were trained with: "
            "it is used"
        )
    if is_run:
        beside |= _read_class_names(weights)
    elif in_model_folder:
        beside = _read_model_folder(weights)
    file = sidecar_path(weights)
    sidecar, unread = _read_sidecar(file)
    if unread:
        run_notes.append(f"{file.name} states {listed(unread)}, which is not read")
    others = (RUN_CONFIG, RUN_CLASS_NAMES) if is_run else FOLDER_JSON
    check_agreement(sidecar, file, beside, preprocessing, others)
    if preprocessing is not None:
        run_notes += [
            f"{what}: {used} in {RUN_CONFIG}, {other} in the metadata inside of the weights: {RUN_CONFIG} is used"
            for what, other, used in preprocessing_differences(inside, preprocessing)
        ]
        inside.pop("pretrained_cfg", None)
        sidecar.pop("pretrained_cfg", None)
    else:  # no config beside the weights says how they were trained
        preprocessing = trained[1]
        inside |= {key: value for key, value in trained[0].items() if key not in inside}
        if preprocessing is not None and "pretrained_cfg" not in inside:
            run_notes += [
                f"{what}: {used} in {file.name}, {other} in the config inside of the weights: {file.name} is used"
                for what, used, other in preprocessing_differences(sidecar, preprocessing)
            ]
            preprocessing = read_preprocessing(sidecar, preprocessing)
            sidecar.pop("pretrained_cfg", None)
    merged, notes = merge(inside, beside | sidecar)
    return Metadata(
        merged,
        None if "pretrained_cfg" in merged else preprocessing,
        (*notes, *run_notes),
        run_config,
        _results(header.get(RESULTS_KEY, "null")),
    )


def _read_header(header: Mapping[str, str]) -> dict[str, Any]:
    """What the metadata inside of a file states, without values of another type than ours."""
    values = {key: _json_of_header(header.get(key, "null")) for key in _OWN_KEYS}
    return {
        key: values[key] for key, kind in _OWN_KEYS.items() if isinstance(values[key], kind) and values[key]
    }


def _read_sidecar(file: Path) -> tuple[dict[str, Any], list[str]]:
    """What the JSON file beside weights states, and its keys that are not ours."""
    found = _read_beside(file, read_json) or {}
    known = {key: value for key, value in found.items() if key in _OWN_KEYS}
    return known, sorted(found.keys() - known.keys())


def _results(text: str) -> dict[str, float]:
    found = _json_of_header(text)
    items = found.items() if isinstance(found, dict) else ()
    return {name: value for name, value in items if isinstance(value, int | float)}


def run_metadata(config: str, class_names: Sequence[str] | None, palette: Palette = ()) -> dict[str, str]:
    """The texts inside of the weights of a run, so that they can be used wherever the file is copied.

    Args:
        config: of the run, as YAML.
        class_names: of its data; None if they have no names.
        palette: colors of the classes of a segmentation model, else empty.
    """
    lists = {"class_names": class_names, PALETTE: palette}
    texts = {key: json.dumps(list(values)) for key, values in lists.items() if values}
    return {RUN_CONFIG_KEY: config} | texts


def training_metadata(tree: Mapping[str, object]) -> dict[str, str]:
    """The texts of `run_metadata` in a training state; empty for other contents."""
    config = tree.get("config")
    if not (isinstance(config, str) and {"optimizer", "order"} <= tree.keys()):
        return {}
    lists = {key: tree.get(key) for key in ("class_names", PALETTE)}
    return {RUN_CONFIG_KEY: config} | {key: text for key, text in lists.items() if isinstance(text, str)}


def stated_sizes(metadata: Mapping[str, object]) -> list[ImageSize]:
    """Image sizes that the JSON states for the model, the most specific first; usually one."""
    arguments, timm = metadata.get("model_args"), metadata.get("pretrained_cfg")
    size = timm.get("input_size") if isinstance(timm, Mapping) else None  # [channels, height, width]
    stated = (
        arguments.get("img_size") if isinstance(arguments, Mapping) else None,
        metadata.get("image_size"),
        size[1:] if isinstance(size, list) else None,
    )
    return [size for size in map(as_size, stated) if size]


def _agree(trained: _RunFacts, beside: _RunFacts) -> bool:
    """Whether two configs describe one model and one preprocessing."""
    (model, own), (other_model, other) = trained, beside
    return (
        model == other_model
        and own is not None
        and other is not None
        and replace(own, source=other.source) == other
    )


def _read_run_folder(weights: Path) -> _RunFacts:
    """`_read_run_config` of the config beside weights that a run wrote."""
    file = weights.with_name(RUN_CONFIG)
    text = _read_beside(file, read_text) or ""
    return _read_run_config(text, f"{RUN_CONFIG} beside the weights", str(file))


def _read_class_names(weights: Path) -> dict[str, object]:
    """`class_names` of the file beside weights that a run wrote; empty without the file."""
    names = parse_class_names(_read_beside(weights.with_name(RUN_CLASS_NAMES), read_text) or "")
    return {"class_names": list(names)} if names else {}


def _read_model_folder(weights: Path) -> dict[str, object]:
    """The JSON files of a folder of timm or transformers as one mapping."""
    config, processor = (_read_beside(weights.with_name(name), read_json) for name in FOLDER_JSON)
    return (config or {}) | ({PROCESSOR: processor} if processor is not None else {})


def _read_run_config(text: str, source: str, path: str | None = None) -> _RunFacts:
    """Facts on the model of a run by transformers' keys, and its preprocessing.

    Empty if there is no text, or if it is a config of another program, which has no such sections.

    Raises:
        CheckpointError: the text is not valid YAML, or a value is wrong.
    """
    if not re.search("^MODEL:", text, re.MULTILINE):
        return {}, None
    try:
        config = CfgNode(parse_yaml(text, path or source))
        found = preprocessing_of(config)
    except AttributeError:
        return {}, None
    except (AssertionError, TypeError, ValueError) as error:
        raise CheckpointError(printable(str(error))) from error
    stated = {"image_size": found.image_size, OUT_INDICES: config.MODEL.get("OUT_INDICES")}
    if config.get("TASK") != "tokenizer":  # whose sizes are in TOKENIZER.*
        stated |= {keys.transformers: config.MODEL.get(keys.config) for keys in NOT_IN_TENSORS.values()}
    if config.get("TASK") == "multilabel":
        stated[PROBLEM_TYPE] = MULTI_LABEL
    return stated, replace(found, source=source)


def _read_beside(path: Path, read: Callable[[Path], Any]) -> Any:
    """What `read` returns for a file beside the weights; None without the file."""
    if not path.exists():
        return None
    try:
        return read(path)
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def _json_of_header(text: str) -> Any:
    """The value of a JSON text; None if it is invalid, and thus not written by this package."""
    try:
        return parse_json(text)
    except ValueError:
        return None


# ---- writing -------------------------------------------------------------------------------------------------------


def edited_sidecar(weights: Path, description: Mapping[str, object]) -> dict[str, object]:
    """The content of the JSON file beside weights: `describe_weights`, and what is not ours in an earlier file, such as notes.

    Raises:
        CheckpointError: the earlier file is invalid.
    """
    earlier = _read_beside(sidecar_path(weights), read_json) or {}
    return {key: value for key, value in earlier.items() if key not in _OWN_KEYS} | dict(description)


@contextlib.contextmanager
def json_files(contents: Mapping[Path, Mapping[str, object]]) -> Iterator[None]:
    """Write JSON files that appear when the block ends, in which the weights that they describe are written.

    If the block raises, earlier files stay: no file describes other weights than those beside it.
    """
    with contextlib.ExitStack() as stack:
        for path, content in contents.items():
            file = stack.enter_context(replacing(path))
            file.write(_json_text(content).encode())
            file.flush()  # a full disk is reported here, while the earlier weights are still there
        yield


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, _json_text(content))


def _json_text(content: Mapping[str, object]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
