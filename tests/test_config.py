"""The config tree: merging, checks, PaddleViT's files, flags."""

from __future__ import annotations

import ast
import time
from pathlib import Path

import pytest

from beit.config import (
    batch_size_eval,
    dump,
    get_config,
    image_hw,
)
from beit.config_files import config_path
from beit.flags import FLAGS, config_from_arguments
from beit.schema import RENAMED, RETIRED, SCHEMA

ROOT = Path(__file__).parent.parent


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_the_frozen_base_classifier() -> None:
    config = get_config()
    assert (config.MODEL.EMBED_DIM, config.MODEL.DEPTH, config.DATA.IMAGE_SIZE) == (768, 12, 224)
    with pytest.raises(AttributeError):
        config.MODEL.DEPTH = 3


def test_every_default_passes_its_own_check_unchanged() -> None:
    for key, entry in SCHEMA.items():
        assert entry.check(entry.default) == entry.default, key
        assert entry.meaning, key


def test_options_take_values_as_text_and_as_objects() -> None:
    config = get_config(
        None, ["MODEL.DEPTH", 3, "TRAIN.BASE_LR", "4e-3", "EVAL", "True", "DATA.IMAGE_SIZE", "[32, 64]"]
    )
    assert (config.MODEL.DEPTH, config.TRAIN.BASE_LR, config.EVAL) == (3, 4e-3, True)
    assert image_hw(config) == (32, 64)


def test_text_keys_keep_values_that_look_like_numbers() -> None:
    config = get_config(None, ["MODEL.NAME", "123", "MODEL.PRETRAINED", "2024"])
    assert (config.MODEL.NAME, config.MODEL.PRETRAINED) == ("123", "2024")


def test_file_overrides_its_bases_and_options_override_the_file(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "MODEL:\n  DEPTH: 2\n  NUM_CLASSES: 5\n")
    path = write(tmp_path, "child.yaml", "BASE: base.yaml\nMODEL:\n  DEPTH: 3\n")
    config = get_config(path, ["MODEL.PATCH_SIZE", 32])
    assert (config.MODEL.DEPTH, config.MODEL.NUM_CLASSES, config.MODEL.PATCH_SIZE) == (3, 5, 32)


def test_a_dump_reads_back_to_the_same_tree(tmp_path: Path) -> None:
    config = get_config(
        "beitv2_large_patch16_224_pt1k_ft1k", ["DATA.IMAGE_SIZE", [64, 32], "TRAIN.CUTMIX_MINMAX", [0.2, 0.8]]
    )
    assert get_config(write(tmp_path, "dump.yaml", dump(config))) == config


def test_bare_names_are_the_shipped_configs() -> None:
    assert config_path("beit_base_patch16_224") == ROOT / "configs" / "beit_base_patch16_224.yaml"
    with pytest.raises(
        FileNotFoundError, match=r"beit_base_patch16_225 does not exist.*beit_base_patch16_224"
    ):
        config_path("beit_base_patch16_225")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        config_path(ROOT / "configs")


def test_the_end_of_a_path_names_a_shipped_config() -> None:
    """As mmpretrain writes paths. The folder tells apart configs with the same file name."""
    folder, name = ROOT / "configs" / "mmpretrain", "benchmarks/beit-base-p16_8xb64_in1k"
    for version in ("beit", "beitv2"):
        path = folder / version / f"{name}.yaml"
        for written in (f"configs/{version}/{name}.py", f"{version}/{name}.yaml", f"./{version}/{name}"):
            assert config_path(written) == path
    with pytest.warns(
        UserWarning, match=r"two configs are called .*mmpretrain/beit/bench.*beitv2/benchmarks/.* used"
    ):
        assert config_path("beit-base-p16_8xb64_in1k") == folder / "beitv2" / f"{name}.yaml"
    for wrong in (
        "benchmark/beit-base-p16_8xb64_in1k",
        "_base_/arch_base",
        "configs",
        "",
        "beit_base_patch16_224.pth",
    ):
        with pytest.raises(FileNotFoundError):
            config_path(wrong)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL:\n  DEPHT: 3\n", r"unknown key MODEL.DEPHT; did you mean MODEL.DEPTH\?"),
        ("MODLE:\n  DEPTH: 3\n", "unknown section MODLE"),
        ("DEPTH: 3\n", r"unknown key DEPTH; did you mean MODEL.DEPTH\?"),
        ("MODEL:\n  DEPTH: three\n", "MODEL.DEPTH = 'three', expected an integer"),
        ("MODEL:\n  DEPTH: True\n", "MODEL.DEPTH = True, expected an integer"),
        ("MODEL:\n  DEPTH: 0\n", "expected an integer of at least 1"),
        ("MODEL: 3\n", "MODEL = 3, expected a section"),
        ("TRAIN:\n  LAYER_DECAY: 1.5\n", "TRAIN.LAYER_DECAY = 1.5, expected a number of at most 1.0"),
        ("TRAIN:\n  BASE_LR: .nan\n", "TRAIN.BASE_LR = nan, expected a finite number"),
        ("AMP: 1\n", "AMP = 1, expected True or False"),
        ("DATA:\n  DATASET: cifar\n", "expected one of 'imagenet2012', 'folder'"),
        ("DATA:\n  IMAGENET_MEAN: [0.5, 0.5]\n", "expected a list of 3 numbers"),
        (
            "DATA:\n  IMAGE_SIZE: 230\n",
            "DATA.IMAGE_SIZE = 230 is not a multiple of MODEL.PATCH_SIZE = 16; use 224 or 240",
        ),
        ("DATA:\n  IMAGE_SIZE: 8\n", "use 16 or 16"),
        ("MODEL:\n  NUM_HEADS: 7\n", "MODEL.EMBED_DIM = 768 is not a multiple of MODEL.NUM_HEADS = 7"),
        ("TRAIN:\n  FREEZE_LAYERS: 14\n", "expected at most MODEL.DEPTH . 1 = 13"),
        ("TRAIN:\n  SCALE: [1.0, 0.1]\n", "expected .low, high."),
        ("MODEL:\n  DEPTH: 3\n  DEPTH: 4\n", "key DEPTH is given twice"),
        ("MODEL: !!python/object/apply:os.system [ls]\n", "not a valid YAML file"),
        ("- 1\n", "holds list, expected sections"),
        ("MODEL: [\n", "not a valid YAML file"),
        ("? [1, 2]\n: 3\n", "a key must be a word"),
        ("BASE: missing.yaml\n", "BASE file .*missing.yaml does not exist"),
        ("BASE: [3]\n", "BASE is .3.; expected file names"),
        ("BASE: config.yaml\n", "BASE files include each other"),
        ("BASE: 5\n", "BASE is 5; expected file names"),
        ("BASE: {a: b}\n", "BASE is .*; expected file names"),
        ("MODEL.DEPTH: 3\nMODEL:\n  DEPTH: 4\n", "MODEL.DEPTH is given twice"),
        ("a: &a [1, 2]\nMODEL: {DEPTH: *a}\n", "aliases are not supported, write the value itself"),
        ("MODEL:\n  EMBED_DIM: 1000000000000\n", "expected an integer of at most 65536"),
        ("TRAIN:\n  OPTIMIZER:\n    BETAS: [1, 1]\n", "expected two numbers from 0 to below 1"),
        (
            "SAVE: $NO_SUCH_VARIABLE/run\n",
            "names the environment variable NO_SUCH_VARIABLE, which is not set",
        ),
        ("SAVE: ~no_such_user_here/run\n", "names the home folder of a user who does not exist"),
        ("TRAIN:\n  LR_SCHEDULER:\n    NAME: step\n", "TRAIN.LR_SCHEDULER.NAME = 'step' is not supported"),
    ],
)
def test_errors_name_the_key_and_the_file(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, "config.yaml", text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        get_config(path)


def test_invalid_options_are_refused() -> None:
    for opts, lone in (
        (["MODEL.DEPTH"], "MODEL.DEPTH"),
        (["SAVE", "x", "MODEL.DEPTH"], "MODEL.DEPTH"),
        (["SAVE", "x", "MODEL.DEPTH", "MODEL.NUM_HEADS", 3], "MODEL.DEPTH"),
        (["SAVE", "my", "folder"], "folder"),
    ):
        with pytest.raises(ValueError, match=f"as KEY VALUE or KEY=VALUE, and '{lone}' has no value"):
            get_config(None, opts)


PADDLEVIT = """
BASE: ['']
DATA:
    IMAGE_SIZE: 224
    CROP_PCT: 0.9
MODEL:
    TYPE: BEiT
    NAME: beit_base_patch16_224_finetune
    TRANS:
        PATCH_SIZE: 16
        EMBED_DIM: 384
    DROPPATH: 0.1
TRAIN:
    BASE_LR: 4e-3
    LAYER_DECAY: 0.65
    RAND_AUGMENT: True
    RAND_AUGMENT_LAYERS: 2
    AUTO_AUGMENT: False
    OPTIMIZER:
        NAME: AdamWDL
AUG:
    MIXUP: 0.4
NGPUS: -1
TAG: default
"""


def test_a_paddlevit_file_loads_and_reports_changes(tmp_path: Path) -> None:
    path = write(tmp_path, "paddlevit.yaml", PADDLEVIT.replace("    AUTO_AUGMENT: False\n", ""))
    with pytest.warns(UserWarning) as warned:
        config = get_config(path)
    assert (config.MODEL.EMBED_DIM, config.TRAIN.BASE_LR, config.TRAIN.MIXUP_ALPHA) == (384, 4e-3, 0.4)
    assert (config.NPROCS, config.TRAIN.AUTO_AUGMENT) == (None, "rand-m9-mstd0.5-inc1")
    text = "\n".join(str(warning.message) for warning in warned)
    for part in (
        "MODEL.TRANS.EMBED_DIM is now called MODEL.EMBED_DIM",
        "MODEL.TYPE is ignored",
        "TAG is ignored",
    ):
        assert part in text


def test_both_names_of_a_key_state_one_value(tmp_path: Path) -> None:
    """As in files that hold all keys of PaddleViT."""
    path = write(tmp_path, "config.yaml", "TRAIN: {MIXUP_ALPHA: 0.4}\nAUG: {MIXUP: 4e-1}\n")
    with pytest.warns(UserWarning, match=r"AUG\.MIXUP is now called"):
        assert get_config(path).TRAIN.MIXUP_ALPHA == 0.4
    for text, names in (
        ("TRAIN: {MIXUP_ALPHA: 0.0}\nAUG: {MIXUP: 0.8}\n", "TRAIN.MIXUP_ALPHA and AUG.MIXUP"),
        ("NGPUS: 2\nNPROCS: 4\n", "NGPUS and NPROCS"),
    ):
        with (
            pytest.warns(UserWarning, match="is now called"),
            pytest.raises(ValueError, match=f"{names} are one key with two values; keep one of them"),
        ):
            get_config(write(tmp_path, "config.yaml", text))


def test_every_replacement_exists() -> None:
    assert all(new in SCHEMA for new in RENAMED.values())
    assert not set(RENAMED) & set(SCHEMA)
    assert not set(RETIRED) & set(SCHEMA)


def test_every_key_is_read_somewhere() -> None:
    """Every key is an attribute of some expression in the code, as in `config.TRAIN.BASE_LR`."""
    read = {
        node.attr
        for path in (ROOT / "beit").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
    }
    assert [key for key in SCHEMA if key.rpartition(".")[2] not in read] == []


# ---------------------------------------------------------------------------------------------- flags


def test_documented_command_line() -> None:
    config = config_from_arguments(
        [
            "-cfg=./configs/beit_base_patch16_224.yaml",
            "-dataset=imagenet2012",
            "-batch_size=256",
            "-data_path=/dataset/imagenet",
            "-eval",
            "-pretrained=./beit_base_patch16_224.pdparams",
            "-amp",
        ]
    )
    assert (config.EVAL, config.AMP, config.DATA.BATCH_SIZE, batch_size_eval(config)) == (
        True,
        True,
        256,
        256,
    )
    assert config.MODEL.PRETRAINED == "./beit_base_patch16_224.pdparams"
    assert config.MODEL.NAME == "beit_base_patch16_224"


def test_flags_with_two_dashes_zero_false_and_options() -> None:
    config = config_from_arguments(
        [
            "--last_epoch",
            "0",
            "--amp",
            "False",
            "-eval=False",
            "--batch_size_eval",
            "3",
            "-opts",
            "TRAIN.WARMUP_EPOCHS",
            "0",
            "MODEL.NAME",
            "x",
            "--nprocs",
            "2",
            "-opts",
            "SEED",
            "7",
        ]
    )
    assert (config.AMP, config.EVAL, config.TRAIN.WARMUP_EPOCHS, config.SEED) == (False, False, 0.0, 7)
    assert (config.NPROCS, config.MODEL.NAME, batch_size_eval(config)) == (2, "x", 3)


def test_batch_size_eval_overrides_batch_size_in_evaluation() -> None:
    config = config_from_arguments(["-eval", "-batch_size", "64", "-batch_size_eval", "16"])
    assert (config.DATA.BATCH_SIZE, batch_size_eval(config)) == (64, 16)


@pytest.mark.parametrize(
    ("flag", "hint"),
    [
        ("-batchsize=3", "-batch_size"),
        ("-pretrain=x", "-pretrained"),
        ("--evall", "-eval"),
        ("-cf=x", "-cfg"),
        ("-zzz", "unknown flag -zzz"),
    ],
)
def test_unknown_flags_name_the_nearest(flag: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        config_from_arguments([flag])
    assert stop.value.code == 2
    assert hint in capsys.readouterr().err


def test_every_flag_sets_its_key() -> None:
    samples = {
        "DATA.DATASET": "folder",
        "DEVICE": "cpu",
        "EVAL": "True",
        "AMP": "True",
        "MODEL.RESUME": "auto",
        "ENGINE": "onnxruntime",
        "PRECISION": "int8",
    }
    for name, (key, _) in FLAGS.items():
        value = samples.get(key, "48")
        node = config_from_arguments([f"-{name}", value])
        for part in key.split("."):
            node = node[part]
        assert str(node) == value, name


def test_paths_are_expanded_in_files_options_and_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DISK", "/disk")
    config = get_config(
        write(tmp_path, "c.yaml", "DATA:\n  DATA_PATH: ~/data\n"), ["MODEL.PRETRAINED", "$DISK/w"]
    )
    assert (f"{tmp_path}/data", "/disk/w") == (config.DATA.DATA_PATH, config.MODEL.PRETRAINED)
    config = config_from_arguments(
        ["-cfg=~/c.yaml", "-output=~/run", "-resume=${DISK}/a", "-opts", "DATA.TOKEN_CACHE", "~/t"]
    )
    assert (f"{tmp_path}/run", "/disk/a", f"{tmp_path}/t") == (
        config.SAVE,
        config.MODEL.RESUME,
        config.DATA.TOKEN_CACHE,
    )
    (tmp_path / "$odd").mkdir()
    assert f"{tmp_path}/$odd" == get_config(None, ["SAVE", f"{tmp_path}/$odd"]).SAVE  # it exists as written


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("DATA.IMAGENET_MEAN", "(0.1, 0.2, 0.3)", (0.1, 0.2, 0.3)),
        ("DATA.IMAGE_SIZE", "(32, 48)", (32, 48)),
        ("PROBE.LAYERS", "(1,)", (1,)),
        ("PROBE.KINDS", "(class, both)", ("class", "both")),
    ],
)
def test_tuples_are_lists(tmp_path: Path, key: str, text: str, value: object) -> None:
    section, leaf = key.split(".")
    size = ["MODEL.PATCH_SIZE", 16]
    for config in (
        get_config(None, [*size, key, text]),
        get_config(write(tmp_path, "c.yaml", f"{section}:\n  {leaf}: {text}\n")),
    ):
        assert config[section][leaf] == value


@pytest.mark.parametrize("place", ["file", "option", "base"])
def test_files_that_expand_without_end_are_refused_at_once(tmp_path: Path, place: str) -> None:
    """Nested aliases (2^30 items), BASE files that name the next one twice (2^25 files), deep nesting."""
    laughs = "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 2 if n else '1'}]\n" for n in range(30))
    started = time.process_time()
    with pytest.raises(
        ValueError,
        match="aliases are not supported|BASE files are included; name each|nested too deeply|expected",
    ):
        if place == "file":
            get_config(write(tmp_path, "c.yaml", f"{laughs}MODEL:\n  DEPTH: *a29\n"))
        elif place == "option":
            get_config(None, ["MODEL.DEPTH", "[" * 100_000])
        else:
            for number in range(25):
                write(tmp_path, f"{number}.yaml", f"BASE: [{number + 1}.yaml, {number + 1}.yaml]\n")
            write(tmp_path, "25.yaml", "MODEL:\n  DEPTH: 3\n")
            get_config(tmp_path / "0.yaml")
    assert time.process_time() - started < 10
