"""The transforms and the data set of semantic segmentation: an image and its label map are transformed together.

Source: the `train_pipeline` and `test_pipeline` of unilm/beit/semantic_segmentation/configs, whose steps are in
mmseg/datasets/pipelines/transforms.py. Normalization and the zero padding that follows it happen on the device.

Shapes: H, W input size of the model in training; K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from yacs.config import CfgNode

from beit.config import image_hw
from beit.data.class_matching import KnownClasses, reordered
from beit.data.dataset import ImageDataset, open_options
from beit.data.image_list import ImageList
from beit.data.image_mask import IGNORE, MaskReader, open_image_masks
from beit.data.images import open_image
from beit.data.transforms import Arrays
from beit.preprocessing import exif_orientation_of

Size = tuple[int, int]  # height, width in pixels, NumPy's order
Box = tuple[int, int, int, int]  # top, left, bottom, right in pixels, NumPy's order

_MAX_TRIES = 10  # further crops that are drawn while one class dominates; as mmseg RandomCrop
_MAX_RESIZED_PIXELS = 2**26  # an image of 1 x 20000 pixels would be resized to 5 million columns


def fitting_size(size: Size, limits: tuple[float, float]) -> Size:
    """The largest size of the same aspect ratio that fits into `limits`.

    Source: mmcv/image/geometric.py `rescale_size`.

    Args:
        size: (height, width), pixels.
        limits: of the longer and of the shorter side in any order, pixels.
    """
    factor = min(max(limits) / max(size), min(limits) / min(size))
    return max(int(size[0] * factor + 0.5), 1), max(int(size[1] * factor + 0.5), 1)


def covering_size(size: Size, shorter: int) -> Size:
    """The (height, width) of the same aspect ratio whose shorter side is `shorter` pixels."""
    return fitting_size(size, (shorter, shorter * max(size) / min(size)))


def resize_bilinear(pixels: np.ndarray, size: Size, box: Box | None = None) -> np.ndarray:
    """Resize pixels uint8 `[h, w, C]`, or compute only a box of the resized image.

    Interpolates two neighbors per axis at any scale like OpenCV's INTER_LINEAR, with which the published models were
    trained and evaluated; Pillow's filter averages over more pixels when shrinking.

    Args:
        pixels: uint8 `[h, w, C]`.
        size: (height, width) of the resized image.
        box: the part of the resized image to compute; None for all of it.

    Raises:
        ValueError: the result has more than 2^26 pixels.
    """
    top, left, bottom, right = box or (0, 0, *size)
    if (bottom - top) * (right - left) > _MAX_RESIZED_PIXELS:
        raise ValueError(
            f"{pixels.shape[1]} x {pixels.shape[0]} pixels are too elongated: resized they become "
            f"{right - left} x {bottom - top}"
        )
    values: np.ndarray = pixels
    for axis, first, last in ((0, top, bottom), (1, left, right)):
        length = pixels.shape[axis]
        position = np.clip((np.arange(first, last) + 0.5) * length / size[axis] - 0.5, 0, length - 1)
        low = np.floor(position).astype(np.int64)
        high = np.minimum(low + 1, length - 1)
        weight = (position - low).astype(np.float32).reshape([-1, 1, 1] if axis == 0 else [1, -1, 1])
        low_value = values.take(low, axis).astype(np.float32)
        values = low_value + (values.take(high, axis) - low_value) * weight
    return (values + 0.5).astype(np.uint8)


def resize_labels(labels: np.ndarray, size: Size) -> np.ndarray:
    """Resize labels uint8 `[h, w]` to (height, width) by the nearest pixel.

    Deviation: pixel centers are aligned, as they are for the image; OpenCV's INTER_NEAREST shifts the labels by up to
    half a pixel relative to the image.
    """
    return np.asarray(Image.fromarray(labels).resize(size[::-1], Image.Resampling.NEAREST))


def choose_crop(labels: np.ndarray, size: Size, cat_max_ratio: float, rng: np.random.Generator) -> Box:
    """A random crop box in which no class covers `cat_max_ratio` or more of the labeled pixels.

    If the box does not satisfy this after ten more draws, the last one is returned.
    Source: mmseg `RandomCrop`.

    Args:
        labels: uint8 `[h, w]`.
        size: (height, width) of the box, pixels; reduced to the size of the image.
        cat_max_ratio: a share within [0, 1]; 1 accepts every box.
        rng: draws the boxes.
    """
    box = _random_box(labels.shape, size, rng)
    if cat_max_ratio >= 1:
        return box
    for _ in range(_MAX_TRIES):
        counts = np.bincount(labels[box[0] : box[2], box[1] : box[3]].ravel(), minlength=IGNORE + 1)[:IGNORE]
        if np.count_nonzero(counts) > 1 and counts.max() / counts.sum() < cat_max_ratio:
            break
        box = _random_box(labels.shape, size, rng)
    return box


def _random_box(shape: tuple[int, ...], size: Size, rng: np.random.Generator) -> Box:
    height, width = shape
    top = int(rng.integers(0, max(height - size[0], 0), endpoint=True))
    left = int(rng.integers(0, max(width - size[1], 0), endpoint=True))
    return top, left, min(top + size[0], height), min(left + size[1], width)


def distort(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change brightness (±32), contrast and saturation (×0.5 to 1.5) and hue (±18 of 180) at random.

    From and to uint8 `[H, W, 3]`. Each happens with probability 1/2; contrast comes before or after saturation and hue.
    Source: mmseg `PhotoMetricDistortion`. Deviation: Pillow's hue circle has 256 steps, OpenCV's 180.
    """
    if rng.random() < 0.5:
        pixels = _scale_and_shift(pixels, 1.0, rng.uniform(-32, 32))
    contrast_first = rng.random() < 0.5
    contrast = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    saturation = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    hue = round(int(rng.integers(-18, 18)) * 256 / 180) if rng.random() < 0.5 else 0
    if contrast_first:
        pixels = _scale_and_shift(pixels, contrast, 0.0)
    if saturation != 1.0 or hue:
        pixels = _shift_colors(pixels, saturation, hue)
    return pixels if contrast_first else _scale_and_shift(pixels, contrast, 0.0)


def _scale_and_shift(pixels: np.ndarray, factor: float, shift: float) -> np.ndarray:
    table = np.clip(np.arange(256) * factor + shift, 0, 255).astype(np.uint8)
    return table[pixels]


def _shift_colors(pixels: np.ndarray, saturation: float, hue: int) -> np.ndarray:
    hsv = np.array(Image.fromarray(pixels).convert("HSV"))
    hsv[..., 0] += np.uint8(hue % 256)  # uint8 wraps around the hue circle
    hsv[..., 1] = _scale_and_shift(hsv[..., 1], saturation, 0.0)
    return np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))


@dataclass(frozen=True)
class SegmentTrainTransform:
    """Random scale, crop, flip and color distortion. A crop that is smaller than `size` is padded.

    Returns: `image` uint8 `[3, H, W]`; `label` uint8 `[H, W]`, `IGNORE` in the padding; `box` int32 `[4]` (top, left,
    height, width) of the image inside of the padding.

    Args:
        size: (height, width) of the result, pixels.
        limits: longer and shorter side, pixels, into which an image is resized at ratio 1.
        ratio: range of the uniform random factor on `limits`.
        cat_max_ratio: see `choose_crop`.
        hflip: probability of mirroring.
        photometric: whether to `distort`.
    """

    size: Size
    limits: tuple[int, int] = (2048, 512)
    ratio: tuple[float, float] = (0.5, 2.0)
    cat_max_ratio: float = 0.75
    hflip: float = 0.5
    photometric: bool = True

    def __call__(self, image: Image.Image, labels: np.ndarray, rng: np.random.Generator) -> Arrays:
        factor = rng.uniform(*self.ratio)
        limits = (int(self.limits[0] * factor), int(self.limits[1] * factor))
        scaled = fitting_size((image.height, image.width), limits)
        labels = resize_labels(labels, scaled)
        box = choose_crop(labels, self.size, self.cat_max_ratio, rng)
        labels = labels[box[0] : box[2], box[1] : box[3]]
        pixels = resize_bilinear(np.asarray(image), scaled, box)
        if rng.random() < self.hflip:
            pixels, labels = pixels[:, ::-1], labels[:, ::-1]
        if self.photometric:
            pixels = distort(np.ascontiguousarray(pixels), rng)
        height, width = labels.shape
        padding = [(0, self.size[0] - height), (0, self.size[1] - width)]
        return {
            "image": np.pad(pixels.transpose(2, 0, 1), [(0, 0), *padding]),
            "label": np.pad(labels, padding, constant_values=IGNORE),
            "box": np.array([0, 0, height, width], np.int32),
        }


@dataclass(frozen=True)
class SegmentEvalTransform:
    """The whole image at one or several scales, and its labels unchanged.

    Returns: `image_0`, `image_1`, … uint8 `[3, h, w]` in the order of the scales; `label` uint8 `[H, W]` in the
    original size of the image.
    Source: for one scale mmseg `Resize(keep_ratio=True)`; for several unilm/beit `SETR_Resize`, whose shorter side is
    at least the window and whose longer side has no limit.

    Args:
        limits: longer and shorter side, pixels, at scale 1.
        scales: factors on `limits`.
        window: minimum of the shorter side, pixels, for several scales.
    """

    limits: tuple[int, int] = (2048, 512)
    scales: Sequence[float] = (1.0,)
    window: int = 512

    def __call__(
        self, image: Image.Image, labels: np.ndarray, rng: np.random.Generator | None = None
    ) -> Arrays:
        return {**self.images(image), "label": labels}

    def images(self, image: Image.Image) -> Arrays:
        """`image_0`, `image_1`, … of an image without labels."""
        pixels = np.asarray(image)
        return {
            f"image_{k}": np.ascontiguousarray(
                resize_bilinear(pixels, self._size(pixels, scale)).transpose(2, 0, 1)
            )
            for k, scale in enumerate(self.scales)
        }

    def _size(self, pixels: np.ndarray, scale: float) -> Size:
        longer, shorter = int(max(self.limits) * scale), int(min(self.limits) * scale)
        own = (pixels.shape[0], pixels.shape[1])
        if len(self.scales) > 1:
            return covering_size(own, max(shorter, self.window))
        return fitting_size(own, (longer, shorter))


@dataclass(eq=False, repr=False)
class SegmentationDataset(ImageDataset):
    """The arrays of a transform of images and label maps.

    Args:
        images: the files to read.
        masks: their label maps, in the same order. An unreadable or wrong label map is always an error.
        transform: from an RGB image and labels uint8 `[H, W]` to named arrays.
        read_mask: reads a label map.

    Raises:
        ImageError: see `ImageDataset`.
        MaskError: see `MaskReader`.
    """

    masks: ImageList
    transform: SegmentTrainTransform | SegmentEvalTransform
    read_mask: MaskReader

    def read(self, index: int, seed: int) -> Arrays:
        image = open_image(self.images.path(index), **self.open_options)
        labels = self.read_mask(self.masks.path(index), image.size)
        return self.transform(image, labels, self.generator(seed))


def build_segmentation_dataset(
    config: CfgNode,
    split: Literal["train", "val"],
    *,
    bad_images: Path | None = None,
    classes: KnownClasses | None = None,
) -> SegmentationDataset:
    """The images and label maps of a split: random crops for "train", whole images for "val".

    Args:
        config: of the run.
        split: "train" or "val".
        bad_images: see `ImageDataset`.
        classes: of the model's head, for which the masks are labeled; None if it has none yet.

    Raises:
        FileNotFoundError: see `open_image_masks`.
        ValueError: see `open_image_masks` and `KnownClasses.order`; or there are more classes than 8-bit labels can hold, or
            `TRAIN.INTERPOLATION` is a filter that segmentation does not have.
    """
    data = config.DATA
    if config.TRAIN.INTERPOLATION not in (None, "bilinear"):
        raise ValueError(
            f"TRAIN.INTERPOLATION = {config.TRAIN.INTERPOLATION}: TASK: segment resizes bilinearly; leave the key out"
        )
    if config.MODEL.NUM_CLASSES >= IGNORE:
        raise ValueError(
            f"MODEL.NUM_CLASSES={config.MODEL.NUM_CLASSES}; label maps hold at most {IGNORE - 1}"
        )
    reader = MaskReader(
        config.MODEL.NUM_CLASSES,
        data.IGNORE_LABEL,
        data.REDUCE_ZERO_LABEL,
        data.MAX_PIXELS,
        exif_orientation=bool(exif_orientation_of(config)),
    )
    pairs = open_image_masks(config, split)
    images, names = pairs.images, pairs.images.class_names
    order = None if classes is None or names is None else classes.order(names)
    if classes is not None and names is not None and order is not None:
        note = classes.describe_order(names, order)
        images = replace(images, class_names=reordered(names, order), notes=(*images.notes, note))
        reader = replace(reader, order=order)
    return SegmentationDataset(
        images,
        pairs.masks,
        build_train_transform(config) if split == "train" else build_eval_transform(config),
        reader,
        seed=config.SEED,
        open_options=open_options(config),
        bad_images=bad_images,
    )


def build_train_transform(config: CfgNode) -> SegmentTrainTransform:
    """The training transform as DATA.* and TRAIN.* set it."""
    return SegmentTrainTransform(
        image_hw(config),
        limits=tuple(config.DATA.RESIZE_LIMITS),
        ratio=tuple(config.TRAIN.RESIZE_RATIO),
        cat_max_ratio=config.TRAIN.CAT_MAX_RATIO,
        hflip=config.TRAIN.HFLIP,
        photometric=config.TRAIN.PHOTOMETRIC,
    )


def build_eval_transform(config: CfgNode) -> SegmentEvalTransform:
    """The evaluation transform as DATA.* and TEST.* set it."""
    return SegmentEvalTransform(
        tuple(config.DATA.RESIZE_LIMITS), tuple(config.TEST.SCALES), min(image_hw(config))
    )
