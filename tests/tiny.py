"""What the tests share: tiny configs, models and data sets, and the documented commands as processes.

Keys of a config are spelled as keywords here: `TRAIN__BASE_LR` is `TRAIN.BASE_LR`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from PIL import Image

from beit.beit import Beit
from beit.checkpoint.files import read
from beit.config import get_config
from beit.optim.ema import Ema
from beit.parallel.stop import StopVote
from beit.predict.classifier import Classifier
from beit.tasks import Task
from beit.train.run import run
from beit.train.state import TrainState
from tests.reference_numpy import classify

ROOT = Path(__file__).parent.parent

TINY: dict[str, Any] = {
    "DATA__IMAGE_SIZE": 16,
    "DATA__BATCH_SIZE": 4,
    "DATA__CROP_PCT": 1.0,
    "DATA__NUM_WORKERS": 0,
    "MODEL__NAME": "tiny",
    "MODEL__PATCH_SIZE": 8,
    "MODEL__EMBED_DIM": 24,
    "MODEL__DEPTH": 2,
    "MODEL__NUM_HEADS": 3,
    "MODEL__NUM_CLASSES": 3,
    "MODEL__DROPPATH": 0.2,
    "TRAIN__NUM_EPOCHS": 2,
    "TRAIN__WARMUP_EPOCHS": 1.0,
    "TRAIN__BASE_LR": 1e-2,
    "DEVICE": "cpu",
    "REPORT_FREQ": 1,
}
"""Fine-tuning of a classifier: the keys that `tiny_config` and `command` always set."""

QUIET: dict[str, Any] = {
    "MODEL__DROPPATH": 0.0,
    "TRAIN__SCALE": [1.0, 1.0],
    "TRAIN__RATIO": [1.0, 1.0],
    "TRAIN__HFLIP": 0.0,
    "TRAIN__AUTO_AUGMENT": "",
    "TRAIN__COLOR_JITTER": 0.0,
    "TRAIN__RANDOM_ERASE_PROB": 0.0,
    "TRAIN__MIXUP_ALPHA": 0.0,
    "TRAIN__CUTMIX_ALPHA": 0.0,
}
"""Nothing random but the order of images."""

SHARED_TABLE: dict[str, Any] = {"MODEL__USE_REL_POS_BIAS": False, "MODEL__USE_SHARED_REL_POS_BIAS": True}
"""One relative position table for all blocks, as pre-training has it."""

PRETRAIN: dict[str, Any] = SHARED_TABLE | {
    "TASK": "pretrain",
    "TOKENIZER__TYPE": "dall-e",
    "TOKENIZER__ALLOW_RANDOM": True,
    "TOKENIZER__NUM_CODES": 40,
    "TOKENIZER__DALLE_WIDTH": 4,
    "TOKENIZER__DALLE_CODE_WIDTH": 4,
}
"""Pre-training on the tokens of a DALL-E encoder."""

TINIEST_PRETRAIN: dict[str, Any] = PRETRAIN | {
    "DATA__IMAGE_SIZE": 4,
    "MODEL__PATCH_SIZE": 2,
    "MODEL__EMBED_DIM": 6,
    "MODEL__NUM_HEADS": 2,
    "MODEL__MLP_RATIO": 1.0,
    "MODEL__DROPPATH": 0.0,
    "TOKENIZER__NUM_CODES": 5,
    "TRAIN__WEIGHT_DECAY": 0.05,
}
"""The same at a size at which every gradient can be computed by differences."""

TOKENIZER: dict[str, Any] = {
    "TASK": "tokenizer",
    "TOKENIZER__PATCH_SIZE": 4,
    "TOKENIZER__EMBED_DIM": 24,
    "TOKENIZER__DEPTH": 1,
    "TOKENIZER__NUM_HEADS": 3,
    "TOKENIZER__DECODER_DEPTH": 1,
    "TOKENIZER__NUM_CODES": 8,
    "TOKENIZER__CODE_DIM": 4,
    "TOKENIZER__TEACHER": "dino",
    "TOKENIZER__TEACHER_DIM": 16,
    "TOKENIZER__TEACHER_NUM_HEADS": 2,
    "TRAIN__AUTO_AUGMENT": "",
    "TRAIN__RANDOM_ERASE_PROB": 0.0,
}
"""Training of a VQ-KD tokenizer with a DINO teacher."""

UPERNET: dict[str, Any] = {
    "TASK": "segment",
    "DATA__IMAGE_SIZE": 16,
    "MODEL__PATCH_SIZE": 4,
    "MODEL__DEPTH": 4,
    "MODEL__NUM_CLASSES": 4,
    "MODEL__DROPPATH": 0.0,
    "MODEL__OUT_INDICES": [0, 1, 2, 3],
    "MODEL__AUXILIARY_CHANNELS": 6,
    "MODEL__DECODER_DROPOUT": 0.0,
}
"""A segmentation model; its sizes are those of `publishers.unilm_segmentation(rng, side=4, patch=4)`."""

SEGMENT: dict[str, Any] = UPERNET | {
    "DATA__DATASET": "image_mask",
    "DATA__IMAGE_SIZE": 32,
    "DATA__RESIZE_LIMITS": [64, 48],
    "DATA__BATCH_SIZE": 2,
    "DATA__BATCH_SIZE_EVAL": 1,
    "MODEL__PATCH_SIZE": 8,
    "MODEL__NUM_CLASSES": 5,
    "MODEL__DECODER_DROPOUT": 0.1,
    "TRAIN__MAX_STEPS": 3,
    "TRAIN__SCHEDULE": "poly",
    "TRAIN__WARMUP_STEPS": 1,
    "TRAIN__BASE_LR": 1e-3,
}
"""Training of a segmentation model on the scenes of `write_scenes`."""


def options(keys: Mapping[str, Any]) -> list[Any]:
    """Keys and values in turn, as `get_config(opts=...)` and `-opts` take them."""
    return [item for name, value in keys.items() for item in (name.replace("__", "."), value)]


def tiny_config(data: Path | str = "unused", output: Path | str = "unused", **keys: Any) -> Any:
    """Frozen config of the tiny run: `TINY`, changed by `keys`."""
    return get_config(None, options(TINY | {"DATA__DATA_PATH": str(data), "SAVE": str(output)} | keys))


def upernet_config(**keys: Any) -> Any:
    """Frozen config of a tiny segmentation model; training it needs `SEGMENT` instead."""
    return tiny_config(**UPERNET | keys)


def randomize(layer: Any, seed: int | np.random.Generator = 0, scale: float = 0.5) -> Any:
    """Draw all parameters from N(0, scale^2), vectors from N(1, scale^2), so that each has an effect; the layer.

    The initial weights are so small that errors in a block would stay below the tolerances.
    """
    rng = np.random.default_rng(seed)
    for parameter in layer.parameters():
        values = scale * rng.standard_normal(parameter.shape) + (parameter.ndim == 1)
        parameter.set_value(values.astype(str(parameter.dtype).removeprefix("paddle.")))
    return layer


def tiny_beit(
    *,
    width: int = 24,
    depth: int = 2,
    heads: int = 3,
    side: int = 3,
    patch: int = 4,
    classes: int = 5,
    pooling: str = "mean",
    **options: Any,
) -> Beit:
    """A classifier in evaluation mode whose default sizes are those of `publishers.unilm_classifier(rng)`."""
    model = Beit(
        image_size=(side * patch,) * 2,
        patch_size=patch,
        num_classes=classes,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        use_mean_pooling=pooling == "mean",
        **options,
    )
    model.eval()
    return model


def largest_difference(
    model: Beit, unilm: dict[str, Any], heads: int, rng: np.random.Generator, size: int
) -> float:
    """Largest difference of the logits from those of the NumPy reference with the weights `unilm`."""
    images = rng.standard_normal((2, 3, size, size)).astype(np.float32)
    with paddle.no_grad():
        logits = model(paddle.to_tensor(images)).numpy()
    expected = classify(unilm, images, heads)
    assert np.abs(expected).max() > 0.1  # otherwise any model would agree
    return float(np.abs(logits - expected).max())


def logits_of(predictor: Classifier, paths: Sequence[Path]) -> np.ndarray:
    """Logits of image files by the code that predicts."""
    with paddle.no_grad():
        return predictor.model(predictor.tensor([Image.open(path) for path in paths])).numpy()


def noise_images(seed: int = 1, size: tuple[int, int] = (16, 16), batch: int = 2) -> np.ndarray:
    """Normalized images of noise, `[batch, 3, height, width]` in float32."""
    return np.random.default_rng(seed).standard_normal((batch, 3, *size)).astype(np.float32)


def write_dataset(root: Path, *, train: int = 24, val: int = 10, classes: int = 3) -> Path:
    """Noise of one hue per class, 20x18 pixels, list-file layout with a blank in each path."""
    rng = np.random.default_rng(0)
    (root / "my images").mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("val", val)):
        lines = []
        for number in range(count):
            label = number % classes
            pixels = rng.integers(0, 100, (18, 20, 3))
            pixels[..., label % 3] += 120
            name = f"my images/{split}_{number}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(root / name)
            lines.append(f"{name} {label}\n")
        (root / f"{split}_list.txt").write_text("".join(lines), encoding="utf-8")
    return root


def command(script: str, data: Path, output: Path, *extra: Any, **keys: Any) -> list[str]:
    """A documented command line of the tiny run."""
    return [
        sys.executable,
        str(ROOT / script),
        f"-data_path={data}",
        f"-output={output}",
        *map(str, extra),
        "-opts",
        *map(str, options(TINY | keys)),
    ]


def environment() -> dict[str, str]:
    """One thread a process; everything else as the tests have it."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def run_command(arguments: list[str], timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, capture_output=True, text=True, timeout=timeout, env=environment(), cwd=ROOT, check=False
    )


def losses(output: Path) -> list[float]:
    """Training losses by step; of a step that ran twice the later one."""
    by_step = {}
    for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if "train/loss" in entry:
            by_step[entry["step"]] = entry["train/loss"]
    return [by_step[step] for step in sorted(by_step)]


def log_of(folder: Path) -> str:
    return (folder / "log.txt").read_text(encoding="utf-8")


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the run behave as if SIGTERM arrived during that step."""
    calls = {"count": 0}

    def passed(self: StopVote) -> bool:
        calls["count"] += 1
        self.requested = 15
        return calls["count"] == step

    monkeypatch.setattr(StopVote, "passed", passed)


def load_weights(file: Path | str) -> dict[str, np.ndarray]:
    """Arrays of a weights file by name."""
    return dict(read(file).tree)


def different_weights(first: Path, second: Path, name: str = "model.pdparams") -> list[str]:
    """Names of tensors that differ in a single bit between two output folders."""
    a, b = load_weights(first / name), load_weights(second / name)
    assert a.keys() == b.keys()
    return [tensor for tensor in a if a[tensor].tobytes() != b[tensor].tobytes()]


def train_state(
    task: Task, optimizer: Any = None, *, parallel: paddle.nn.Layer | None = None, ema: Ema | None = None
) -> TrainState:
    """State of a float32 training of `task`, for `train_step`."""
    return TrainState(
        config=task.config,
        task=task,
        parallel=parallel or task,
        optimizer=optimizer or task.optimizer(task.param_groups()),
        scaler=paddle.amp.GradScaler(enable=False),
        ema=ema,
        amp_dtype=None,
    )


def train_as_rank(config: Any) -> None:
    """What a rank of a training run does, for `launch`; a process of its own, which imports this module."""
    run(config)
    sys.exit(0)
