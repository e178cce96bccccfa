"""Refuse files of a few kilobytes whose decoding would take minutes or gigabytes, before they are decoded.

Together with the limit on pixels (DATA.MAX_PIXELS) these limits bound the time and memory of every image file.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from PIL import Image

MAX_SCANS = 100
"""Scans of a JPEG. Each visits the whole image, even if it changes nothing. libtiff has the same limit; usual
progressive JPEGs have 10."""
MAX_RLE_PIXELS = 2**24
"""Pixels of a run-length encoded BMP, which Pillow decodes in Python at 4 million pixels a second."""
MAX_TILE_PIXELS = 2**24
"""Pixels of one tile of a TIFF, if the image itself has fewer: whole tiles are decoded."""
MAX_CODE_BLOCKS = 2**18
"""Code blocks of a JPEG 2000; OpenJPEG allocates about 400 bytes for each. With the usual 64 x 64 samples per block, an
RGB image of 178 megapixels has 175,000."""

_TILE_WIDTH, _TILE_LENGTH = 322, 323  # tags of TIFF
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff])")  # a 0xff byte of the pixel data is followed by 0x00
_SOS, _EOI, _WITHOUT_LENGTH = 0xDA, 0xD9, frozenset({0x01, *range(0xD0, 0xD9)})
_SOC = b"\xff\x4f"  # begins a codestream of JPEG 2000
_COD, _COC, _SOT, _SOD = 0xFF52, 0xFF53, 0xFF90, 0xFF93


def refuse_costly_decoding(image: Image.Image) -> None:
    """Check an image that was opened and not yet decoded.

    Raises:
        ValueError: it is beyond one of the limits of this module.
    """
    width, height = image.size
    if image.format in ("JPEG", "MPO"):
        if (scans := _count_scans(_content(image))) > MAX_SCANS:
            raise ValueError(f"a JPEG of {scans} or more scans, at most {MAX_SCANS} are read")
    elif image.format == "BMP":
        if _codec(image) == "bmp_rle" and width * height > MAX_RLE_PIXELS:
            raise ValueError(
                f"a run-length encoded BMP of {width} x {height} pixels, at most {MAX_RLE_PIXELS} are read"
            )
    elif image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        tile = tags.get(_TILE_WIDTH, 0) * tags.get(_TILE_LENGTH, 0)
        if tile > max(width * height, MAX_TILE_PIXELS):
            raise ValueError(f"a tile of {tile} pixels for an image of {width} x {height}")
    elif image.format == "JPEG2000":
        blocks = _count_code_blocks(_codestream(_content(image)))
        if blocks > MAX_CODE_BLOCKS:
            raise ValueError(f"a JPEG 2000 of {blocks} code blocks, at most {MAX_CODE_BLOCKS} are read")


def _content(image: Image.Image) -> bytes:
    """The bytes of the open file, whose position stays the same."""
    file = image.fp  # type: ignore[attr-defined]
    position = file.tell()
    file.seek(0)
    content: bytes = file.read()
    file.seek(position)
    return content


def _codec(image: Image.Image) -> str:
    tiles = image.tile  # type: ignore[attr-defined]
    return str(tiles[0][0]) if tiles else ""


def _count_scans(data: bytes) -> int:
    """The scans of a JPEG up to its end; the count stops above `MAX_SCANS`."""
    count = data.count(b"\xff\xda")  # more than the scans, where metadata holds these bytes
    if count <= MAX_SCANS:
        return count
    count, position = 0, 0
    while count <= MAX_SCANS and (found := _JPEG_MARKER.search(data, position)):
        marker, position = found.group(1)[0], found.end()
        if marker == _EOI:
            break
        if marker not in _WITHOUT_LENGTH:
            count += marker == _SOS
            position += int.from_bytes(data[position : position + 2], "big")
    return count


def _codestream(data: bytes) -> bytes:
    """The codestream of a JPEG 2000 file: the whole file, or the content of its box `jp2c`; empty if there is none."""
    if data.startswith(_SOC):
        return data
    position = 0
    while position + 16 <= len(data):
        length, kind, long_length = struct.unpack_from(">I4sQ", data, position)
        if kind == b"jp2c":
            return data[position + (16 if length == 1 else 8) :]
        if length == 0:  # the last box
            break
        position += max(long_length if length == 1 else length, 8)
    return b""


def _count_code_blocks(stream: bytes) -> int:
    """About as many code blocks as a JPEG 2000 codestream has; 0 for one that is cut short, which no decoder reads.

    Source: ITU-T T.800, annex A (markers).
    """
    try:
        right, bottom, left, top = struct.unpack_from(">4I", stream, 8)
        (components,) = struct.unpack_from(">H", stream, 40)
        area = components * max(right - left, 0) * max(bottom - top, 0)
        return int(area * max(_block_densities(stream, components), default=0.0))
    except (struct.error, IndexError):
        return 0


def _block_densities(stream: bytes, components: int) -> Iterator[float]:
    """Code blocks per sample, for each marker that sets their size: in the main header or before a tile's data."""
    position, tile_end = len(_SOC), 0
    while position + 4 <= len(stream):
        marker, length = struct.unpack_from(">HH", stream, position)
        if marker == _SOT:
            tile_end = position + (struct.unpack_from(">I", stream, position + 6)[0] or len(stream))
        elif marker == _SOD:
            if tile_end <= position:
                return
            position = tile_end
            continue
        elif marker == _COD:
            yield _block_density(stream, position + 9, stream[position + 4])
        elif marker == _COC:
            style = position + (5 if components < 257 else 6)
            yield _block_density(stream, style + 1, stream[style])
        position += 2 + max(length, 2)


def _block_density(stream: bytes, start: int, style: int) -> float:
    """Code blocks per sample of the image; no code block is larger than its precinct.

    Source: ITU-T T.800, A.6.1 (the parameters) and B.7 (the size of a code block).

    Args:
        stream: with the parameters (levels, block width, block height, …).
        start: of the parameters.
        style: if its bit 0 is set, the parameters end with a precinct size for each resolution.
    """
    levels, *exponents = stream[start], stream[start + 1], stream[start + 2]
    total = 0.0
    for resolution in range(levels + 1):
        precinct = stream[start + 5 + resolution] if style & 1 else 0xFF
        halved = resolution > 0  # a precinct covers three bands of half its width and height
        sides = (
            min((exponent & 15) + 2, max(limit - halved, 0))
            for exponent, limit in zip(exponents, (precinct & 15, precinct >> 4), strict=True)
        )
        total += 4.0 ** (resolution - levels) / 2 ** sum(sides)
    return total
