"""Entry points of `paddle.hub`: one for each published model, with its name in letters that Python allows.

paddle.hub.list("FOLDER", source="local")
model = paddle.hub.load("FOLDER", "beitv2_base_patch16_224_pt1k_ft21kto1k", source="local", pretrained=True)
"""

import re

from beit.models.published import get_model as _get_model
from beit.zoo import list_models as _list_models
from beit.zoo import published as _published

dependencies = ["matplotlib", "numpy", "paddle", "PIL", "tqdm", "yacs", "yaml"]


def _entry(name):
    def entry(pretrained=False, num_classes=None):
        return _get_model(name, pretrained=pretrained, num_classes=num_classes)

    found = _published(name)
    results = (
        ", ".join(f"{metric} {value:g}" for metric, value in found.metrics.items()) or "no published result"
    )
    entry.__doc__ = (
        f"{name}: {found.kind} of {found.publisher}, {found.image_size} pixels, {results}.\n\n"
        "Args:\n"
        "    pretrained: True downloads the weights; a path loads that file.\n"
        "    num_classes: number of classes of a new head, 0 for none; None keeps the published one.\n"
    )
    return entry


globals().update({re.sub(r"\W", "_", name): _entry(name) for name in _list_models()})
