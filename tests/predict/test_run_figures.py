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


def shown(figure):
    """The images of a figure, and their titles."""
    axes = [axis for axis in figure.axes if axis.images]
    return [np.asarray(axis.images[0].get_array()) for axis in axes], [axis.get_title() for axis in axes]


def test_masked_images_with_reconstructions(pretraining, tmp_path):
    images, titles = shown(draw_masked(tiny_config(**pretraining)))
    assert titles == ["image", "masked", "tokens\ndecoded", "prediction\ndecoded", "", "", "", ""]
    original, masked, tokens, prediction = images[4:]
    is_gray = (masked == 127).all(-1)
    assert 0 < is_gray.mean() < 1
    np.testing.assert_array_equal(original[~is_gray], masked[~is_gray])
    assert (tokens != original).any() and (tokens != prediction).any()


def test_masked_images_without_a_decoder_show_the_mean_patch_of_each_token(pretraining, tmp_path):
    decoded, _ = shown(draw_masked(tiny_config(**pretraining)))
    del pretraining["TOKENIZER__PRETRAINED_DECODER"]
    (tmp_path / "data" / "my images" / "train_0.png").write_bytes(b"")
    config = tiny_config(**pretraining)
    means, titles = shown(draw_masked(config))
    assert titles[2:4] == ["tokens\nas mean patches", "prediction\nas mean patches"]
    for column, is_same in enumerate((True, True, False, False)):
        assert np.array_equal(means[column], decoded[column]) == is_same
    assert means[2].std() > 0 and (means[2] != means[3]).any()
    assert not (tmp_path / "out" / "bad_images.txt").exists()


def test_masked_images_are_spread_over_the_data(pretraining, tmp_path):
    pretraining["DATA__DATA_PATH"] = str(write_dataset(tmp_path / "more", val=11))
    config = tiny_config(**pretraining)
    few, (images, _) = shown(draw_masked(config, 2))[0], shown(draw_masked(config, 40))
    assert len(images) == 11 * 4  # more than one batch
    for row, index in enumerate((0, 5)):
        np.testing.assert_array_equal(few[4 * row], images[4 * index])


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
    assert names >= {"codes": {"code_map.png", "codebook.png"}, "masked": {"masked.png"}}[kind]


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
