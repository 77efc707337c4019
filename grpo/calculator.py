"""The reward calculator: a page on which you edit completions and see the scores that the trainer would give them.

python -m grpo.calculator
python -m grpo.calculator outputs/DATE/TIME      # in the answer format of a run

It serves one HTML file, which computes the scores in the browser; no reward of this package runs here.
"""

import argparse
import errno
import os
import socketserver
import sys
import threading
import webbrowser
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from grpo.core.console import error_message
from grpo.core.errors import UserError
from grpo.core.paths import run_argument
from grpo.core.process import check_process, guard_streams

PAGE = Path(__file__).parent / "assets" / "calculator.html"
HOST = "127.0.0.1"
PORT = 8008
TRIES = 20


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    # Except on Windows, this reuses a port that was just released, never one in use.
    allow_reuse_address = os.name != "nt"

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a browser may close its connection at any time
            super().handle_error(request, client_address)


class OnePage(BaseHTTPRequestHandler):
    """Serves the page at `/`; any other path is not found."""

    def do_GET(self) -> None:
        try:
            path = urlsplit(self.path).path
        except ValueError:
            return self.send_error(HTTPStatus.BAD_REQUEST)
        if path != "/":
            return self.send_error(HTTPStatus.NOT_FOUND)
        page = PAGE.read_bytes()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(page)

    do_HEAD = do_GET

    def log_message(self, *message: object) -> None:
        pass


def listen(port: int) -> Server:
    """A server on `port`, or on the next free port; 0 means any free port.

    Raises:
        UserError: no port is available.
    """
    last = min(port + TRIES - 1, 65535)
    for candidate in range(port, last + 1):
        try:
            return Server((HOST, candidate), OnePage)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise UserError(
                    f"--port {candidate}: {error.strerror}. Ports from 1024 on need no privileges."
                ) from error
            print(f"Port {candidate} is taken.", flush=True)
    raise UserError(
        f"--port {port}: the ports from {port} to {last} are all taken; give another port, or 0 for any free port."
    )


def can_open() -> bool:
    """Whether a browser with a window can be opened; a text browser would take over this terminal."""
    windows = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in windows)


def format_query(run: Path | None) -> str:
    """The part of the address that names the answer format of a run.

    Raises:
        UserError: the folder holds no run, or its settings cannot be read.
    """
    if run is None:
        return ""
    from grpo.runs.run_dir import resolve_link  # what reads settings takes time to import
    from grpo.runs.settings import read_config
    from grpo.tasks.answer_format import answer_format_of

    return "?" + answer_format_of(read_config(resolve_link(run)).format).setting.replace(" ", "&")


def main() -> None:
    guard_streams()
    parser = argparse.ArgumentParser(
        prog="python -m grpo.calculator",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Edit completions in the browser and see their scores as the trainer computes them:\n"
        "each reward and its reason, the advantages of a group, and each reward's share.",
        epilog=f"The page is one file, which needs no server: open it from disk, or host it.\n  {PAGE}\n\n"
        f"On another machine: ssh -L {PORT}:{HOST}:{PORT} MACHINE\nthen open http://{HOST}:{PORT} here.\n\n"
        "A run's completions as JSONL, to drop onto the page:\n"
        "  python -c \"import pandas; pandas.read_parquet('outputs/DATE/TIME/completions/step_000100.parquet')"
        ".to_json('step.jsonl', orient='records', lines=True)\"",
    )
    parser.add_argument("run", nargs="?", type=run_argument, help="the folder of a run whose answer format is used")
    parser.add_argument("--port", type=int, default=PORT, help=f"default {PORT}; if it is taken, the next free port")
    parser.add_argument("--no-browser", action="store_true", help="print the address without opening a browser")
    arguments = parser.parse_args()
    if not 0 <= arguments.port <= 65535:
        parser.error(f"--port {arguments.port}: a port is a number from 0 (any that is free) to 65535")
    try:
        check_process()
        query = format_query(arguments.run)
        with listen(arguments.port) as server:
            address = f"http://{HOST}:{server.server_address[1]}/{query}"
            print(f"The calculator is at {address} (Ctrl-C to stop)", flush=True)
            if not arguments.no_browser and can_open():
                threading.Thread(target=webbrowser.open, args=[address], daemon=True).start()
            server.serve_forever()
    except UserError as error:
        sys.exit(error_message(f"error: {error}"))
    except KeyboardInterrupt:
        print("\nStopped.")


if __name__ == "__main__":
    main()
