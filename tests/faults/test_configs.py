"""Wrong configs: either one line that names the place or a run, never a traceback."""

from __future__ import annotations

import os
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from beit.config import dump, get_config
from beit.schema import SCHEMA
from beit.train.entry import _rank, exit_status
from tests.faults.harness import Row, finish, message
from tests.tiny import command, tiny_config, write_dataset

MUTATIONS = int(os.environ.get("BEIT_FAULT_MUTATIONS", "2000"))
RUN_SECONDS = float(
    os.environ.get("BEIT_FAULT_RUN_SECONDS", "45")
)  # of the accepted ones, as many as fit are also run


def bomb() -> str:
    """Nine levels of YAML aliases that expand to 10^9 words."""
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    return "\n".join(lines)


WRONG: dict[str, tuple[str, str]] = {
    "wrong type": ("MODEL:\n  DEPTH: twelve\n", "MODEL.DEPTH = 'twelve', expected an integer"),
    "text for a list": ("DATA:\n  IMAGENET_MEAN: gray\n", "DATA.IMAGENET_MEAN"),
    "value for a section": ("MODEL: 3\n", "MODEL = 3, expected a section"),
    "section for a value": ("SEED:\n  A: 1\n", "SEED is a section here, expected a value"),
    "unknown key": ("MODEL:\n  DEPHT: 3\n", "unknown key MODEL.DEPHT; did you mean MODEL.DEPTH?"),
    "unknown section": ("MODLE:\n  DEPTH: 3\n", "MODLE"),
    "duplicate key": ("SEED: 1\nSEED: 2\n", "key SEED is given twice"),
    "missing BASE": ("BASE: ['nowhere.yaml']\n", "nowhere.yaml does not exist"),
    "cyclic BASE": ("BASE: ['config.yaml']\n", "BASE files include each other"),
    "Python object": ("SEED: !!python/object/apply:os.system ['touch ran']\n", "not a valid YAML file"),
    "Python name": ("SEED: !!python/name:os.system\n", "not a valid YAML file"),
    "bomb of aliases": (bomb(), "aliases are not supported"),
    "alias of itself": ("MODEL: &a\n  DEPTH: *a\n", "aliases are not supported"),
    "alias under a known key": ("MODEL:\n  DEPTH: &a 3\n  NUM_HEADS: *a\n", "aliases are not supported"),
    "bomb of aliases under a known key": (bomb() + "\nMODEL:\n  DEPTH: *a9\n", "aliases are not supported"),
    "a key by dot and in its section": ("MODEL:\n  DEPTH: 3\nMODEL.DEPTH: 4\n", "MODEL.DEPTH"),
    "a number for BASE": ("BASE: 5\n", "BASE"),
    "a width of 10^12": ("MODEL:\n  EMBED_DIM: 1000000000000\n", "MODEL.EMBED_DIM"),
    "a depth of 10^12": ("MODEL:\n  DEPTH: 1000000000000\n", "MODEL.DEPTH"),
    "betas of 1": ("TRAIN:\n  OPTIMIZER:\n    BETAS: [1, 1]\n", "TRAIN.OPTIMIZER.BETAS"),
    "a key with an escape sequence": ('"\\e[2J": 3\n', "unknown key"),
    "a list": ("- 1\n- 2\n", "holds list, expected sections"),
    "tabs": ("MODEL:\n\tDEPTH: 3\n", "not a valid YAML file"),
    "binary": ("\x00\x01\x02", "not a valid YAML file"),
    "nested 5000 deep": ("[" * 5000, "not a valid YAML file"),
    "not a number": ("TRAIN:\n  BASE_LR: .nan\n", "expected a finite number"),
    "huge integer": ("SEED: 1" + "0" * 5000 + "\n", ""),
    "image size not a multiple of the patch size": ("DATA:\n  IMAGE_SIZE: 225\n", "not a multiple of MODEL.PATCH_SIZE"),
    "width not a multiple of the heads": ("MODEL:\n  EMBED_DIM: 100\n", "not a multiple of MODEL.NUM_HEADS"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong(tmp_path: Path, row: Row, name: str) -> None:
    row.fault, row.expected = f"config: {name}", "one line with file and key"
    content, reason = WRONG[name]
    file = tmp_path / "config.yaml"
    file.write_text(content, encoding="utf-8")
    begin = time.process_time()
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        get_config(file)
    row.seconds = time.process_time() - begin
    said = str(caught.value)
    assert reason in said and said.isprintable() and len(said) < 2000, said
    assert row.seconds < 5 and not Path("ran").exists()
    row.seen = said.replace(str(tmp_path), "…")


@pytest.mark.parametrize("place", ["BASE", "-opts"])
def test_files_and_options_that_never_end(tmp_path: Path, row: Row, place: str) -> None:
    row.fault = f"config: {'26 files that each name the next one twice' if place == 'BASE' else 'brackets nested 100,000 deep in -opts'}"
    row.expected = "one line, at once"
    options = ["MODEL.DEPTH", "[" * 100_000] if place == "-opts" else []
    for number in range(25):
        text = f"BASE: [{number + 1}.yaml, {number + 1}.yaml]\n" if place == "BASE" else ""
        (tmp_path / f"{number}.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "25.yaml").write_text("SEED: 1\n", encoding="utf-8")
    begin = time.process_time()
    with pytest.raises(ValueError) as caught:
        get_config(tmp_path / "0.yaml", options)
    row.seconds, said = time.process_time() - begin, str(caught.value)
    assert row.seconds < 5 and said.isprintable() and len(said) < 2000, said[:2000]
    row.seen = said


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("PADDLE_TRAINER_ID", "x", "PADDLE_TRAINER_ID is 'x'; expected a number"),
        ("PADDLE_TRAINERS_NUM", "-3", "PADDLE_TRAINERS_NUM is '-3'; expected a number"),
        (
            "PADDLE_TRAINERS_NUM",
            "2",
            "PADDLE_TRAINERS_NUM is 2, but PADDLE_TRAINER_ENDPOINTS names 0 addresses",
        ),
    ],
)
def test_wrong_variables_of_a_launcher(
    data: Path, tmp_path: Path, row: Row, name: str, value: str, reason: str
) -> None:
    row.fault, row.expected = f"{name}={value}", "status 2, one line with the variable"
    words = command("main_multi_gpu.py", data, tmp_path / "run")
    extra = {"PADDLE_TRAINER_ID": "0", name: value}
    status, text, row.seconds = finish(words, tmp_path / "run", extra=extra)
    assert status == 2 and reason in message(text) and "Traceback" not in text, text[-1500:]
    row.seen = message(text)


@pytest.mark.parametrize("name", ["unknown key", "Python object", "missing BASE"])
def test_wrong_through_the_command(data: Path, tmp_path: Path, row: Row, name: str) -> None:
    row.fault, row.expected = (
        f"config: {name}, the command with two ranks",
        "status 2, one line, before any rank starts",
    )
    file = tmp_path / "config.yaml"
    file.write_text(WRONG[name][0], encoding="utf-8")
    words = command("main_multi_gpu.py", data, tmp_path / "run", f"-cfg={file}", "-nprocs=2")
    status, text, row.seconds = finish(words, tmp_path / "run")
    assert status == 2 and WRONG[name][1] in text and "Traceback" not in text, text[-1500:]
    assert not (tmp_path / "run").exists()
    row.seen = message(text).replace(str(tmp_path), "…")


POOL: list[Any] = [
    None, True, False, "", "text", "auto", "None", "1", "1e-3", -1, 0, 1, 2, 3, 7, 16, 0.0, 0.5, 1.0, 1.5, -0.5, 1e-9, 1e300, float("inf"),
    float("-inf"), float("nan"), 2**31, 2**63, 10**30, [], [1], [0.5, 0.5], [1, 2], [2, 1], [0.1, 0.2, 0.3], ["a"], {}, {"A": 1}, [[]], [None],
]  # fmt: skip


def leaves(tree: dict[str, Any], prefix: str = "") -> list[str]:
    names = []
    for name, value in tree.items():
        names += leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}"]
    return names


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, leaf = key.split(".")
    for section in sections:
        tree = tree[section]
    tree[leaf] = value


def get(tree: dict[str, Any], key: str) -> Any:
    for name in key.split("."):
        tree = tree[name]
    return tree


def nearby(value: Any, rng: np.random.Generator) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return int(rng.choice([0, 1, 2, value + 1, 2 * value, value // 2, -value]))
    if isinstance(value, float):
        return float(rng.choice([0.0, 1.0, 2 * value, value / 2, value + 0.3, -value]))
    if isinstance(value, list):
        return [nearby(item, rng) for item in value] if value else [1]
    if value is None:
        return POOL[int(rng.integers(len(POOL)))]
    return str(
        rng.choice(
            [
                "classify",
                "pretrain",
                "tokenizer",
                "segment",
                "probe",
                "knn",
                "cpu",
                "gpu",
                "folder",
                "flat",
                "bilinear",
                value.upper(),
                "",
            ]
        )
    )


def mutate(text: str, rng: np.random.Generator) -> str:
    """One to three changes: of values, of keys, of lines or of bytes."""
    for _ in range(int(rng.integers(1, 4))):
        kind = rng.integers(0, 8)
        if kind < 4:
            try:
                tree = yaml.safe_load(text)
                key = str(rng.choice(leaves(tree)))
                put(
                    tree,
                    key,
                    POOL[int(rng.integers(len(POOL)))] if kind == 0 else nearby(get(tree, key), rng),
                )
                text = yaml.safe_dump(tree, sort_keys=False)
            except (yaml.YAMLError, AttributeError, TypeError, ValueError, KeyError):
                pass
            continue
        lines = text.splitlines() or [""]
        place = int(rng.integers(len(lines)))
        if kind == 4:
            lines[place] = lines[place][: int(rng.integers(len(lines[place]) + 1))]
        elif kind == 5:
            lines.insert(int(rng.integers(len(lines))), lines[place])
        elif kind == 6:
            lines[place] = " " * int(rng.integers(5)) + lines[place].lstrip()
        else:
            letters = list(lines[place] or " ")
            letters[int(rng.integers(len(letters)))] = str(
                rng.choice(list("\t :-#&*!|>'\"%@`{}[],?~0aZ\u00e9"))
            )
            lines[place] = "".join(letters)
        text = "\n".join(lines)
    return text


def is_small(config: Any) -> bool:
    """Whether building the model and a run take at most a second."""
    numbers = [
        config.DATA.BATCH_SIZE,
        config.MODEL.DEPTH,
        config.TRAIN.ACCUM_ITER,
        config.MODEL.MLP_RATIO,
        config.MODEL.ATTN_HEAD_SIZE or 0,
    ]
    numbers += [
        config.TRAIN.MAX_STEPS or 0,
        config.TRAIN.NUM_EPOCHS,
        config.DATA.BATCH_SIZE_EVAL or 0,
        config.TRAIN.REPEATED_AUG,
    ]
    return (
        max(numbers) <= 64
        and max(np.atleast_1d(config.DATA.IMAGE_SIZE)) <= 64
        and config.MODEL.EMBED_DIM <= 64
        and config.MODEL.NUM_CLASSES < 100
    )


def test_mutations(
    tmp_path: Path, row: Row, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    row.fault = f"{MUTATIONS} random mutations of a valid YAML; those accepted are run, as many as fit in {RUN_SECONDS:g} s"
    row.expected = "each is refused in one line or runs; no traceback"
    monkeypatch.chdir(tmp_path)
    data = write_dataset(tmp_path / "data", train=8, val=2)
    valid = dump(tiny_config(data, tmp_path / "run", TRAIN__MAX_STEPS=1, TRAIN__WARMUP_EPOCHS=0))
    rng = np.random.default_rng(int(os.environ.get("BEIT_FAULT_SEED", "0")))
    accepted: dict[str, Any] = {}
    refused: Counter[str] = Counter()
    file = tmp_path / "mutated.yaml"
    for _ in range(MUTATIONS):
        text = mutate(valid, rng)
        file.write_text(text, encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                config = get_config(file)
            except (ValueError, FileNotFoundError) as error:
                said = str(error)
                assert "\n" not in said and said.startswith(
                    (str(file), "options", "DATA.", "MODEL.", "TRAIN.")
                ), said
                refused[type(error).__name__] += 1
                continue
        accepted.setdefault(dump(config), text)
    ran: Counter[int] = Counter()
    deadline = time.monotonic() + RUN_SECONDS
    for number, (resolved, text) in enumerate(accepted.items()):
        if time.monotonic() > deadline:
            break
        file.write_text(text, encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = get_config(file)
            if not is_small(config):
                continue
            if str(tmp_path / "run") == config.SAVE:
                file.write_text(resolved, encoding="utf-8")
                config = get_config(file, ["SAVE", str(tmp_path / f"run{number}")])
            try:
                ran[exit_status(lambda config=config: _rank(config))] += 1
            except BaseException as error:
                before, after = valid.splitlines(), resolved.splitlines()
                difference = [line for line in after if line not in before]
                raise AssertionError(f"{type(error).__name__} {str(error)[:300]} for {difference}") from error
    assert len(SCHEMA) > 100 and set(ran) <= {0, 1, 2} and ran[0] > 20
    capfd.readouterr()
    row.seen = f"{sum(refused.values())} refused in one line, {MUTATIONS - sum(refused.values())} accepted; of {sum(ran.values())} run, {ran[0]} trained and {ran[2]} were refused by the run"
