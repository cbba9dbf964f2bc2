"""`--notify`: a verdict reaches the notification block of the user, on a real Prefect server."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.servers import free_port

# The block is made as on the page Blocks; then a user names it, and another one.
REGISTER = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.system import Secret
from flows.serving.notification import register_notification
from tasks.errors import InputError

data = {"subject": "{{subject}}", "text": "{{body}}"}
for name in ("first", "ops"):
    CustomWebhookNotificationBlock(name="x", url=sys.argv[1], json_data=data).save(name)
Secret(value="x").save("plain")
for block in ("custom-webhook/first", "custom-webhook/ops", "custom-webhook/none", "secret/plain", "ops"):
    try:
        register_notification(block)
    except InputError as exc:
        print(exc)
"""


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[Any]]]:
    """The address of a webhook on this machine, and what was sent to it."""
    received: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

    server = HTTPServer(("127.0.0.1", free_port()), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", received
    server.shutdown()


@pytest.mark.slow
def test_a_verdict_reaches_the_block_that_the_user_named_last(
    shell: dict[str, str], prefect_server: str, webhook: tuple[str, list[Any]]
) -> None:
    address, received = webhook
    command = [sys.executable, "-c", REGISTER, address]
    environment = {**shell, "PREFECT_API_URL": prefect_server, "PYTHONPATH": "."}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    refused = done.stdout.splitlines()
    assert [line for line, says in zip(refused, ("there is no block", "cannot send", "must be TYPE/NAME"), strict=True)
            if says in line] == refused  # fmt: skip
    (automation,) = httpx.post(f"{prefect_server}/automations/filter", json={}, trust_env=False).json()
    (action,) = automation["actions"]
    assert (automation["enabled"], action["type"]) == (True, "send-notification")
    payload = {"says": "The loss rose.", "cause": "label_skew", "clients": ["03", "07"], "round": 13, "report": "r"}
    about = {"prefect.resource.id": f"prefect.flow-run.{uuid4()}", "prefect.resource.name": "mlp · a-name"}
    now = datetime.now(UTC).isoformat()
    events = [
        {"id": str(uuid4()), "event": event, "resource": about, "payload": payload, "occurred": now}
        for event in ("undrift.other", "undrift.loss.rose")
    ]
    answer = httpx.post(f"{prefect_server}/events", json=events, trust_env=False)
    assert answer.is_success, answer.text
    until = time.monotonic() + 120
    while not received:
        assert time.monotonic() < until
        time.sleep(0.2)
    (sent,) = received
    assert sent["subject"] == "undrift.loss.rose: mlp · a-name"
    for line in ("The loss rose.", "cause: label_skew", "clients: 03, 07", "round: 13", "report: r"):
        assert line in sent["text"].splitlines()
