"""Events of AWS Lambda: which kind one is, and the reply of that kind."""

from __future__ import annotations

import base64
import json
import sys
from typing import TYPE_CHECKING, Any

from runtime.api import requests
from runtime.api.body import check_size, parse
from runtime.api.errors import ServiceError

from . import http
from .service import report

if TYPE_CHECKING:
    from collections.abc import Callable

    from .service import Service


def respond(service: Service, event: object) -> dict[str, Any]:
    """Answer an event.

    :param service: the loaded model.
    :param event: of an application load balancer, API Gateway v1 or v2, a Function URL, SQS, SNS; or a request itself.
    :return: the reply that the event's source expects.
    :raises ServiceError: the model failed on a direct invocation, or a message of SNS was not answered.
    """
    if isinstance(event, dict):
        if _method(event) is not None:
            return _http(service, event)
        records = event.get("Records")
        if isinstance(records, list):
            if records and isinstance(records[0], dict) and isinstance(records[0].get("Sns"), dict):
                return _notifications(service, records)
            return _batch(service, records)
    return service.answer(event)


def _method(event: dict[str, Any]) -> str | None:
    """The HTTP method of an event; None if it is none of HTTP."""
    context = event.get("requestContext")
    if not isinstance(context, dict):
        return None
    http_of = context.get("http")  # v2, which Function URLs use too
    method = (
        http_of.get("method") if isinstance(http_of, dict) else event.get("httpMethod")
    )  # v1, load balancer
    return method.upper() if isinstance(method, str) else None


def _http(service: Service, event: dict[str, Any]) -> dict[str, Any]:
    several = event.get("multiValueHeaders")
    single = event.get("headers")
    headers = {
        str(name).lower(): str(values[-1])
        for name, values in (several.items() if isinstance(several, dict) else ())
        if isinstance(values, list) and values
    }
    if isinstance(single, dict):
        headers |= {str(name).lower(): str(value) for name, value in single.items()}
    path = event.get("rawPath") or event.get("path") or "/"
    probe = "elb" in event["requestContext"]
    asked = http.HttpRequest(_method(event) or "", str(path), headers, lambda: _body(service, event), probe)
    status, answered, text = http.respond(service, asked)
    reply: dict[str, Any] = {
        "statusCode": status,
        "headers": answered,
        "body": text,
        "isBase64Encoded": False,
    }
    if probe and isinstance(several, dict):  # a load balancer told to send several values wants them back so
        reply["multiValueHeaders"] = {name: [value] for name, value in reply.pop("headers").items()}
    return reply


def _body(service: Service, event: dict[str, Any]) -> str | bytes:
    body = event.get("body")
    if not isinstance(body, str):
        return ""
    if not event.get("isBase64Encoded"):
        return body
    check_size(len(body) // 4 * 3 - 2, service.context.limits.max_body_bytes)
    try:
        return base64.b64decode(body, validate=True)
    except ValueError:
        raise ServiceError(400, "invalid_json", "the body is not base64, as isBase64Encoded says") from None


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
                f"a record without messageId: only SQS and SNS events are answered, not {str(record)[:80]!r}"
            )
        name = record["messageId"]
        in_order = str(record.get("eventSourceARN", "")).endswith(".fifo")
        if (failed and in_order) or not _deliver(service, deliver, name, record.get("body")):
            failed.append(name)
    return {"batchItemFailures": [{"itemIdentifier": name} for name in failed]}


def _notifications(service: Service, records: list[Any]) -> dict[str, Any]:
    """Answer what SNS publishes to the function itself.

    :raises ServiceError: a message was not answered: Lambda then calls again, and at last gives the event to the
        function's dead-letter queue.
    """
    deliver = _sink(service.settings.sink)
    messages = [(str(record["Sns"].get("MessageId")), record["Sns"].get("Message")) for record in records]
    failed = [name for name, body in messages if not _deliver(service, deliver, name, body)]
    if failed:
        raise ServiceError(500, "not_answered", f"not answered, see above: {', '.join(failed)}")
    return {"answered": [name for name, _ in messages]}


def _deliver(
    service: Service, deliver: Callable[[str, dict[str, Any]], object], name: str, body: object
) -> bool:
    """Answer one message.

    :return: whether its answer reached the sink; else a line on standard error says why not.
    """
    try:
        limits = service.context.limits
        document = parse(body if isinstance(body, str) else "", {}, {}, limits.max_body_bytes)
        if isinstance(document, dict) and document.get("Type") == "Notification" and "Message" in document:
            inside = document["Message"]  # SNS's envelope, unless the subscription asks for raw delivery
            document = parse(inside if isinstance(inside, str) else "", {}, {}, limits.max_body_bytes)
        _, answer = service.respond(requests.message, document)
        deliver(name, json.loads(answer))
    except ServiceError as error:
        sys.stderr.write(f"message {name}: {error}\n")
        return False
    except Exception as error:
        report(error)
        return False
    return True


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
