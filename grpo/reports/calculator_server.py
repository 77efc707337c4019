"""The server of the calculator: its page, and an endpoint that scores completions with Python.

Called by `grpo.calculator`. It listens on the loopback interface only. With a `Session` (calculator_page.py) it also
answers `POST /score` and `POST /step`, but only requests of the page that it served: the headers Host and Origin are
checked, and the page and its requests need the token in the address that the command prints. The answer to a mistake
in a request is one line as JSON. This module knows no reward.
"""

import errno
import hmac
import json
import os
import socketserver
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from grpo.core.errors import UserError, json_type_name

if TYPE_CHECKING:  # it imports the libraries of settings and rewards, which the page alone does not need
    from grpo.reports.calculator_page import Session

PAGE = Path(__file__).parents[1] / "assets" / "calculator.html"
HOST = "127.0.0.1"
# Names of this machine in the header Host. A web page can point any other name to this machine (DNS rebinding).
NAMES = ("127.0.0.1", "localhost")
TRIES = 20  # ports
MAX_BYTES = 8_000_000  # of a request
READ_SECONDS = 10.0  # for a client to send a request


class Refused(Exception):
    """A request that is refused: the status of HTTP, and one line with the reason."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Server(socketserver.ThreadingTCPServer):
    """The server; `session` is None if the page computes all scores itself."""

    daemon_threads = True
    # Except on Windows, this reuses a port that was just released, never one in use.
    allow_reuse_address = os.name != "nt"

    def __init__(self, address: tuple[str, int], session: "Session | None" = None) -> None:
        self.session = session
        super().__init__(address, Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A browser may close its connection at any time.
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Serves the page at `/`, and the endpoint; any other path is not found."""

    server: Server
    timeout = READ_SECONDS

    def do_GET(self) -> None:
        try:
            self._check_host()
            path, token = self._path_and_token()
            if path != "/":
                raise Refused(HTTPStatus.NOT_FOUND, "there is only the page, at /")
            session = self.server.session
            page = PAGE.read_text(encoding="utf-8")
            if session is not None:
                _check_token(session, token)
                page = session.page(page)
        except (Refused, UserError) as error:
            return self._refuse(error)
        self._send(HTTPStatus.OK, "text/html", page.encode())

    do_HEAD = do_GET

    def do_POST(self) -> None:
        try:
            body = self._body()  # read in any case: a connection closed with unread data loses the answer
            self._check_host()
            session = self._check_page()
            match self._path_and_token()[0]:
                case "/score":
                    reply = _score(session, _parsed(body))
                case "/step":
                    reply = session.step(_item(_parsed(body), "step", int))
                case _:
                    raise Refused(HTTPStatus.NOT_FOUND, "POST is for /score and /step")
        except (Refused, UserError) as error:
            return self._refuse(error)
        self._send(HTTPStatus.OK, "application/json", json.dumps(reply).encode())

    def log_message(self, *message: object) -> None:
        pass

    # ---- Checks of a request

    def _check_host(self) -> None:
        name = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if name not in NAMES:
            raise Refused(HTTPStatus.FORBIDDEN, f"the header Host must name {' or '.join(NAMES)}")

    def _check_page(self) -> "Session":
        """Check that the request comes from the page of this server; returns its session."""
        session = self.server.session
        if session is None:
            raise Refused(HTTPStatus.NOT_FOUND, "this page computes its scores itself")
        if self.headers.get("Origin") != f"http://{self.headers['Host']}":
            raise Refused(HTTPStatus.FORBIDDEN, "the header Origin must be the address of the page")
        _check_token(session, self.headers.get("X-Token", ""))
        return session

    def _path_and_token(self) -> tuple[str, str]:
        try:
            address = urlsplit(self.path)
            return address.path, parse_qs(address.query).get("token", [""])[0]
        except ValueError:
            raise Refused(HTTPStatus.BAD_REQUEST, "the address cannot be parsed") from None

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "the header Content-Length must be a number")
        if len(length) > 12 or int(length) > MAX_BYTES:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request has at most {MAX_BYTES:,} bytes")
        return self.rfile.read(int(length))

    # ---- The answer

    def _refuse(self, error: Refused | UserError) -> None:
        status = error.status if isinstance(error, Refused) else HTTPStatus.UNPROCESSABLE_ENTITY
        self._send(status, "application/json", json.dumps({"error": str(error)}).encode())

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _check_token(session: "Session", token: str) -> None:
    if not hmac.compare_digest(token.encode("utf-8", "surrogateescape"), session.token.encode()):
        raise Refused(
            HTTPStatus.FORBIDDEN, "the token is missing or wrong; open the address that the calculator printed"
        )


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(HTTPStatus.BAD_REQUEST, "the body is not JSON") from None
    if not isinstance(content, dict):
        raise Refused(HTTPStatus.BAD_REQUEST, f"the body is {json_type_name(content)}, not an object")
    return content


def _item(content: dict[str, Any], name: str, kind: type) -> Any:
    value = content.get(name)
    if type(value) is not kind:
        raise Refused(HTTPStatus.BAD_REQUEST, f"{name} is {json_type_name(value)}, not {json_type_name(kind())}")
    return value


def _score(session: "Session", content: dict[str, Any]) -> dict[str, Any]:
    from grpo.rewards.scoring_process import Group

    completions, columns = _item(content, "completions", list), _item(content, "columns", dict)
    if not completions or not all(isinstance(text, str) for text in completions):
        raise Refused(HTTPStatus.BAD_REQUEST, "completions must be a list of texts, at least one")
    try:
        columns = {name: json.loads(text) for name, text in columns.items()}
    except (ValueError, TypeError, RecursionError):
        raise Refused(HTTPStatus.BAD_REQUEST, "each of the columns must be a text with JSON") from None
    group = Group(completions, _item(content, "gold", str), _item(content, "question", str), columns)
    scored = session.scoring.score(group)
    # JSON has no nan, the score of an abstention.
    scores = {name: [value if value == value else None for value in row] for name, row in scored.scores.items()}
    return {"scores": scores, "errors": scored.errors}


def listen(port: int, session: "Session | None" = None) -> Server:
    """A server on `port`, or on the next free port; 0 means any free port.

    Raises:
        UserError: no port is available.
    """
    last = min(port + TRIES - 1, 65535)
    for candidate in range(port, last + 1):
        try:
            return Server((HOST, candidate), session)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise UserError(
                    f"--port {candidate}: {error.strerror}. Ports from 1024 on need no privileges."
                ) from error
            print(f"Port {candidate} is taken.", flush=True)
    raise UserError(
        f"--port {port}: the ports from {port} to {last} are all taken; give another port, or 0 for any free port."
    )
