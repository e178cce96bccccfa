"""The table behind `beit.zoo`: every published BEiT and BEiT v2 checkpoint, as its publisher states it.

Sources: READMEs of PaddleViT, PASSL, microsoft/unilm (beit, beit2), metafiles of mmpretrain and mmsegmentation, timm's
results tables, transformers' documentation. Accuracies are ImageNet-1k validation, mIoU is ADE20K single scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from beit.preprocessing import HALF, IMAGENET_MEAN, IMAGENET_STD, Preprocessing


@dataclass(frozen=True)
class Published:
    """One published checkpoint.

    `form` is the publisher's form (`python -m beit convert --to`), `kind` what the network is for; `config` a config that
    comes with this package, with `options` on top; `classifier_config` that of the classifier which starts from a
    pre-training checkpoint, "" for other kinds. `metrics` in percent, `num_parameters` in millions, both as published.
    `url` is empty where a program cannot fetch the file. `sha256` is the digest or its beginning, None where none is
    published.
    """

    name: str
    form: str
    kind: str
    config: str
    preprocessing: Preprocessing
    num_classes: int
    url: str
    page: str
    license: str
    metrics: dict[str, float] = field(default_factory=dict)
    num_parameters: float | None = None
    sha256: str | None = None
    options: tuple[object, ...] = ()
    classifier_config: str = ""

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


def _images(
    version: int, size: int, crop: float | None, pooling: str = "mean", interpolation: str = "bicubic"
) -> Preprocessing:
    mean, std = (HALF, HALF) if version == 1 else (IMAGENET_MEAN, IMAGENET_STD)
    return Preprocessing(mean, std, crop, interpolation, size, pooling, False, "published table")


def _squashed(size: int, pooling: str = "mean") -> Preprocessing:
    """What the image processors of transformers do with all their BEiT checkpoints."""
    return replace(_images(1, size, 1.0, pooling, "bilinear"), squash=True)


def _accuracy(top1: float | None, top5: float | None = None) -> dict[str, float]:
    return {key: value for key, value in (("top1", top1), ("top5", top5)) if value is not None}


def _paddlevit_and_passl() -> Iterator[Published]:
    """The same weights, unilm's 22k to 1k ones, in two forms."""
    rows = (
        ("base", 224, 0.9, 85.21, 97.66, 87),
        ("base", 384, 1.0, 86.81, 98.14, 87),
        ("large", 224, 0.9, 87.48, 98.30, 304),
        ("large", 384, 1.0, 88.40, 98.60, 304),
        ("large", 512, 1.0, 88.60, 98.66, 304),
    )
    for size, pixels, crop, top1, top5, millions in rows:
        config = f"beit_{size}_patch16_{pixels}"
        images, metrics = _images(1, pixels, crop), _accuracy(top1, top5)
        # Google Drive and Baidu give no file to a program.
        entry = Published(
            config, "paddlevit", "classifier", config, images, 1000, "", _PADDLEVIT_PAGE, _APACHE
        )
        yield replace(entry, metrics=metrics, num_parameters=millions)
        name = f"beit_{size}_p16_{pixels}_ft"
        url = f"{_PASSL_FILES}/{name}.pdparams"
        yield Published(
            name, "passl", "classifier", config, images, 1000, url, _PASSL_PAGE, _APACHE, metrics, millions
        )


def _unilm_classifiers() -> Iterator[Published]:
    rows = (
        # name, version, size, pixels, classes, top-1, top-5, million parameters
        ("beit_base_patch16_224_pt22k_ft22k", 1, "base", 224, _22K, None, None, None),
        ("beit_large_patch16_224_pt22k_ft22k", 1, "large", 224, _22K, None, None, None),
        ("beit_base_patch16_224_pt22k_ft1k", 1, "base", 224, 1000, 83.7, 96.6, 87),
        ("beit_base_patch16_224_pt22k_ft22kto1k", 1, "base", 224, 1000, 85.2, 97.6, 87),
        ("beit_base_patch16_384_pt22k_ft22kto1k", 1, "base", 384, 1000, 86.8, 98.1, 87),
        ("beit_large_patch16_224_pt22k_ft1k", 1, "large", 224, 1000, 86.0, 97.6, 304),
        ("beit_large_patch16_224_pt22k_ft22kto1k", 1, "large", 224, 1000, 87.4, 98.3, 304),
        ("beit_large_patch16_384_pt22k_ft22kto1k", 1, "large", 384, 1000, 88.4, 98.6, 305),
        ("beit_large_patch16_512_pt22k_ft22kto1k", 1, "large", 512, 1000, 88.60, 98.66, 306),
        ("beitv2_base_patch16_224_pt1k_ft21k", 2, "base", 224, _22K, None, None, None),
        ("beitv2_large_patch16_224_pt1k_ft21k", 2, "large", 224, _22K, None, None, None),
        ("beitv2_base_patch16_224_pt1k_ft1k", 2, "base", 224, 1000, 85.5, 97.5, 86.5),
        ("beitv2_base_patch16_224_pt1k_ft21kto1k", 2, "base", 224, 1000, 86.5, 98.0, 86.5),
        ("beitv2_base_patch16_224_pt1k_300e_ft1k", 2, "base", 224, 1000, 85.0, None, None),
        ("beitv2_large_patch16_224_pt1k_ft1k", 2, "large", 224, 1000, 87.3, 98.2, 304),
        ("beitv2_large_patch16_224_pt1k_ft21kto1k", 2, "large", 224, 1000, 88.4, 98.6, 304),
        ("beitv2_large_patch16_224_pt1k_300e_ft1k", 2, "large", 224, 1000, 86.6, None, None),
    )
    for name, version, _, pixels, classes, top1, top5, millions in rows:
        images = _images(version, pixels, 0.875 if pixels < 384 else 1.0)
        folder, page = (_UNILM_FILES, _UNILM_PAGE) if version == 1 else (_UNILM2_FILES, _UNILM2_PAGE)
        metrics, url = _accuracy(top1, top5), f"{folder}/{name}.pth"
        yield Published(
            name, "unilm", "classifier", name, images, classes, url, page, _MIT, metrics, millions
        )


def _unilm_pretraining() -> Iterator[Published]:
    """Pre-trained models, whose configs bear their names, and tokenizers, whose names end with a digest."""
    mim_v1 = [(f"beit_{size}_patch16_224_pt22k", 1, "_ft1k") for size in ("base", "large")]
    for name, version, tuned in (*mim_v1, ("beit_base_patch16_224_pt1k_800ep", 2, "")):
        images, url = _images(version, 224, None, ""), f"{_UNILM_FILES}/{name}.pth"
        classifier = f"{name}{tuned}" if tuned else "beit_base_patch16_224_pt1k_ft1k"
        entry = Published(name, "unilm", "mim_v1", name, images, _TOKENS, url, _UNILM_PAGE, _MIT)
        yield replace(entry, classifier_config=classifier)
    for name in (
        f"beitv2_{size}_patch16_224_pt1k{end}" for size in ("base", "large") for end in ("", "_300e")
    ):
        images, url, tuned = _images(2, 224, None, ""), f"{_UNILM2_FILES}/{name}.pth", f"{name}_ft1k"
        yield Published(
            name, "unilm", "mim_v2", name, images, _TOKENS, url, _UNILM2_PAGE, _MIT, classifier_config=tuned
        )
    for name in ("1x768x12_clip-d93179da", "3x768x12_clip-d5036aa7", "1x768x12_dino-663c55d7"):
        name = f"vqkd_encoder_base_decoder_{name}"
        config, url = name.rpartition("-")[0], f"{_UNILM2_FILES}/{name}.pth"
        yield Published(
            name, "unilm", "vqkd", config, _images(1, 224, None, ""), _TOKENS, url, _UNILM2_PAGE, _MIT
        )


def _unilm_segmentation() -> Iterator[Published]:
    rows = (
        # name, config after upernet_, mIoU, with several scales and mirrored, million parameters
        ("beit_base_patch16_640_pt22k_ft22ktoade20k", "beit_base_patch16_640_pt22k_ft22k", 53.6, 54.2, 163),
        ("beit_large_patch16_640_pt22k_ft22ktoade20k", "beit_large_patch16_640_pt22k_ft22k", 56.7, 57.0, 441),
        ("beitv2_base_patch16_224_pt1k_ftade20k", "beitv2_base_patch16_512_pt1k", 53.1, None, 163),
        ("beitv2_base_patch16_224_pt1k_ft21ktoade20k", "beitv2_base_patch16_512_pt1k_ft21k", 53.5, None, 163),
        ("beitv2_large_patch16_224_pt1k_ftade20k", "beitv2_large_patch16_512_pt1k", 56.7, None, 441),
        (
            "beitv2_large_patch16_224_pt1k_ft21ktoade20k",
            "beitv2_large_patch16_512_pt1k_ft21k",
            57.5,
            None,
            441,
        ),
    )
    for name, config, miou, miou_flip, millions in rows:
        version = 2 if name.startswith("beitv2") else 1
        folder, page = (_UNILM_FILES, _UNILM_PAGE) if version == 1 else (_UNILM2_FILES, _UNILM2_PAGE)
        pixels, config = 640 if "_640_" in config else 512, f"upernet_{config}"
        images = _images(2, pixels, None, "", interpolation="bilinear")  # ImageNet statistics for v1 as well
        metrics = {"miou": miou} | ({"miou_ms_flip": miou_flip} if miou_flip else {})
        url = f"{folder}/{name}.pth"
        yield Published(
            name, "unilm", "segmentation", config, images, 150, url, page, _MIT, metrics, millions
        )


def _timm() -> Iterator[Published]:
    rows = (
        ("beit_base_patch16_224.in22k_ft_in22k_in1k", 0.9, 85.238, 97.654, 86.53),
        ("beit_base_patch16_384.in22k_ft_in22k_in1k", 1.0, 86.814, 98.136, 86.74),
        ("beit_large_patch16_224.in22k_ft_in22k_in1k", 0.9, 87.486, 98.318, 304.43),
        ("beit_large_patch16_384.in22k_ft_in22k_in1k", 1.0, 88.380, 98.604, 305.00),
        ("beit_large_patch16_512.in22k_ft_in22k_in1k", 1.0, 88.576, 98.656, 305.67),
        ("beitv2_base_patch16_224.in1k_ft_in1k", 0.9, 85.596, 97.514, 86.53),
        ("beitv2_base_patch16_224.in1k_ft_in22k_in1k", 0.9, 86.494, 98.056, 86.53),
        ("beitv2_large_patch16_224.in1k_ft_in1k", 0.95, 87.414, 98.216, 304.43),
        ("beitv2_large_patch16_224.in1k_ft_in22k_in1k", 0.95, 88.406, 98.602, 304.43),
        ("beit_base_patch16_224.in22k_ft_in22k", 0.9, None, None, None),
        ("beit_large_patch16_224.in22k_ft_in22k", 0.9, None, None, None),
        ("beitv2_base_patch16_224.in1k_ft_in22k", 0.9, None, None, None),
        ("beitv2_large_patch16_224.in1k_ft_in22k", 0.95, None, None, None),
    )
    for name, crop, top1, top5, millions in rows:
        config, _, tag = name.partition(".")
        images = _images(2 if name.startswith("beitv2") else 1, int(config[-3:]), crop)
        classes, page = 1000 if tag.endswith("in1k") else _22K, f"{_HUB}/timm/{name}"
        url, metrics = f"{page}/resolve/main/model.safetensors", _accuracy(top1, top5)
        options = ("MODEL.NUM_CLASSES", classes) if classes == _22K else ()
        entry = Published(name, "timm", "classifier", config, images, classes, url, page, _APACHE)
        yield replace(entry, metrics=metrics, num_parameters=millions, options=options)


def _huggingface() -> Iterator[Published]:
    def entry(
        name: str,
        kind: str,
        config: str,
        classes: int,
        images: Preprocessing,
        *options: object,
        classifier: str = "",
    ) -> Published:
        page = f"{_HUB}/microsoft/{name}"
        url = f"{page}/resolve/main/pytorch_model.bin"
        return Published(
            f"microsoft/{name}",
            "huggingface",
            kind,
            config,
            images,
            classes,
            url,
            page,
            _APACHE,
            options=options,
            classifier_config=classifier,
        )

    for size, pixels in (("base", 224), ("base", 384), ("large", 224), ("large", 384), ("large", 512)):
        images = _squashed(pixels)
        config = f"beit_{size}_patch16_{pixels}"
        yield entry(f"beit-{size}-patch16-{pixels}", "classifier", config, 1000, images)
    for size in ("base", "large"):
        config, images = f"beit_{size}_patch16_224", _squashed(224)
        classes = ("MODEL.NUM_CLASSES", _22K)
        yield entry(f"beit-{size}-patch16-224-pt22k-ft22k", "classifier", config, _22K, images, *classes)
        mim, images = f"{config}_pt22k", _squashed(224, "")
        yield entry(f"beit-{size}-patch16-224-pt22k", "mim_v1", mim, _TOKENS, images, classifier=config)
        segmentation, images = f"upernet_beit_{size}_patch16_640_pt22k_ft22k", _squashed(640, "")
        yield entry(f"beit-{size}-finetuned-ade-640-640", "segmentation", segmentation, 150, images)


def _openmmlab() -> Iterator[Published]:
    v1 = "mmselfsup/1.x/beit/beit_vit-base-p16_8xb256-amp-coslr-300e_in1k"
    v2 = "mmselfsup/1.x/beitv2/beitv2_vit-base-p16_8xb256-amp-coslr-300e_in1k"
    tuned = "vit-base-p16_ft-8xb128-coslr-100e_in1k"
    # fmt: off
    rows: tuple[tuple[str, str, str, int, str, dict[str, float]], ...] = (
        # name, kind, config, version of the images, path, metrics
        ("beit_beit-base-p16_8xb256-amp-coslr-300e_in1k", "mim_v1", "beit_base_patch16_224_pt1k", 2,
         f"{v1}/beit_vit-base-p16_8xb256-amp-coslr-300e_in1k_20221128-ab79e626.pth", {}),
        ("beit-base-p16_beit-pre_8xb128-coslr-100e_in1k", "classifier", "beit_base_patch16_224_pt22k_ft1k", 1,
         f"{v1}/{tuned}/{tuned}_20221128-0ca393e9.pth", _accuracy(83.1)),
        ("beit-base-p16_beit-in21k-pre_3rdparty_in1k", "classifier", "beit_base_patch16_224_pt22k_ft22kto1k", 1,
         "mmclassification/v0/beit/beit-base_3rdparty_in1k_20221114-c0a4df23.pth", _accuracy(85.28, 97.59)),
        ("beitv2_beit-base-p16_8xb256-amp-coslr-300e_in1k", "mim_v2", "beitv2_base_patch16_224_pt1k_300e", 2,
         f"{v2}/beitv2_vit-base-p16_8xb256-amp-coslr-300e_in1k_20221212-a157be30.pth", {}),
        ("beit-base-p16_beitv2-pre_8xb128-coslr-100e_in1k", "classifier", "beitv2_base_patch16_224_pt1k_300e_ft1k", 2,
         f"{v2}/{tuned}/{tuned}_20221212-d1c0789e.pth", _accuracy(85.0)),
        ("beit-base-p16_beitv2-in21k-pre_3rdparty_in1k", "classifier", "beitv2_base_patch16_224_pt1k_ft21kto1k", 2,
         "mmclassification/v0/beit/beitv2-base_3rdparty_in1k_20221114-73e11905.pth", _accuracy(86.47, 97.99)),
    )
    # fmt: on
    for name, kind, config, version, path, metrics in rows:
        is_classifier = kind == "classifier"
        images = _images(version, 224, 0.875 if is_classifier else None, "mean" if is_classifier else "")
        page = f"{_MMPRETRAIN_PAGE}/{'beitv2' if 'beitv2' in name else 'beit'}"
        # OpenMMLab ends its file names with eight digits of the SHA-256 (mmpretrain, tools/…/publish_model.py).
        classes, digest = 1000 if is_classifier else _TOKENS, path.rpartition("-")[2].removesuffix(".pth")
        url, millions = f"{_OPENMMLAB_FILES}/{path}", None if kind == "mim_v2" else 86.53
        start = {"mim_v1": "beit_base_patch16_224_pt22k_ft1k", "mim_v2": f"{config}_ft1k"}.get(kind, "")
        entry = Published(name, "openmmlab", kind, config, images, classes, url, page, _APACHE)
        yield replace(entry, metrics=metrics, num_parameters=millions, sha256=digest, classifier_config=start)
    for name, miou, flip, digest in (
        ("upernet_beit-base_8x2_640x640_160k_ade20k", 53.08, 53.84, "eead221d"),
        ("upernet_beit-large_fp16_8x1_640x640_160k_ade20k", 56.33, 56.84, "8fc0dd5d"),
    ):
        images = _images(2, 640, None, "", interpolation="bilinear")
        metrics = {"miou": miou, "miou_ms_flip": flip}
        url = f"{_OPENMMLAB_FILES}/mmsegmentation/v0.5/beit/{name}/{name}-{digest}.pth"
        config = f"upernet_beit_{'large' if 'large' in name else 'base'}_patch16_640_pt22k_ft22k"
        entry = Published(name, "openmmlab", "segmentation", config, images, 150, url, _MMSEG_PAGE, _APACHE)
        yield replace(entry, metrics=metrics, sha256=digest)
    for target, kind in (("dalle_encoder", "dalle_encoder"), ("vqkd_encoder", "vqkd")):
        url = f"{_OPENMMLAB_FILES}/mmselfsup/1.x/target_generator_ckpt/{target}.pth"
        is_dalle = kind == "dalle_encoder"
        images = _DALLE_IMAGES if is_dalle else _images(1, 224, None, "")
        config = _DALLE_CONFIG if is_dalle else "vqkd_encoder_base_decoder_3x768x12_clip"
        yield Published(
            f"mmselfsup_{target}",
            "openmmlab",
            kind,
            config,
            images,
            _TOKENS,
            url,
            f"{_MMPRETRAIN_PAGE}/beit",
            _APACHE,
        )


_DALLE_CONFIG = "beit_base_patch16_224_pt22k"
"""A config whose tokenizer is DALL-E's."""
_DALLE_IMAGES = Preprocessing((-0.125,) * 3, (1.25,) * 3, None, "lanczos", 112, "", False, "published table")


def _paddleclas_and_dalle() -> Iterator[Published]:
    token_pooling = ("MODEL.USE_MEAN_POOLING", False)
    for size in ("base", "large"):
        name, config = f"BEiTv2_vit_{size}_patch16_224", f"beitv2_{size}_patch16_224"
        images, url = _images(2, 224, 0.875, "token"), f"{_PADDLECLAS_FILES}/{name}.pdparams"
        entry = Published(
            name, "paddleclas", "classifier", config, images, 1000, url, _PADDLECLAS_PAGE, _APACHE
        )
        yield replace(entry, options=token_pooling)
    for part, millions in (("encoder", 53.786240), ("decoder", 43.829766)):
        images, license = _DALLE_IMAGES, "modified MIT"
        kind = f"dalle_{part}"
        rows = (
            (kind, "openai", f"https://cdn.openai.com/dall-e/{part}.pkl", _OPENAI_PAGE),
            (f"passl_{kind}", "passl", f"{_PASSL_FILES}/{part}.pdparams", _PASSL_PAGE),
        )
        for name, form, url, page in rows:
            yield Published(
                name, form, kind, _DALLE_CONFIG, images, _TOKENS, url, page, license, {}, millions
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
