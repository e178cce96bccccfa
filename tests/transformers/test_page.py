"""Lines of transformers' pages of BEiT, of which only the import lines change."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from tests.docs.pages import use_cache, write_transformers

CARD = """
from transformers import BeitImageProcessor, BeitForImageClassification
from PIL import Image
import requests

url = 'http://images.cocodataset.org/val2017/000000039769.jpg'
image = Image.open(requests.get(url, stream=True).raw)
processor = BeitImageProcessor.from_pretrained('microsoft/beit-base-patch16-224')
model = BeitForImageClassification.from_pretrained('microsoft/beit-base-patch16-224')
inputs = processor(images=image, return_tensors="pt")
outputs = model(**inputs)
logits = outputs.logits
predicted_class_idx = logits.argmax(-1).item()
print("Predicted class:", model.config.id2label[predicted_class_idx])
"""
OLD_CARD = CARD.replace("BeitImageProcessor", "BeitFeatureExtractor")
AUTO = """
import torch
import requests
from PIL import Image
from transformers import AutoImageProcessor, BeitForImageClassification

image_processor = AutoImageProcessor.from_pretrained("microsoft/beit-base-patch16-224")
model = BeitForImageClassification.from_pretrained(
    "microsoft/beit-base-patch16-224", device_map="auto", attn_implementation="sdpa"
)
image = Image.open(requests.get("http://images.cocodataset.org/val2017/000000039769.jpg", stream=True).raw)
inputs = image_processor(image, return_tensors="pt").to(model.device)
with torch.no_grad():
    logits = model(**inputs).logits
predicted_class_id = logits.argmax(dim=-1).item()
print(f"Predicted class: {model.config.id2label[predicted_class_id]}")
"""
CONFIGURATION = """
from transformers import BeitConfig, BeitModel

configuration = BeitConfig()
configuration.num_hidden_layers = 1
model = BeitModel(configuration)
configuration = model.config
"""
MODEL = """
from transformers import AutoImageProcessor, BeitModel
import torch
from PIL import Image

image = Image.open("cats.jpg")
image_processor = AutoImageProcessor.from_pretrained("microsoft/beit-base-patch16-224-pt22k")
model = BeitModel.from_pretrained("microsoft/beit-base-patch16-224-pt22k")
inputs = image_processor(image, return_tensors="pt")
with torch.no_grad():
    outputs = model(**inputs)
last_hidden_states = outputs.last_hidden_state
shape = list(last_hidden_states.shape)
"""
SEGMENTATION = """
from transformers import AutoImageProcessor, BeitForSemanticSegmentation
from PIL import Image

image = Image.open("cats.jpg")
image_processor = AutoImageProcessor.from_pretrained("microsoft/beit-base-finetuned-ade-640-640")
model = BeitForSemanticSegmentation.from_pretrained("microsoft/beit-base-finetuned-ade-640-640")
inputs = image_processor(images=image, return_tensors="pt")
outputs = model(**inputs)
# logits are of shape (batch_size, num_labels, height, width)
logits = outputs.logits
"""
BACKBONE = """
from transformers import AutoImageProcessor, AutoBackbone
from PIL import Image

image = Image.open("cats.jpg")
processor = AutoImageProcessor.from_pretrained("microsoft/beit-base-patch16-224")
model = AutoBackbone.from_pretrained(
    "microsoft/beit-base-patch16-224", out_features=["stage1", "stage2", "stage3", "stage4"]
)
inputs = processor(image, return_tensors="pt")
outputs = model(**inputs)
feature_maps = outputs.feature_maps
shape = list(feature_maps[-1].shape)
"""
PIPELINE = """
from transformers import pipeline

classifier = pipeline(task="image-classification", model="microsoft/beit-base-patch16-224")
found = classifier("cats.jpg")
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that runs lines with the import lines changed, and returns their names."""
    write_transformers(tmp_path, np.random.default_rng(0))
    use_cache(tmp_path / "cache", monkeypatch)
    monkeypatch.chdir(tmp_path)

    def get(url, stream):
        assert url.startswith("http") and stream
        return SimpleNamespace(raw=(tmp_path / "cats.jpg").open("rb"))

    monkeypatch.setitem(sys.modules, "requests", SimpleNamespace(get=get))

    def run_lines(text):
        text = text.replace("from transformers import", "from beit.transformers import")
        text = re.sub(r"^import torch$", "import paddle as torch", text, flags=re.MULTILINE)
        if paddle.__version__ < "3.2":  # which takes PyTorch's name of an axis
            text = text.replace("argmax(dim=-1)", "argmax(-1)")
        names = {}
        exec(compile(text, "page", "exec"), names)
        return names

    return run_lines


@pytest.mark.parametrize("lines", [CARD, OLD_CARD, AUTO], ids=["card", "old card", "auto"])
@pytest.mark.filterwarnings("ignore:unclosed file")  # the page leaves the image open
def test_an_image_is_classified(lines, run, capsys):
    names = run(lines)
    assert names["logits"].shape == [1, 1000]
    label = int(names["logits"].numpy()[0].argmax())
    assert f"Predicted class: {names['model'].config.id2label[label]}\n" in capsys.readouterr().out
    assert names["model"].config.id2label[0] == "tench, Tinca tinca"


def test_a_model_is_built_from_a_config(run):
    names = run(CONFIGURATION)
    assert len(names["model"].encoder.blocks) == 1 and names["configuration"].hidden_size == 768


@pytest.mark.filterwarnings("ignore:unclosed file")
def test_features_of_a_pretrained_model(run):
    assert run(MODEL)["shape"] == [1, 197, 24]  # [1, 197, 768] with the published weights


@pytest.mark.filterwarnings("ignore:unclosed file")
def test_an_image_is_segmented(run):
    names = run(SEGMENTATION)
    assert names["logits"].shape == [1, 150, 160, 160]
    assert names["model"].config.id2label[2] == "sky"
    assert names["model"].config.out_indices == [3, 5, 7, 11]


@pytest.mark.filterwarnings("ignore:unclosed file")
def test_feature_maps_of_stages(run):
    names = run(BACKBONE)
    assert names["shape"] == [1, 24, 14, 14] and len(names["feature_maps"]) == 4


def test_the_pipeline(run):
    found = run(PIPELINE)["found"]
    assert len(found) == 5 and found == sorted(found, key=lambda row: -row["score"])
