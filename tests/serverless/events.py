"""Events as AWS sends them, shortened to what is read or could be mistaken."""

from __future__ import annotations

import base64
import json
from typing import Any

__all__ = ["balancer", "function_url", "gateway_v1", "gateway_v2", "sns", "sns_envelope", "sqs"]


def gateway_v1(body: str | None, method: str = "POST") -> dict[str, Any]:
    """A REST API's."""
    return {
        "resource": "/embeddings",
        "path": "/embeddings",
        "httpMethod": method,
        "headers": {"Content-Type": "application/json"},
        "queryStringParameters": None,
        "requestContext": {"stage": "prod", "httpMethod": method},
        "body": body,
        "isBase64Encoded": False,
    }


def gateway_v2(body: bytes | str | None, method: str = "POST", **changes: Any) -> dict[str, Any]:
    """An HTTP API's. Bytes are sent in base64."""
    encoded = isinstance(body, bytes)
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/embeddings",
        "headers": {"content-type": "application/json"},
        "requestContext": {"http": {"method": method, "path": "/embeddings", "sourceIp": "203.0.113.7"}},
        "body": base64.b64encode(body).decode() if isinstance(body, bytes) else body,
        "isBase64Encoded": encoded,
        **changes,
    }


function_url = gateway_v2  # the same form


def balancer(
    method: str, body: str = "", *, path: str = "/embeddings", several: bool = False
) -> dict[str, Any]:
    """An application load balancer's; `several`: its target group has multi-value headers on."""
    headers = {"host": "lb-1.eu-west-1.elb.amazonaws.com", "user-agent": "ELB-HealthChecker/2.0"}
    if body:
        headers["content-type"] = "application/json"
    group = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/embed/1"
    shown = (
        {"multiValueHeaders": {name: [value] for name, value in headers.items()}}
        if several
        else {"headers": headers}
    )
    query = {"multiValueQueryStringParameters": {}} if several else {"queryStringParameters": {}}
    return {
        "requestContext": {"elb": {"targetGroupArn": group}},
        "httpMethod": method,
        "path": path,
        **query,
        **shown,
        "body": body,
        "isBase64Encoded": False,
    }


def sns_envelope(body: object) -> dict[str, Any]:
    """What SNS puts around a message; one that is no str becomes JSON."""
    return {
        "Type": "Notification",
        "MessageId": "notification-0",
        "TopicArn": "arn:aws:sns:eu-west-1:123456789012:texts",
        "Message": body if isinstance(body, str) else json.dumps(body),
        "Timestamp": "2026-01-01T00:00:00.000Z",
        "SignatureVersion": "1",
    }


def sns(body: object) -> dict[str, Any]:
    """SNS's own event."""
    return {"Records": [{"EventSource": "aws:sns", "EventVersion": "1.0", "Sns": sns_envelope(body)}]}


def sqs(*bodies: object, fifo: bool = False) -> dict[str, Any]:
    """A batch; a body that is no str becomes JSON."""
    return {
        "Records": [
            {
                "messageId": f"message-{number}",
                "receiptHandle": "handle",
                "body": body if isinstance(body, str) else json.dumps(body),
                "eventSource": "aws:sqs",
                "eventSourceARN": f"arn:aws:sqs:eu-west-1:123456789012:texts{'.fifo' if fifo else ''}",
            }
            for number, body in enumerate(bodies)
        ]
    }
