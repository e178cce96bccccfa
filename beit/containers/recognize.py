"""The kind of a file by its first bytes: names and extensions are often wrong."""

from __future__ import annotations

import io

from beit.containers.errors import CheckpointError
from beit.containers.torch_files import LEGACY_MAGIC

_HEAD_BYTES = 512

# First bytes of other files that are often saved under the name of a checkpoint, what they are and what to do.
_OTHER_FILES = (
    (
        b"version https://git-lfs",
        "a git-lfs pointer, not the weights; run `git lfs pull`, or download the file itself",
    ),
    (b"\x1f\x8b", "gzip-compressed; unpack it first (gunzip, or tar -xzf for a .tar.gz)"),
    (b"BZh", "bzip2-compressed; unpack it first"),
    (b"\xfd7zXZ", "xz-compressed; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"Rar!", "a rar archive; unpack it first"),
    (b"\x89PNG", "a PNG image, not a checkpoint"),
    (b"\xff\xd8\xff", "a JPEG image, not a checkpoint"),
    (b"GIF8", "a GIF image, not a checkpoint"),
    (b"RIFF", "a WebP image or another RIFF file, not a checkpoint"),
    (b"%PDF", "a PDF document, not a checkpoint"),
    (b"\x89HDF", "an HDF5 file (Keras?), a form in which no BEiT weights are published"),
    (b"\x93NUMPY", "a NumPy array, not a checkpoint of named tensors"),
    (b"\x7fELF", "a program, not a checkpoint"),
)


def container_of(file: io.BufferedIOBase, size: int) -> str:
    """The form of a checkpoint: "pickle", "torch zip", "torch legacy" or "safetensors".

    Raises:
        CheckpointError: another kind of file; the message names it if its first bytes are known.
    """
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    if size == 0:
        raise CheckpointError("empty (0 bytes): the download or the writing stopped; get it again")
    if head.startswith(b"PK\3\4"):
        return "torch zip"
    if head.startswith(LEGACY_MAGIC):
        return "torch legacy"
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return "pickle"
    if head[8:9] == b"{" and (head[5:8] == b"\0\0\0" or head[9:10] == b'"'):
        return "safetensors"
    for beginning, text in _OTHER_FILES:
        if head.startswith(beginning):
            raise CheckpointError(text)
    if head.lstrip()[:1] == b"<":
        raise CheckpointError(
            "a web page (HTML or XML), not weights; open the link in a browser, or use the direct link"
        )
    if head.lstrip()[:1] == b"{":
        raise CheckpointError(
            "an exported graph of Paddle, not weights; name the weights that it was exported from"
            if b'"base_code"' in head
            else "JSON, not weights; name the folder or the weights beside it"
        )
    if head[257:262] == b"ustar":
        raise CheckpointError("a tar archive; unpack it first")
    if not head.strip(b"\0"):
        raise CheckpointError("filled with zeros: the download or the writing stopped; get it again")
    if head[:1] in b"c(]}iIFSVNl":
        return "pickle"  # perhaps: protocols 0 and 1 have no magic number
    raise CheckpointError(
        f"not a checkpoint of a known form (it begins with {head[:8]!r}); known are .pdparams, PyTorch's .pth "
        "and .pkl, and .safetensors"
    )
