"""Entry points for functions: AWS Lambda, Google Cloud (Cloud Run functions), or a plain dict.

The model loads when one of the three is first looked up, which the platforms do at start: once per process, not per
call. Importing a part, such as `runtime.handlers.settings`, loads none. A process answers one request at a time: give
it one, and let the platform start more processes (Cloud Run: --concurrency 1).

    aws_lambda(event, context)   direct invocation, load balancer (ALB), API Gateway v1 and v2, Function URL, SQS, SNS
    google_cloud(request)        functions-framework: a Flask request
    handle(request)              the request's JSON in, the answer's JSON out

Requests, answers and errors are those of the service (runtime/serve/README.md): both are runtime/api/. Over HTTP the
end of the path chooses: /v1/embeddings, /embeddings, /embed, /similarity, /tokenize, /vertex, /v1/models, /info; any
other path takes what /v1/embeddings takes, and answers GET and HEAD with 200 for health checks. Bodies may be gzip.
Without HTTP an error is {"error": {"message", "type", "param", "code", "status"}}, status being the one that HTTP
would have.

In an SQS batch each message is one such request, alone or in SNS's envelope. Its answer goes to JINABERT_SINK; a
message that fails is reported as such (ReportBatchItemFailures), and SQS gives it to the function again. A message that
SNS gives to the function itself and that fails is an error of the call, which Lambda repeats.

Environment variables, read when the model loads:

    JINABERT_MODEL               bundled    folder of another model
    JINABERT_THREADS             automatic  threads; automatic respects affinity, quotas, memory
    JINABERT_WARMUP              0          tokens of a run at start, so that the first request finds a warm model
    JINABERT_MAX_LENGTH          the model's  most tokens of a text that a request may ask for, and the default
    JINABERT_MAX_TEXTS           2048       texts of one request
    JINABERT_MAX_REQUEST_TOKENS  300000     tokens of one request's texts together
    JINABERT_MAX_BYTES           4194304    bytes of one request's body
    JINABERT_MAX_RESPONSE_BYTES  6000000    bytes of one answer's body (Lambda sends no more than 6 MB)
    JINABERT_MEMORY_MB           automatic  memory that may be used: cgroups' limit, Lambda's memory size; 0: no limit
    JINABERT_ACCEPT_TOKEN_IDS    0          1: inputs may be token ids of this model
    JINABERT_CORS_ORIGIN         none       origins that browsers may call from, such as https://example.com, with
                                            commas between them; * for any
    JINABERT_SINK                none       "module:function", called with the message's id and answer for each message
                                            of SQS and SNS; none: the answer is printed, one JSON line each

A text for which there is not enough memory is answered with 413 and the number of tokens that would fit
(runtime/api/budget.py), since a process that takes too much is killed and answers nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .entry import aws_lambda, google_cloud, handle, service

__all__ = ["aws_lambda", "google_cloud", "handle", "service"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import entry

    return getattr(entry, name)
