"""Events of AWS Lambda: which kind one is, and the reply of that kind."""

from __future__ import annotations

import base64
import json
import sys
from typing import TYPE_CHECKING, Any

from . import http
from .service import RequestError, report

if TYPE_CHECKING:
    from collections.abc import Callable

    from .service import Service


def respond(service: Service, event: object) -> dict[str, Any]:
    """
    :param service: the loaded model.
    :param event: of API Gateway v1 or v2, a Function URL, SQS; or a request itself.
    :return: the reply that the event's source expects.
    :raises JinaBertError: the model failed on a direct invocation.
    """
    if isinstance(event, dict):
        method = _method(event)
        if method is not None:
            status, headers, text = http.respond(service, method, lambda: _body(service, event))
            return {"statusCode": status, "headers": headers, "body": text, "isBase64Encoded": False}
        records = event.get("Records")
        if isinstance(records, list):
            return _batch(service, records)
    return service.answer(event)[1]


def _method(event: dict[str, Any]) -> str | None:
    """The HTTP method of an event; None if it is none of HTTP."""
    context = event.get("requestContext")
    if not isinstance(context, dict):
        return None
    http_of = context.get("http")  # v2, which Function URLs use too
    method = http_of.get("method") if isinstance(http_of, dict) else event.get("httpMethod")  # v1
    return method.upper() if isinstance(method, str) else None


def _body(service: Service, event: dict[str, Any]) -> str | bytes:
    body = event.get("body")
    if not isinstance(body, str) or not body:
        raise RequestError(400, "invalid_json", "the body is empty: POST a JSON object with input")
    if not event.get("isBase64Encoded"):
        service.check_size(len(body) if body.isascii() else len(body.encode("utf-8", "surrogatepass")))
        return body
    service.check_size(len(body) // 4 * 3 - 2)
    try:
        return base64.b64decode(body, validate=True)
    except ValueError:
        raise RequestError(400, "invalid_json", "the body is not base64, as isBase64Encoded says") from None


def _batch(service: Service, records: list[Any]) -> dict[str, Any]:
    """Answer each message of an SQS batch.

    :return: {"batchItemFailures": [{"itemIdentifier": id}]}, which names the messages to be given again. In a FIFO
        queue these are the first that failed and all after it, so that none overtakes another.
    """
    deliver = _sink(service.settings.sink)
    failed: list[str] = []
    for record in records:
        if not isinstance(record, dict) or not isinstance(record.get("messageId"), str):
            # Without an id the message cannot be reported: fail the whole batch, loudly.
            raise ValueError(
                f"a record without messageId: only SQS events are answered, not {str(record)[:80]!r}"
            )
        name = record["messageId"]
        if failed and str(record.get("eventSourceARN", "")).endswith(".fifo"):
            failed.append(name)
            continue
        try:
            body = record.get("body")
            status, answer = service.answer_json(body if isinstance(body, str) else "")
            if status != 200:
                message = answer["error"]["message"]
                sys.stderr.write(f"message {name}: {message}\n")
                failed.append(name)
                continue
            deliver(name, answer)
        except Exception as error:
            report(error)
            failed.append(name)
    return {"batchItemFailures": [{"itemIdentifier": name} for name in failed]}


def _sink(name: str | None) -> Callable[[str, dict[str, Any]], object]:
    if name is None:
        return _print
    from importlib import import_module

    module, _, function = name.partition(":")
    deliver: Callable[[str, dict[str, Any]], object] = getattr(import_module(module), function)
    return deliver


def _print(message: str, answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"messageId": message, **answer}, separators=(",", ":")) + "\n")
    sys.stdout.flush()
