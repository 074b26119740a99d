"""Serve the rendered book on this machine and print its address."""

import functools
import http.server
import os
import sys
from pathlib import Path

HTML = Path(__file__).resolve().parents[2] / "_build" / "html"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")  # a page rendered anew shows on reload
        super().end_headers()


def open_server(host: str, port: int) -> http.server.ThreadingHTTPServer:
    """Listen on ``port``, or on the next free one of the twenty that follow."""
    handler = functools.partial(QuietHandler, directory=str(HTML))
    for candidate in range(port, min(port + 20, 65536)):
        try:
            server = http.server.ThreadingHTTPServer((host, candidate), handler)
        except OSError:
            continue
        if candidate != port:
            print(f"Port {port} is taken, using {candidate}.")
        return server
    raise SystemExit(f"No port from {port} to {port + 19} can be used on {host}; choose one with: make serve PORT=9000")


def main() -> None:
    port = os.environ.get("PORT", "8000")
    host = os.environ.get("HOST", "127.0.0.1")
    if not port.isdecimal() or not 0 <= int(port) < 65536:
        raise SystemExit(f"PORT must be a number from 0 to 65535, received {port!r}")
    if not (HTML / "index.html").is_file():
        raise SystemExit("There is no book yet. Build it first: make book")
    with open_server(host, int(port)) as server:
        print(f"The book is at http://{host}:{server.server_port}/ (stop with Ctrl-C)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            sys.exit("\nStopped.")


if __name__ == "__main__":
    main()
