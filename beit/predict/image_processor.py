"""Pictures to model inputs and class maps back, with the interface of transformers' `BeitImageProcessor`. Floor 4.

The numbers are transformers' own: a picture is squashed to `size` without regard to its shape, cropped, rescaled and
normalized with 0.5. The published accuracies were measured otherwise; `BeitImageProcessor.official` and
`official_segmentation` are those protocols, which keep the shape of a picture and know which statistics belong to
which weights.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import paddle
from PIL import Image

from beit.data.images import to_rgb
from beit.data.segmentation import fitting_size, resize_bilinear, resize_labels
from beit.data.transforms import center_crop, resize_shorter_side
from beit.models.segmentation_heads import resize_bilinear as resize_logits

# H, W size of a picture; C channels; K classes

Picture: TypeAlias = "Image.Image | np.ndarray | paddle.Tensor"
Pictures: TypeAlias = "Picture | Sequence[Picture]"
Size: TypeAlias = int | Sequence[int] | Mapping[str, int]
ChannelOrder = Literal["channels_first", "channels_last"]

NEAREST, BILINEAR, BICUBIC = 0, 2, 3  # Pillow's numbers of its filters, which config files hold
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5)
_OPTIONS = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size", "rescale_factor", "do_rescale"),
    *("do_normalize", "image_mean", "image_std", "do_reduce_labels", "label_resample"),
)


class BatchFeature(dict[str, Any]):
    """A dict whose entries are attributes too: `inputs["pixel_values"]`, `inputs.pixel_values`."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(name)


class BeitImageProcessor:
    """What transformers' `BeitImageProcessor` does, for NumPy, Pillow and Paddle.

    Source: transformers 4.57, models/beit/image_processing_beit.py. In transformers 5 the defaults are
    `size` 224 and no center crop; hosted `preprocessor_config.json` files state theirs (`from_pretrained`).

    Args:
        do_resize: resize to `size`.
        size: `{"height": H, "width": W}`, a side, or a pair, in pixels: the shape of the picture is not kept. Beyond
            transformers, `{"shortest_edge": S}` keeps it, and `{"shortest_edge": S, "longest_edge": L}` scales it to
            the largest size within both, as segmentation is evaluated.
        resample: Pillow filter (0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic).
        do_center_crop, crop_size: cut out the middle; what lies beyond the picture is 0.
        do_rescale, rescale_factor: multiply pixels by the factor.
        do_normalize, image_mean, image_std: subtract and divide, per channel or by one number.
        do_reduce_labels: in label maps 0 becomes 255 and the others lose 1.
        label_resample: filter for label maps; None takes `resample`, as transformers does. A filter other than 0
            mixes class numbers where classes meet, of which a warning tells.
    """

    def __init__(
        self,
        do_resize: bool = True,
        size: Size | None = None,
        resample: int = BICUBIC,
        do_center_crop: bool = True,
        crop_size: Size | None = None,
        rescale_factor: float = 1 / 255,
        do_rescale: bool = True,
        do_normalize: bool = True,
        image_mean: float | Sequence[float] | None = None,
        image_std: float | Sequence[float] | None = None,
        do_reduce_labels: bool = False,
        label_resample: int | None = None,
    ) -> None:
        self.do_resize = do_resize
        self.size = _size(256 if size is None else size)
        self.resample = resample
        self.do_center_crop = do_center_crop
        self.crop_size = _size(224 if crop_size is None else crop_size)
        self.rescale_factor = rescale_factor
        self.do_rescale = do_rescale
        self.do_normalize = do_normalize
        self.image_mean = _HALF if image_mean is None else image_mean
        self.image_std = _HALF if image_std is None else image_std
        self.do_reduce_labels = do_reduce_labels
        self.label_resample = label_resample

    @classmethod
    def official(
        cls,
        image_size: int = 224,
        crop_pct: float = 0.875,
        image_mean: float | Sequence[float] = _HALF,
        image_std: float | Sequence[float] = _HALF,
    ) -> BeitImageProcessor:
        """The protocol the published classifiers were measured with: shorter side to image_size / crop_pct, bicubic,
        central square. Statistics: 0.5 for BEiT v1 from ImageNet-22k, ImageNet's for v2; crop_pct 1.0 from 384 on.

        Source: unilm/beit/datasets.py `build_transform`.
        """
        return cls(
            size={"shortest_edge": int(image_size / crop_pct)},
            crop_size=image_size,
            image_mean=image_mean,
            image_std=image_std,
        )

    @classmethod
    def official_segmentation(cls, limits: tuple[int, int] = (2048, 512)) -> BeitImageProcessor:
        """The protocol the published UPerNets were measured with: the largest size within `limits` (longer, shorter
        side; (2560, 640) for the 640 models), no crop, ImageNet's statistics, ADE20K's zero label reduced.

        Source: unilm/beit/semantic_segmentation/configs.
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
        """The processor of a transformers folder or its `preprocessor_config.json`; keys of other use are left out.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not a JSON object.
        """
        file = Path(path) / "preprocessor_config.json" if Path(path).is_dir() else Path(path)
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} does not exist; a transformers folder holds preprocessor_config.json"
            )
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{file} is not valid JSON: {error}") from error
        if not isinstance(content, dict):
            raise ValueError(f"{file} holds no JSON object")
        if "reduce_labels" in content:  # the name of releases before 4.31
            content.setdefault("do_reduce_labels", content["reduce_labels"])
        return cls(**{name: content[name] for name in _OPTIONS if name in content})

    def to_dict(self) -> dict[str, Any]:
        """The options by name."""
        return {name: vars(self)[name] for name in _OPTIONS}

    def __call__(
        self, images: Pictures, segmentation_maps: Pictures | None = None, **options: Any
    ) -> BatchFeature:
        """See `preprocess`."""
        return self.preprocess(images, segmentation_maps, **options)

    def preprocess(
        self,
        images: Pictures,
        segmentation_maps: Pictures | None = None,
        *,
        return_tensors: Literal["pd", "np"] | None = None,
        data_format: ChannelOrder = "channels_first",
        input_data_format: ChannelOrder | None = None,
        **options: Any,
    ) -> BatchFeature:
        """`pixel_values`, float32, one `[C, H, W]` for each picture, and `labels`, int64, one `[H, W]` for each map.

        Args:
            images: one picture or several: Pillow (turned to RGB), or arrays `[H, W, C]` / `[C, H, W]` of 0 to 255,
                or `[B, …]`. Floats in [0, 1] belong with `do_rescale=False`.
            segmentation_maps: one label map or several: Pillow, or arrays `[H, W]`.
            return_tensors: "pd" for a Paddle tensor, "np" for an array, of pictures of one size; None for a list.
            data_format: order of the result's axes.
            input_data_format: order of the input's axes; None tells it by which axis has 1 or 3 entries.
            options: the constructor's arguments, for this call.

        Raises:
            ValueError: unknown option or tensor type; channels or values that are no picture's; pictures of several
                sizes for one tensor.
        """
        unknown = sorted(set(options) - set(_OPTIONS))
        if unknown:
            raise ValueError(f"unknown option {unknown[0]!r}; known: {', '.join(_OPTIONS)}")
        settings = BeitImageProcessor(
            **{**self.to_dict(), **{k: v for k, v in options.items() if v is not None}}
        )
        pictures = [_channels_first(picture, input_data_format) for picture in _listed(images, 3)]
        values = [settings._picture(picture) for picture in pictures]
        if data_format == "channels_last":
            values = [value.transpose(1, 2, 0) for value in values]
        result = {"pixel_values": _as(return_tensors, values)}
        if segmentation_maps is not None:
            maps = [settings._labels(_to_array(map_)) for map_ in _listed(segmentation_maps, 2)]
            result["labels"] = _as(return_tensors, maps)
        return BatchFeature(result)

    def post_process_semantic_segmentation(
        self, outputs: Any, target_sizes: Sequence[Sequence[int]] | None = None
    ) -> list[paddle.Tensor]:
        """Class maps int64 `[h, w]`, one for each picture: logits resized bilinearly, then the largest.

        Args:
            outputs: logits `[B, K, H, W]`, or what holds them as `logits` (dict or object).
            target_sizes: (height, width) for each picture; None for the size of the logits.

        Raises:
            ValueError: another number of sizes than pictures.
        """
        logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs
        logits = logits if isinstance(logits, paddle.Tensor) else logits.logits
        if target_sizes is None:
            return list(logits.argmax(axis=1).unbind(0))
        sizes = [tuple(int(side) for side in size) for size in target_sizes]
        if len(sizes) != logits.shape[0]:
            raise ValueError(f"{len(sizes)} target_sizes for {logits.shape[0]} pictures")
        return [resize_logits(logits[k : k + 1], size)[0].argmax(axis=0) for k, size in enumerate(sizes)]

    def _picture(self, pixels: np.ndarray) -> np.ndarray:
        """`[C, H, W]` through the steps."""
        if self.do_resize:
            pixels = self._resize(pixels, self.resample)
        if self.do_center_crop:
            pixels = self._crop(pixels)
        if self.do_rescale:
            pixels = (pixels.astype(np.float64) * self.rescale_factor).astype(np.float32)
        if self.do_normalize:
            pixels = pixels.astype(np.float32)
            mean, std = (
                np.broadcast_to(np.asarray(value, np.float32), (len(pixels),)).reshape(-1, 1, 1)
                for value in (self.image_mean, self.image_std)
            )
            pixels = (pixels - mean) / std
        return pixels

    def _labels(self, labels: np.ndarray) -> np.ndarray:
        """`[H, W]` through the steps that concern label maps."""
        if self.do_reduce_labels:
            # In the array's own 8 bits 0 - 1 would be 255 too; wider ones would give -1.
            labels = np.where((labels == 0) | (labels == 255), 255, labels.astype(np.int64) - 1)
        labels = labels.astype(np.uint8)[None]
        resample = self.resample if self.label_resample is None else self.label_resample
        if self.do_resize:
            if resample != NEAREST:
                warnings.warn(
                    "label maps are resized with the filter of the pictures, as transformers does, which mixes class "
                    "numbers where classes meet; pass label_resample=0 for the nearest pixel",
                    stacklevel=4,
                )
            labels = self._resize(labels, resample)
        if self.do_center_crop:
            labels = self._crop(labels)
        return labels[0].astype(np.int64)

    def _resize(self, pixels: np.ndarray, resample: int) -> np.ndarray:
        """`[C, H, W]` at `size`, by Pillow on 8 bits."""
        is_share = _is_share(pixels)
        if is_share:
            pixels = pixels.astype(np.float64) * 255
        bytes_ = pixels.astype(np.uint8).transpose(1, 2, 0)
        if "longest_edge" in self.size:
            height, width = fitting_size(
                bytes_.shape[:2], (self.size["longest_edge"], self.size["shortest_edge"])
            )
            if resample == NEAREST:
                resized = resize_labels(bytes_[..., 0], (height, width))
            else:
                resized = resize_bilinear(bytes_, (height, width))
        else:
            image = Image.fromarray(bytes_[..., 0] if bytes_.shape[2] == 1 else bytes_)
            if "shortest_edge" in self.size:
                side = self.size["shortest_edge"]
                image = resize_shorter_side(image, (side, side), Image.Resampling(resample))
            else:
                image = image.resize((self.size["width"], self.size["height"]), Image.Resampling(resample))
            resized = np.asarray(image)
        resized = resized.reshape(*resized.shape[:2], -1).transpose(2, 0, 1)
        return (resized * (1 / 255)).astype(np.float32) if is_share else resized

    def _crop(self, pixels: np.ndarray) -> np.ndarray:
        """The middle of `[C, H, W]`; an odd margin leaves its odd pixel to the end, padding to the beginning."""
        size = (self.crop_size["height"], self.crop_size["width"])
        if (
            "shortest_edge" in self.size and pixels.dtype == np.uint8
        ):  # torchvision's margins, as the official code
            image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
            cropped = np.asarray(center_crop(image, size))
            return cropped.reshape(*size, -1).transpose(2, 0, 1)
        result = np.zeros((len(pixels), *size), pixels.dtype)
        source, target = [], []
        for length, wanted in zip(pixels.shape[1:], size, strict=True):
            start = (length - wanted) // 2  # negative before a picture that is too small
            source.append(slice(max(start, 0), min(start + wanted, length)))
            target.append(slice(max(-start, 0), max(-start, 0) + source[-1].stop - source[-1].start))
        result[:, target[0], target[1]] = pixels[:, source[0], source[1]]
        return result


def _size(value: Size) -> dict[str, int]:
    """The dict form of a size.

    Raises:
        ValueError: none of the forms.
    """
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


def _listed(pictures: Pictures, num_axes: int) -> list[Picture]:
    """Pictures as a list: a single one, a sequence, or an array with a batch axis."""
    if isinstance(pictures, Image.Image):
        return [pictures]
    if isinstance(pictures, np.ndarray | paddle.Tensor):
        return [pictures] if pictures.ndim == num_axes else list(pictures)
    return [single for picture in pictures for single in _listed(picture, num_axes)]


def _to_array(picture: Picture) -> np.ndarray:
    return picture.numpy() if isinstance(picture, paddle.Tensor) else np.asarray(picture)


def _channels_first(picture: Picture, order: ChannelOrder | None) -> np.ndarray:
    """`[C, H, W]` of any picture; a single 1 or 3 among first and last axis tells the channels, the first wins."""
    if isinstance(picture, Image.Image):
        return np.asarray(to_rgb(picture)).transpose(2, 0, 1)
    pixels = _to_array(picture)
    if pixels.ndim != 3 or (order is None and not {pixels.shape[0], pixels.shape[2]} & {1, 3}):
        raise ValueError(
            f"an array {list(pixels.shape)} is no picture: expected [H, W, C] or [C, H, W] with 1 or 3 channels"
        )
    is_first = order == "channels_first" or (order is None and pixels.shape[0] in (1, 3))
    return pixels if is_first else pixels.transpose(2, 0, 1)


def _is_share(pixels: np.ndarray) -> bool:
    """Whether pixels are shares of 1 (floats in [0, 1] that are not all whole) rather than 0 to 255.

    Raises:
        ValueError: they are neither.
    """
    if pixels.dtype == np.uint8:
        return False
    low, high = float(pixels.min()), float(pixels.max())
    if np.allclose(pixels, pixels.astype(int)) and low >= 0 and high <= 255:
        return False
    if low >= 0 and high <= 1:
        return True
    raise ValueError(f"pixels from {low:g} to {high:g}; expected whole numbers 0 to 255, or 0 to 1")


def _as(kind: str | None, values: list[np.ndarray]) -> Any:
    """A list, one array, or one tensor.

    Raises:
        ValueError: unknown kind, or pictures of several sizes.
    """
    if kind not in (None, "np", "pd"):
        raise ValueError(f"return_tensors={kind!r}; known: 'pd' (Paddle), 'np', None")
    if kind is None:
        return values
    shapes = {value.shape for value in values}
    if len(shapes) > 1:
        raise ValueError(
            f"pictures of several sizes ({len(shapes)}) make no tensor; take return_tensors=None"
        )
    stacked = np.stack(values)
    return paddle.to_tensor(stacked) if kind == "pd" else stacked
