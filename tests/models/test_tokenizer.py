"""Tokenizers from the files of each publisher: token ids compared with a NumPy forward, loading, errors."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

import beit
from beit.checkpoint.files import write
from beit.containers.errors import CheckpointError
from beit.models.load import load_pretrained
from beit.models.tokenizer import build_tokenizer, build_vqkd, tokenizer_image_size
from tests.checkpoint import publishers
from tests.models import dalle_numpy
from tests.reference_numpy import encode, layer_norm

MARGIN = 1e-4  # if the two nearest codes differ by less, rounding may decide
VQKD = {"CODE_DIM": 4, "NUM_CODES": 7, "PATCH_SIZE": 4, "EMBED_DIM": 24, "DEPTH": 2, "NUM_HEADS": 3}
VQKD |= {"DECODER_DEPTH": 1, "TEACHER_DIM": 6}
DALLE = {"TYPE": "dall-e", "DALLE_WIDTH": 8, "DALLE_CODE_WIDTH": 4, "NUM_CODES": 16}


def config(keys, *opts, image_size=12, patch_size=4):
    pairs = [item for key, value in keys.items() for item in (f"TOKENIZER.{key}", value)]
    sizes = ["DATA.IMAGE_SIZE", image_size, "MODEL.PATCH_SIZE", patch_size]
    return beit.get_config(opts=[*pairs, *sizes, *opts])


def images(seed, side, batch=3):
    return np.random.default_rng(seed).random((batch, 3, side, side)).astype("float32")


def part(state, prefix):
    return {name[len(prefix) :]: array for name, array in state.items() if name.startswith(prefix)}


def task_layer(state, name, x):
    inner = np.tanh(x @ state[f"{name}.0.weight"].T + state[f"{name}.0.bias"])
    return inner @ state[f"{name}.2.weight"].T + state[f"{name}.2.bias"]


def vqkd_distances(state, pixels, heads=3):
    """Squared distances [B, N, K] of each patch's unit vector to the codes, float64."""
    encoder = part(state, "encoder.")
    tokens = encode(encoder, 2.0 * pixels - 1.0, heads)[:, 1:]
    z = task_layer(
        state, "encode_task_layer", layer_norm(tokens, encoder["fc_norm.weight"], encoder["fc_norm.bias"])
    )
    z = z / np.linalg.norm(z, axis=-1, keepdims=True)
    return ((z[:, :, None] - state["quantize.embedding.weight"].astype(np.float64)) ** 2).sum(-1)


def assert_same_ids(found, scores, smallest):
    """Ids equal those of the best score wherever the second best is further away than `MARGIN`, which is nearly everywhere."""
    best = scores.argmin(-1) if smallest else scores.argmax(-1)
    ordered = np.sort(scores, axis=-1)
    gap = ordered[..., 1] - ordered[..., 0] if smallest else ordered[..., -1] - ordered[..., -2]
    clear = gap > MARGIN
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(found[clear], best[clear])


@pytest.mark.parametrize("form", ["unilm", "openmmlab"])
def test_vqkd_ids_of_published_files_equal_numpy(tmp_path, form):
    state = publishers.unilm_vqkd(np.random.default_rng(3))
    tree = {"model": state} if form == "unilm" else publishers.openmmlab_vqkd(state)
    write(tmp_path / "tokenizer.pdparams", tree)
    tokenizer = build_tokenizer(config(VQKD, "TOKENIZER.PRETRAINED", str(tmp_path / "tokenizer.pdparams")))
    pixels = images(0, 12)
    ids = tokenizer.encode(paddle.to_tensor(pixels))
    assert ids.dtype == paddle.int64
    assert ids.shape == [3, 9]
    assert len(np.unique(ids.numpy())) > 1
    assert_same_ids(ids.numpy(), vqkd_distances(state, pixels), smallest=True)


def test_a_key_chooses_among_the_tokenizers_of_a_file(tmp_path):
    states = {
        name: publishers.unilm_vqkd(np.random.default_rng(k)) for k, name in enumerate(("first", "second"))
    }
    write(tmp_path / "both.pdparams", states)
    file = ["TOKENIZER.PRETRAINED", str(tmp_path / "both.pdparams")]
    with pytest.raises(ValueError, match=r"choose one by .*TOKENIZER\.PRETRAINED_KEY"):
        build_tokenizer(config(VQKD, *file))
    pixels = images(0, 12)
    for name, state in states.items():
        tokenizer = build_tokenizer(config(VQKD, *file, "TOKENIZER.PRETRAINED_KEY", name))
        ids = tokenizer.encode(paddle.to_tensor(pixels)).numpy()
        assert_same_ids(ids, vqkd_distances(state, pixels), smallest=True)


def test_the_whole_published_vqkd_loads_and_evaluates(tmp_path):
    state = publishers.unilm_vqkd(np.random.default_rng(4))
    extra = {"teacher_model.conv": np.ones(2, np.float32), "scaling_layer.shift": np.ones(3, np.float32)}
    model = build_vqkd(config(VQKD))
    report = load_pretrained(model, {"model": state | extra})
    assert set(report.dropped) == set(extra)
    assert not report.new
    model.eval()
    pixels = images(1, 12, batch=2)
    targets = np.random.default_rng(2).standard_normal((2, 9, 6)).astype("float32")
    with paddle.no_grad():
        found = model(paddle.to_tensor(pixels), paddle.to_tensor(targets))
    codes = state["quantize.embedding.weight"][found["ids"].numpy()].astype(np.float64)
    decoder = part(state, "decoder.")
    tokens = encode(decoder, codes.transpose(0, 2, 1).reshape(2, 4, 3, 3), 3)[:, 1:]
    rebuilt = task_layer(
        state, "decode_task_layer", layer_norm(tokens, decoder["fc_norm.weight"], decoder["fc_norm.bias"])
    )
    lengths = np.linalg.norm(rebuilt, axis=-1) * np.linalg.norm(targets, axis=-1)
    expected = 1.0 - ((rebuilt * targets).sum(-1) / lengths).mean()
    np.testing.assert_allclose(float(found["cosine_loss"]), expected, atol=1e-5)
    distances = vqkd_distances(state, pixels)
    np.testing.assert_allclose(
        float(found["commitment_loss"]), distances.min(-1).mean() / 4, rtol=1e-5
    )  # mean over the 4 channels, too


@pytest.mark.parametrize("form", ["openai", "passl", "huggingface"])
def test_dalle_ids_and_images_of_published_files_equal_numpy(tmp_path, form):
    rng = np.random.default_rng(5)
    encoder, decoder = publishers.dalle(rng), publishers.dalle(rng, decoder=True)
    for name, state in (("encoder", encoder), ("decoder", decoder)):
        write(tmp_path / f"{name}.pdparams", dalle_numpy.spelled(state, form))
    files = ["TOKENIZER.PRETRAINED", str(tmp_path / "encoder.pdparams")]
    files += ["TOKENIZER.PRETRAINED_DECODER", str(tmp_path / "decoder.pdparams")]
    tokenizer = build_tokenizer(config(DALLE, *files, image_size=12))
    pixels = images(6, 24, batch=2)
    ids = tokenizer.encode(paddle.to_tensor(pixels))
    assert ids.dtype == paddle.int64
    assert ids.shape == [2, 9]
    logits = dalle_numpy.encode(encoder, 0.8 * pixels + 0.1).transpose(0, 2, 3, 1).reshape(2, 9, 16)
    assert_same_ids(ids.numpy(), logits, smallest=False)
    np.testing.assert_allclose(
        tokenizer.decode(ids).numpy(), dalle_numpy.decode(decoder, ids.numpy().reshape(2, 3, 3)), atol=1e-5
    )


def test_a_key_chooses_among_the_decoders_of_a_file(tmp_path):
    write(tmp_path / "encoder.pdparams", publishers.dalle(np.random.default_rng(0)))
    decoders = {name: publishers.dalle(np.random.default_rng(k), decoder=True) for k, name in enumerate("ab")}
    write(tmp_path / "both.pdparams", decoders)
    files = ["TOKENIZER.PRETRAINED", str(tmp_path / "encoder.pdparams")]
    files += ["TOKENIZER.PRETRAINED_DECODER", str(tmp_path / "both.pdparams")]
    with pytest.raises(ValueError, match=r"choose one by .*TOKENIZER\.PRETRAINED_DECODER_KEY"):
        build_tokenizer(config(DALLE, *files))
    ids = np.arange(9).reshape(1, 9)
    for name, state in decoders.items():
        tokenizer = build_tokenizer(config(DALLE, *files, "TOKENIZER.PRETRAINED_DECODER_KEY", name))
        decoded = tokenizer.decode(paddle.to_tensor(ids)).numpy()
        np.testing.assert_allclose(decoded, dalle_numpy.decode(state, ids.reshape(1, 3, 3)), atol=1e-5)


def test_dalle_accepts_rectangles():
    tokenizer = build_tokenizer(config(DALLE))
    ids = tokenizer.encode(paddle.to_tensor(images(0, 32, batch=1)[:, :, :16]))
    assert ids.shape == [1, 8]
    assert tokenizer.decode(ids, (2, 4)).shape == [1, 3, 16, 32]
    with pytest.raises(ValueError, match="8 tokens do not fill a grid of 2x2"):
        tokenizer.decode(ids)
    with pytest.raises(ValueError, match="multiples of 8"):
        tokenizer.encode(paddle.to_tensor(images(0, 20, batch=1)))


def test_dalle_without_the_weights_of_its_decoder_only_encodes(tmp_path):
    write(tmp_path / "encoder.pdparams", publishers.dalle(np.random.default_rng(0)))
    tokenizer = build_tokenizer(config(DALLE, "TOKENIZER.PRETRAINED", str(tmp_path / "encoder.pdparams")))
    with pytest.raises(ValueError, match="PRETRAINED_DECODER"):
        tokenizer.decode(paddle.zeros([1, 4], "int64"))


def test_the_second_view_has_one_token_per_patch():
    assert tokenizer_image_size(config(DALLE, image_size=224, patch_size=16)) == (112, 112)
    assert tokenizer_image_size(config(DALLE, image_size=224, patch_size=8)) == (224, 224)
    assert tokenizer_image_size(config({}, image_size=(256, 384), patch_size=16)) == (256, 384)
    training = config({"PATCH_SIZE": 8}, "TASK", "tokenizer", image_size=64, patch_size=16)
    assert tokenizer_image_size(training) == (64, 64)


def test_positions_of_a_tokenizer_are_resized_to_the_grid(tmp_path):
    state = publishers.unilm_vqkd(np.random.default_rng(3))
    model = build_vqkd(config(VQKD, image_size=(16, 20)))
    report = load_pretrained(model, {"model": state})
    assert set(report.resized) == {"encoder.pos_embed", "decoder.pos_embed"}
    assert model.encode(paddle.zeros([1, 3, 16, 20])).shape == [1, 20]


def test_a_codebook_that_was_never_initialized_is_refused(tmp_path):
    state = publishers.unilm_vqkd(np.random.default_rng(3))
    state["quantize.embedding.initted"][:] = 0
    write(tmp_path / "tokenizer.pdparams", {"model": state})
    with pytest.raises(CheckpointError, match="never initialized"):
        build_tokenizer(config(VQKD, "TOKENIZER.PRETRAINED", str(tmp_path / "tokenizer.pdparams")))
    with pytest.raises(ValueError, match="never initialized"):
        build_tokenizer(config(VQKD)).encode(paddle.zeros([1, 3, 12, 12]))


def test_images_are_not_rescaled():
    tokenizer = build_tokenizer(config(VQKD | {"KMEANS_INIT": False}))
    with pytest.raises(ValueError, match=r"in \[0, 1\] of a floating type"):
        tokenizer.encode(paddle.zeros([1, 3, 12, 12], "uint8"))
    with pytest.raises(ValueError, match="12x12 pixels, got 16x16"):
        tokenizer.encode(paddle.zeros([1, 3, 16, 16]))
    # The ids of an image do not depend on other images of the batch (the official code rescales by the maximum).
    dark, bright = images(1, 12, batch=1) * 0.1, images(2, 12, batch=1) * 3.0
    together = tokenizer.encode(paddle.to_tensor(np.concatenate([dark, bright])))
    np.testing.assert_array_equal(together[:1].numpy(), tokenizer.encode(paddle.to_tensor(dark)).numpy())


def test_built_tokenizers_are_frozen_and_in_evaluation_mode():
    for keys in (VQKD, DALLE):
        tokenizer = build_tokenizer(config(keys))
        assert not tokenizer.training
        assert all(parameter.stop_gradient for parameter in tokenizer.parameters())


def test_the_patch_must_divide_the_image():
    with pytest.raises(ValueError, match=r"not a multiple of TOKENIZER\.PATCH_SIZE = 5"):
        build_vqkd(config(VQKD | {"PATCH_SIZE": 5}, "TASK", "tokenizer"))


@pytest.mark.parametrize("heads", [5, 64])
def test_heads_that_do_not_divide_the_width_are_refused(heads):
    with pytest.raises(
        ValueError, match=rf"EMBED_DIM = 24 is not a multiple of TOKENIZER.NUM_HEADS = {heads}; change"
    ):
        build_vqkd(config({"EMBED_DIM": 24, "NUM_HEADS": heads, "PATCH_SIZE": 4}))


def test_config_keys_have_an_effect():
    keys = VQKD | {"CODEBOOK_DECAY": 0.5, "COMMITMENT": 0.25, "DEAD_AFTER": 3, "RESEED_DEAD_CODES": True}
    model = build_vqkd(
        config(keys | {"KMEANS_INIT": False, "DEPTH": 3, "DECODER_DEPTH": 2}, "TRAIN.RECOMPUTE", True)
    )
    quantizer = model.quantize
    assert (quantizer.decay, quantizer.commitment, quantizer.dead_after) == (0.5, 0.25, 3)
    assert quantizer.reseed_dead_codes
    assert float(quantizer.embedding.initted) == 1
    assert (model.encoder.depth, model.decoder.depth) == (3, 2)
    assert model.encoder.recompute_blocks
    assert {block.attn.num_heads for half in (model.encoder, model.decoder) for block in half.blocks} == {3}
    assert model.decode_task_layer[2].weight.shape == [24, 6]
    dalle = build_tokenizer(config(DALLE | {"DALLE_GROUPS": 3, "DALLE_WIDTH": 12, "DALLE_CODE_WIDTH": 5}))
    assert dalle.encoder.stride == 4
    assert dalle.encoder.blocks[0].w.shape == [12, 3, 7, 7]
    assert dalle.decoder.blocks[0].w.shape == [5, 16, 1, 1]
    assert dalle.decode(dalle.encode(paddle.zeros([1, 3, 8, 8]))).shape == [1, 3, 8, 8]
