"""As much of the W&B service as a run needs: it takes what a run sends, and tells a resumed one where it stood."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "x" * 40


class Service(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.history: dict[str, list[dict[str, Any]]] = {}  # run id -> its rows
        self.started: dict[str, dict[str, Any]] = {}  # run id -> what it was started with
        self.login = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": self.url}
        self.exit_codes: dict[str, list[int]] = {}
        self.reachable = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a run that is killed hangs up


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.reply({})

    def do_PUT(self) -> None:
        self.body()
        self.reply({})

    def do_POST(self) -> None:
        body = self.body()
        if self.path == "/graphql":
            asked = json.loads(body)
            self.reply({"data": self.answer(asked["query"], asked.get("variables") or {})})
        elif self.path.endswith("/file_stream"):
            self.stream(self.path.split("/")[-2], json.loads(body))
            self.reply({"exitcode": None, "limits": {}})
        else:
            self.reply({})

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "p", "name": "grpo", "entity": {"id": "e", "name": "me"}}
        if "upsertBucket" in query:
            self.server.started.setdefault(variables["name"], variables)
            bucket = {"id": "b", "name": variables["name"], "displayName": "d", "config": "{}", "project": project}
            return {"upsertBucket": {"bucket": bucket | {"historyLineCount": 0}, "inserted": True}}
        if "RunResumeStatus" in query:
            rows = self.server.history.get(variables["name"])
            bucket = rows and {
                "id": "b",
                "name": variables["name"],
                "summaryMetrics": json.dumps(rows[-1]),
                "displayName": "d",
                "logLineCount": 0,
                "historyLineCount": len(rows),
                "eventsLineCount": 0,
                "historyTail": json.dumps([json.dumps(rows[-1])]),
                "eventsTail": json.dumps([json.dumps({"_runtime": 1})]),
                "config": "{}",
                "tags": [],
                "notes": None,
                "wandbConfig": "{}",
            }
            return {"model": project | {"bucket": bucket}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.server.url}/upload/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if "viewer" in query:
            return {"viewer": {"id": "v", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        return {}

    def stream(self, run: str, sent: dict[str, Any]) -> None:
        if history := (sent.get("files") or {}).get("wandb-history.jsonl"):
            rows = self.server.history.setdefault(run, [])
            rows[history["offset"] :] = [json.loads(line) for line in history["content"]]
        if sent.get("complete"):
            self.server.exit_codes.setdefault(run, []).append(sent["exitcode"])

    def body(self) -> bytes:
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        return gzip.decompress(content) if self.headers.get("content-encoding") == "gzip" else content

    def reply(self, content: dict[str, Any]) -> None:
        if not self.server.reachable:
            self.close_connection = True
            return
        encoded = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)


@contextmanager
def running() -> Iterator[Service]:
    service = Service()
    threading.Thread(target=service.serve_forever, daemon=True).start()
    try:
        yield service
    finally:
        service.shutdown()
        service.server_close()
