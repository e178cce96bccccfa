"""Pre-train a tiny BEiT and BEiT v2 on handwritten digits and compare them with random initial weights.

    python examples/pretrain_digits.py OUTPUT_FOLDER

It takes some minutes on a CPU and needs the installed package and scikit-learn. Steps:

1. Train a VQ-KD tokenizer; the features of its teacher are the pixels around each patch, so no labels are used.
2. Pre-train BEiT and BEiT v2 on its tokens.
3. From each of them and from random weights, with three seeds: a linear probe with all labels, and fine-tuning with a
   tenth of the labels.

Finished runs in the output folder are not repeated, and interrupted ones are continued. The last lines printed are the
accuracies and the folder.
"""

# ruff: noqa: E402
from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from beit.install import require_paddle

require_paddle()  # before the imports that need it

import numpy as np
import paddle
from PIL import Image
from yacs.config import CfgNode

from beit.config import get_config
from beit.data.digits import load_digits
from beit.data.pretraining import build_pretrain_dataset
from beit.data.sampler import Sample
from beit.files import write_text
from beit.models.tokenizer import build_tokenizer
from beit.tools.arguments import write_into_folder
from beit.train.run import run

warnings.filterwarnings("ignore", message="No ccache found")

SIDE, PATCH, GRID = 32, 8, 4  # pixels; a patch is 2 x 2 pixels of the original 8 x 8
TRAIN, SEEDS = 1437, (0, 1, 2)

MODEL: dict[str, Any] = {
    "DATA.IMAGE_SIZE": SIDE,
    "DATA.CROP_PCT": 1.0,
    "DATA.NUM_WORKERS": 1,
    "MODEL.PATCH_SIZE": PATCH,
    "MODEL.EMBED_DIM": 64,
    "MODEL.DEPTH": 4,
    "MODEL.NUM_HEADS": 4,
    "MODEL.NUM_CLASSES": 10,
    "MODEL.USE_REL_POS_BIAS": False,
    "MODEL.USE_SHARED_REL_POS_BIAS": True,
    "TRAIN.HFLIP": 0.0,
    "TRAIN.AUTO_AUGMENT": "",
    "TRAIN.COLOR_JITTER": 0.0,
    "TRAIN.RANDOM_ERASE_PROB": 0.0,
    "TRAIN.MIXUP_ALPHA": 0.0,
    "TRAIN.CUTMIX_ALPHA": 0.0,
    "TRAIN.SCALE": [0.6, 1.0],
    "TRAIN.WARMUP_EPOCHS": 2.0,
    "DEVICE": "cpu",
    "REPORT_FREQ": 1000,
    "VALIDATE_FREQ": 1000,
    "SAVE_FREQ": 1000,
}
TOKENIZER: dict[str, Any] = {
    "TOKENIZER.NUM_CODES": 64,
    "TOKENIZER.CODE_DIM": 8,
    "TOKENIZER.PATCH_SIZE": PATCH,
    "TOKENIZER.EMBED_DIM": 48,
    "TOKENIZER.DEPTH": 2,
    "TOKENIZER.NUM_HEADS": 3,
    "TOKENIZER.DECODER_DEPTH": 1,
    "TOKENIZER.TEACHER_DIM": 17,
}
PRETRAIN = (
    MODEL
    | TOKENIZER
    | {"TASK": "pretrain", "DATA.BATCH_SIZE": 64, "TRAIN.NUM_EPOCHS": 60, "TRAIN.BASE_LR": 2e-3}
)
PRETRAIN |= {"TRAIN.END_LR": 1e-5, "DATA.SECOND_INTERPOLATION": "bicubic"}
VERSIONS: dict[str, dict[str, Any]] = {
    "BEiT": {"MASK.RULE": "at_most"},
    "BEiT v2": {"MASK.RULE": "exact", "MODEL.EARLY_LAYERS": 3},
}
PROBE = MODEL | {
    "MODEL.USE_MEAN_POOLING": False,
    "DATA.BATCH_SIZE": 64,
    "TRAIN.WARMUP_EPOCHS": 0.0,
    "TRAIN.END_LR": 0.0,
}
LINEAR = PROBE | {
    "TASK": "probe",
    "PROBE.BATCH_NORM": True,
    "TRAIN.NUM_EPOCHS": 25,
    "TRAIN.WEIGHT_DECAY": 1e-4,
}
LINEAR |= {"TRAIN.BASE_LR": 1e-2, "TRAIN.SCALE": [1.0, 1.0], "TRAIN.RATIO": [1.0, 1.0]}
FINETUNE = MODEL | {
    "DATA.BATCH_SIZE": 16,
    "TRAIN.NUM_EPOCHS": 60,
    "TRAIN.BASE_LR": 1e-3,
    "TRAIN.WARMUP_EPOCHS": 5.0,
}
FINETUNE |= {
    "MODEL.USE_REL_POS_BIAS": True,
    "MODEL.USE_SHARED_REL_POS_BIAS": False,
    "TRAIN.LAYER_DECAY": 0.75,
}


def config_of(keys: dict[str, Any]) -> CfgNode:
    return get_config(opts=[item for pair in keys.items() for item in pair])


def train(folder: Path, keys: dict[str, Any]) -> dict[str, float]:
    """Metrics of a run in `folder`; a finished run is not repeated, an interrupted one is continued."""
    result = folder / "result.json"
    if not result.exists():
        metrics = run(config_of(keys | {"SAVE": str(folder), "MODEL.RESUME": "auto"}))
        write_text(result, json.dumps(metrics) + "\n")
    return json.loads(result.read_text(encoding="utf-8"))


def write_digits(root: Path) -> None:
    """Write list files with all labels into `all`, with a tenth of the training labels into `tenth`, and `features`."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    rows: dict[str, list[str]] = {"train": [], "val": []}
    for position, index in enumerate(order):
        split = "train" if position < TRAIN else "val"
        pixels = np.rint(digits.images[index] * (255 / 16)).astype(np.uint8)
        name = f"images/{index:04d}.png"
        file = root / "all" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file)
        rows[split].append(f"{name} {digits.target[index]}\n")
    labels = [row.split()[1] for row in rows["train"]]
    tenth = [row for k, row in enumerate(rows["train"]) if labels[:k].count(labels[k]) < TRAIN // 100]
    (root / "tenth").mkdir(exist_ok=True)
    if not (root / "tenth" / "images").exists():
        (root / "tenth" / "images").symlink_to(root.resolve() / "all" / "images")
    (root / "features").mkdir(exist_ok=True)
    for split, lines in rows.items():
        few = tenth if split == "train" else lines
        (root / "tenth" / f"{split}_list.txt").write_text("".join(few), encoding="utf-8")
        names = [line.split()[0] for line in lines]
        indices = [int(Path(name).stem) for name in names]
        np.save(root / "features" / f"{split}.npy", describe_patches(digits.images[indices] / 16))
        (root / "features" / f"{split}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
        # Last: `main` writes all again while there is no list of the second split.
        (root / "all" / f"{split}_list.txt").write_text("".join(lines), encoding="utf-8")


def describe_patches(images: np.ndarray) -> np.ndarray:
    """The 4 x 4 original pixels around each patch, and a constant, so that features of empty patches are not zero."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    windows = [
        padded[:, y : y + 4, x : x + 4].reshape(len(images), 16)
        for y in range(0, 8, 2)
        for x in range(0, 8, 2)
    ]
    features = np.stack(windows, axis=1)  # [images, N, 16]
    return np.concatenate([features, np.full((*features.shape[:2], 1), 0.5)], axis=2).astype(np.float32)


def most_frequent_share(root: Path, tokenizer: Path) -> float:
    """Share of the most frequent token of the masked validation patches: the accuracy of a constant prediction."""
    keys = PRETRAIN | {"DATA.DATA_PATH": str(root / "all"), "TOKENIZER.PRETRAINED": str(tokenizer)}
    config = config_of(keys)
    dataset = build_pretrain_dataset(config, "val", (SIDE, SIDE))
    assert dataset is not None
    items = [dataset[Sample(index, index)] for index in range(len(dataset))]
    second = paddle.to_tensor(np.stack([item["second"] for item in items]))
    ids = build_tokenizer(config).encode(second.astype("float32") / 255)
    masked = ids.numpy()[np.stack([item["mask"] for item in items])]
    return float(np.bincount(masked).max() / len(masked))


def main(root: Path) -> Path:
    if not (root / "all" / "val_list.txt").exists():
        write_digits(root)
    everything = {"DATA.DATA_PATH": str(root / "all")}
    tokenizer = (
        MODEL | TOKENIZER | everything | {"TASK": "tokenizer", "DATA.BATCH_SIZE": 64, "TRAIN.NUM_EPOCHS": 30}
    )
    tokenizer |= {"TOKENIZER.TEACHER": "features", "TOKENIZER.TEACHER_PRETRAINED": str(root / "features")}
    tokenizer |= {"TRAIN.BASE_LR": 2e-3, "TRAIN.SCALE": [1.0, 1.0], "TRAIN.RATIO": [1.0, 1.0]}
    report = {"tokenizer": train(root / "tokenizer", tokenizer)}
    weights = root / "tokenizer" / "model.pdparams"
    report["most frequent token"] = {"share": most_frequent_share(root, weights)}
    for start, version in VERSIONS.items():
        keys = PRETRAIN | version | everything | {"TOKENIZER.PRETRAINED": str(weights)}
        report[f"pre-training, {start}"] = train(root / start, keys)
    scores: dict[tuple[str, str], list[float]] = {}
    for start in ("random", *VERSIONS):
        for seed in SEEDS:
            pretrained = (
                {} if start == "random" else {"MODEL.PRETRAINED": str(root / start / "model.pdparams")}
            )
            common = {"SEED": seed, **pretrained}
            linear = train(root / f"linear {start} {seed}", LINEAR | everything | common)
            tenth = {"DATA.DATA_PATH": str(root / "tenth")}
            tuned = train(root / f"tenth {start} {seed}", FINETUNE | tenth | common)
            scores.setdefault((start, "linear probe"), []).append(linear["top1"])
            scores.setdefault((start, "10 % of the labels"), []).append(tuned["top1"])
    for name, metrics in report.items():
        print(name + ": " + ", ".join(f"{key} {value:.4f}" for key, value in metrics.items()))
    for (start, what), values in scores.items():
        each = " ".join(f"{value:.1f}" for value in values)
        print(f"{start}, {what}: {np.mean(values):.1f} ± {np.std(values):.1f} ({each})")
    return root


if __name__ == "__main__":
    write_into_folder(__doc__, main)
