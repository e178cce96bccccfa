"""transformers' `BeitImageProcessor`: that of `beit`, with the files and the names of transformers."""

from __future__ import annotations

import warnings
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import paddle

import beit.predict.image_processor as own
from beit.metadata.architecture import SEGMENTATION
from beit.metadata.files import write_json
from beit.metadata.processor_config import FILE, processor_config
from beit.predict.image_processor import Images
from beit.zoo import published
from beit.zoo.table import PUBLISHED

_NAME = "image_processor_type"


class BatchFeature(own.BatchFeature):
    """The dict of `beit.BeitImageProcessor`, whose tensors can be moved."""

    def to(self, device: Any = None, dtype: Any = None) -> BatchFeature:
        """This dict, its tensors on another device; those of floating point also of another dtype.

        Args:
            device: "cpu", "gpu:0", … or `model.device`; None for where they are.
            dtype: such as `paddle.float32`; None for their own.
        """
        for name, value in self.items():
            if isinstance(value, paddle.Tensor):
                value = value if device is None else value.to(device)
                self[name] = value.astype(dtype) if dtype and value.is_floating_point() else value
        return self


class BeitImageProcessor(own.BeitImageProcessor):
    """Images to `pixel_values`, with the numbers of transformers' Pillow processor.

    transformers 5 has two: `BeitImageProcessorPil`, which this class equals, and its default, `BeitImageProcessor`, which
    resizes with torchvision. On the same image those two differ by about one of 255 levels. Arguments and methods are
    those of `beit.BeitImageProcessor`. Without arguments the sizes are those of transformers 4 (resize to 256, crop 224);
    published `preprocessor_config.json` files state theirs.

    Examples:
        >>> processor = BeitImageProcessor.from_pretrained("folder")
        >>> pixel_values = processor(images=image, return_tensors="pt").pixel_values
    """

    @classmethod
    def from_pretrained(  # type: ignore[override]  # further arguments
        cls, source: str | Path, *, use_fast: bool = False, **changes: Any
    ) -> BeitImageProcessor:
        """The processor of a folder of transformers, of its `preprocessor_config.json`, or of a published name.

        Args:
            source: folder, file, or name of `beit.list_models()`; of a name nothing is downloaded.
            use_fast: True asks for transformers' torchvision processor, which does not exist here: a warning says so.
            changes: arguments of the constructor that replace those of the file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: unknown argument, or a file that is not a JSON object or asks for what the processor cannot do.
        """
        if use_fast:
            warnings.warn(
                "use_fast=True is transformers' torchvision processor; images are resized with Pillow here, which "
                "differs by about one of 255 levels",
                stacklevel=2,
            )
        known = {field.name for field in fields(cls)}
        unknown = sorted(changes.keys() - known)
        if unknown:
            raise ValueError(f"unknown argument {unknown[0]!r}; known: {', '.join(sorted(known))}")
        if str(source) in PUBLISHED and not Path(source).exists():
            return cls(**published_processor(str(source)) | changes)
        file = Path(source) / FILE if Path(source).is_dir() else Path(source)
        processor = super().from_pretrained(file)
        assert isinstance(processor, cls)
        return replace(processor, **changes)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `preprocessor_config.json` into a folder, which is made if it does not exist.

        Raises:
            ValueError: no processor of transformers resizes in this way, or it has no `label_resample`.
        """
        assert isinstance(self.size, dict)  # of `__post_init__`
        if "longest_edge" in self.size or self.label_resample is not None:
            raise ValueError(
                f"size = {self.size}, label_resample = {self.label_resample}: transformers has no processor that resizes "
                "within two limits, or label maps with a filter of their own"
            )
        values = {name: value for name, value in self.to_dict().items() if name != "label_resample"}
        # CLIP's takes the same steps, and resizes the shorter side.
        kind = "CLIPImageProcessor" if "shortest_edge" in self.size else "BeitImageProcessor"
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_json(Path(folder) / FILE, {**values, _NAME: kind})

    def preprocess(
        self, images: Images, segmentation_maps: Images | None = None, **options: Any
    ) -> BatchFeature:
        """As `beit.BeitImageProcessor.preprocess`; `return_tensors="pt"` gives Paddle tensors too."""
        if options.get("return_tensors") == "pt":
            options["return_tensors"] = "pd"
        return BatchFeature(super().preprocess(images, segmentation_maps, **options))


def published_processor(name: str) -> dict[str, Any]:
    """Arguments of the processor of a published checkpoint.

    Raises:
        ValueError: it has no classes, and its publisher states no evaluation for it.
    """
    entry = published(name)
    if entry.preprocessing.unknown:
        raise ValueError(
            f"the publisher of {name} does not state how images are resized for it: pass the arguments to "
            "BeitImageProcessor(...) instead"
        )
    values = processor_config(entry.preprocessing)
    # In the masks of ADE20K 0 means no class.
    labels = {"do_reduce_labels": True} if entry.kind == SEGMENTATION else {}
    return {name: value for name, value in values.items() if name not in (_NAME, "do_convert_rgb")} | labels
