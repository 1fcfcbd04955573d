"""A page of another origin, in a real browser, against the real command that serves Dagster and MLflow."""

import json
import os
import socket
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tem_pipeline_tests.browser.chromium import chromium

ATTACK = Path(__file__).with_name("other_page.html").read_bytes()
MUTATION = """mutation { launchRun(executionParams: {
    selector: {repositoryName: "__repository__", repositoryLocationName: "tem_pipeline.definitions",
               jobName: "ingest_session"},
    mode: "default", executionMetadata: {tags: [{key: "dagster/partition", value: "stolen"}]}
}) { __typename } }"""
RUNS = "{ runsOrError { ... on Runs { results { id } } } }"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The addresses of Dagster and MLflow, served as `make dev` does, for an empty laboratory."""
    root = tmp_path_factory.mktemp("served")
    (root / "data/incoming").mkdir(parents=True)
    ports = free_port(), free_port()
    environment = {
        **os.environ,
        "TEM_DATA_ROOT": str(root / "data"),
        "TEM_MODELS_ROOT": str(root / "models"),
        "DAGSTER_HOME": str(root / "dagster"),
        "DAGSTER_PORT": str(ports[0]),
        "MLFLOW_PORT": str(ports[1]),
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "tem_pipeline.cli", "dev"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("MLflow: "):
                break
        assert process.poll() is None, "".join(said)
        # What is not read would fill the pipe.
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"
        process.terminate()


def ask(dagster: str, query: str) -> dict:
    """Ask GraphQL as a program does."""
    body = json.dumps({"query": query}).encode()
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{dagster}/graphql", body, headers)) as answer:
        return json.load(answer)["data"]


def attack(host: str, dagster: str, mlflow: str, folder: Path) -> dict[str, str]:
    """Open the attacking page from its own server; give what it reports."""
    report: dict[str, str] = {}
    reported = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(ATTACK)

        def do_POST(self):
            report.update(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()
            reported.set()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        targets = {"dagster": dagster, "mlflow": mlflow, "mutation": MUTATION, "query": RUNS}
        address = urllib.parse.urlencode(targets, quote_via=urllib.parse.quote)
        with chromium(folder, f"http://{host}:{server.server_port}/?{address}"):
            assert reported.wait(90), "the page did not report"
        server.shutdown()
    return report


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_page_of_another_origin_cannot_launch_or_read_a_run(served, tmp_path: Path, host: str):
    dagster, mlflow = served
    report = attack(host, dagster, mlflow, tmp_path)
    # Sending without reading can't be prevented in the browser: the server refuses it.
    assert {name for name, got in report.items() if got != "nothing"} == {"post", "form"}
    assert len(report) == 11
    assert ask(dagster, RUNS) == {"runsOrError": {"results": []}}
    search = urllib.request.Request(
        f"{mlflow}/api/2.0/mlflow/experiments/search",
        b'{"max_results": 9}',
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(search) as answer:
        assert "stolen" not in answer.read().decode()


def test_dagsters_own_pages_work(served, tmp_path: Path):
    dagster, _ = served
    # The list of jobs comes over GraphQL: it is empty if the page's own requests are refused.
    with chromium(tmp_path, f"{dagster}/jobs", "--dump-dom", "--virtual-time-budget=20000") as browser:
        shown, _ = browser.communicate(timeout=90)
    assert "process_session" in shown
