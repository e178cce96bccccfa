"""Reads the commands of the pages in `docs/`, and writes the files that they use, at a tiny size."""

from __future__ import annotations

import importlib
import io
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from beit.checkpoint.files import write
from beit.flags import config_from_arguments
from beit.imagenet_classes import synsets
from beit.tools import VERBS
from beit.zoo.table import PUBLISHED
from tests.checkpoint import publishers
from tests.data.packed import tar_bytes, write_tar
from tests.models.teacher_numpy import clip_state
from tests.tiny import ROOT

OTHERS = {"reliability", "reliability-details", "faults", "features", "index", "api"}
"""Pages without blocks of commands (tests/docs/test_features.py checks those of its table). Chinese pages have the commands of the English ones
(tests/test_readme.py)."""
PAGES = {
    path.stem: path
    for path in sorted((ROOT / "docs").glob("*.md"))
    if path.stem not in OTHERS and not path.stem.endswith(".zh")
} | {"README": ROOT / "README.md"}


@dataclass(frozen=True)
class Step:
    """A shell command (`sh`, split into words), or a block of Python (`python`, its text)."""

    kind: str
    words: tuple[str, ...] = ()
    text: str = ""

    @property
    def line(self) -> str:
        return shlex.join(self.words) if self.kind == "sh" else self.text


def steps(page: Path) -> list[Step]:
    """The fenced `sh` and `python` blocks of a page, in order."""
    found = []
    for kind, body in re.findall(
        r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    ):
        if not kind:  # a file tree
            continue
        if kind == "python":
            found.append(Step("python", text=body))
            continue
        assert kind == "sh", f"{page.name}: blocks are sh or python, or have no language, not {kind}"
        lines = body.replace("\\\n", " ").splitlines()
        found += [Step("sh", words=tuple(shlex.split(line, comments=True))) for line in lines if line.strip()]
    return found


# Options that make the commands fast, by the name of the config in `-cfg`. They are appended to each command; the
# config.yaml of a run, which later commands use, contains them already.
_CLASSIFIER: dict[str, Any] = {
    "DATA.IMAGE_SIZE": 32,
    "DATA.BATCH_SIZE": 4,
    "DATA.NUM_WORKERS": 0,
    "MODEL.PATCH_SIZE": 8,
    "MODEL.EMBED_DIM": 24,
    "MODEL.DEPTH": 2,
    "MODEL.NUM_HEADS": 3,
    "DEVICE": "cpu",
}
_ONE_EPOCH: dict[str, Any] = {"TRAIN.NUM_EPOCHS": 1, "TRAIN.WARMUP_EPOCHS": 0}
_VQKD: dict[str, Any] = {
    "TOKENIZER.PATCH_SIZE": 4,
    "TOKENIZER.EMBED_DIM": 24,
    "TOKENIZER.DEPTH": 2,
    "TOKENIZER.NUM_HEADS": 3,
    "TOKENIZER.DECODER_DEPTH": 1,
    "TOKENIZER.NUM_CODES": 16,
    "TOKENIZER.CODE_DIM": 4,
}
_DALLE = {"TOKENIZER.NUM_CODES": 16, "TOKENIZER.DALLE_WIDTH": 8, "TOKENIZER.DALLE_CODE_WIDTH": 4}
_SEGMENT: dict[str, Any] = {
    "DATA.IMAGE_SIZE": 32,
    "DATA.RESIZE_LIMITS": [64, 48],
    "TRAIN.MAX_STEPS": 2,
    "TRAIN.WARMUP_STEPS": 1,
}
_UPERNET = {"MODEL.OUT_INDICES": [0, 0, 1, 1], "MODEL.AUXILIARY_CHANNELS": 8}
_DIGITS: dict[str, Any] = {
    "TRAIN.NUM_EPOCHS": 1,
    "TRAIN.WARMUP_EPOCHS": 0,
    "DATA.NUM_WORKERS": 0,
    "MODEL.DEPTH": 1,
}
SMALLER: dict[str, dict[str, Any]] = {
    "beit_base_patch16_224_pt22k_ft1k": _CLASSIFIER | _ONE_EPOCH,
    "beit_base_patch16_224": _CLASSIFIER | {"MODEL.DEPTH": 12},
    "beit_base_patch16_224_pt22k": _CLASSIFIER | _DALLE,
    "upernet_beit_base_patch16_640_pt22k_ft22k": _CLASSIFIER | _UPERNET,
    "beit_large_patch16_224_pt22k_ft1k": _CLASSIFIER,
    "beit_tiny_patch16_224": _CLASSIFIER | _ONE_EPOCH,
    "own_tiny": _CLASSIFIER | _ONE_EPOCH,
    "own_tokenizer": _CLASSIFIER | _ONE_EPOCH | _VQKD | {"DATA.IMAGE_SIZE": 16, "MODEL.PATCH_SIZE": 4},
    "own_tiny_pretrain": _CLASSIFIER | _ONE_EPOCH | _VQKD,
    "beit_tiny_patch16_224_pretrain": _CLASSIFIER | _ONE_EPOCH | _DALLE,
    "beitv2_tiny_patch16_224_pretrain": _CLASSIFIER | _ONE_EPOCH | _VQKD | {"MODEL.EARLY_LAYERS": 1},
    "vqkd_small_data_clip": _CLASSIFIER | _ONE_EPOCH | _VQKD | {
        "DATA.IMAGE_SIZE": 16, "MODEL.PATCH_SIZE": 4, "TOKENIZER.TEACHER_DIM": 6, "TOKENIZER.TEACHER_NUM_HEADS": 2,
    },
    "beitv2_base_patch16_224_linear": _CLASSIFIER | _ONE_EPOCH,
    "beitv2_base_patch16_224_knn": _CLASSIFIER,
    "demo_scenes": _SEGMENT | {"MODEL.EMBED_DIM": 16, "DATA.NUM_WORKERS": 0},
    "upernet_beit_base_patch16_512_pt22k_ft22k": _CLASSIFIER | _SEGMENT | _UPERNET | {"DATA.BATCH_SIZE": 1},
    **dict.fromkeys(
        (
            "beit-base-p16_beit-pre_8xb128-coslr-100e_in1k",
            "beit-base-p16_beitv2-pre_8xb128-coslr-100e_in1k",
            "beitv2_beit-base-p16_8xb256-amp-coslr-300e_in1k",
        ),
        {"MODEL.EMBED_DIM": 24, "MODEL.DEPTH": 2, "MODEL.NUM_HEADS": 3, "MODEL.EARLY_LAYERS": 1},
    ),
    "demo_digits": _DIGITS,
    "digits_teacher": _DIGITS,
    "vqkd_digits": _DIGITS | {"TOKENIZER.DEPTH": 1},
}  # fmt: skip


PASSL_SMALLER = [
    f"model.{key}"
    for key in ("architecture.img_size=32", "architecture.patch_size=8", "architecture.embed_dim=24",
                "architecture.depth=2", "architecture.num_heads=3", "head.in_channels=24")
]  # fmt: skip
"""Overrides that make PASSL's configs small."""


def smaller(words: tuple[str, ...]) -> list[str]:
    """The words of a command with the options of `SMALLER` appended."""
    configs = [Path(word.partition("=")[2]).stem for word in words if word.startswith("-cfg=")]
    options = SMALLER.get(configs[0], {}) if configs else {}
    pairs = [str(item) for pair in options.items() for item in pair]
    return [*words, "-opts", *pairs] if pairs else list(words)


def shorten(words: tuple[str, ...]) -> None:
    """Remove most images of a data set that a command of a page has just written."""
    if words[:3] == ("python", "-m", "beit.tools.scenes"):
        for file in Path(words[3]).glob("*/*/scene_*.png"):
            if int(file.stem.removeprefix("scene_")) >= _KEPT[file.parent.name]:
                file.unlink()
    if words[:3] == ("python", "-m", "beit.tools.digits"):
        for split, count in _KEPT.items():
            file = Path(words[3]) / f"{split}_list.txt"
            file.write_text("".join(file.read_text().splitlines(keepends=True)[: 4 * count]))


def write_files_of(root: Path, page: str) -> None:
    """Write the files that a page uses into `root`."""
    rng = np.random.default_rng(0)
    (root / "configs").symlink_to(ROOT / "configs")
    for name in ("main_single_gpu.py", "main_multi_gpu.py"):
        (root / name).symlink_to(ROOT / name)
    _WRITERS[page](root, rng)


def use_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take published weights from a folder; those in it are not the published files, so that digests are not compared."""
    monkeypatch.setenv("BEIT_HOME", str(folder))
    monkeypatch.setenv("BEIT_OFFLINE", "1")
    for name, entry in list(PUBLISHED.items()):
        if (folder / entry.file_name).is_file():
            monkeypatch.setitem(PUBLISHED, name, replace(entry, sha256=None))


def _manual(root: Path, rng: np.random.Generator) -> None:
    for split in ("train", "val"):
        for label, kind in enumerate("abcde"):
            (root / "pictures" / split / kind).mkdir(parents=True)
            for number in range(7):
                _image(rng, (40, 48), label % 3).save(root / "pictures" / split / kind / f"{number}.jpg")
    _image(rng, (60, 80)).save(root / "photo.jpg")
    model = publishers.unilm_classifier(rng, classes=1000, depth=12, **_SIZES)
    write(root / "beit_base_patch16_224.pdparams", publishers.paddlevit(model))
    _weights(root / "beit_base_patch16_224_pt22k_ft22kto1k.pth", model)
    _weights(
        root / "beit_base_patch16_224_pt22k_ft22k.pth", publishers.unilm_classifier(rng, classes=11, **_SIZES)
    )


def _own_data(root: Path, rng: np.random.Generator) -> None:
    _images(root, rng)
    _weights(
        root / "beit_base_patch16_224_pt22k_ft22k.pth", publishers.unilm_classifier(rng, classes=11, **_SIZES)
    )


def _multi_label(root: Path, rng: np.random.Generator) -> None:
    _own_data(root, rng)
    (root / "photos").mkdir()
    for split, count in (("train", 8), ("val", 4)):
        rows = ["path,cat,dog,person"]
        for number in range(count):
            _image(rng, (40, 48), number % 3).save(root / "photos" / f"{split}_{number}.jpg")
            rows.append(f"{split}_{number}.jpg,{','.join(str(number >> label & 1) for label in range(3))}")
        (root / "photos" / f"{split}.csv").write_text("\n".join(rows))


def _pretraining(root: Path, rng: np.random.Generator) -> None:
    _images(root, rng)
    for split in ("train", "val"):
        lines = [f"{kind}/{number}.jpg {label}\n" for label, kind in enumerate(_KINDS) for number in range(2)]
        (root / "flowers" / f"{split}_list.txt").write_text("".join(lines))
    _weights(root / "vqkd_encoder_base_decoder_3x768x12_clip.pth", publishers.unilm_vqkd(rng, codes=16))
    write(root / "dalle.pdparams", publishers.dalle(rng))
    (root / "dalle.pdparams").rename(root / "encoder.pkl")
    write(root / "dalle.pdparams", publishers.dalle(rng, decoder=True))
    (root / "dalle.pdparams").rename(root / "decoder.pkl")
    write(root / "clip.pdparams", clip_state(rng))
    (root / "clip.pdparams").rename(root / "ViT-B-16.pt")


def _segmentation(root: Path, rng: np.random.Generator) -> None:
    _weights(
        root / "beit_base_patch16_224_pt22k_ft22k.pth", publishers.unilm_classifier(rng, classes=11, **_SIZES)
    )


def _converting(root: Path, rng: np.random.Generator) -> None:
    model = publishers.unilm_classifier(rng, classes=1000, depth=12, **_SIZES)
    _weights(root / "beit_base_patch16_224_pt22k_ft22kto1k.pth", model)
    write(root / "training_checkpoint.pth", {"student": model, "teacher": model})
    _weights(root / "vqkd_encoder_base_decoder_3x768x12_clip.pth", publishers.unilm_vqkd(rng, codes=16))
    write(root / "dalle.pdparams", publishers.dalle(rng))
    (root / "dalle.pdparams").rename(root / "encoder.pkl")


def _several_machines(root: Path, rng: np.random.Generator) -> None:
    (root / "demo" / "digits").mkdir(parents=True)
    for split, count in (("train", 64), ("val", 8)):
        lines = []
        for number in range(count):
            name = f"{split}_{number}.png"
            _image(rng, (32, 32)).save(root / "demo" / "digits" / name)
            lines.append(f"{name} {number % 10}\n")
        (root / "demo" / "digits" / f"{split}_list.txt").write_text("".join(lines))


def _imagenet(root: Path, rng: np.random.Generator) -> None:
    names = synsets("imagenet-1k")
    photo = io.BytesIO()
    _image(rng, (40, 48)).save(photo, "JPEG")
    data = photo.getvalue()
    train = {f"{name}.tar": tar_bytes({f"{name}_1.JPEG": data}) for name in names}
    val = [f"ILSVRC2012_val_{number:08d}" for number in (1, 2, 3)]
    write_tar(root / "imagenet" / "ILSVRC2012_img_train.tar", train)
    write_tar(root / "imagenet" / "ILSVRC2012_img_val.tar", {f"{name}.JPEG": data for name in val})
    rows = "".join(f"{name},{names[7]} 1 2 3 4\n" for name in val)
    (root / "imagenet" / "LOC_val_solution.csv").write_text(f"ImageId,PredictionString\n{rows}")
    for name in (names[900], names[7]):
        for place in ("imagenet-r", "imagenet-c/fog/1", "imagenet-c/fog/2"):
            (root / place / name).mkdir(parents=True)
            (root / place / name / "art.jpg").write_bytes(data)
        (root / "imagenetv2" / str(names.index(name))).mkdir(parents=True)
        (root / "imagenetv2" / str(names.index(name)) / "art.jpg").write_bytes(data)
    (root / "real.json").write_text("[[7], [], [8, 9]]")
    (root / "cue-conflict").mkdir()
    (root / "cue-conflict" / "cat1-elephant3.jpg").write_bytes(data)
    write_tar(root / "shards" / "imagenet1k-validation-00.tar", {"x.jpg": data, "x.cls": b"7"})
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow (extra: parquet)")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow (extra: parquet)")
    table = pyarrow.table({"image": [{"bytes": data, "path": "x.jpg"}], "label": [7]})
    (root / "hub" / "data").mkdir(parents=True)
    parquet.write_table(table, root / "hub" / "data" / "validation-00000-of-00001.parquet")
    folder = root / "cifar" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        records = np.concatenate([np.arange(2)[:, None], rng.integers(0, 256, (2, 3072))], 1)
        (folder / f"{name}.bin").write_bytes(records.astype(np.uint8).tobytes())
    (folder / "batches.meta.txt").write_text("".join(f"kind {number}\n" for number in range(10)))
    model = publishers.unilm_classifier(rng, classes=1000, depth=12, **_SIZES)
    write(root / "beit_base_patch16_224.pdparams", publishers.paddlevit(model))


def _from_paddlevit(root: Path, rng: np.random.Generator) -> None:
    model = publishers.unilm_classifier(rng, classes=1000, depth=12, **_SIZES)
    write(root / "beit_base_patch16_224.pdparams", publishers.paddlevit(model))


def _from_passl(root: Path, rng: np.random.Generator) -> None:
    model = publishers.unilm_classifier(rng, classes=1000, **_SIZES)
    write(root / "beit_base_p16_224_ft.pdparams", publishers.passl(model))


def write_mmpretrain(root: Path, rng: np.random.Generator) -> None:
    """An image, and in `cache` the weights of the models of mmpretrain's pages at the size of `SMALLER`."""
    (root / "demo").mkdir()
    _image(rng, (60, 80)).save(root / "demo" / "bird.JPEG")
    sizes: dict[str, Any] = {"side": 14, "patch": 16}
    for version, start in ((1, "beit"), (2, "beitv2")):
        tuned = publishers.unilm_classifier(rng, classes=1000, **sizes)
        mim = publishers.unilm_mim(rng, version=version, vocabulary=8192, **sizes)
        for name, state in (
            (f"beit-base-p16_{start}-pre_8xb128-coslr-100e_in1k", tuned),
            (f"{start}_beit-base-p16_8xb256-amp-coslr-300e_in1k", mim),
        ):
            path = root / "cache" / f"{name}.pdparams"
            path.parent.mkdir(exist_ok=True)
            write(path, publishers.openmmlab(state))
            path.rename(path.with_name(PUBLISHED[name].file_name))


def write_transformers(root: Path, rng: np.random.Generator) -> None:
    """An image, and in `cache` small weights under the names of transformers' pages."""
    _image(rng, (60, 80)).save(root / "cats.jpg")
    sizes: dict[str, Any] = {"side": 14, "patch": 16, "depth": 12}
    segmentation = publishers.unilm_segmentation(rng, classes=150, depth=12, side=4, patch=16)
    for name, state in (
        ("microsoft/beit-base-patch16-224", publishers.unilm_classifier(rng, classes=1000, **sizes)),
        ("microsoft/beit-base-patch16-224-pt22k", publishers.unilm_mim(rng, vocabulary=8192, **sizes)),
        ("microsoft/beit-base-finetuned-ade-640-640", segmentation),
    ):
        path = root / "cache" / "weights.pdparams"
        path.parent.mkdir(exist_ok=True)
        write(path, publishers.huggingface(state))
        path.rename(path.with_name(PUBLISHED[name].file_name))


_WRITERS = {
    "from-transformers": write_transformers,
    "from-mmpretrain": write_mmpretrain,
    "from-paddlevit": _from_paddlevit,
    "from-passl": _from_passl,
    "imagenet": _imagenet,
    "own-data": _own_data,
    "small-machines": _own_data,
    "multi-label": _multi_label,
    "pretraining": _pretraining,
    "segmentation": _segmentation,
    "converting": _converting,
    "several-machines": _several_machines,
    "scaling": _several_machines,
    "speed": lambda root, rng: None,
    "paddle-notes": lambda root, rng: None,
    "README": _manual,
    "manual": _manual,
}
_SIZES: dict[str, Any] = {"side": 4, "patch": 8}
_KEPT = {"train": 16, "val": 3}
_KINDS = ("daisy", "rose", "tulip")


def _images(root: Path, rng: np.random.Generator) -> None:
    """`flowers/<class>/`, `pictures/`, `photo.jpg`."""
    for label, kind in enumerate(_KINDS):
        (root / "flowers" / kind).mkdir(parents=True)
        for number in range(5):
            _image(rng, (48, 40), label).save(root / "flowers" / kind / f"{number}.jpg")
    (root / "pictures" / "deeper").mkdir(parents=True)
    for number in range(8):
        _image(rng, (40, 48)).save(root / "pictures" / "deeper" / f"{number}.jpg")
    (root / "pictures" / "val_images.txt").write_text("deeper/0.jpg\ndeeper/1.jpg\n")
    _image(rng, (60, 80)).save(root / "photo.jpg")


def _image(rng: np.random.Generator, size: tuple[int, int], channel: int = 0) -> Image.Image:
    pixels = rng.integers(0, 150, (*size, 3))
    pixels[..., channel] += 100
    return Image.fromarray(pixels.astype(np.uint8))


def _weights(path: Path, state: dict[str, np.ndarray]) -> None:
    """Write a checkpoint of unilm. The reader ignores the file name."""
    write(path.with_suffix(".pdparams"), publishers.unilm_file(state))
    path.with_suffix(".pdparams").rename(path)


def check_flags(words: tuple[str, ...]) -> None:
    """Check that the flags, config and keys of a command exist, without running it."""
    if words[:3] == ("python", "-m", "beit"):
        importlib.import_module(VERBS[words[3]][0]).build_parser().parse_args(words[4:])
    elif "main_multi_gpu.py" in words:
        assert config_from_arguments(words[words.index("main_multi_gpu.py") + 1 :]).MODEL.NAME != "beit"
    elif words[0] == "sh":
        assert (ROOT / words[1]).is_file()
    else:
        assert words[:4] == ("python", "-m", "pip", "install")
        extra = words[4].removeprefix(".[").removesuffix("]")
        assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
