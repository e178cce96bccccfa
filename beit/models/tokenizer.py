"""The tokenizer of a config: VQ-KD or DALL-E."""

from __future__ import annotations

from yacs.config import CfgNode

from beit.beit import Beit
from beit.config import image_hw
from beit.models.dalle import DalleDecoder, DalleEncoder, DalleTokenizer
from beit.models.load import load_pretrained
from beit.models.quantizer import NormEmaQuantizer
from beit.models.vqkd import VqKd

TRAINING_STATE = ("quantize.embedding.embed_avg", "quantize.embedding.cluster_size")
"""Tensors that only training needs; files for encoding (mmselfsup's vqkd_encoder.pth) do not have them."""


def build_tokenizer(config: CfgNode) -> VqKd | DalleTokenizer:
    """The tokenizer of a config: frozen, in evaluation mode, with the weights of `TOKENIZER.PRETRAINED` if set.

    Its method `encode` computes token ids `[B, N]` from images `[B, 3, height, width]` in [0, 1]; with DALL-E's decoder
    `decode` computes images from ids. `tokenizer_image_size` returns height and width. VQ-KD is built without its
    decoder, which predicts features, not images. DALL-E is built without decoder if only the encoder's weights are
    configured.

    Args:
        config: read are `TOKENIZER.*`, and for the image size `DATA.IMAGE_SIZE`, `MODEL.PATCH_SIZE` and `TASK`.

    Examples:
        config = beit.get_config("beitv2_base_patch16_224_pt1k", ["TOKENIZER.PRETRAINED", "vqkd.pth"])
        ids = beit.build_tokenizer(config).encode(images)

    Raises:
        ValueError, OSError: the weights do not fit or cannot be read.
    """
    keys = config.TOKENIZER
    if keys.TYPE == "vqkd":
        tokenizer: VqKd | DalleTokenizer = build_vqkd(config, with_decoder=False)
        if keys.PRETRAINED:
            load_pretrained(tokenizer, keys.PRETRAINED, key=keys.PRETRAINED_KEY, allow_missing=TRAINING_STATE)
    else:
        tokenizer = _build_dalle(config)
    tokenizer.eval()
    for parameter in tokenizer.parameters():
        parameter.stop_gradient = True
    return tokenizer


def trained_decoder(tokenizer: VqKd | DalleTokenizer) -> DalleTokenizer | None:
    """The tokenizer if it can decode tokens to images (DALL-E with the decoder that the config names), else None."""
    has_decoder = isinstance(tokenizer, DalleTokenizer) and tokenizer.decoder is not None
    return tokenizer if has_decoder else None


def tokenizer_image_size(config: CfgNode) -> tuple[int, int]:
    """(height, width) in pixels of the tokenizer's input: `DATA.IMAGE_SIZE` in the training of a tokenizer.

    In pre-training the input is the second view. Its size gives one token for each patch of the model.
    """
    if config.TASK == "tokenizer":
        return image_hw(config)
    keys = config.TOKENIZER
    stride = keys.PATCH_SIZE if keys.TYPE == "vqkd" else 2 ** (keys.DALLE_GROUPS - 1)
    height, width = (side // config.MODEL.PATCH_SIZE * stride for side in image_hw(config))
    return height, width


def build_vqkd(config: CfgNode, *, with_decoder: bool = True) -> VqKd:
    """VQ-KD with random weights and the sizes of `TOKENIZER.*`.

    Raises:
        ValueError: the image size or the width does not fit the patch size or the number of heads.
    """
    keys = config.TOKENIZER
    image_size = tokenizer_image_size(config)
    wrong = [side for side in image_size if side % keys.PATCH_SIZE]
    if wrong:
        raise ValueError(
            f"images of {wrong[0]} pixels are not a multiple of TOKENIZER.PATCH_SIZE = {keys.PATCH_SIZE}; "
            "change one of them"
        )
    if keys.EMBED_DIM % keys.NUM_HEADS:
        raise ValueError(
            f"TOKENIZER.EMBED_DIM = {keys.EMBED_DIM} is not a multiple of TOKENIZER.NUM_HEADS = {keys.NUM_HEADS}; "
            "change one of them"
        )
    grid_size = (image_size[0] // keys.PATCH_SIZE, image_size[1] // keys.PATCH_SIZE)
    encoder = _encoder(config, image_size, keys.PATCH_SIZE, 3, keys.DEPTH)
    decoder = _encoder(config, grid_size, 1, keys.CODE_DIM, keys.DECODER_DEPTH) if with_decoder else None
    quantizer = NormEmaQuantizer(
        keys.NUM_CODES,
        keys.CODE_DIM,
        decay=keys.CODEBOOK_DECAY,
        commitment=keys.COMMITMENT,
        kmeans_init=keys.KMEANS_INIT,
        dead_after=keys.DEAD_AFTER,
        reseed_dead_codes=keys.RESEED_DEAD_CODES,
    )
    return VqKd(encoder, quantizer, decoder, code_dim=keys.CODE_DIM, teacher_dim=keys.TEACHER_DIM)


def build_dalle_encoder(config: CfgNode) -> DalleEncoder:
    """DALL-E's encoder with random weights and the sizes of `TOKENIZER.*`."""
    return DalleEncoder(**_dalle_sizes(config))


def build_dalle_decoder(config: CfgNode) -> DalleDecoder:
    """DALL-E's decoder with random weights and the sizes of `TOKENIZER.*`."""
    return DalleDecoder(code_width=config.TOKENIZER.DALLE_CODE_WIDTH, **_dalle_sizes(config))


def _dalle_sizes(config: CfgNode) -> dict[str, int]:
    keys = config.TOKENIZER
    return {"width": keys.DALLE_WIDTH, "groups": keys.DALLE_GROUPS, "num_codes": keys.NUM_CODES}


def _encoder(
    config: CfgNode, image_size: tuple[int, int], patch_size: int, channels: int, depth: int
) -> Beit:
    keys = config.TOKENIZER
    return Beit(
        image_size=image_size,
        patch_size=patch_size,
        in_channels=channels,
        num_classes=0,
        embed_dim=keys.EMBED_DIM,
        depth=depth,
        num_heads=keys.NUM_HEADS,
        init_values=0.0,
        use_abs_pos_emb=True,
        use_rel_pos_bias=False,
        recompute_blocks=config.TRAIN.RECOMPUTE,
    )


def _build_dalle(config: CfgNode) -> DalleTokenizer:
    keys = config.TOKENIZER
    encoder = build_dalle_encoder(config)
    if keys.PRETRAINED:
        load_pretrained(encoder, keys.PRETRAINED, key=keys.PRETRAINED_KEY)
    if keys.PRETRAINED and not keys.PRETRAINED_DECODER:
        return DalleTokenizer(encoder)
    decoder = build_dalle_decoder(config)
    if keys.PRETRAINED_DECODER:
        load_pretrained(decoder, keys.PRETRAINED_DECODER, key=keys.PRETRAINED_DECODER_KEY)
    return DalleTokenizer(encoder, decoder)
