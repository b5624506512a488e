"""The handlers themselves. Importing this file loads the model: once per process, not per call."""

from __future__ import annotations

import os
from typing import Any

from . import aws, google
from .service import Service
from .settings import from_environment

service = Service(from_environment(os.environ))


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """Answer one request.

    :param request: see the package.
    :return: the vectors, or {"error": ...} for what is wrong with the request.
    """
    return service.answer(request)


def aws_lambda(event: dict[str, Any], context: object = None) -> dict[str, Any]:
    """AWS Lambda's handler: `runtime.handlers.aws_lambda`.

    :param event: a request itself, or an event of a load balancer, API Gateway (v1, v2), a Function URL, SQS or SNS.
    :param context: not used.
    :return: as handle() for a request itself, an HTTP response for HTTP events, batchItemFailures for SQS.
    """
    return aws.respond(service, event)


def google_cloud(request: Any) -> tuple[str, int, dict[str, str]]:
    """An HTTP function for functions-framework.

    :param request: flask.Request.
    :return: body, status and headers.
    """
    return google.respond(service, request)
