"""Figures of runs: their contents, not only that they exist."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from PIL import Image

import beit
from beit.__main__ import main
from beit.checkpoint.files import write
from beit.config import with_options
from beit.data.images import ImageError
from beit.predict.run_figures import (
    draw_augmentation,
    draw_masked,
    draw_schedule,
    read_curves,
    save_images,
)
from tests.tiny import SEGMENT, TINIEST_PRETRAIN, TINY, options, tiny_config, write_dataset


def save(layer, path):
    write(path, {name: value.numpy() for name, value in layer.state_dict().items()})
    return str(path)


@pytest.fixture
def pretraining(tmp_path):
    """Keys of a pre-training run with the weights of model and tokenizer."""
    data = write_dataset(tmp_path / "data", val=2)
    keys = TINIEST_PRETRAIN | {"MASK__RULE": "random"}
    keys |= {"DATA__DATA_PATH": str(data), "SAVE": str(tmp_path / "out")}
    config = tiny_config(**keys)
    paddle.seed(0)
    tokenizer = beit.build_tokenizer(config)
    keys["TOKENIZER__PRETRAINED"] = save(tokenizer.encoder, tmp_path / "encoder.pdparams")
    keys["TOKENIZER__PRETRAINED_DECODER"] = save(tokenizer.decoder, tmp_path / "decoder.pdparams")
    keys["MODEL__PRETRAINED"] = save(beit.build_mim(config), tmp_path / "mim.pdparams")
    return keys


def test_masked_images_with_reconstructions(pretraining, tmp_path):
    width, height = draw_masked(tiny_config(**pretraining)).size
    assert width == 2 * height  # two images in rows; original, masked, tokens, prediction in columns
    assert height % 2 == 0


def test_more_masked_images_than_a_preview_has(pretraining, tmp_path):
    pretraining["DATA__DATA_PATH"] = str(write_dataset(tmp_path / "more", val=11))
    config = tiny_config(**pretraining)
    few, all_images = (np.asarray(draw_masked(config, count)) for count in (8, 40))
    assert len(all_images) == len(few) * 11 // 8
    np.testing.assert_array_equal(all_images[: len(few)], few)


def test_an_image_that_cannot_be_read_is_not_replaced_in_a_figure(pretraining, tmp_path):
    config = tiny_config(**pretraining)
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageError, match=r"empty.png: an empty file"):
        beit.draw_augmentation(config, [tmp_path / "empty.png"])
    assert not (tmp_path / "out" / "bad_images.txt").exists()


def test_training_views_of_a_segmentation_model_need_label_maps(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    for split in ("train", "val"):
        for kind, image in (("images", pixels), ("masks", pixels[..., 0] % 4)):
            (tmp_path / kind / split).mkdir(parents=True)
            Image.fromarray(image).save(tmp_path / kind / split / "a.png")
    config = tiny_config(**SEGMENT | {"DATA__DATA_PATH": str(tmp_path), "SAVE": str(tmp_path / "out")})
    with pytest.raises(
        ValueError, match="TASK: segment need the label map of each image: leave out the images"
    ):
        beit.draw_augmentation(config, [tmp_path / "images" / "train" / "a.png"])
    figure = beit.draw_augmentation(config)
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), pixels)


@pytest.mark.parametrize("kind", ["masked", "codes"])
def test_visualize_masked_and_codes(pretraining, kind, capfd):
    opts = map(str, options(TINY | pretraining))
    assert main(["visualize", kind, "-opts", *opts]) == 0
    names = {line.rsplit("/", 1)[1] for line in capfd.readouterr().out.split()}
    assert names >= {"codes": {"code_map.png", "codebook.png"}, "masked": set()}[kind] and names


def test_small_images_are_enlarged_by_a_whole_factor(tmp_path):
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    (path,) = save_images({"a, b": Image.fromarray(pixels)}, tmp_path / "new")
    assert path.name == "a_b.png"
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image)[::100, ::100], pixels)


def test_schedule_counts_the_training_images(tmp_path):
    config = tiny_config(write_dataset(tmp_path / "data"), tmp_path / "out", TRAIN__LAYER_DECAY=0.5)
    lr, decay, layers = draw_schedule(config).axes
    assert lr.get_title() == "learning rate, total batch 4"
    assert lr.get_xlabel() == "epoch of 6 steps"  # 24 images
    assert max(lr.lines[0].get_ydata()) == pytest.approx(config.TRAIN.BASE_LR)
    assert decay.lines[0].get_xdata()[-1] == pytest.approx(11 / 6)
    assert [bar.get_height() for bar in layers.patches] == [0.125, 0.25, 0.5, 1.0]


def test_curves_of_a_run_that_was_resumed_and_killed(tmp_path):
    lines = [
        '{"step": 1, "train/loss": 3}',
        '{"step": 2, "train/loss": 9}',
        '{"step": 2, "train/loss": 2, "train/x": null}',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 3, "tra']))
    assert read_curves(tmp_path / "metrics.jsonl") == {"train/loss": {1: 3, 2: 2}}


def test_views_and_schedule_of_pretraining_need_no_tokenizer(pretraining):
    del pretraining["TOKENIZER__PRETRAINED"]
    config = tiny_config(**pretraining | {"TOKENIZER__ALLOW_RANDOM": False})
    assert len(draw_augmentation(config, count=1).axes) == 8
    assert len(draw_schedule(config).axes) == 3
    with pytest.raises(ValueError, match="TOKENIZER.PRETRAINED names no file"):
        draw_masked(with_options(config, ["MODEL.PRETRAINED", "model.pdparams"]))
