"""`python -m beit serve`: a web page. Drop an image to see its classes, and the attention or the class map."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from typing import Any

import paddle

from beit.data.images import ImageError
from beit.predict.page import PagePredictor
from beit.tools.arguments import verb_parser
from beit.tools.model_arguments import add_device, add_model, model_from, use_device

EXAMPLES = (
    "python -m beit serve output/run",
    "python -m beit serve output/run --port 8080 --max-megabytes 5",
)

_QUEUE_SIZE = 64  # waiting requests; further ones are refused
_CONCURRENCY = 4  # images decoded at the same time; the model runs one at a time
_KEEP_SECONDS = 600  # how long uploaded images stay on the disk
_NO_GRADIO = 'the page needs gradio, which is not installed: pip install "beit-paddle[serve]"'


def main(argv: Sequence[str] | None = None) -> None:
    """Serve the page until Ctrl-C."""
    given = _arguments(argv)
    use_device(given.device)
    predictor = PagePredictor(
        model_from(given),
        topk=given.topk,
        max_bytes=int(given.max_megabytes * 1e6),
        max_pixels=int(given.max_megapixels * 1e6),
    )
    paddle.disable_signal_handler()  # it prints a useless traceback at SIGTERM
    logging.getLogger("httpx").setLevel(logging.WARNING)  # gradio sends requests to itself at the start
    page = build_page(predictor, title=f"BEiT: {given.model}")
    if given.host not in ("127.0.0.1", "localhost", "::1"):
        print(f"warning: everybody who reaches {given.host}:{given.port} can use this page", flush=True)
    print(f"open http://{given.host}:{given.port} (Ctrl-C ends it)", flush=True)
    launch(page, predictor, host=given.host, port=given.port)


def build_page(predictor: PagePredictor, title: str = "BEiT") -> Any:
    """The page (gradio `Blocks`), not served yet.

    Raises:
        ValueError: gradio is not installed.
    """
    gradio = _gradio()

    def look(path: str | None) -> tuple[dict[str, float] | None, Any, str]:
        if path is None:
            return None, None, ""
        try:
            result = predictor(path)
        except ImageError as error:
            return None, None, f"**This file cannot be used:** {error.reason}"
        return result.scores, result.image, result.caption

    limits = f"up to {predictor.max_bytes / 1e6:g} MB and {predictor.max_pixels / 1e6:g} million pixels"
    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=(60, _KEEP_SECONDS)) as page:
        gradio.Markdown(
            f"## {title}\nDrop an image ({limits}). It stays on the machine that serves this page."
        )
        with gradio.Row():
            image = gradio.Image(label="image", sources=["upload", "clipboard"], height=420, elem_id="image")
            # The uploaded file itself: `predictor` opens it, within its limits and with a readable error message.
            image.preprocess = lambda payload: None if payload is None else payload.path
            with gradio.Column():
                scores = gradio.Label(
                    label=predictor.predictor.score_name, num_top_classes=predictor.topk, elem_id="scores"
                )
                caption = gradio.Markdown(elem_id="caption")
            drawn = gradio.Image(
                label="what the model sees",
                interactive=False,
                format="png",
                height=420,
                elem_id="drawn",
                buttons=["download", "fullscreen"],  # not "share", which sends images to another machine
            )
        image.change(look, image, [scores, drawn, caption], api_name="look", concurrency_limit=_CONCURRENCY)
    page.queue(max_size=_QUEUE_SIZE)
    return page


def launch(page: Any, predictor: PagePredictor, *, host: str, port: int, wait: bool = True) -> None:
    """Serve a page without sharing it and without loading anything from other machines.

    Args:
        page: the result of `build_page`.
        predictor: its limit for the size of files is also that of uploads.
        host: address to listen on.
        port: port to listen on.
        wait: return only when the page is closed.
    """
    gradio = _gradio()
    page.launch(
        server_name=host,
        server_port=port,
        max_file_size=predictor.max_bytes,
        share=False,
        quiet=True,
        ssr_mode=False,
        enable_monitoring=False,
        footer_links=[],
        prevent_thread_lock=not wait,
        theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
    )


def _gradio() -> Any:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read while gradio is imported
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import gradio
    except ImportError as error:
        raise ValueError(_NO_GRADIO) from error
    return gradio


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = verb_parser("serve", __doc__, EXAMPLES)
    add_model(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)"
    )
    parser.add_argument("--port", type=int, default=7860, help="default: 7860")
    parser.add_argument("--topk", type=int, default=5, metavar="K", help="classes shown (default: 5)")
    parser.add_argument(
        "--max-megabytes", type=float, default=10, metavar="MB", help="largest file (default: 10)"
    )
    parser.add_argument(
        "--max-megapixels", type=float, default=25, metavar="MP", help="largest image (default: 25)"
    )
    add_device(parser)
    return parser.parse_args(argv)
