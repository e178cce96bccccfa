"""Parquet files with images, as the Hugging Face hub distributes data sets. Needs pyarrow (extra `parquet`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from beit.data.folders import shortened_list
from beit.data.image_list import ImageList
from beit.data.shards import check_labels, find_shards
from beit.text_files import parse_json

_MAX_BYTES = 2**31  # of a row group, unpacked
_SMALL = 2**20  # bytes of a row group, about 10 photographs
_LARGE = 64 * 2**20  # all of a row group is read for one image
_INSTALL = 'parquet files need pyarrow: pip install "beit-paddle[parquet]", or pip install pyarrow'


@dataclass(frozen=True, eq=False)
class ParquetImages:
    """The images in the rows of parquet files. Parquet is read by whole row groups; the last two groups stay in memory.

    Args:
        files: in the order of the rows.
        column: of the encoded images, `image.bytes` or `image`.
        first_rows: number of the first row of each row group in the whole list, and the number of rows; `[groups + 1]`.
        places: number of the file and number of the group in it for each row group, `[groups, 2]`.
    """

    files: tuple[Path, ...]
    column: str
    first_rows: np.ndarray
    places: np.ndarray

    def has(self, index: int) -> bool:
        """True: each row is an image."""
        return 0 <= index < int(self.first_rows[-1])

    def read(self, index: int) -> bytes:
        """The content of one image.

        Raises:
            ValueError: the row is empty or the row group is damaged.
            OSError: the file cannot be read.
        """
        group = int(np.searchsorted(self.first_rows, index, "right")) - 1
        number, place = self.places[group].tolist()
        try:
            column = _read_group(_open(self.files[number]), place, self.column)
            data = column[index - int(self.first_rows[group])].as_py()
        except Exception as error:  # pyarrow raises its own classes, and OSError for damaged pages
            raise ValueError(f"row group {place} cannot be read: {error}") from error
        if data is None:
            raise ValueError(
                "the row has no image bytes; a path to a file outside of the data set is not followed"
            )
        return data


def read_parquet(
    root: Path, split: str, num_classes: int | None, *, labeled: bool = True
) -> ImageList | None:
    """The images of one split in the order of its files and rows; None where the split has no files.

    Images are in the column that the metadata of Hugging Face `datasets` marks as `Image`, or in `image`. Labels are in the
    column that it marks as `ClassLabel`, or in `label`; the metadata also names the classes.

    Args:
        root: folder of the files; see `find_shards` for their names.
        split: "train" or "val".
        num_classes: of the model; None accepts any labels.
        labeled: read the labels.

    Raises:
        ValueError: pyarrow is not installed, a file is damaged or differs from the others, there are no or several
            columns of images or labels, a label is missing or not in [0, num_classes), or the number of classes differs.
        OSError: a file cannot be read.
    """
    files = find_shards(root, split, ".parquet")
    if not files:
        return None
    first = _Columns.of(files[0], labeled)
    sizes, places, labels, largest = [0], [], [], 0
    names: list[str] = []
    for number, path in enumerate(files):
        file, columns = _open(path), _Columns.of(path, labeled)
        if columns != first:
            raise ValueError(f"{path} has other columns or class names than {files[0]}: {columns}, {first}")
        for group in range(file.num_row_groups):
            facts = file.metadata.row_group(group)
            sizes.append(facts.num_rows)
            places.append((number, group))
            largest = max(largest, facts.total_byte_size)
            if largest > _MAX_BYTES:
                raise ValueError(
                    f"{path}: row group {group} has {largest / 2**30:.1f} GiB, all of which is read for one image; write "
                    "the file again with a smaller row_group_size"
                )
        rows = file.metadata.num_rows
        names += [f"{path.relative_to(root).as_posix()}/{row}" for row in range(rows)]
        if first.label is not None:
            labels.append(_read_labels(path, first.label))
    if not names:
        raise ValueError(f"{root}: the parquet files of {split} have no rows")
    listed = np.concatenate(labels) if labels else None
    if listed is not None:
        _check_count(root, first, num_classes)
        check_labels(listed, num_classes, lambda index: str(root / names[index]))
    source = ParquetImages(tuple(files), first.image, np.cumsum(sizes), np.array(places))
    images = ImageList.from_names(root, names, listed, first.class_names if labeled else None)
    return replace(images, source=source, notes=_notes(root, split, source, largest))


@dataclass(frozen=True)
class _Columns:
    """The columns of a file that are read, and the class names in its metadata."""

    image: str
    label: str | None
    class_names: tuple[str, ...] | None

    @classmethod
    def of(cls, path: Path, labeled: bool) -> _Columns:
        schema = _open(path).schema_arrow
        features = _described_features(path, (schema.metadata or {}).get(b"huggingface"))
        kinds = {name: value.get("_type") for name, value in features.items() if isinstance(value, dict)}
        image = _only(path, "image", "Image", kinds, schema.names)
        is_struct = schema.field(image).type.num_fields > 0
        label = _only(path, "label", "ClassLabel", kinds, schema.names) if labeled else None
        _require_bytes(path, image, schema.field(image).type)
        described = features.get(label) if label else None
        names = described.get("names") if isinstance(described, dict) else None
        if names is not None and not (
            isinstance(names, list) and all(isinstance(name, str) for name in names)
        ):
            raise ValueError(
                f"{path}: its metadata of Hugging Face name the classes of {label} by a {type(names).__name__}, expected a "
                "list of texts"
            )
        return cls(f"{image}.bytes" if is_struct else image, label, tuple(names) if names else None)


def _require_bytes(path: Path, column: str, kind: Any) -> None:
    """Refuse a column of images that does not hold encoded images: numbers, paths, a struct without bytes."""
    import pyarrow.types as types

    stored = kind
    if types.is_struct(kind):
        index = kind.get_field_index("bytes")
        stored = kind.field(index).type if index >= 0 else None
    if stored is None or not (types.is_binary(stored) or types.is_large_binary(stored)):
        raise ValueError(
            f"{path}: the column {column} has type {kind}; expected the bytes of an encoded image (JPEG, PNG, …) in each row"
        )


def _described_features(path: Path, metadata: bytes | None) -> dict[str, Any]:
    """Hugging Face's description of the columns by name; empty without its metadata."""
    if metadata is None:
        return {}
    try:
        found = parse_json(metadata.decode())
        for key in ("info", "features"):
            found = found.get(key, {})
        return dict(found)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: its metadata of Hugging Face does not describe the columns: {error}"
        ) from error


def _only(path: Path, name: str, kind: str, kinds: dict[str, Any], columns: Sequence[str]) -> str:
    """The column of a kind in Hugging Face's metadata, or with a name."""
    found = [column for column in columns if kinds.get(column) == kind] or [name]
    if name in columns and name in found:
        return name
    if len(found) > 1:
        raise ValueError(
            f"{path} has {len(found)} columns that could be the {name}: {', '.join(found)}; call the one to use {name!r}"
        )
    if found[0] not in columns:
        raise ValueError(f"{path} has no column {name!r}; its columns are {', '.join(columns)}")
    return found[0]


def _check_count(root: Path, columns: _Columns, num_classes: int | None) -> None:
    names = columns.class_names
    if names is not None and num_classes is not None and len(names) != num_classes:
        raise ValueError(
            f"{root} has {len(names)} classes ({shortened_list(list(names))}) for MODEL.NUM_CLASSES={num_classes}; say "
            f"`-opts MODEL.NUM_CLASSES {len(names)}`"
        )


def _notes(root: Path, split: str, source: ParquetImages, largest: int) -> tuple[str, ...]:
    groups = len(source.places)
    mean = round(int(source.first_rows[-1]) / groups)
    if mean < 2 or largest < _SMALL:
        return ()
    advice = "; write them again with a smaller row_group_size" if largest > _LARGE else ""
    return (
        f"{root}: {groups} row groups of {split} with {mean} images each on average: to read one image in random order, "
        f"parquet reads all images of its group (at most {largest / 2**20:.1f} MiB){advice}",
    )


def _read_labels(path: Path, column: str) -> np.ndarray:
    import pyarrow.types

    values = _open(path).read(columns=[column]).column(0)
    if values.null_count or not pyarrow.types.is_integer(values.type):
        raise ValueError(
            f"{path}: the column {column} has type {values.type} and {values.null_count} empty rows; expected a class "
            "number in each row"
        )
    try:
        return values.cast("int64").to_numpy()
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path}: the column {column} does not hold class numbers: {error}") from error


def _open(path: Path) -> Any:
    stat = path.stat()
    return _open_version(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=32)
def _open_version(path: Path, size: int, mtime: int) -> Any:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ValueError(_INSTALL) from error
    try:
        return parquet.ParquetFile(path, memory_map=True)
    except arrow.ArrowInvalid as error:
        raise ValueError(f"{path} is not a complete parquet file ({error}); copy it again") from error


@lru_cache(maxsize=2)
def _read_group(file: Any, group: int, column: str) -> Any:
    """The encoded images of a row group. Evaluation reads them in their order, so the next image is in memory."""
    table = file.read_row_group(group, columns=[column], use_threads=False).combine_chunks()
    values = table.column(0).combine_chunks()
    return values.field(0) if values.type.num_fields else values
