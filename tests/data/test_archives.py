"""Images in tar and zip archives: names, places, damage, and the layouts that read them."""

from __future__ import annotations

import pickle
import tarfile
import zipfile

import numpy as np
import pytest

from beit.data.archives import read_archive
from beit.data.check import check_split, overlap
from beit.data.dataset import build_dataset
from beit.data.image_list import check_files
from beit.data.images import ImageError
from beit.data.sampler import Sample
from beit.data.splits import open_split, open_unlabeled
from beit.data.tars import scan_tar
from tests.data.packed import gray, png, tar_bytes, write_tar, write_tree, write_zip
from tests.tiny import tiny_config

CLASSES = {
    f"{name}/{number} ä.png": png(10 * label + number)
    for label, name in enumerate("ab")
    for number in range(3)
}
LONG = "n" * 90 + "/" + "x" * 90 + ".png"


def opened(images):
    values = []
    for index in range(len(images)):
        with images.open(index) as file:
            values.append(gray(file.decode()))
    return values


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_of_a_tar_are_those_of_tarfile(tmp_path, layout):
    path = write_tar(tmp_path / "a.tar", {**CLASSES, LONG: png(9), "empty": b""}, layout)
    with tarfile.open(path) as tar:
        expected = [(info.name, info.offset_data, info.size) for info in tar]
    assert [member[:3] for member in scan_tar(path)] == expected and len(expected) == 8


def test_a_tar_in_a_tar_is_a_folder_and_hidden_files_are_left_out(tmp_path):
    inner = tar_bytes({"1.png": png(1), ".DS_Store": b""})
    path = write_tar(tmp_path / "train.tar", {"./n1.tar": inner, "./._n1.tar": b"", "n2/2.png": png(2)})
    assert read_archive(path).names == ("n1/1.png", "n2/2.png")


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_damaged_headers_end_with_a_message_that_names_the_archive(tmp_path, layout):
    files = {LONG: bytes(700), "a/1.png": bytes(700), "ä.png": bytes(10)}
    whole, rng = tar_bytes(files, layout), np.random.default_rng(0)
    path, refused = tmp_path / "train.tar", 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(len(whole.rstrip(b"\0")))] = rng.choice([0, 32, 47, 48, 56, 57, 120, 255])
        path.write_bytes(data[: rng.integers(len(data) // 2, len(data))])
        try:
            members = list(scan_tar(path))
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
        else:
            assert all(member.start + member.size <= path.stat().st_size for member in members)
    assert refused > 100


@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_an_archive_with_one_folder_of_its_own_name_is_that_folder(tmp_path, write):
    ending = "tar" if write is write_tar else "zip"
    path = write(tmp_path / f"train.{ending}", {f"train/{name}": data for name, data in CLASSES.items()})
    assert read_archive(path).names == tuple(CLASSES)


def layouts(folder):
    """The same images in every form: files, tars, stored and deflated zips, one zip of all, official names."""
    splits = {f"{split}/{name}": data for split in ("train", "val") for name, data in CLASSES.items()}
    yield write_tree(folder / "files", splits)
    for number, split in enumerate(("train", "val")):
        write_tar(folder / "tars" / f"{split}.tar", CLASSES)
        method = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[number]
        write_zip(folder / "zips" / f"{split}.zip", CLASSES, method)
        nested = {
            f"{name}.tar": tar_bytes({k[2:]: v for k, v in CLASSES.items() if k[0] == name}) for name in "ab"
        }
        write_tar(folder / "official" / f"ILSVRC2012_img_{split}.tar", nested)
    yield from (folder / "tars", folder / "zips", folder / "official")
    yield write_zip(folder / "all.zip", splits)
    yield write_zip(folder / "deep.zip", {f"x/y/{k}": v for k, v in splits.items()}) / "x" / "y"


def test_class_folders_are_the_same_in_every_form(tmp_path):
    roots = list(layouts(tmp_path))
    for split in ("train", "val"):
        lists = [
            open_split(tiny_config(root, tmp_path, DATA__DATASET="folder", MODEL__NUM_CLASSES=2), split)
            for root in roots
        ]
        for images in lists:
            assert images.fingerprint() == lists[0].fingerprint() and images.class_names == ("a", "b")
            assert opened(images) == [0, 1, 2, 10, 11, 12] and check_files(images) == []


@pytest.mark.parametrize("dataset", ["imagenet2012", "folder", "flat"])
def test_a_data_set_reads_the_same_arrays_in_every_form_also_in_workers(tmp_path, dataset):
    expected = None
    for root in layouts(tmp_path):
        if dataset == "imagenet2012":
            if not root.is_dir():
                continue
            for split in ("train", "val"):
                lines = [
                    f"{split}/{name} {label}\n"
                    for name, label in zip(CLASSES, [0, 0, 0, 1, 1, 1], strict=True)
                ]
                (root / f"{split}_list.txt").write_text("".join(lines), encoding="utf-8")
        config = tiny_config(root, tmp_path, DATA__DATASET=dataset, MODEL__NUM_CLASSES=2)
        if dataset == "flat":
            arrays = opened(open_unlabeled(config, "val"))
        else:
            data = pickle.loads(pickle.dumps(build_dataset(config, "train")))
            items = [data[Sample(index, 7)] for index in range(len(data))]
            arrays = [(item["image"].tobytes(), int(item["label"]), int(item["index"])) for item in items]
        expected = expected or arrays
        assert arrays == expected


def test_archives_are_named_in_notes_and_messages(tmp_path):
    write_tar(tmp_path / "train.tar", {"a/1.png": png(1), "a/2.png": b"no image"})
    (tmp_path / "train_list.txt").write_text("train/a/1.png 0\ntrain/a/2.png 0\ntrain/a/3.png 0\n")
    config = tiny_config(tmp_path, tmp_path)
    images = open_split(config, "train")
    assert images.notes[-1].endswith("images are read from train.tar, without unpacking")
    assert [path.name for path in check_files(images)] == ["3.png"]
    bad = tmp_path / "bad_images.txt"
    data = build_dataset(config, "train", bad_images=bad)
    assert data[Sample(1, 0)]["index"] == 0 == data[Sample(2, 0)]["index"]
    first, second, third = bad.read_text().splitlines()
    assert first.startswith(f"{tmp_path}/train/a/2.png\tno image in one of the formats") and third.startswith(
        f"{tmp_path}/train/a/3.png\tno such member in the archive"
    )
    with pytest.raises(ImageError, match=r"train/a/2\.png: no image.*image 1 of the list"):
        build_dataset(config, "train")[Sample(1, 0)]


def test_a_cut_off_tar_names_archive_and_member(tmp_path):
    path = write_tar(tmp_path / "train.tar", {"a/1.png": bytes(2000), "a/2.png": bytes(2000)})
    whole = path.read_bytes()
    path.write_bytes(whole[: 512 + 2048 + 512 + 100])
    with pytest.raises(
        ValueError, match=r"train\.tar is cut off in the member a/2\.png, which ends at byte 5072 of"
    ):
        read_archive(path)
    for length in (512 + 2048, 512 + 2048 + 40):  # between two members, inside a header
        path.write_bytes(whole[:length])
        with pytest.raises(
            ValueError, match=r"cut off after the member a/1\.png: it has no end-of-archive mark"
        ):
            read_archive(path)
    path.write_bytes(whole[:2560] + b"x" * 512 + whole[3072:])
    with pytest.raises(ValueError, match=r"damaged header at byte 2560, after the member a/1\.png"):
        read_archive(path)
    path.write_bytes(whole + whole)
    with pytest.raises(ValueError, match="more data follow its end-of-archive mark"):
        read_archive(path)


def test_an_archive_that_is_cut_off_during_a_run(tmp_path):
    path = write_tar(tmp_path / "train.tar", {"a/1.png": png(1)})
    config = tiny_config(tmp_path, tmp_path, DATA__DATASET="folder", MODEL__NUM_CLASSES=1)
    write_tar(tmp_path / "val.tar", {"a/1.png": png(1)})
    images = open_split(config, "train")
    path.write_bytes(path.read_bytes()[:550])
    with pytest.raises(ImageError, match=r"a/1\.png: .*train\.tar ends inside this member: it was cut off"):
        images.open(0)
    path.unlink()
    with pytest.raises(ImageError, match="No such file"):
        images.open(0)


def test_names_in_zips_that_are_not_marked_as_utf8(tmp_path):
    path = write_zip(tmp_path / "train.zip", {"XXXXXX/1.png": png(1)})
    packed = path.read_bytes()
    path.write_bytes(packed.replace(b"XXXXXX", "天空".encode()))
    assert read_archive(path).names == ("天空/1.png",)
    path.write_bytes(packed.replace(b"XXXXXX", "天空花".encode("gbk")))
    with pytest.raises(
        ValueError, match=r"train\.zip: the letters of the member b'.*' are in an unknown encoding"
    ):
        read_archive(path)
    assert read_archive(write_zip(tmp_path / "val.zip", {"花/1.png": png(1)})).names == ("花/1.png",)


def test_damaged_zips(tmp_path):
    path = write_zip(tmp_path / "train.zip", {"a/1.png": png(1, (64, 64))}, zipfile.ZIP_STORED)
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(ValueError, match=r"train\.zip is not a zip file, or is cut off .*copy it again"):
        read_archive(path)
    config = tiny_config(tmp_path, tmp_path, DATA__DATASET="folder", MODEL__NUM_CLASSES=1)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        write_zip(path, {"a/1.png": np.random.default_rng(0).bytes(400)}, method)
        whole = bytearray(path.read_bytes())
        whole[200] ^= 1
        path.write_bytes(whole)
        with pytest.raises(
            ImageError, match=r"a/1\.png: the checksum in the archive differs|cannot be unpacked"
        ):
            open_unlabeled(config, "train").read(0)
    path.write_bytes(path.read_bytes().replace(b"PK\x03\x04", b"PK\x03\x05"))
    with pytest.raises(ImageError, match="has no header for this member"):
        open_unlabeled(config, "train").read(0)


def test_a_zip_member_unpacks_to_at_most_its_stated_size(tmp_path):
    path = write_zip(tmp_path / "train.zip", {"a/1.png": bytes(10**6)})
    size = (10**6).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(size, (1000).to_bytes(4, "little")))
    images = open_unlabeled(tiny_config(tmp_path, tmp_path, DATA__DATASET="folder"), "train")
    with pytest.raises(ImageError, match="unpacks to another number of bytes than the 1000"):
        images.read(0)
    write_zip(path, {"a/1.png": bytes(10**6)})
    path.write_bytes(path.read_bytes().replace(size, (2**31).to_bytes(4, "little")))
    images = open_unlabeled(tiny_config(tmp_path, tmp_path, DATA__DATASET="folder"), "train")
    with pytest.raises(ImageError, match="2147483648 bytes; an image has at most"):
        images.read(0)


@pytest.mark.parametrize("name", ["../x.png", "/etc/x.png", "a/../../x.png", "C:/x.png", "a\\..\\..\\x.png"])
@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_names_that_leave_the_archive_are_refused(tmp_path, name, write):
    path = write(tmp_path / ("a.tar" if write is write_tar else "a.zip"), {name: png(1)})
    with pytest.raises(ValueError, match="leaves the archive"):
        read_archive(path)


def test_a_member_of_negative_size_is_damage(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a/1.png")
        info.pax_headers = {"size": "-2000"}
        tar.addfile(info)
    with pytest.raises(ValueError, match=r"a\.tar: damaged header at byte 0"):
        read_archive(path)


def test_links_and_unknown_compression_are_refused(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("a/1.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(ValueError, match=r"the member a/1\.png is a link or a special file"):
        read_archive(path)
    with pytest.raises(ValueError, match="compression method 12"):
        read_archive(write_zip(tmp_path / "a.zip", {"1.png": b"x"}, zipfile.ZIP_BZIP2))


def test_two_archives_for_one_folder_and_compressed_ones_are_refused(tmp_path):
    write_tar(tmp_path / "train.tar", CLASSES)
    write_zip(tmp_path / "train.zip", CLASSES)
    config = tiny_config(tmp_path, tmp_path, DATA__DATASET="folder")
    with pytest.raises(ValueError, match="both stand for train/; keep one"):
        open_split(config, "train")
    (tmp_path / "train.zip").unlink()
    (tmp_path / "val.tar.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"val\.tar\.gz is compressed as a whole.*decompress it to val\.tar"):
        open_split(config, "val")


def test_a_list_with_files_and_members_of_archives_is_refused(tmp_path):
    write_tar(tmp_path / "train.tar", {"a/1.png": png(1)})
    write_tree(tmp_path / "more", {"2.png": png(2)})
    (tmp_path / "train_list.txt").write_text("train/a/1.png 0\nmore/2.png 0\n")
    with pytest.raises(ValueError, match=r"images in train\.tar and others, such as more/2\.png"):
        open_split(tiny_config(tmp_path, tmp_path), "train")


def test_an_archive_beside_images_is_not_their_training_split(tmp_path):
    write_tree(tmp_path, {"1.png": png(1)})
    write_tar(tmp_path / "train.tar", CLASSES)
    config = tiny_config(tmp_path, tmp_path, DATA__DATASET="flat")
    images = open_unlabeled(config, "train")
    assert opened(images) == [1] and any("1 .tar (train.tar)" in note for note in images.notes)
    (tmp_path / "1.png").unlink()
    assert len(open_unlabeled(config, "train")) == 6


@pytest.mark.parametrize("name", ["pictures.zip", "pictures.tar"])
def test_an_archive_of_images_without_splits(tmp_path, name):
    path = (write_zip if name.endswith("zip") else write_tar)(
        tmp_path / name, {"x/2.png": png(2), "1.png": png(1), "a.txt": b""}
    )
    config = tiny_config(path, tmp_path, DATA__DATASET="flat")
    images = open_unlabeled(config, "train")
    assert opened(images) == [1, 2] and any("1 .txt (a.txt)" in note for note in images.notes)
    assert open_unlabeled(config, "val") is None


def test_check_opens_the_images_of_archives_in_several_processes(tmp_path):
    write_tar(tmp_path / "train.tar", {**CLASSES, "a/broken.png": b"no image"})
    write_zip(tmp_path / "val.zip", CLASSES)
    config = tiny_config(tmp_path, tmp_path, DATA__DATASET="folder", MODEL__NUM_CLASSES=2)
    reports = [
        check_split(split, build_dataset(config, split), 2, 4, workers=2) for split in ("train", "val")
    ]
    assert [len(report.checks) for report in reports] == [7, 6]
    assert [problem.split(": ", 1)[0] for problem in reports[0].problems] == [
        f"{tmp_path}/train.tar/a/broken.png"
    ]
    assert len(overlap(*reports)) == 6 and "has the bytes of" in overlap(*reports)[0]


def test_reads_of_a_tar_do_not_depend_on_their_order(tmp_path):
    files = {f"a/{number}.png": png(number) for number in range(40)}
    write_tar(tmp_path / "train.tar", files)
    images = open_unlabeled(tiny_config(tmp_path, tmp_path, DATA__DATASET="folder"), "train")
    order = np.random.default_rng(0).permutation(40).tolist()
    assert [images.read(index) for index in order] == [files[images.name(index)] for index in order]
