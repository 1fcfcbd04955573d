"""The check that keeps other web pages out of Dagster's and MLflow's."""

import asyncio

import pytest

from tem_pipeline.same_origin import refusal, same_origin_only

HOST = "127.0.0.1:3000"
OWN = "http://127.0.0.1:3000"
EVIL = "http://evil.example"


def ask(method: str = "GET", path: str = "/runs", names=(), **headers: str) -> str | None:
    given = {"host": HOST, **{name.replace("_", "-"): value for name, value in headers.items()}}
    pairs = [(name.encode(), value.encode()) for name, value in given.items()]
    return refusal(method, path, pairs, names or ("localhost", "127.0.0.1", "[::1]"))


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"sec_fetch_site": "none", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"},
        {"sec_fetch_site": "same-origin", "sec_fetch_mode": "no-cors", "sec_fetch_dest": "script"},
        {"method": "POST", "path": "/graphql", "origin": OWN, "sec_fetch_site": "same-origin"},
        {"method": "WEBSOCKET", "path": "/graphql", "origin": OWN},
        {"method": "POST", "path": "/graphql"},
        {"method": "POST", "path": "/graphql", "host": "LOCALHOST:3000", "origin": "http://localhost:3000"},
        {"path": "/graphql", "accept": "text/html,*/*"},
        {"host": "[::1]:3000", "origin": "http://[::1]:3000"},
    ],
    ids=str,
)
def test_own_pages_typed_addresses_and_programs_are_let_in(request_: dict):
    assert ask(**request_) is None


def test_a_link_on_another_page_opens_a_page():
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    assert ask(**link) is None
    assert ask("POST", **link) is not None
    assert ask(**{**link, "sec_fetch_dest": "iframe"}) is not None


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "OPTIONS", "WEBSOCKET"])
@pytest.mark.parametrize(
    "origin",
    [
        EVIL,
        "null",
        "",
        "file://",
        "http://127.0.0.1:8888",
        "http://localhost:3000",
        "http://127.0.0.1:3000.evil.example",
        "http://evil@127.0.0.1:3000",
        "http://127.0.0.1",
        "https://127.0.0.1",
        "http://[::1",
        "ws://127.0.0.1:3000",
    ],
)
def test_a_page_of_another_origin_is_refused_whatever_it_asks(method: str, origin: str):
    assert "it comes from a page of" in (ask(method, "/graphql", origin=origin, accept="text/html") or "")


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything"])
def test_pictures_scripts_and_frames_of_other_pages_are_refused(site: str):
    for dest in ("image", "script", "iframe", "empty"):
        assert ask(sec_fetch_site=site, sec_fetch_mode="no-cors", sec_fetch_dest=dest) is not None


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:3000", "127.0.0.1.evil.example", "", "127.0.0.1:3000, evil", "0.0.0.0"],
)
def test_a_host_that_is_not_the_servers_is_refused_against_rebinding(host: str):
    assert "TEM_WEB_NAMES" in (ask(host=host) or "")


def test_a_request_with_two_hosts_or_two_origins_is_refused():
    host, origin = (b"host", HOST.encode()), (b"origin", OWN.encode())
    assert refusal("GET", "/", [host, origin]) is None
    for headers in ([host, host], [host, origin, origin], [origin], []):
        assert "one Host" in (refusal("GET", "/", headers) or "")


@pytest.mark.parametrize("path", ["/graphql", "/prefix/graphql"])
def test_a_query_in_an_address_is_refused_even_without_an_origin(path: str):
    assert ask("GET", path, accept="image/png") == "GraphQL is asked by POST"
    assert ask("HEAD", path) is not None


def test_a_server_behind_a_proxy_is_reached_under_its_own_name():
    own = {"host": "tem.example.org", "origin": "https://tem.example.org"}
    assert ask("POST", names=("tem.example.org",), **own) is None
    assert ask("POST", names=("tem.example.org",), **{**own, "host": "tem.example.org:443"}) is None
    assert ask("POST", **own) is not None
    assert ask("POST", names=("tem.example.org",), **{**own, "origin": "https://example.org"}) is not None


def call(kind: str, **headers: str) -> tuple[list[dict], bool]:
    """Send one request through the check; give what was answered and whether it reached the application."""
    answers: list[dict] = []
    reached = False

    async def application(scope, receive, send):
        nonlocal reached
        reached = True
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive():
        return {"type": f"{kind}.connect"}

    async def send(message):
        answers.append(message)

    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": kind, "path": "/graphql", "headers": pairs}
    if kind == "http":
        scope["method"] = "POST"

    async def answer() -> None:
        await same_origin_only(application, ["lab"])(scope, receive, send)

    asyncio.run(answer())
    return answers, reached


def test_refused_requests_and_sockets_never_reach_the_application(caplog: pytest.LogCaptureFixture):
    answers, reached = call("http", host="lab", origin=EVIL)
    assert not reached
    assert answers[0]["status"] == 403
    answers, reached = call("websocket", host="lab", origin=EVIL)
    assert not reached
    assert answers == [{"type": "websocket.close", "code": 1008}]
    assert caplog.text.count("refused") == 2
    assert "\n" not in caplog.messages[0]


def test_accepted_requests_may_not_be_shown_in_frames_of_other_pages():
    answers, reached = call("http", host="lab", origin="http://lab")
    assert reached
    assert dict(answers[0]["headers"])[b"content-security-policy"] == b"frame-ancestors 'self'"
    assert call("websocket", host="lab", origin="http://lab")[1]
    assert call("lifespan")[1]
