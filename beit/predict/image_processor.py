"""Image preprocessing with the interface of transformers' `BeitImageProcessor`.

By default the numbers are those of transformers: an image is resized to `size` without keeping its aspect ratio,
cropped, rescaled, and normalized with mean and standard deviation 0.5. The published accuracies were measured with
other protocols, which keep the aspect ratio: `BeitImageProcessor.official` and `official_segmentation`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import paddle
from PIL import Image

from beit.data.crops import center_crop, resize_and_crop, resize_shorter_side
from beit.data.resampling import KERNELS
from beit.data.segmentation import fitting_size, resize_bilinear, resize_labels
from beit.metadata.processor_config import read_processor_arguments
from beit.models.segmentation_heads import resize_bilinear as resize_logits
from beit.predict.image_arrays import (
    ChannelOrder,
    Images,
    channels_first,
    is_fraction,
    label_map,
    list_images,
    planes,
    to_pillow,
)
from beit.preprocessing import HALF, IMAGENET_MEAN, IMAGENET_STD

# H, W size of an image; C channels; K classes

Size: TypeAlias = int | Sequence[int] | Mapping[str, int]

NEAREST, BILINEAR, BICUBIC = 0, 2, 3  # Pillow's numbers of its filters, as in preprocessor_config.json


class BatchFeature(dict[str, Any]):
    """A dict whose entries are also attributes: `inputs["pixel_values"]`, `inputs.pixel_values`."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(name)


@dataclass(eq=False)
class BeitImageProcessor:
    """transformers' `BeitImageProcessor` for NumPy, Pillow and Paddle; in transformers 5 it is `BeitImageProcessorPil`.

    Source: transformers 4.57, models/beit/image_processing_beit.py. In transformers 5 the defaults are
    `size` 224 and no center crop; published `preprocessor_config.json` files state theirs (`from_pretrained`).

    Examples:
        >>> processor = beit.BeitImageProcessor.official(224)
        >>> processor(Image.open("photo.jpg"), return_tensors="pd").pixel_values.shape
        [1, 3, 224, 224]

    Args:
        do_resize: resize to `size`.
        size: in pixels: `{"height": H, "width": W}`, one side, or a pair (height, width); None for 256. The aspect
            ratio is not kept. Beyond transformers, `{"shortest_edge": S}` keeps it, and
            `{"shortest_edge": S, "longest_edge": L}` resizes to the largest size within both, as segmentation models
            are evaluated (images bilinearly, label maps with `resample` 0 to the nearest pixel).
        resample: number of a Pillow filter (0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic).
        do_center_crop: cut out the center; what lies outside of the image is 0.
        crop_size: size of the crop in pixels, in the forms of `size`; None for 224.
        rescale_factor: factor of `do_rescale`.
        do_rescale: multiply the pixels by `rescale_factor`.
        do_normalize: subtract `image_mean` and divide by `image_std`.
        image_mean: one number, or one per channel; None for 0.5.
        image_std: one number, or one per channel; None for 0.5.
        do_reduce_labels: in label maps, 0 becomes 255 and all other labels are reduced by 1.
        label_resample: filter for label maps; None for `resample`, as in transformers. All filters but 0 mix class
            numbers at the borders of classes, which gives a warning.

    Raises:
        ValueError: `size` or `crop_size` has another form.
    """

    do_resize: bool = True
    size: Size | None = None
    resample: int = BICUBIC
    do_center_crop: bool = True
    crop_size: Size | None = None
    rescale_factor: float = 1 / 255
    do_rescale: bool = True
    do_normalize: bool = True
    image_mean: float | Sequence[float] | None = None
    image_std: float | Sequence[float] | None = None
    do_reduce_labels: bool = False
    label_resample: int | None = None

    def __post_init__(self) -> None:
        self.size = _size_dict(256 if self.size is None else self.size)
        self.crop_size = _size_dict(224 if self.crop_size is None else self.crop_size)
        self.image_mean = HALF if self.image_mean is None else self.image_mean
        self.image_std = HALF if self.image_std is None else self.image_std

    @classmethod
    def official(
        cls,
        image_size: int = 224,
        crop_pct: float = 0.875,
        image_mean: float | Sequence[float] = HALF,
        image_std: float | Sequence[float] = HALF,
    ) -> BeitImageProcessor:
        """The evaluation protocol of the published classifiers: bicubic resize of the shorter side, center crop.

        Source: unilm/beit/datasets.py `build_transform`.

        Args:
            image_size: side of the crop, pixels.
            crop_pct: crop side / resized shorter side; 1.0 for 384 pixels and more.
            image_mean: 0.5 for BEiT v1 from ImageNet-22k, ImageNet's for v2.
            image_std: the same.
        """
        return cls(
            size={"shortest_edge": int(image_size / crop_pct)},
            crop_size=image_size,
            image_mean=image_mean,
            image_std=image_std,
        )

    @classmethod
    def official_segmentation(cls, limits: tuple[int, int] = (2048, 512)) -> BeitImageProcessor:
        """The evaluation protocol of the published UPerNets: ImageNet's statistics, no crop, reduced labels.

        Source: unilm/beit/semantic_segmentation/configs.

        Args:
            limits: of the longer and the shorter side, pixels; (2560, 640) for the models of 640 pixels.
        """
        return cls(
            size={"shortest_edge": min(limits), "longest_edge": max(limits)},
            resample=BILINEAR,
            do_center_crop=False,
            image_mean=IMAGENET_MEAN,
            image_std=IMAGENET_STD,
            do_reduce_labels=True,
            label_resample=NEAREST,
        )

    @classmethod
    def from_pretrained(cls, path: str | Path) -> BeitImageProcessor:
        """The processor of a transformers folder, or of its `preprocessor_config.json`; a warning names keys that are not read.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not a JSON object, or asks for what the processor does not do.
        """
        return cls(**read_processor_arguments(Path(path), {field.name for field in fields(cls)}))

    def to_dict(self) -> dict[str, Any]:
        """The options by name."""
        return asdict(self)

    def __call__(
        self, images: Images, segmentation_maps: Images | None = None, **options: Any
    ) -> BatchFeature:
        """The same as `preprocess`."""
        return self.preprocess(images, segmentation_maps, **options)

    def preprocess(
        self,
        images: Images,
        segmentation_maps: Images | None = None,
        *,
        return_tensors: Literal["pd", "np"] | None = None,
        data_format: ChannelOrder = "channels_first",
        input_data_format: ChannelOrder | None = None,
        **options: Any,
    ) -> BatchFeature:
        """`pixel_values`, float32, one `[C, H, W]` per image, and `labels`, int64, one `[H, W]` per label map.

        Args:
            images: one image or several: paths, bytes of image files, open files, Pillow images (all converted to
                RGB), or arrays `[H, W]`, `[H, W, C]` or `[C, H, W]` of 0 to 255, or `[B, ...]`. Floats in [0, 1] need
                `do_rescale=False`. Gray arrays get as many channels as `image_mean` has; RGBA, uint8 `[H, W, 4]`, is
                drawn on white.
            segmentation_maps: one label map or several: the same, or arrays `[H, W]`.
            return_tensors: "pd" for a Paddle tensor, "np" for an array, of images of one size; None for a list.
            data_format: order of the axes of the result.
            input_data_format: order of the axes of the input; None finds it by the axis that has 1 or 3 entries.
            options: arguments of the constructor, for this call only.

        Raises:
            ValueError: unknown option or tensor type; an array that is not an image; a label map with values outside of 0
                to 255; images of several sizes for one tensor.
            ImageError: a file is not a readable image.
        """
        unknown = sorted(set(options) - set(self.to_dict()))
        if unknown:
            raise ValueError(f"unknown option {unknown[0]!r}; known: {', '.join(self.to_dict())}")
        settings = replace(self, **{name: value for name, value in options.items() if value is not None})
        arrays = [channels_first(image, input_data_format) for image in list_images(images, 3)]
        values = [settings._process_image(array) for array in arrays]
        if data_format == "channels_last":
            values = [value.transpose(1, 2, 0) for value in values]
        result = {"pixel_values": _stack(return_tensors, values)}
        if segmentation_maps is not None:
            maps = [label_map(labels) for labels in list_images(segmentation_maps, 2)]
            result["labels"] = _stack(return_tensors, [settings._process_labels(labels) for labels in maps])
        return BatchFeature(result)

    def post_process_semantic_segmentation(
        self, outputs: Any, target_sizes: Sequence[Sequence[int]] | None = None
    ) -> list[paddle.Tensor]:
        """Class maps int64 `[h, w]`, one per image: the class with the largest logit after a bilinear resize.

        Args:
            outputs: logits `[B, K, H, W]`, or a dict or object that holds them as `logits`.
            target_sizes: (height, width) of each image; None for the size of the logits.

        Raises:
            ValueError: the number of sizes is not the number of images.
        """
        logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs
        logits = logits if isinstance(logits, paddle.Tensor) else logits.logits
        if target_sizes is None:
            return list(logits.argmax(axis=1).unbind(0))
        sizes = [tuple(int(side) for side in size) for size in target_sizes]
        if len(sizes) != logits.shape[0]:
            raise ValueError(f"{len(sizes)} target_sizes for {logits.shape[0]} images")
        return [resize_logits(logits[k : k + 1], size)[0].argmax(axis=0) for k, size in enumerate(sizes)]

    def _process_image(self, pixels: np.ndarray) -> np.ndarray:
        """All steps for an image `[C, H, W]`."""
        pixels = self._resize_and_crop(pixels, self.resample)
        if self.do_rescale:
            pixels = (pixels.astype(np.float64) * self.rescale_factor).astype(np.float32)
        if self.do_normalize:
            pixels = pixels.astype(np.float32)
            if len(pixels) == 1:  # gray, for a model of as many channels as there are means
                pixels = pixels.repeat(np.asarray(self.image_mean).size, axis=0)
            mean, std = (
                np.broadcast_to(np.asarray(value, np.float32), (len(pixels),)).reshape(-1, 1, 1)
                for value in (self.image_mean, self.image_std)
            )
            pixels = (pixels - mean) / std
        return pixels

    def _process_labels(self, labels: np.ndarray) -> np.ndarray:
        """The steps for a label map `[H, W]`."""
        low, high = labels.min(), labels.max()
        if low < 0 or high > 255:
            raise ValueError(
                f"a label map with values from {low} to {high}; expected 0 to 255 (255: ignored)"
            )
        if self.do_reduce_labels:
            # In 8 bits 0 - 1 would be 255 too; wider types would give -1.
            labels = np.where((labels == 0) | (labels == 255), 255, labels.astype(np.int64) - 1)
        labels = labels.astype(np.uint8)[None]
        resample = self.resample if self.label_resample is None else self.label_resample
        if self.do_resize and resample != NEAREST:
            warnings.warn(
                "label maps are resized with the filter of the images, as in transformers, which mixes class "
                "numbers at the borders of classes; pass label_resample=0 for the nearest pixel",
                stacklevel=4,
            )
        return self._resize_and_crop(labels, resample)[0].astype(np.int64)

    def _resize_and_crop(self, pixels: np.ndarray, resample: int) -> np.ndarray:
        """`[C, H, W]` after both steps, or those of them that are switched on."""
        assert isinstance(self.size, Mapping) and isinstance(self.crop_size, Mapping)  # `__post_init__`
        both = self.do_resize and self.do_center_crop
        if both and set(self.size) == {"shortest_edge"} and pixels.dtype == np.uint8 and resample in KERNELS:
            side, crop = self.size["shortest_edge"], (self.crop_size["height"], self.crop_size["width"])
            image = resize_and_crop(to_pillow(pixels), (side, side), crop, Image.Resampling(resample))
            return planes(np.asarray(image))
        if self.do_resize:
            pixels = self._resize(pixels, resample)
        return self._crop(pixels) if self.do_center_crop else pixels

    def _resize(self, pixels: np.ndarray, resample: int) -> np.ndarray:
        """`[C, H, W]` resized to `size` by Pillow, in 8 bits."""
        assert isinstance(self.size, Mapping)  # `__post_init__`
        fraction = is_fraction(pixels)
        if fraction:
            pixels = pixels.astype(np.float64) * 255
        pixels = pixels.astype(np.uint8)
        size = pixels.shape[1:]
        if "longest_edge" in self.size:
            size = fitting_size(size, (self.size["longest_edge"], self.size["shortest_edge"]))
            if resample == NEAREST:
                resized = np.stack([resize_labels(plane, size) for plane in pixels])
            else:
                resized = planes(resize_bilinear(pixels.transpose(1, 2, 0), size))
        else:
            image, number = to_pillow(pixels), Image.Resampling(resample)
            if "shortest_edge" in self.size:
                image = resize_shorter_side(image, (self.size["shortest_edge"],) * 2, number)
            else:
                image = image.resize((self.size["width"], self.size["height"]), number)
            resized = planes(np.asarray(image))
        return (resized * (1 / 255)).astype(np.float32) if fraction else resized

    def _crop(self, pixels: np.ndarray) -> np.ndarray:
        """The center of `[C, H, W]`; an odd margin has its larger half at the end, odd padding at the beginning."""
        assert isinstance(self.size, Mapping) and isinstance(self.crop_size, Mapping)  # `__post_init__`
        size = (self.crop_size["height"], self.crop_size["width"])
        if "shortest_edge" in self.size and pixels.dtype == np.uint8:
            # The margins of torchvision, as in the official code.
            return planes(np.asarray(center_crop(to_pillow(pixels), size)))
        result = np.zeros((len(pixels), *size), pixels.dtype)
        source, target = [], []
        for length, cropped in zip(pixels.shape[1:], size, strict=True):
            start = (length - cropped) // 2  # negative if the image is smaller than the crop
            source.append(slice(max(start, 0), min(start + cropped, length)))
            target.append(slice(max(-start, 0), max(-start, 0) + source[-1].stop - source[-1].start))
        result[:, target[0], target[1]] = pixels[:, source[0], source[1]]
        return result


def _size_dict(value: Size) -> dict[str, int]:
    if isinstance(value, Mapping):
        if set(value) in ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"}):
            return {name: int(side) for name, side in value.items()}
    elif isinstance(value, int):
        return {"height": value, "width": value}
    elif len(value) == 2:
        return {"height": int(value[0]), "width": int(value[1])}
    raise ValueError(
        f"size {value!r}; expected a side, (height, width), or a dict of height and width, or of shortest_edge and "
        "optionally longest_edge"
    )


def _stack(kind: str | None, values: list[np.ndarray]) -> list[np.ndarray] | np.ndarray | paddle.Tensor:
    """A list, one array, or one tensor."""
    if kind not in (None, "np", "pd"):
        raise ValueError(f"return_tensors={kind!r}; known: 'pd' (Paddle), 'np', None")
    if kind is None:
        return values
    shapes = {value.shape for value in values}
    if len(shapes) > 1:
        raise ValueError(f"images of several sizes ({len(shapes)}) make no tensor; use return_tensors=None")
    stacked = np.stack(values)
    return paddle.to_tensor(stacked) if kind == "pd" else stacked
