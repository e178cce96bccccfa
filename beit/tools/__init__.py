"""Command line tools: the verbs of `python -m beit`, each a file of this package."""

from __future__ import annotations

VERBS: dict[str, tuple[str, str]] = {
    "predict": ("beit.tools.predict", "predict images, folders of images, patterns"),
    "train": ("beit.tools.train", "train a model by a config"),
    "evaluate": ("beit.tools.evaluate", "evaluate weights on the validation images"),
    "check": ("beit.tools.check", "check data and config before a long run: all images, one dry step"),
    "make-lists": (
        "beit.tools.make_lists",
        "write list files for class folders, or for ImageNet as it is distributed",
    ),
    "doctor": ("beit.tools.doctor", "say what works on this machine: versions, GPUs, numbers, ranks, speed"),
    "config": ("beit.tools.config", "print a resolved config, or describe its keys"),
    "report": ("beit.tools.report", "count parameters, multiply-adds and memory of a config"),
    "visualize": (
        "beit.tools.visualize",
        "draw attention, Grad-CAM, nearest images, features, two models, predictions, curves, augmentation, schedules, tokens",
    ),
    "list-models": ("beit.tools.list_models", "list the published checkpoints"),
    "bench": ("beit.tools.bench", "compare the speed with that of other installed packages"),
    "convert": ("beit.tools.convert", "convert a checkpoint to the format of another publisher"),
    "average": ("beit.tools.average", "average checkpoints, and measure the average"),
    "export": (
        "beit.tools.export",
        "write a model as a static graph, also as ONNX, after comparing it with the model",
    ),
    "serve": ("beit.tools.serve", "open a web page that predicts the images dropped on it"),
    "completion": ("beit.tools.completion", "print a script that completes verbs and flags in a shell"),
}
"""Verb -> module, and a short description. A module has `main(argv)`, which returns the exit status (None: 0), and
`build_parser()`."""

ALIASES = {"visualise": "visualize", "eval": "evaluate"}
"""Other spelling of a verb -> verb."""
