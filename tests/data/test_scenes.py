from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from beit.data.digits import write_digits
from beit.data.scenes import CLASS_NAMES, IMAGES, SIZE, draw_scene, write_scenes


def test_the_same_scenes_every_time_in_the_documented_layout(tmp_path):
    write_scenes(tmp_path / "a", images={"train": 4, "val": 2})
    write_scenes(tmp_path / "b", images={"train": 4, "val": 2})
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 2 * 6 + 2
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    with Image.open(tmp_path / "a/masks/val/scene_0001.png") as mask:
        assert (mask.mode, mask.size) == ("L", SIZE)
    assert IMAGES["train"] > IMAGES["val"]


def test_every_class_is_drawn_and_labels_match_the_image():
    found = set()
    for seed in range(10):
        image, labels = draw_scene(np.random.default_rng(seed))
        classes, pixels = np.array(labels), np.array(image).astype(int)
        found |= set(np.unique(classes))
        # Trees are dark, the sky is bright: the labels are at the places of the colors.
        if (classes == 4).any():
            assert pixels[classes == 4].mean() < pixels[classes == 0].mean()
    assert found == set(range(len(CLASS_NAMES)))


@pytest.mark.parametrize(("write", "name"), [(write_scenes, "palette.txt"), (write_digits, "train_list.txt")])
def test_demo_data_do_not_replace_the_lists_of_other_data(write, name, tmp_path):
    write(tmp_path / "demo")
    before = (tmp_path / "demo" / name).read_bytes()
    write(tmp_path / "demo")  # its own files may be written again
    assert (tmp_path / "demo" / name).read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("mine")
    with pytest.raises(ValueError, match=f"{name} exists and has other content.*name a new folder"):
        write(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == [name]
    assert (tmp_path / "mine" / name).read_text() == "mine"
