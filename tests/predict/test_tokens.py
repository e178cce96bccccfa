"""Images of the codes of a tokenizer."""

from __future__ import annotations

import numpy as np
import pytest

from beit.checkpoint.files import write
from beit.predict.tokens import draw_tokens, store_features
from tests.checkpoint import publishers
from tests.tiny import tiny_config, write_dataset

VQKD = {"CODE_DIM": 4, "NUM_CODES": 7, "PATCH_SIZE": 4, "EMBED_DIM": 24, "DEPTH": 2, "NUM_HEADS": 3}
DALLE = {"TYPE": "dall-e", "DALLE_WIDTH": 8, "DALLE_CODE_WIDTH": 4, "NUM_CODES": 16}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"), train=3, val=5)


def config(data, tmp_path, keys, **more):
    given = {f"TOKENIZER__{name}": value for name, value in keys.items()}
    sizes = {"DATA__IMAGE_SIZE": 12, "MODEL__PATCH_SIZE": 4, "TASK": "pretrain"}
    return tiny_config(data, tmp_path, **given, **sizes, **more)


def test_images_of_vqkd_codes(data, tmp_path):
    write(tmp_path / "vqkd.pdparams", {"model": publishers.unilm_vqkd(np.random.default_rng(3))})
    keys = VQKD | {"PRETRAINED": str(tmp_path / "vqkd.pdparams")}
    drawn = draw_tokens(config(data, tmp_path, keys))
    assert drawn["code map"].size == (36, 5 * 12)
    assert drawn["codebook"].size == (640, 320)
    assert drawn["reconstruction"].size == (5 * 12, 24)
    shown = [int(name.removeprefix("code ")) for name in drawn if name[5:].isdigit()]
    assert shown
    assert (
        list(draw_tokens(config(data, tmp_path, keys), codes=(shown[0],), images=2))[2] == f"code {shown[0]}"
    )
    with pytest.raises(ValueError, match="has code 99"):
        draw_tokens(config(data, tmp_path, keys), codes=(99,))


def test_images_of_dalle_codes_with_reconstructions(data, tmp_path):
    rng = np.random.default_rng(5)
    write(tmp_path / "encoder.pdparams", publishers.dalle(rng))
    write(tmp_path / "decoder.pdparams", publishers.dalle(rng, decoder=True))
    keys = DALLE | {"PRETRAINED": str(tmp_path / "encoder.pdparams")}
    keys |= {"PRETRAINED_DECODER": str(tmp_path / "decoder.pdparams")}
    drawn = draw_tokens(config(data, tmp_path, keys))
    assert drawn["code map"].size == (72, 5 * 24)
    assert drawn["reconstruction"].size == (5 * 24, 48)


def test_missing_weights_are_refused(data, tmp_path):
    with pytest.raises(ValueError, match="set TOKENIZER.PRETRAINED"):
        draw_tokens(config(data, tmp_path, VQKD))
    with pytest.raises(ValueError, match="set TOKENIZER.TEACHER to a network"):
        store_features(config(data, tmp_path, VQKD), tmp_path)
