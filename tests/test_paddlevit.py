"""PaddleViT's page: its shell lines with two ranks on CPUs, and its config files."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import beit
from beit.checkpoint.files import read, write
from beit.config import with_options
from tests.checkpoint import publishers
from tests.docs.pages import steps
from tests.tiny import ROOT, environment, losses, options, write_dataset

LINES = [step.words for step in steps(ROOT / "docs" / "from-paddlevit.md") if step.kind == "sh"]
SMALL: dict[str, Any] = {
    "DATA__IMAGE_SIZE": 12,
    "DATA__BATCH_SIZE": 4,
    "DATA__BATCH_SIZE_EVAL": 3,
    "DATA__NUM_WORKERS": 0,
    "MODEL__PATCH_SIZE": 4,
    "MODEL__EMBED_DIM": 24,
    "MODEL__DEPTH": 2,
    "MODEL__NUM_HEADS": 3,
    "MODEL__NUM_CLASSES": 5,
    "TRAIN__NUM_EPOCHS": 1,
    "TRAIN__WARMUP_EPOCHS": 0,
    "REPORT_FREQ": 1,
    "DEVICE": "cpu",
}


def test_the_page_has_paddlevits_lines() -> None:
    common = "-cfg=./configs/beit_base_patch16_224.yaml -dataset=imagenet2012 -batch_size=256 -data_path=/dataset/imagenet"
    gpus = "CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7 python main_multi_gpu.py"
    assert [" ".join(words) for words in LINES] == [
        "sh run_eval_multi.sh",
        f"{gpus} {common} -eval -pretrained=./beit_base_patch16_224.pdparams -amp",
        "sh run_train_multi.sh",
        f"{gpus} {common} -amp",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("words", LINES, ids=lambda words: " ".join(words)[-50:])
def test_the_shell_lines_run_with_two_ranks(words: tuple[str, ...], tmp_path: Path) -> None:
    """Each line as it is, with arguments appended: data, output, two ranks, a tiny model."""
    for name in ("configs", "main_multi_gpu.py", "run_eval_multi.sh", "run_train_multi.sh"):
        (tmp_path / name).symlink_to(ROOT / name)
    data = write_dataset(tmp_path / "data", train=24, val=7)
    weights = tmp_path / "beit_base_patch16_224.pdparams"
    unilm = publishers.unilm_classifier(np.random.default_rng(0))
    write(weights, publishers.paddlevit(unilm))
    appended = [f"-data_path={data}", "-output=output", "-nprocs=2", "-opts", *map(str, options(SMALL))]
    result = subprocess.run(
        shlex.join(words) + " " + shlex.join(appended),
        shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False,
        env=environment() | {"PYTHON": sys.executable, "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    output = tmp_path / "output"
    assert "2 rank(s) on cpu" in (output / "log.txt").read_text()
    if "-eval" not in words and words[-1] != "run_eval_multi.sh":
        found = losses(output)
        assert len(found) == 3 and np.isfinite(found).all()  # 24 images, two ranks of 4
        trained = read(output / "model.pdparams").tree
        assert set(trained) == {name for name in read(weights).tree if not name.endswith("position_index")}
        return
    report = json.loads((output / "eval.json").read_text())
    rows = [line.rpartition(" ") for line in (data / "val_list.txt").read_text().splitlines()]
    results = beit.inference_model(weights, [data / file for file, _, _ in rows])
    scores = [result["pred_scores"][int(label)] for result, (_, _, label) in zip(results, rows, strict=True)]
    correct = [
        result["pred_label"] == int(label) for result, (_, _, label) in zip(results, rows, strict=True)
    ]
    assert (report["count"], report["top1"]) == (7, pytest.approx(100 * np.mean(correct)))
    assert report["loss"] == pytest.approx(-np.log(scores).mean(), rel=1e-4)


TRAINING = """
DATA:
    IMAGE_SIZE: {size}
    CROP_PCT: 0.9
MODEL:
    TYPE: BEiT
    NAME: finetune
    PATCH_SIZE: 16
    EMBED_DIM: {width}
    DEPTH: {depth}
    NUM_HEADS: {heads}
    MLP_RATIO: 4.0
    USE_ABS_POS_EMB: False
    USE_REL_POS_BIAS: {positions}
    INIT_VALUES: {init}
    DROPPATH: {drop}
TRAIN:
    NUM_EPOCHS: {epochs}
    WARMUP_EPOCHS: {warmup}
    WEIGHT_DECAY: 0.05
    LAYER_DECAY: {decay}
    BASE_LR: {rate}
    MIXUP_ALPHA: 0.8
    CUTMIX_ALPHA: 1.0
"""
BASE = {"width": 768, "depth": 12, "heads": 12, "init": 0.1, "drop": 0.1}
LARGE = {"width": 1024, "depth": 24, "heads": 16, "init": "1e-5", "drop": 0.2}
RECIPES: dict[str, dict[str, Any]] = {
    "beit_base_patch16_224": BASE | {"epochs": 100, "warmup": 20, "decay": 0.65, "rate": "4e-3"},
    "beit_large_patch16_224": LARGE | {"epochs": 50, "warmup": 5, "decay": 0.75, "rate": "1e-3"},
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_training_file_has_the_recipe_of_the_config_of_its_name(name: str, tmp_path: Path) -> None:
    """PaddleViT's two training files. It leaves the batch size to the command line."""
    file = tmp_path / f"{name}.yaml"
    file.write_text(TRAINING.format(size=224, positions=True, **RECIPES[name]))
    with pytest.warns(UserWarning, match="MODEL.TYPE is ignored"):
        found = beit.get_config(file)
    shipped = beit.get_config(name)
    batch = {
        "DATA__BATCH_SIZE": shipped.DATA.BATCH_SIZE,
        "TRAIN__ACCUM_ITER": shipped.TRAIN.ACCUM_ITER,
        "TRAIN__TOTAL_BATCH": 1024,
    }
    assert with_options(found, options(batch | {"MODEL__NAME": name})) == shipped


def test_relative_positions_that_a_file_switches_off(tmp_path: Path) -> None:
    """PaddleViT's beit_base_patch16_224_infer.yaml. Ours has them on; with its own, loading does not stay silent."""
    assert beit.get_config("beit_base_patch16_224_infer").MODEL.USE_REL_POS_BIAS
    file, weights = tmp_path / "infer.yaml", tmp_path / "weights.pdparams"
    sizes = BASE | {"width": 24, "depth": 2, "heads": 3}
    file.write_text(TRAINING.format(size=48, positions=False, **RECIPES["beit_base_patch16_224"] | sizes))
    unilm = publishers.unilm_classifier(np.random.default_rng(0), patch=16)
    write(weights, publishers.paddlevit(unilm))
    with pytest.warns(UserWarning, match="MODEL.TYPE is ignored"):
        model = beit.build_beit(beit.get_config(file, ["MODEL.NUM_CLASSES", 5]))
    with pytest.raises(ValueError, match="USE_REL_POS_BIAS"):
        beit.load_pretrained(model, weights)
