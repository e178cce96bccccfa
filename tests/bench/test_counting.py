"""Counts of a network against formulas."""

from __future__ import annotations

import paddle
import pytest
from paddle.base import core

from beit.beit import Beit, build_beit
from beit.bench.counting import count_by_part, count_multiply_adds, count_parameters, estimate_training_memory
from beit.bench.model_report import model_report
from beit.config import get_config
from tests.tiny import TINIEST_PRETRAIN, tiny_config, upernet_config


@pytest.mark.parametrize("pooling", [True, False])
def test_a_classifier(pooling):
    """N = 5 tokens, D = 12, 3 blocks, MLP of 48, 7 classes, patches of 4 x 4 x 3."""
    model = Beit(
        image_size=(8, 8),
        patch_size=4,
        embed_dim=12,
        depth=3,
        num_heads=2,
        num_classes=7,
        use_mean_pooling=pooling,
    )
    model.train()
    counts = count_multiply_adds(model, paddle.zeros([1, 3, 8, 8]))
    n, d, patches, head = 5, 12, 4 * 48 * 12, 12 * 7
    projections, qkv, attention = 3 * (n * d * d + 2 * n * d * 48), 3 * 3 * n * d * d, 3 * 2 * n * n * d
    norms = 5 * (3 * 2 * n * d + (d if pooling else n * d))
    assert counts.under("A") == patches + projections + qkv + attention + head
    assert counts.under("B") == patches + projections + qkv + attention + norms
    assert counts.under("C") == patches + projections + qkv + norms
    assert counts.under("D") == patches + projections + head
    assert model.training
    assert (
        count_parameters(model)
        == sum(count_by_part(model).values())
        == sum(p.size for p in model.parameters())
    )


@pytest.mark.parametrize("kind", ["pretrain", "segment", "tokenizer", "probe"])
def test_other_tasks(kind):
    if kind == "pretrain":
        config = tiny_config(**TINIEST_PRETRAIN)
    elif kind == "segment":
        config = upernet_config(TASK="segment")
    else:
        sizes = {"DATA.IMAGE_SIZE": 32, "MODEL.EMBED_DIM": 24, "MODEL.DEPTH": 1, "MODEL.NUM_HEADS": 2}
        sizes |= {
            "TOKENIZER.EMBED_DIM": 24,
            "TOKENIZER.DEPTH": 1,
            "TOKENIZER.DECODER_DEPTH": 1,
            "TOKENIZER.NUM_HEADS": 2,
        }
        config = get_config(opts=["TASK", kind, *(item for pair in sizes.items() for item in pair)])
    result = model_report(config, batch=2)
    assert result["parameters"] > 0
    assert ("multiply_adds" in result) == (kind != "tokenizer") == ("memory" in result)


def test_memory_grows_as_it_should():
    def estimate(batch, half, **keys):
        values = {"DATA.IMAGE_SIZE": 32, "MODEL.EMBED_DIM": 24, "MODEL.DEPTH": 4, "MODEL.NUM_HEADS": 2} | keys
        config = get_config(opts=[item for pair in values.items() for item in pair])
        return estimate_training_memory(build_beit(config), config, batch, half=half)

    one, two = estimate(1, False), estimate(2, False)
    assert two.activations == 2 * one.activations and two.optimizer == one.optimizer == 2 * one.weights
    assert estimate(2, True).activations < two.activations
    assert estimate(2, False, **{"TRAIN.RECOMPUTE": True}).activations < two.activations
    average = estimate(2, False, **{"TRAIN.MODEL_EMA": True})
    assert average.total == two.total + two.weights


@pytest.mark.parametrize("drop", [0.0, 0.2])
def test_the_estimate_against_the_allocator(drop):
    """What a forward pass leaves allocated for the backward is what is counted as kept."""
    sizes = {"DATA.IMAGE_SIZE": 112, "MODEL.EMBED_DIM": 32, "MODEL.NUM_HEADS": 4, "MODEL.NUM_CLASSES": 5}

    def numbers(depth):
        values = sizes | {"MODEL.DEPTH": depth, "MODEL.DROPPATH": drop}
        config = get_config(opts=[item for pair in values.items() for item in pair])
        model = build_beit(config)
        model.train()
        images = paddle.zeros([2, 3, 112, 112])
        paddle.set_flags(
            {"FLAGS_use_stride_kernel": True}
        )  # as Paddle starts; a run in this process may have tuned it
        before = core.host_memory_stat_current_value("Allocated", 0)
        result = model(images)
        allocated = core.host_memory_stat_current_value("Allocated", 0) - before
        del result
        return allocated, estimate_training_memory(model, config, 2, half=False).activations

    (small, few), (large, many) = numbers(2), numbers(5)  # their difference is three blocks that drop
    assert many - few == pytest.approx(large - small, rel=0.02)
