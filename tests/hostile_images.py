"""Small files that claim to be large images, or whose decoding takes long, for tests of the limits."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of an image file of a Pillow format."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def progressive_jpeg(jpeg: bytes, scans: int) -> bytes:
    """A progressive JPEG with so many scans: those that are added say that nothing changes.

    Args:
        jpeg: a progressive JPEG of at most 16384 blocks.
        scans: of the result.
    """
    # A Huffman table whose only code, 0, is a run of 2^14 + (14 bits) blocks without coefficients.
    table = b"\xff\xc4" + struct.pack(">HB", 20, 0x10) + bytes([1] + [0] * 15) + b"\xe0"
    # One component, coefficient 63; the code 0 and fourteen zero bits. The last bit fills the byte.
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x3f\x3f\x00" + b"\x00\x01"
    return jpeg[:-2] + table + scan * (scans - jpeg.count(b"\xff\xda")) + jpeg[-2:]


def run_length_bmp(width: int, height: int, data: bytes) -> bytes:
    """A BMP with 8-bit run-length encoding: pairs of count and gray level, (0, 1) at the end."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 0, 2835, 2835, 256, 0)
    palette = b"".join(bytes([level, level, level, 0]) for level in range(256))
    start = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + header + palette + data


def tiff_with_tile(side: int, tile: int) -> bytes:
    """A gray TIFF of `side` x `side` pixels in one tile of `tile` x `tile`."""
    data = zlib.compress(bytes(min(tile * tile, 2**20)))
    tags = {
        256: side, 257: side, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile, 324: 8 + 2 + 12 * 10 + 4, 325: len(data),
    }  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\x00" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + data


def jpeg_2000_with_blocks(side: int, *, boxed: bool, block: int = 4, mode: str = "L") -> bytes:
    """A JPEG 2000 that claims `side` x `side` pixels in code blocks of `block` x `block`, without their data."""
    file = bytearray(
        encoded(Image.new(mode, (64, 64)), "JPEG2000", no_jp2=not boxed, codeblock_size=(block, block))
    )
    size = (
        file.index(b"\xff\x4f\xff\x51") + 8
    )  # behind the markers SOC and SIZ: width, height, two offsets, tile
    struct.pack_into(">II", file, size, side, side)
    struct.pack_into(">II", file, size + 16, side, side)
    if boxed:
        struct.pack_into(">II", file, file.index(b"ihdr") + 4, side, side)
    return bytes(file)


def jpeg_2000_with_box(size: int) -> bytes:
    """A JPEG 2000 whose header box claims so many bytes."""
    signature = b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\x14ftypjp2 \0\0\0\0jp2 "
    return signature + b"\0\0\0\1jp2h" + struct.pack(">Q", size) + bytes(100)
