"""Translation of every publisher's files but classifiers, and conversion of all kinds there and back."""

from __future__ import annotations

import numpy as np
import pytest

from beit.checkpoint.canonical import missing_names
from beit.checkpoint.open import open_checkpoint
from beit.checkpoint.publishers import PUBLISHERS
from beit.checkpoint.translate import from_canonical
from tests.checkpoint import publishers

RNG = np.random.default_rng(0)
CLASSIFIER = publishers.unilm_classifier(RNG)
TOKEN_CLASSIFIER = publishers.unilm_classifier(RNG, pooling="token")
MIM_V1 = publishers.unilm_mim(RNG)
MIM_ABSOLUTE = publishers.unilm_mim(RNG, positions=True)
MIM_V2 = publishers.unilm_mim(RNG, version=2)
VQKD = publishers.unilm_vqkd(RNG)
SEGMENTATION = publishers.unilm_segmentation(RNG)
DALLE_ENCODER = publishers.dalle(RNG)
DALLE_DECODER = publishers.dalle(RNG, decoder=True)


def dalle_paddle(state):
    return {name[:-1] + {"w": "weight", "b": "bias"}[name[-1]]: array for name, array in state.items()}


def dalle_huggingface(state):
    renamed = dalle_paddle(state)
    return {
        name.replace(".block_", ".group.block_").replace("res_path.", "res_path.path."): array
        for name, array in renamed.items()
    }


def with_tokenizer(tree, prefix, tokenizer):
    return {
        **tree,
        "state_dict": tree["state_dict"] | {prefix + name: array for name, array in tokenizer.items()},
    }


# case -> (tree, publisher, kind, the network in unilm's names)
OTHERS = {
    "b PASSL MIM with its tokenizer": (
        publishers.passl(MIM_V1) | {f"d_vae.encoder.{k}": v for k, v in dalle_paddle(DALLE_ENCODER).items()},
        "passl",
        "mim_v1",
        MIM_V1,
    ),
    "c2 unilm MIM": (publishers.unilm_file(MIM_V1), "unilm", "mim_v1", MIM_V1),
    "c3 unilm MIM, absolute positions": (
        publishers.unilm_file(MIM_ABSOLUTE),
        "unilm",
        "mim_v1",
        MIM_ABSOLUTE,
    ),
    "d2 unilm MIM v2": (publishers.unilm_file(MIM_V2), "unilm", "mim_v2", MIM_V2),
    "d3 VQ-KD": (publishers.unilm_file(VQKD), "unilm", "vqkd", VQKD),
    "d3 VQ-KD with its teacher": (
        {
            "state_dict": VQKD
            | {"teacher_model.x": np.ones(2), "scaling_layer.shift": np.ones(3), "loss.w": np.ones(1)}
        },
        "unilm",
        "vqkd",
        VQKD,
    ),
    "f transformers MIM": (publishers.huggingface(MIM_V1), "huggingface", "mim_v1", MIM_V1),
    "f transformers 5 MIM": (publishers.huggingface(MIM_V1, runtime=True), "huggingface", "mim_v1", MIM_V1),
    "f transformers UPerNet": (
        publishers.huggingface(SEGMENTATION),
        "huggingface",
        "segmentation",
        SEGMENTATION,
    ),
    "f transformers 5 UPerNet": (
        publishers.huggingface(SEGMENTATION, runtime=True),
        "huggingface",
        "segmentation",
        SEGMENTATION,
    ),
    "g2 mmselfsup MIM": (
        with_tokenizer(publishers.openmmlab(MIM_V1), "target_generator.", DALLE_ENCODER),
        "openmmlab",
        "mim_v1",
        MIM_V1,
    ),
    "g3 mmselfsup MIM v2": (
        with_tokenizer(
            publishers.openmmlab(MIM_V2), "target_generator.", publishers.openmmlab_vqkd(VQKD)["state_dict"]
        ),
        "openmmlab",
        "mim_v2",
        MIM_V2,
    ),
    "g4 mmseg": (publishers.openmmlab(SEGMENTATION), "openmmlab", "segmentation", SEGMENTATION),
    "h1 OpenAI encoder": (DALLE_ENCODER, "openai", "dalle_encoder", DALLE_ENCODER),
    "h1 OpenAI decoder": (DALLE_DECODER, "openai", "dalle_decoder", DALLE_DECODER),
    "h2 FLAVA whole": (
        {f"image_codebook.{name}": array for name, array in dalle_huggingface(DALLE_ENCODER).items()},
        "huggingface",
        "dalle_encoder",
        DALLE_ENCODER,
    ),
    "h2 FLAVA": (dalle_huggingface(DALLE_ENCODER), "huggingface", "dalle_encoder", DALLE_ENCODER),
    "h3 PASSL decoder": (dalle_paddle(DALLE_DECODER), "passl", "dalle_decoder", DALLE_DECODER),
    "i unilm UPerNet": (
        {"meta": {}, "optimizer": {}, "state_dict": publishers.with_index(SEGMENTATION)},
        "unilm",
        "segmentation",
        SEGMENTATION,
    ),
    "canonical MIM v2": (publishers.paddle_layout(MIM_V2), "canonical", "mim_v2", MIM_V2),
    "canonical VQ-KD": (publishers.paddle_layout(VQKD), "canonical", "vqkd", VQKD),
    "canonical UPerNet": (publishers.paddle_layout(SEGMENTATION), "canonical", "segmentation", SEGMENTATION),
}


def assert_same(state, expected):
    assert sorted(state) == sorted(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(state[name], array, err_msg=name)


@pytest.mark.parametrize("case", OTHERS)
def test_each_tensor_gets_its_canonical_name(case):
    tree, publisher, kind, unilm = OTHERS[case]
    state, info = open_checkpoint(tree)
    assert (info.publisher, info.kind, info.unknown) == (publisher, kind, ())
    assert_same(state, publishers.paddle_layout(unilm))
    assert all(array.dtype == np.float32 for array in state.values())
    assert missing_names(state, kind) == []


def test_the_tokenizer_of_openmmlab_has_no_decoder():
    state, info = open_checkpoint(publishers.openmmlab_vqkd(VQKD))
    assert (info.publisher, info.kind, info.unknown) == ("openmmlab", "vqkd", ())
    expected = publishers.paddle_layout(VQKD)
    for name, array in state.items():
        np.testing.assert_array_equal(array, expected[name])
    left_out = {name for name in expected if name.startswith(("decoder.", "decode_task_layer."))}
    assert expected.keys() - state.keys() == left_out | {
        "quantize.embedding.cluster_size",
        "quantize.embedding.embed_avg",
    }


STATES = {
    "classifier": CLASSIFIER,
    "token classifier": TOKEN_CLASSIFIER,
    "mim_v1": MIM_V1,
    "mim_v2": MIM_V2,
    "vqkd": VQKD,
    "segmentation": SEGMENTATION,
    "dalle_encoder": DALLE_ENCODER,
    "dalle_decoder": DALLE_DECODER,
}
WRITERS = {
    "classifier": {"canonical", "paddlevit", "passl", "unilm", "timm", "huggingface", "openmmlab"},
    "token classifier": {"canonical", "paddlevit", "passl", "unilm", "timm", "huggingface", "openmmlab"},
    "mim_v1": {"canonical", "passl", "unilm", "huggingface", "openmmlab"},
    "mim_v2": {"canonical", "passl", "unilm", "openmmlab"},
    "vqkd": {"canonical", "unilm"},
    "segmentation": {"canonical", "unilm", "huggingface", "openmmlab"},
    "dalle_encoder": {"canonical", "openai", "passl", "huggingface"},
    "dalle_decoder": {"canonical", "openai", "passl"},
}


@pytest.mark.parametrize("publisher", PUBLISHERS)
@pytest.mark.parametrize("name", STATES)
def test_a_round_trip_changes_nothing(name, publisher):
    canonical = publishers.paddle_layout(STATES[name])
    if publisher not in WRITERS[name]:
        with pytest.raises(ValueError, match=f"{publisher} has no format for"):
            from_canonical(canonical, publisher)
        return
    back, info = open_checkpoint(from_canonical(canonical, publisher))
    assert_same(back, canonical)
    assert info.unknown == ()


WRITTEN = {
    "paddlevit": publishers.paddlevit,
    "passl": publishers.passl,
    "unilm": publishers.unilm_file,
    "timm": dict,
    "huggingface": publishers.huggingface,
}


@pytest.mark.parametrize("publisher", WRITTEN)
@pytest.mark.parametrize("name", ["classifier", "token classifier"])
def test_written_files_equal_those_of_the_publisher(publisher, name):
    """Names, values, wrapper and index buffers, against the independent writer."""
    tree = from_canonical(publishers.paddle_layout(STATES[name]), publisher)
    expected = WRITTEN[publisher](STATES[name])
    assert sorted(tree) == sorted(expected)
    if "model" in tree:
        tree, expected = tree["model"], expected["model"]
    assert_same(tree, expected)


@pytest.mark.parametrize("publisher", ["unilm", "openmmlab", "huggingface"])
def test_written_segmentation_files_equal_those_of_the_publisher(publisher):
    tree = from_canonical(publishers.paddle_layout(SEGMENTATION), publisher)
    expected = {
        "unilm": publishers.with_index(SEGMENTATION),
        "openmmlab": publishers.openmmlab(SEGMENTATION)["state_dict"],
        "huggingface": publishers.huggingface(SEGMENTATION),
    }[publisher]
    written = tree.get("state_dict", tree)
    # The number of batches seen is not kept: it has no use outside Torch's own training.
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    assert written.keys() == expected.keys()
    assert all(written[name] == 0 for name in counters)
    assert_same(
        {k: v for k, v in written.items() if k not in counters},
        {k: expected[k] for k in expected.keys() - counters},
    )


def test_an_unknown_publisher_is_refused():
    with pytest.raises(ValueError, match="cannot write the format of 'keras'; known: canonical"):
        from_canonical({}, "keras")
