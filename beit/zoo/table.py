"""The table behind `beit.zoo`: every published BEiT and BEiT v2 checkpoint, as its publisher states it.

Sources: READMEs of PaddleViT, PASSL, microsoft/unilm (beit, beit2), metafiles of mmpretrain and mmsegmentation, timm's
results tables, transformers' documentation. Accuracies are ImageNet-1k validation, mIoU is ADE20K single scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from beit.metadata.architecture import CLASSIFIER, DALLE_ENCODER, MIM_V1, MIM_V2, SEGMENTATION, VQKD
from beit.metadata.published import published_preprocessing
from beit.preprocessing import Preprocessing


@dataclass(frozen=True)
class Published:
    """One published checkpoint.

    Args:
        name: as `list_models()` gives it.
        publisher: whose names and layout the file has (`python -m beit convert --to`).
        kind: of model, as in `beit.metadata.architecture`.
        config: a config of this package, with `options` on top.
        version: of the statistics of its images: 1 for mean and standard deviation 0.5, 2 for ImageNet's.
        image_size: in pixels.
        num_classes: outputs of the head, or codes of the tokenizer.
        url: of the file; empty where a program cannot fetch it.
        page: where a person finds it.
        license: of the weights.
        metrics: in percent, as published.
        num_parameters: in millions, as published.
        sha256: digest or its first digits; None if none is published.
        options: config keys and values.
        classifier_config: config of the classifier that starts from a pre-training checkpoint, "" for other kinds.
        pooling: of a classifier: "mean" of the patch tokens or class "token".
    """

    name: str
    publisher: str
    kind: str
    config: str
    version: int
    image_size: int
    num_classes: int
    url: str
    page: str
    license: str
    metrics: dict[str, float] = field(default_factory=dict)
    num_parameters: float | None = None
    sha256: str | None = None
    options: tuple[object, ...] = ()
    classifier_config: str = ""
    pooling: str = "mean"

    @property
    def preprocessing(self) -> Preprocessing:
        """How its images are prepared."""
        is_large, pooling = "large" in self.name, self.pooling if self.kind == CLASSIFIER else ""
        found = published_preprocessing(
            self.publisher, self.kind, self.version, self.image_size, is_large=is_large
        )
        return replace(found, pooling=pooling, source="published table")

    @property
    def file_name(self) -> str:
        """Name in the download cache."""
        suffix = self.url.rpartition("/")[2].rpartition(".")[2] if self.url else "pdparams"
        stem = self.name.replace("/", "--")
        return f"{stem}.{suffix}"


_UNILM_PAGE = "https://github.com/microsoft/unilm/tree/master/beit"
_UNILM2_PAGE = "https://github.com/microsoft/unilm/tree/master/beit2"
_UNILM_FILES = "https://github.com/addf400/files/releases/download/v1.0"
_UNILM2_FILES = "https://github.com/addf400/files/releases/download/BEiT-v2"
_PADDLEVIT_PAGE = "https://github.com/BR-IDL/PaddleViT/tree/develop/image_classification/BEiT"
_PASSL_PAGE = "https://github.com/PaddlePaddle/PASSL/tree/main/configs/beit"
_PASSL_FILES = "https://passl.bj.bcebos.com/vision_transformers/beit"
_PADDLECLAS_PAGE = "https://github.com/PaddlePaddle/PaddleClas"
_PADDLECLAS_FILES = "https://paddle-imagenet-models-name.bj.bcebos.com/dygraph/foundation_models"
_HUB = "https://huggingface.co"
_MMPRETRAIN_PAGE = "https://github.com/open-mmlab/mmpretrain/tree/main/configs"
_MMSEG_PAGE = "https://github.com/open-mmlab/mmsegmentation/tree/main/configs/beit"
_OPENMMLAB_FILES = "https://download.openmmlab.com"
_OPENAI_PAGE = "https://github.com/openai/DALL-E"
_MIT, _APACHE = "MIT", "Apache-2.0"
_22K = 21841
_TOKENS = 8192
_DALLE_CONFIG = "beit_base_patch16_224_pt22k"  # a config whose tokenizer is DALL-E's


def _accuracy(top1: float | None, top5: float | None = None) -> dict[str, float]:
    return {key: value for key, value in (("top1", top1), ("top5", top5)) if value is not None}


def _paddlevit_and_passl() -> Iterator[Published]:
    """The same weights, unilm's 22k to 1k ones, in two forms."""
    rows = (
        # size, pixels, top-1, top-5, million parameters
        ("base", 224, 85.21, 97.66, 87),
        ("base", 384, 86.81, 98.14, 87),
        ("large", 224, 87.48, 98.30, 304),
        ("large", 384, 88.40, 98.60, 304),
        ("large", 512, 88.60, 98.66, 304),
    )
    for size, pixels, top1, top5, millions in rows:
        config, passl = f"beit_{size}_patch16_{pixels}", f"beit_{size}_p16_{pixels}_ft"
        addresses = (
            # PaddleViT's files are on Google Drive and Baidu, which a program cannot read.
            (config, "paddlevit", "", _PADDLEVIT_PAGE),
            (passl, "passl", f"{_PASSL_FILES}/{passl}.pdparams", _PASSL_PAGE),
        )
        published: dict[str, Any] = {"metrics": _accuracy(top1, top5), "num_parameters": millions}
        for name, publisher, url, page in addresses:
            yield Published(
                name, publisher, CLASSIFIER, config, 1, pixels, 1000, url, page, _APACHE, **published
            )


def _unilm_classifiers() -> Iterator[Published]:
    rows = (
        # name, version, pixels, classes, top-1, top-5, million parameters
        ("beit_base_patch16_224_pt22k_ft22k", 1, 224, _22K, None, None, None),
        ("beit_large_patch16_224_pt22k_ft22k", 1, 224, _22K, None, None, None),
        ("beit_base_patch16_224_pt22k_ft1k", 1, 224, 1000, 83.7, 96.6, 87),
        ("beit_base_patch16_224_pt22k_ft22kto1k", 1, 224, 1000, 85.2, 97.6, 87),
        ("beit_base_patch16_384_pt22k_ft22kto1k", 1, 384, 1000, 86.8, 98.1, 87),
        ("beit_large_patch16_224_pt22k_ft1k", 1, 224, 1000, 86.0, 97.6, 304),
        ("beit_large_patch16_224_pt22k_ft22kto1k", 1, 224, 1000, 87.4, 98.3, 304),
        ("beit_large_patch16_384_pt22k_ft22kto1k", 1, 384, 1000, 88.4, 98.6, 305),
        ("beit_large_patch16_512_pt22k_ft22kto1k", 1, 512, 1000, 88.60, 98.66, 306),
        ("beitv2_base_patch16_224_pt1k_ft21k", 2, 224, _22K, None, None, None),
        ("beitv2_large_patch16_224_pt1k_ft21k", 2, 224, _22K, None, None, None),
        ("beitv2_base_patch16_224_pt1k_ft1k", 2, 224, 1000, 85.5, 97.5, 86.5),
        ("beitv2_base_patch16_224_pt1k_ft21kto1k", 2, 224, 1000, 86.5, 98.0, 86.5),
        ("beitv2_base_patch16_224_pt1k_300e_ft1k", 2, 224, 1000, 85.0, None, None),
        ("beitv2_large_patch16_224_pt1k_ft1k", 2, 224, 1000, 87.3, 98.2, 304),
        ("beitv2_large_patch16_224_pt1k_ft21kto1k", 2, 224, 1000, 88.4, 98.6, 304),
        ("beitv2_large_patch16_224_pt1k_300e_ft1k", 2, 224, 1000, 86.6, None, None),
    )
    for name, version, pixels, classes, top1, top5, millions in rows:
        published: dict[str, Any] = {"metrics": _accuracy(top1, top5), "num_parameters": millions}
        yield _unilm(name, CLASSIFIER, name, version, pixels, classes, **published)


def _unilm(
    name: str, kind: str, config: str, version: int, size: int, classes: int, **more: Any
) -> Published:
    """An entry of microsoft/unilm, from one of its folders beit and beit2."""
    is_beit2 = name.startswith(("beitv2", "vqkd"))
    files, page = (_UNILM2_FILES, _UNILM2_PAGE) if is_beit2 else (_UNILM_FILES, _UNILM_PAGE)
    url = f"{files}/{name}.pth"
    return Published(name, "unilm", kind, config, version, size, classes, url, page, _MIT, **more)


def _unilm_pretraining() -> Iterator[Published]:
    """Pre-trained models, whose configs have their names, and tokenizers, whose file names end with a digest."""
    for size in ("base", "large"):
        name = f"beit_{size}_patch16_224_pt22k"
        yield _unilm(name, MIM_V1, name, 1, 224, _TOKENS, classifier_config=f"{name}_ft1k")
    name, tuned = "beit_base_patch16_224_pt1k_800ep", "beit_base_patch16_224_pt1k_ft1k"
    yield _unilm(name, MIM_V1, name, 2, 224, _TOKENS, classifier_config=tuned)
    for size in ("base", "large"):
        for end in ("", "_300e"):
            name = f"beitv2_{size}_patch16_224_pt1k{end}"
            yield _unilm(name, MIM_V2, name, 2, 224, _TOKENS, classifier_config=f"{name}_ft1k")
    for name in ("1x768x12_clip-d93179da", "3x768x12_clip-d5036aa7", "1x768x12_dino-663c55d7"):
        name = f"vqkd_encoder_base_decoder_{name}"
        yield _unilm(name, VQKD, name.rpartition("-")[0], 1, 224, _TOKENS)


def _unilm_segmentation() -> Iterator[Published]:
    # fmt: off
    rows = (
        # name, config after upernet_, mIoU, with several scales and mirrored, million parameters
        ("beit_base_patch16_640_pt22k_ft22ktoade20k", "beit_base_patch16_640_pt22k_ft22k", 53.6, 54.2, 163),
        ("beit_large_patch16_640_pt22k_ft22ktoade20k", "beit_large_patch16_640_pt22k_ft22k", 56.7, 57.0, 441),
        ("beitv2_base_patch16_224_pt1k_ftade20k", "beitv2_base_patch16_512_pt1k", 53.1, None, 163),
        ("beitv2_base_patch16_224_pt1k_ft21ktoade20k", "beitv2_base_patch16_512_pt1k_ft21k", 53.5, None, 163),
        ("beitv2_large_patch16_224_pt1k_ftade20k", "beitv2_large_patch16_512_pt1k", 56.7, None, 441),
        ("beitv2_large_patch16_224_pt1k_ft21ktoade20k", "beitv2_large_patch16_512_pt1k_ft21k", 57.5, None, 441),
    )
    # fmt: on
    for name, config, miou, miou_flip, millions in rows:
        metrics = {"miou": miou} | ({"miou_ms_flip": miou_flip} if miou_flip else {})
        published: dict[str, Any] = {"metrics": metrics, "num_parameters": millions}
        size = 640 if "_640_" in config else 512
        yield _unilm(name, SEGMENTATION, f"upernet_{config}", 2, size, 150, **published)


def _timm() -> Iterator[Published]:
    rows = (
        # name, top-1, top-5, million parameters
        ("beit_base_patch16_224.in22k_ft_in22k_in1k", 85.238, 97.654, 86.53),
        ("beit_base_patch16_384.in22k_ft_in22k_in1k", 86.814, 98.136, 86.74),
        ("beit_large_patch16_224.in22k_ft_in22k_in1k", 87.486, 98.318, 304.43),
        ("beit_large_patch16_384.in22k_ft_in22k_in1k", 88.380, 98.604, 305.00),
        ("beit_large_patch16_512.in22k_ft_in22k_in1k", 88.576, 98.656, 305.67),
        ("beitv2_base_patch16_224.in1k_ft_in1k", 85.596, 97.514, 86.53),
        ("beitv2_base_patch16_224.in1k_ft_in22k_in1k", 86.494, 98.056, 86.53),
        ("beitv2_large_patch16_224.in1k_ft_in1k", 87.414, 98.216, 304.43),
        ("beitv2_large_patch16_224.in1k_ft_in22k_in1k", 88.406, 98.602, 304.43),
        ("beit_base_patch16_224.in22k_ft_in22k", None, None, None),
        ("beit_large_patch16_224.in22k_ft_in22k", None, None, None),
        ("beitv2_base_patch16_224.in1k_ft_in22k", None, None, None),
        ("beitv2_large_patch16_224.in1k_ft_in22k", None, None, None),
    )
    for name, top1, top5, millions in rows:
        config, _, tag = name.partition(".")
        version, classes = 2 if name.startswith("beitv2") else 1, 1000 if tag.endswith("in1k") else _22K
        page = f"{_HUB}/timm/{name}"
        url, size = f"{page}/resolve/main/model.safetensors", int(config[-3:])
        more: dict[str, Any] = {"metrics": _accuracy(top1, top5), "num_parameters": millions}
        if classes == _22K:
            more["options"] = ("MODEL.NUM_CLASSES", classes)
        yield Published(name, "timm", CLASSIFIER, config, version, size, classes, url, page, _APACHE, **more)


def _huggingface() -> Iterator[Published]:
    def entry(name: str, kind: str, config: str, size: int, classes: int, **more: Any) -> Published:
        name = f"microsoft/{name}"
        page = f"{_HUB}/{name}"
        url = f"{page}/resolve/main/pytorch_model.bin"
        more["options"] = (
            *more.get("options", ()),
            "MODEL.LAYER_NORM_EPS",
            1e-12,
        )  # as their config.json states
        return Published(name, "huggingface", kind, config, 1, size, classes, url, page, _APACHE, **more)

    for size, pixels in (("base", 224), ("base", 384), ("large", 224), ("large", 384), ("large", 512)):
        config = f"beit_{size}_patch16_{pixels}"
        yield entry(f"beit-{size}-patch16-{pixels}", CLASSIFIER, config, pixels, 1000)
    for size in ("base", "large"):
        config, name = f"beit_{size}_patch16_224", f"beit-{size}-patch16-224-pt22k"
        classes = ("MODEL.NUM_CLASSES", _22K)
        yield entry(f"{name}-ft22k", CLASSIFIER, config, 224, _22K, options=classes)
        yield entry(name, MIM_V1, f"{config}_pt22k", 224, _TOKENS, classifier_config=config)
        segmentation = f"upernet_beit_{size}_patch16_640_pt22k_ft22k"
        yield entry(f"beit-{size}-finetuned-ade-640-640", SEGMENTATION, segmentation, 640, 150)


def _openmmlab() -> Iterator[Published]:
    v1 = "mmselfsup/1.x/beit/beit_vit-base-p16_8xb256-amp-coslr-300e_in1k"
    v2 = "mmselfsup/1.x/beitv2/beitv2_vit-base-p16_8xb256-amp-coslr-300e_in1k"
    tuned = "vit-base-p16_ft-8xb128-coslr-100e_in1k"
    # fmt: off
    rows: tuple[tuple[str, str, int, str, dict[str, float]], ...] = (
        # name, which is also that of its config; kind, version of the images, path, metrics
        ("beit_beit-base-p16_8xb256-amp-coslr-300e_in1k", "mim_v1", 2,
         f"{v1}/beit_vit-base-p16_8xb256-amp-coslr-300e_in1k_20221128-ab79e626.pth", {}),
        ("beit-base-p16_beit-pre_8xb128-coslr-100e_in1k", "classifier", 1,
         f"{v1}/{tuned}/{tuned}_20221128-0ca393e9.pth", _accuracy(83.1)),
        ("beit-base-p16_beit-in21k-pre_3rdparty_in1k", "classifier", 1,
         "mmclassification/v0/beit/beit-base_3rdparty_in1k_20221114-c0a4df23.pth", _accuracy(85.28, 97.59)),
        ("beitv2_beit-base-p16_8xb256-amp-coslr-300e_in1k", "mim_v2", 2,
         f"{v2}/beitv2_vit-base-p16_8xb256-amp-coslr-300e_in1k_20221212-a157be30.pth", {}),
        ("beit-base-p16_beitv2-pre_8xb128-coslr-100e_in1k", "classifier", 2,
         f"{v2}/{tuned}/{tuned}_20221212-d1c0789e.pth", _accuracy(85.0)),
        ("beit-base-p16_beitv2-in21k-pre_3rdparty_in1k", "classifier", 2,
         "mmclassification/v0/beit/beitv2-base_3rdparty_in1k_20221114-73e11905.pth", _accuracy(86.47, 97.99)),
    )
    # fmt: on
    for name, kind, version, path, metrics in rows:
        # OpenMMLab ends its file names with eight digits of the SHA-256 (mmpretrain, tools/…/publish_model.py).
        more: dict[str, Any] = {"metrics": metrics, "sha256": path.rpartition("-")[2].removesuffix(".pth")}
        if kind != MIM_V2:
            more["num_parameters"] = 86.53
        if kind != CLASSIFIER:
            origin = name.partition("_")[0]
            more["classifier_config"] = f"beit-base-p16_{origin}-pre_8xb128-coslr-100e_in1k"
        page = f"{_MMPRETRAIN_PAGE}/{'beitv2' if 'beitv2' in name else 'beit'}"
        classes = 1000 if kind == CLASSIFIER else _TOKENS
        yield _openmmlab_entry(name, kind, name, version, 224, classes, path, page, **more)
    for name, miou, flip, digest in (
        ("upernet_beit-base_8x2_640x640_160k_ade20k", 53.08, 53.84, "eead221d"),
        ("upernet_beit-large_fp16_8x1_640x640_160k_ade20k", 56.33, 56.84, "8fc0dd5d"),
    ):
        config = f"upernet_beit_{'large' if 'large' in name else 'base'}_patch16_640_pt22k_ft22k"
        path = f"mmsegmentation/v0.5/beit/{name}/{name}-{digest}.pth"
        more = {"metrics": {"miou": miou, "miou_ms_flip": flip}, "sha256": digest}
        yield _openmmlab_entry(name, SEGMENTATION, config, 2, 640, 150, path, _MMSEG_PAGE, **more)
    for file, kind, config, size in (
        ("dalle_encoder", DALLE_ENCODER, _DALLE_CONFIG, 112),
        ("vqkd_encoder", VQKD, "vqkd_encoder_base_decoder_3x768x12_clip", 224),
    ):
        path, page = f"mmselfsup/1.x/target_generator_ckpt/{file}.pth", f"{_MMPRETRAIN_PAGE}/beit"
        yield _openmmlab_entry(f"mmselfsup_{file}", kind, config, 1, size, _TOKENS, path, page)


def _openmmlab_entry(
    name: str,
    kind: str,
    config: str,
    version: int,
    size: int,
    classes: int,
    path: str,
    page: str,
    **more: Any,
) -> Published:
    url = f"{_OPENMMLAB_FILES}/{path}"
    return Published(name, "openmmlab", kind, config, version, size, classes, url, page, _APACHE, **more)


def _paddleclas_and_dalle() -> Iterator[Published]:
    token_pooling: dict[str, Any] = {"pooling": "token", "options": ("MODEL.USE_MEAN_POOLING", False)}
    for size in ("base", "large"):
        name, config = f"BEiTv2_vit_{size}_patch16_224", f"beitv2_{size}_patch16_224"
        place = (f"{_PADDLECLAS_FILES}/{name}.pdparams", _PADDLECLAS_PAGE, _APACHE)
        yield Published(name, "paddleclas", CLASSIFIER, config, 2, 224, 1000, *place, **token_pooling)
    for part, millions in (("encoder", 53.786240), ("decoder", 43.829766)):
        kind = f"dalle_{part}"
        rows = (
            (kind, "openai", f"https://cdn.openai.com/dall-e/{part}.pkl", _OPENAI_PAGE),
            (f"passl_{kind}", "passl", f"{_PASSL_FILES}/{part}.pdparams", _PASSL_PAGE),
        )
        for name, publisher, url, page in rows:
            place = (url, page, "modified MIT")
            yield Published(
                name, publisher, kind, _DALLE_CONFIG, 1, 112, _TOKENS, *place, num_parameters=millions
            )


PUBLISHED: dict[str, Published] = {
    entry.name: entry
    for group in (
        _paddlevit_and_passl,
        _unilm_classifiers,
        _unilm_pretraining,
        _unilm_segmentation,
        _timm,
        _huggingface,
        _openmmlab,
        _paddleclas_and_dalle,
    )
    for entry in group()
}
