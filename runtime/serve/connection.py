"""A client's connection: uvicorn's, which also ends where the client does not go on.

uvicorn itself waits without end for the first request of a connection, for the rest of a head or of a body that nobody
reads, and for a client to read its answer. Each is a file, and a service has only so many of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from runtime.api.errors import ServiceError

if TYPE_CHECKING:
    import asyncio

    from .settings import ServerSettings


class Connection(H11Protocol):
    """HTTP/1.1 over one socket, with a time for everything that is waited for."""

    read_seconds: float  # see ServerSettings
    _reading: asyncio.TimerHandle | None = None  # ends the wait for what the client has begun to send

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a first request as long as for every further one."""
        super().connection_made(transport)
        self._wait_for_next()

    def _wait_for_next(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def data_received(self, data: bytes) -> None:
        """Go on with a request."""
        super().data_received(data)
        self._time_reading()

    def on_response_complete(self) -> None:
        """Go on with what the client has sent meanwhile, as far as it reads what it was answered."""
        super().on_response_complete()
        self._time_reading()
        if left := self.transport.get_write_buffer_size():
            self._time_writing(left)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the times."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._stop_reading()

    def _time_reading(self) -> None:
        """Start the time of a head, or of the rest of a body whose request is answered, or stop it."""
        state = self.conn.their_state
        partial_head = state is h11.IDLE and bool(self.conn.trailing_data[0])
        unread_body = state is h11.SEND_BODY and self.cycle.response_complete
        if not partial_head and not unread_body:
            self._stop_reading()
        elif self._reading is None:
            self._reading = self.loop.call_later(self.read_seconds, self._reading_took_too_long)

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _reading_took_too_long(self) -> None:
        what = f"the head of the request took longer than {self.read_seconds:g} s to arrive"
        self._refuse(ServiceError(408, "request_timeout", what))

    def _time_writing(self, left: int) -> None:
        """End the connection where nothing of an answer is read in the time that a connection is kept.

        :param left: bytes that are not sent yet.
        """

        def check() -> None:
            now = self.transport.get_write_buffer_size()
            if now >= left:
                self.transport.abort()
            elif now:
                self._time_writing(now)

        self.loop.call_later(self.timeout_keep_alive, check)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP/1.1 request, as every other request is refused."""
        self._refuse(ServiceError(400, "invalid_http", msg))

    def _refuse(self, failure: ServiceError) -> None:
        """Answer instead of the application, which knows nothing of this request yet, and close."""
        if self.transport.is_closing():
            return
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            status, headers, body = failure.answer()
            headers |= {"Content-Length": str(len(body)), "Connection": "close"}
            own = [(name.encode(), value.encode()) for name, value in headers.items()]
            for event in (
                h11.Response(status_code=status, headers=[*self.server_state.default_headers, *own]),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def connection_class(settings: ServerSettings) -> type[Connection]:
    """Make the class that uvicorn makes connections of.

    :param settings: of the service.
    """
    members: dict[str, Any] = {"read_seconds": settings.read_seconds}
    return type("Connection", (Connection,), members)
