"""`python -m beit serve`: a page in the browser. Drop a picture and see what the model says and where it looks."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from typing import Any

import paddle

from beit.data.images import ImageError
from beit.predict.page import PagePredictor
from beit.predict.segmentation import Segmenter
from beit.tools.arguments import verb_parser
from beit.tools.model_arguments import add_device, add_model, model_from, use_device

EXAMPLES = (
    "python -m beit serve output/run",
    "python -m beit serve output/run --port 8080 --max-megabytes 5",
)

_WAITING = 64  # visitors in the queue; the next ones are told so
_AT_ONCE = 4  # pictures decoded at the same time; the model takes them one by one
_KEPT = 600  # seconds that uploaded pictures stay on the disk
_NO_GRADIO = 'the page needs gradio, which is not installed: pip install "beit-paddle[serve]"'


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until Ctrl-C."""
    given = _arguments(argv)
    use_device(given.device)
    viewer = PagePredictor(
        model_from(given),
        topk=given.topk,
        max_bytes=int(given.max_megabytes * 1e6),
        max_pixels=int(given.max_megapixels * 1e6),
    )
    paddle.disable_signal_handler()  # its traceback at SIGTERM tells nobody anything
    logging.getLogger("httpx").setLevel(logging.WARNING)  # gradio asks itself whether it is there
    page = build_page(viewer, title=f"BEiT: {given.model}")
    if given.host not in ("127.0.0.1", "localhost", "::1"):
        print(f"warning: everybody who reaches {given.host}:{given.port} can use this page", flush=True)
    print(f"open http://{given.host}:{given.port} (Ctrl-C ends it)", flush=True)
    launch(page, viewer, host=given.host, port=given.port)


def build_page(viewer: PagePredictor, title: str = "BEiT") -> Any:
    """The page (gradio `Blocks`), not yet served.

    Raises:
        ValueError: gradio is not installed.
    """
    gradio = _gradio()

    def look(path: str | None) -> tuple[dict[str, float] | None, Any, str]:
        if path is None:
            return None, None, ""
        try:
            view = viewer(path)
        except ImageError as error:
            return None, None, f"**This file cannot be used:** {error.reason}"
        return view.scores, view.picture, view.caption

    limits = f"up to {viewer.max_bytes / 1e6:g} MB and {viewer.max_pixels / 1e6:g} million pixels"
    what = "share of the picture" if isinstance(viewer.predictor, Segmenter) else "probability"
    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=(60, _KEPT)) as page:
        gradio.Markdown(
            f"## {title}\nDrop a picture ({limits}). It stays on the machine that serves this page."
        )
        with gradio.Row():
            picture = gradio.Image(
                label="picture", sources=["upload", "clipboard"], height=420, elem_id="picture"
            )
            # The file as it was sent: `viewer` opens it, within its limits and with words where it cannot.
            picture.preprocess = lambda payload: None if payload is None else payload.path
            with gradio.Column():
                scores = gradio.Label(label=what, num_top_classes=viewer.topk, elem_id="scores")
                caption = gradio.Markdown(elem_id="caption")
            drawn = gradio.Image(
                label="what the model sees",
                interactive=False,
                format="png",
                height=420,
                elem_id="drawn",
                buttons=["download", "fullscreen"],  # and not "share", which sends pictures elsewhere
            )
        picture.change(look, picture, [scores, drawn, caption], api_name="look", concurrency_limit=_AT_ONCE)
    page.queue(max_size=_WAITING)
    return page


def launch(page: Any, viewer: PagePredictor, *, host: str, port: int, wait: bool = True) -> None:
    """Serve a page: nothing is shared, and nothing is loaded from elsewhere. Returns at once without `wait`."""
    gradio = _gradio()
    page.launch(
        server_name=host,
        server_port=port,
        max_file_size=viewer.max_bytes,
        share=False,
        quiet=True,
        ssr_mode=False,
        enable_monitoring=False,
        footer_links=[],
        prevent_thread_lock=not wait,
        theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
    )


def _gradio() -> Any:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # it asks when it is imported
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
        "--max-megabytes", type=float, default=10, metavar="MB", help="of a file (default: 10)"
    )
    parser.add_argument(
        "--max-megapixels", type=float, default=25, metavar="MP", help="of a picture (default: 25)"
    )
    add_device(parser)
    return parser.parse_args(argv)
