"""`python -m beit serve`: a web page, and JSON for programs (`POST /predict`, `GET /health`).

Drop an image on the page to see its classes, and the attention or the class map.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import paddle

from beit.data.images import ImageError
from beit.flags import Parser
from beit.predict.inputs import find_images
from beit.predict.page import SHOWN_FORMATS, PagePredictor
from beit.predict.page_access import Access, RefusedError, require_upload
from beit.predict.page_api import CONCURRENCY, QUEUE_SIZE, Api
from beit.predict.page_text import TEXT, language_of, shown_reason
from beit.tools.arguments import positive, positive_number, verb_parser
from beit.tools.model_arguments import add_device, add_engine, add_model, model_from, use_device

EXAMPLES = (
    "python -m beit serve output/run",
    "python -m beit serve output/run --port 8080 --max-megabytes 5",
    "python -m beit serve output/run --examples pictures",
)

_KEEP_SECONDS = 600  # how long uploaded images stay on the disk
_CONNECTIONS = 256  # open at once: the request of the last one is answered with status 503
_HEAD_SECONDS = 10.0  # for the first lines of a request
_END_SECONDS = 3  # for the answers under way at the end
_MAX_EXAMPLES = 12
_SHOWN = (
    "limits",
    "probability",
    "share of the image",
    "drawn",
    "examples",
)  # they do not depend on an image
# gradio's own message for a file that the browser does not take for an image names no cure.
_HEIC_NOTICE = """
for (const kind of ["change", "drop"]) document.addEventListener(kind, event => {
  const files = [...(event.target.files || event.dataTransfer?.files || [])], text = %s;
  if (!files.some(file => /\\.hei[cf]$/i.test(file.name))) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  alert(text[navigator.languages.map(name => name.slice(0, 2)).find(name => name in text) || "en"]);
}, true);
"""
_NO_GRADIO = 'the page needs gradio, which is not installed: pip install "beit-paddle[serve]"'


def main(argv: Sequence[str] | None = None) -> None:
    """Serve the page until Ctrl-C or SIGTERM."""
    given = build_parser().parse_args(argv)
    use_device(given.device)
    predictor = PagePredictor(
        model_from(given),
        topk=given.topk,
        max_bytes=int(given.max_megabytes * 1e6),
        max_pixels=int(given.max_megapixels * 1e6),
    )
    paddle.disable_signal_handler()  # it prints a useless traceback at SIGTERM
    uploads = upload_folder()
    page = build_page(predictor, uploads, f"BEiT: {given.model}", _examples(given.examples))
    with _listen(given.host, given.port) as listener:
        if given.host not in ("127.0.0.1", "localhost", "::1"):
            print(f"warning: everybody who reaches {given.host}:{given.port} can use this page", flush=True)
        print(f"open http://{given.host}:{given.port} (Ctrl-C ends it)", flush=True)
        names = frozenset(name.lower() for name in given.allow_host)
        application = page_application(page, predictor)
        kept = frozenset(path for path in uploads.rglob("*") if path.is_file())  # the examples
        api = Api(application, predictor, given.model)
        access = Access(api, given.host, names, uploads, predictor.max_bytes, kept)
        serve(access, listener)


def upload_folder() -> Path:
    """A new private folder for uploads, which is removed at the end of this process, also by SIGTERM."""
    folder = Path(tempfile.mkdtemp(prefix="beit-serve-")).resolve()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    signal.signal(signal.SIGTERM, _exit)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)  # read while gradio is imported
    return folder


def build_page(
    predictor: PagePredictor, uploads: Path, title: str = "BEiT", examples: Sequence[Path] = ()
) -> Any:
    """The page (gradio `Blocks`), not served yet.

    Args:
        predictor: results of image files.
        uploads: folder of the uploaded images; no other files are opened.
        title: of the page.
        examples: image files that the page offers; gradio copies them into `uploads`.

    Raises:
        ValueError: gradio is not installed.
    """
    gradio = _gradio()
    words = translations(predictor)

    def look(path: str | None, request: Any) -> tuple[dict[str, float] | None, Any, str]:
        if path is None:
            return None, None, ""
        language = language_of(request.headers.get("accept-language"))
        text = TEXT[language]
        try:
            result = predictor(require_upload(path, uploads))
        except (ImageError, RefusedError) as error:
            return None, None, text["refused"].format(reason=shown_reason(error.reason, language))
        return result.scores, result.image, text[result.caption]

    look.__annotations__["request"] = gradio.Request  # by which gradio passes it; a string could not name it
    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=(60, _KEEP_SECONDS)) as page:
        gradio.Markdown(f"## {title}")
        gradio.Markdown(words("limits"))
        with gradio.Row():
            image = gradio.Image(
                show_label=False,  # gradio does not translate it for an input image
                sources=["upload", "webcam", "clipboard"],
                webcam_options=gradio.WebcamOptions(mirror=False),
                height=420,
                elem_id="image",
            )
            # The uploaded file itself: `predictor` opens it, within its limits and with a readable error message.
            image.preprocess = lambda payload: None if payload is None else payload.path
            with gradio.Column():
                scores = gradio.Label(
                    label=words(predictor.predictor.score_name),
                    num_top_classes=predictor.topk,
                    elem_id="scores",
                )
                caption = gradio.Markdown(elem_id="caption")
            drawn = gradio.Image(
                label=words("drawn"),
                interactive=False,
                format="png",
                height=420,
                elem_id="drawn",
                buttons=["download", "fullscreen"],  # not "share", which sends images to another machine
            )
        image.change(look, image, [scores, drawn, caption], api_name="look", concurrency_limit=CONCURRENCY)
        if examples:
            files = [str(path) for path in examples]
            chosen = gradio.Dataset(
                label=words("examples"),
                components=[gradio.Image(render=False)],
                samples=[[file] for file in files],
                type="index",
                elem_id="examples",
            )
            chosen.click(lambda index: files[index], chosen, image, api_visibility="private")
    page.queue(max_size=QUEUE_SIZE)
    return page


def translations(predictor: PagePredictor) -> Any:
    """The words of the page for gradio, which shows them in the language of the browser."""
    limits = {
        "formats": SHOWN_FORMATS,
        "megabytes": predictor.max_bytes / 1e6,
        "megapixels": predictor.max_pixels / 1e6,
    }
    return _gradio().I18n(
        **{
            language: {name: text.format(**limits) for name, text in words.items() if name in _SHOWN}
            for language, words in TEXT.items()
        }
    )


def page_application(page: Any, predictor: PagePredictor) -> Any:
    """The ASGI application of a page. It shares nothing, and loads nothing from other machines.

    Args:
        page: the result of `build_page`.
        predictor: its limit for the size of files is also that of uploads.
    """
    import fastapi

    gradio = _gradio()
    return gradio.mount_gradio_app(
        fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        page,
        path="/",
        max_file_size=predictor.max_bytes,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        footer_links=[],
        i18n=translations(predictor),
        head=f"<script>{_HEIC_NOTICE % json.dumps({name: words['heic'] for name, words in TEXT.items()})}</script>",
        theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
    )


def serve(application: Any, listener: socket.socket) -> None:
    """Serve an ASGI application on a listening socket until a signal ends the process."""
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Protocol(H11Protocol):
        """HTTP/1.1 that closes connections on which no request arrives; uvicorn waits for them without a limit."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._limit_head()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._limit_head()

        def _limit_head(self) -> None:
            self.loop.call_later(_HEAD_SECONDS, self._close_without_request, self.cycle)

        def _close_without_request(self, cycle: Any) -> None:
            is_waiting = cycle is None or cycle.response_complete
            if self.cycle is cycle and is_waiting and not self.transport.is_closing():
                self.transport.close()

    config = uvicorn.Config(
        application,
        http=Protocol,
        ws="none",
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_END_SECONDS,
    )
    uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        OSError: the address is taken, or is not one of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family, backlog=_CONNECTIONS)
    except (OSError, OverflowError) as error:
        raise OSError(
            f"cannot listen on {host}:{port}: {getattr(error, 'strerror', None) or error}; choose another --port or --host"
        ) from error


def _examples(sources: Sequence[str]) -> list[Path]:
    files = [file for source in sources for file in find_images(source)]
    if len(files) > _MAX_EXAMPLES:
        print(f"--examples: the first {_MAX_EXAMPLES} of {len(files)} images are shown", flush=True)
    return files[:_MAX_EXAMPLES]


def _exit(signum: int, _: Any) -> None:
    raise SystemExit(128 + signum)


def _gradio() -> Any:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read while gradio is imported
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import gradio
    except ImportError as error:
        raise ValueError(_NO_GRADIO) from error
    return gradio


def build_parser() -> Parser:
    """The parser of the verb's arguments."""
    parser = verb_parser("serve", __doc__, EXAMPLES)
    add_model(parser, takes_exports=True)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)"
    )
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME",
        help="further host name of this page, such as that of a proxy in front of it (may be repeated)",
    )  # fmt: skip
    parser.add_argument("--port", type=int, default=7860, help="default: 7860")
    parser.add_argument(
        "--examples", nargs="+", default=[], metavar="IMAGE",
        help=f"images that the page offers to click: files, folders, patterns (the first {_MAX_EXAMPLES})",
    )  # fmt: skip
    parser.add_argument("--topk", type=positive, default=5, metavar="K", help="classes shown (default: 5)")
    parser.add_argument(
        "--max-megabytes", type=positive_number, default=10, metavar="MB", help="largest file (default: 10)"
    )
    parser.add_argument(
        "--max-megapixels", type=positive_number, default=25, metavar="MP", help="largest image (default: 25)"
    )
    add_device(parser)
    add_engine(parser)
    return parser
