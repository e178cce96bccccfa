"""JSON beside the weights as no library writes it: what it states is used, or one line says what is wrong with which file."""

from __future__ import annotations

import collections
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beit.checkpoint.adapt import Changes
from beit.checkpoint.convert import convert
from beit.checkpoint.files import write
from beit.checkpoint.open import open_checkpoint
from beit.checkpoint.report import report_of
from beit.checkpoint.translate import Checkpoint
from beit.containers.errors import CheckpointError
from beit.metadata.info import describe_weights
from beit.predict.resolve import config_of_file
from tests.checkpoint import publishers
from tests.checkpoint.fuzzing import FEWEST, SECONDS, SEED, outcome, pick

VALUES = [
    *("null", "true", "0", "-1", "3.5", "1e400", "-Infinity", "NaN", "1" * 400, "1" * 5000, '""', '"\\u001b[2J"', '"a\\nb"'),
    *("[]", "[1]", "[0.5, 0.5, 0.5]", "[NaN, 1, 1]", "[1e400, 1, 1]", "[0, 0, 0]", "[null, null, null]", '["a", "b", "c"]', "[[1]]", "[3, 12, 12]"),
    *("[3, 1000000000000, 1000000000000]", "[3, 0, -5]", "{}", '{"0": "a"}', '{"x": 1}', '{"0": 3, "1": null}', '{"height": 0, "width": -1}'),
    *('{"shortest_edge": 1e400}', '"bicubic"', "[" * 2000 + "]" * 2000, "[" * 200_000, '{"a": 1, "a": 2}', '"\\ud800"', '["\\u001b[31m", "b", "c", "d", "e"]'),
]  # fmt: skip
PLACE = "@@@"


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all values."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [found for key, value in items for found in ((*path, key), *places(value, (*path, key)))]


def altered(text: str, rng: np.random.Generator) -> str:
    """The JSON with one to three other values, a key twice, a missing key, or a damaged character."""
    tree = json.loads(text)
    inserted: list[str] = []
    for _ in range(int(rng.integers(1, 4))):
        found = places(tree)
        if not found:
            break
        *above, key = pick(rng, found)
        owner = tree
        for part in above:
            owner = owner[part]
        if rng.integers(6) == 0:
            del owner[key]
        else:
            owner[key] = f"{PLACE}{len(inserted)}{PLACE}"
            inserted.append(pick(rng, VALUES))
    text = json.dumps(tree)
    for number, value in enumerate(inserted):
        text = text.replace(f'"{PLACE}{number}{PLACE}"', value)
    match int(rng.integers(8)):
        case 0:
            key = pick(rng, list(tree) or ["a"])
            text = text[:-1].rstrip() + f', "{key}": {pick(rng, VALUES)}}}'
        case 1:
            place = int(rng.integers(len(text)))
            text = text[:place] + pick(rng, ["", "{", "]", "\0", "\x1b", '"']) + text[place + 1 :]
    return text


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Weights with JSON beside them, as timm, transformers and this package write them."""
    root = tmp_path_factory.mktemp("weights")
    unilm = publishers.unilm_classifier(np.random.default_rng(0))
    write(root / "beit_base.pdparams", publishers.paddlevit(unilm))
    (root / "beit_base.pretrained_cfg.json").write_text(
        json.dumps({"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.9, "input_size": [3, 12, 12]}, "class_names": list("abcde")})
    )  # fmt: skip
    found = {"canonical": root / "own.pdparams"}
    convert(root / "beit_base.pdparams", found["canonical"])
    for publisher in ("timm", "huggingface"):
        found[publisher] = root / publisher
        convert(root / "beit_base.pdparams", found[publisher], publisher=publisher)
    write(
        root / "segmentation.pdparams",
        publishers.paddle_layout(publishers.unilm_segmentation(np.random.default_rng(0), side=4, patch=4)),
    )
    (root / "segmentation.pretrained_cfg.json").write_text(json.dumps({"out_indices": [0, 1, 2, 3]}))
    found["segmentation"] = root / "segmentation"
    convert(root / "segmentation.pdparams", found["segmentation"], publisher="huggingface")
    return found


def steps(path: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What is done with weights, by name; with what `open_checkpoint` returns only if it returns."""
    opened: list[Checkpoint] = []

    def report() -> str:
        state, info = opened[0]
        described = describe_weights(info)
        assert json.loads(json.dumps(described, allow_nan=False))
        return str(report_of(info, state, Changes()))

    yield "open", lambda: opened.append(open_checkpoint(path))
    if opened:
        yield "report", report
        yield "config_of_file", lambda: config_of_file(opened[0], "file")


def test_altered_json_gives_a_value_or_one_line(folders: dict[str, Path]) -> None:
    rng = np.random.default_rng(SEED)
    outcomes: collections.Counter[str] = collections.Counter()
    files = [
        (path, file)
        for path in folders.values()
        for file in (path.glob("*.json") if path.is_dir() else [path.with_suffix(".pretrained_cfg.json")])
    ]
    end, count = time.monotonic() + SECONDS, 0
    while count < FEWEST or time.monotonic() < end:
        path, file = pick(rng, files)
        valid = file.read_text(encoding="utf-8")
        text = altered(valid, rng)
        file.write_text(text, encoding="utf-8")
        count += 1
        for step, do in steps(path):
            try:
                outcomes[f"{step}: {outcome(step, do)}"] += 1
            except Exception as error:
                pytest.fail(f"{step} of {file.name}: {type(error).__name__}: {error}\n{text[:3000]}")
        file.write_text(valid, encoding="utf-8")
    print(count, "files", dict(sorted(outcomes.items())))
    assert outcomes["open: value"] and outcomes["open: CheckpointError"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "class_names": ["x"], "class_names": ["y"]}', "key class_names is given twice"),
        ('{"pretrained_cfg": {"mean": [NaN, 0, 0]}}', "NaN is no number, or too large"),
        ('{"pretrained_cfg": {"crop_pct": 1e400}}', "1e400 is no number, or too large"),
        ('{"pretrained_cfg": {"input_size": [3, ' + "9" * 400 + ", 1]}}", "9… is no number, or too large"),
        ("[" * 200_000, "is not valid JSON: maximum recursion depth"),
        ("[1]", "holds a list, expected an object"),
        ('{"a": "\x1b"', r"is not valid JSON: Invalid control character"),
    ],
)
def test_wrong_json_beside_the_weights_is_refused(folders: dict[str, Path], text: str, reason: str) -> None:
    for path, name in ((folders["timm"], "config.json"), (folders["canonical"], "own.pretrained_cfg.json")):
        file = path / name if path.is_dir() else path.with_name(name)
        valid = file.read_text(encoding="utf-8")
        file.write_text(text, encoding="utf-8")
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(path)
        file.write_text(valid, encoding="utf-8")
        assert (
            reason in str(caught.value) and str(file) in str(caught.value) and str(caught.value).isprintable()
        )
