"""`repr` of what people look at in a shell or a notebook: sizes, no arrays."""

from __future__ import annotations

import paddle

import beit
from tests.tiny import noise_images, tiny_beit, tiny_config


def test_a_model_starts_with_its_sizes():
    model = beit.build_beit(tiny_config())
    parameters = sum(parameter.size for parameter in model.parameters()) / 1e6
    first = repr(model).splitlines()[0]
    assert (
        first
        == f"Beit(16x16 pixels, patches of 8, 2 blocks, width 24, 3 classes, {parameters:.1f} M parameters"
    )


def test_outputs_show_shapes():
    outputs = tiny_beit().forward_outputs(paddle.to_tensor(noise_images(size=(12, 12))), hidden_states=[0, 1])
    assert repr(outputs) == (
        "BeitOutput(last_hidden_state=[2, 10, 24], pooler_output=[2, 24], "
        "hidden_states=([2, 10, 24], [2, 10, 24]), attentions=())"
    )


def test_a_predictor_shows_how_it_prepares_images(segmenter):
    preprocessing = beit.Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3, crop_pct=0.9)
    shown = repr(beit.load_predictor(tiny_beit(), preprocessing=preprocessing))
    assert shown == (
        "Classifier(12x12 pixels, 5 classes, mean (0.5, 0.5, 0.5), std (0.25, 0.25, 0.25), crop 0.9, bicubic)"
    )
    assert repr(segmenter[0]).startswith("Segmenter(16x16 pixels, 4 classes, mean ")


def test_a_load_report_is_its_text(tmp_path):
    model = tiny_beit()
    paddle.save(model.state_dict(), str(tmp_path / "weights.pdparams"))
    report = beit.load_pretrained(model, tmp_path / "weights.pdparams")
    assert repr(report) == str(report) and "weights.pdparams" in repr(report)
