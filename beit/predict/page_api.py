"""The JSON interface of `beit serve`: `POST /predict` with an image as body, and `GET /health`.

`Api` is an ASGI application. It stands behind `Access`, which checks host, origin and size of its requests, and in front
of the page, which answers all other routes.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

from beit.data.images import ImageError
from beit.predict.page import PagePredictor
from beit.predict.page_access import Application, Message, Receive, RefusedError, Send, read_body

QUEUE_SIZE = 64
"""Requests that wait or are answered; further ones are refused."""
CONCURRENCY = 4
"""Images decoded at the same time; the model runs one at a time."""
_SEND_THE_FILE = "send the image file itself as the body: curl --data-binary @photo.jpg ADDRESS/predict"


@dataclass
class Api:
    """Answers `/predict` and `/health` as JSON, and passes other requests on.

    Args:
        page: the application for all other routes.
        predictor: results of images.
        model: name of the model in the answer of `/health`.
    """

    page: Application
    predictor: PagePredictor
    model: str
    _waiting: int = field(default=0, init=False)
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CONCURRENCY), init=False)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request that `Access` has let through."""
        route = (scope.get("method"), scope.get("path"))
        if route == ("POST", "/predict"):
            await self._predict(scope, receive, send)
        elif route == ("GET", "/health"):
            await send_json(send, 200, self._health())
        else:
            await self.page(scope, receive, send)

    def _health(self) -> dict[str, Any]:
        predictor = self.predictor.predictor
        return {
            "status": "ok",
            "model": self.model,
            "task": predictor.task,
            "classes": predictor.num_classes,
            "image_size": list(predictor.image_size),
        }

    async def _predict(self, scope: Message, receive: Receive, send: Send) -> None:
        kinds = [value for name, value in scope["headers"] if name == b"content-type"]
        if any(kind.lower().startswith(b"multipart/") for kind in kinds):
            raise RefusedError(415, f"the body is a form; {_SEND_THE_FILE}")
        if self._waiting >= QUEUE_SIZE:
            raise RefusedError(503, f"{QUEUE_SIZE} images are waiting; try again later")
        self._waiting += 1
        try:
            body = await read_body(receive)
            if not body:
                raise RefusedError(400, f"the request has no body; {_SEND_THE_FILE}")
            async with self._slots:
                answer = await asyncio.to_thread(self.predictor.summary, body)
        except ImageError as error:
            raise RefusedError(400, error.reason) from None
        finally:
            self._waiting -= 1
        await send_json(send, 200, answer)


async def send_json(send: Send, status: int, answer: dict[str, Any]) -> None:
    """Send a complete JSON answer."""
    body = json.dumps(answer, ensure_ascii=False).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
