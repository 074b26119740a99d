"""Serve the rendered book on this machine and print its address."""

import functools
import http.server
import os
import sys

from book.tools.normalise import ROOT

HTML = ROOT / "_build" / "html"


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves quietly, and so that a page rendered anew shows on reload."""

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""

    def end_headers(self) -> None:
        """Forbid the browser to keep pages."""
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()


def open_server(host: str, port: int) -> http.server.ThreadingHTTPServer:
    """Listen on ``port``, or on the next free one of the twenty that follow."""
    for candidate in range(port, min(port + 20, 65536)):
        try:
            handler = functools.partial(Handler, directory=str(HTML))
            server = http.server.ThreadingHTTPServer((host, candidate), handler)
        except OSError:
            continue
        if candidate != port:
            print(f"Port {port} is taken, using {candidate}.")
        return server
    raise SystemExit(f"No port from {port} to {port + 19} can be used on {host}; choose one with: make serve PORT=9000")


def main() -> None:
    """Serve until Ctrl-C."""
    host, port = os.environ.get("HOST", "127.0.0.1"), os.environ.get("PORT", "8000")
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
