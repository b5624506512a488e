"""Entry points for functions: AWS Lambda, Google Cloud (Cloud Run functions), or a plain dict.

The model loads when this package is imported, once per process, not per call. A process answers one request at a time:
give it one, and let the platform start more processes (Cloud Run: --concurrency 1).

    aws_lambda(event, context)   direct invocation, API Gateway v1 and v2, Function URL, SQS
    google_cloud(request)        functions-framework: a Flask request
    handle(request)              what both use: the request's JSON in, the answer's JSON out

A request is {"input": text or [texts]} ("texts" means the same), and optionally

    max_length        most tokens of a text, [CLS] and [SEP] included
    overflow          "truncate" (default) or "error"; or truncate: true or false
    normalized        vectors of length 1: true (default) or false
    encoding_format   "float" (default) or "base64": little-endian float32
    dimensions        how many numbers of each vector to keep: all, or fewer of a model exported with --rotate
    model, user       of OpenAI's requests: ignored

and the answer that of OpenAI and Jina: {"object": "list", "data": [{"object": "embedding", "index", "embedding"}],
"model", "usage": {"prompt_tokens", "total_tokens", "truncated_texts"}}; or {"error": {"message", "type", "code",
"status"}} with an HTTP status of 400, 405 or 413. In an SQS batch each message is one such request. Its answer goes to
JINABERT_SINK; a message that fails is reported as such, and SQS gives it to the function again.

Environment variables, read at import:

    JINABERT_MODEL               embedded   folder of another model
    JINABERT_THREADS             automatic  threads; automatic respects affinity, quotas, memory
    JINABERT_WARMUP              0          tokens of a run at import, so that the first request finds a warm model
    JINABERT_MAX_LENGTH          the model's  most tokens of a text that a request may ask for, and the default
    JINABERT_MAX_TEXTS           2048       texts of one request
    JINABERT_MAX_BYTES           1000000    bytes of one request's body
    JINABERT_MAX_RESPONSE_BYTES  6000000    bytes of one answer's body (Lambda sends no more than 6 MB)
    JINABERT_MEMORY_MB           automatic  memory that may be used: cgroups' limit, Lambda's memory size; 0: no limit
    JINABERT_CORS_ORIGIN         none       origin that browsers may call from, such as https://example.com
    JINABERT_SINK                none       "module:function", called with the message's id and answer for each SQS
                                            message; none: the answer is printed, one JSON line each

A text for which there is not enough memory is answered with 413 and the number of tokens that would fit
(runtime/api/budget.py), since a process that takes too much is killed and answers nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from . import aws, google
from .service import Service
from .settings import from_environment

if TYPE_CHECKING:
    from typing import Any

__all__ = ["aws_lambda", "google_cloud", "handle"]

service = Service(from_environment(os.environ))


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """Answer one request.

    :param request: see above.
    :return: the vectors, or {"error": ...} for what is wrong with the request.
    :raises JinaBertError: the model failed, whatever the request.
    """
    return service.answer(request)[1]


def aws_lambda(event: dict[str, Any], context: object = None) -> dict[str, Any]:
    """AWS Lambda's handler: `runtime.handlers.aws_lambda`.

    :param event: a request itself, or an event of API Gateway (v1, v2), a Function URL or SQS.
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
