"""Refuses what other web pages send to a server: the check in front of Dagster's and MLflow's pages.

Neither server asks for a login. Any page that is open in the same browser can reach them, even on 127.0.0.1,
and Dagster takes a mutation from the address of a POST without a preflight and opens WebSockets to anybody.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from tem_pipeline.text import printable

Application = Callable[..., Awaitable[None]]
"""An ASGI application: called with scope, receive and send."""

LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+?)\.?(?::(?P<port>\d{1,5}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}
# Browsers that know these headers refuse to show the pages in a frame of another page.
_ANSWER_HEADERS = (
    (b"content-security-policy", b"frame-ancestors 'self'"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_LOG = logging.getLogger(__name__)


def same_origin_only(application: Application, names: Collection[str] = ()) -> Application:
    """Put the check before an ASGI application.

    Parameters
    ----------
    application : Application
    names : collection of str
        Host names under which the pages are reached, besides `LOCAL_NAMES`.

    Returns
    -------
    Application
        It answers 403 to requests with a `refusal`, and closes such WebSockets before they open.
    """
    known = frozenset(name.lower() for name in (*LOCAL_NAMES, *names))

    async def checked(scope: Mapping[str, Any], receive: Application, send: Application) -> None:
        if scope["type"] not in ("http", "websocket"):
            await application(scope, receive, send)
            return
        method = scope.get("method", "WEBSOCKET")
        reason = refusal(method, scope["path"], scope["headers"], known)
        if reason is None:
            await application(scope, receive, _with_answer_headers(send))
            return
        _LOG.warning("refused %s %s: %s", method, printable(scope["path"])[:200], reason)
        await _refuse(scope["type"], reason, receive, send)

    return checked


def refusal(
    method: str, path: str, headers: Collection[tuple[bytes, bytes]], names: Collection[str] = LOCAL_NAMES
) -> str | None:
    """Tell why a request is not accepted.

    A request is accepted if it names a known host and comes from a page of the same origin, from no page (a
    typed address, a program), or follows a link from another page without changing anything.

    Browsers state the origin of every POST and every WebSocket, and `Sec-Fetch-Site` with every request to
    this machine or over TLS. A program, such as curl, states neither.

    Parameters
    ----------
    method : str
        Of HTTP, or WEBSOCKET.
    path : str
        Path of the address.
    headers : collection of (bytes, bytes)
        Names in lower case, as ASGI gives them.
    names : collection of str
        Known host names, in lower case.

    Returns
    -------
    str or None
        One line; None for an accepted request.
    """
    given: dict[str, list[str]] = {}
    for name, value in headers:
        given.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1").strip().lower())
    if len(given.get("host", [])) != 1 or len(given.get("origin", [])) > 1:
        return "the request must have one Host and at most one Origin"
    host = _HOST.fullmatch(given["host"][0])
    if host is None or host["name"] not in names:
        return f"{printable(given['host'][0])[:100]!r} is no name of this server; add it to TEM_WEB_NAMES"
    origin = given.get("origin", [None])[0]
    if origin is not None and not _is_origin_of(origin, given["host"][0]):
        return f"it comes from a page of {printable(origin)[:100]!r}"
    reads = method in ("GET", "HEAD")
    site = given.get("sec-fetch-site", ["none"])[-1]
    if site not in ("same-origin", "none"):
        opens_page = (given.get("sec-fetch-mode"), given.get("sec-fetch-dest")) == (
            ["navigate"],
            ["document"],
        )
        if not (reads and opens_page):
            return f"it comes from a page of another origin ({printable(site)[:30]})"
    # Dagster runs a mutation that a GET names. Browsers don't state the origin of a GET.
    if reads and path.endswith("/graphql") and "text/html" not in ",".join(given.get("accept", [])):
        return "GraphQL is asked by POST"
    return None


def _is_origin_of(origin: str, host: str) -> bool:
    """Tell whether an Origin, such as http://127.0.0.1:3000, is that of the server's own pages."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    default = _DEFAULT_PORTS.get(parts.scheme)
    if default is None:
        return False
    own, other = (_HOST.fullmatch(each) for each in (host, parts.netloc))
    if own is None or other is None:
        return False
    return (own["name"], own["port"] or default) == (other["name"], other["port"] or default)


async def _refuse(kind: str, reason: str, receive: Application, send: Application) -> None:
    if kind == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    text = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": 403, "headers": text})
    await send({"type": "http.response.body", "body": f"Refused: {reason}.\n".encode()})


def _with_answer_headers(send: Application) -> Application:
    async def extended(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_ANSWER_HEADERS]
        await send(message)

    return extended
