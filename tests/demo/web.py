"""The web server of the test-app-2 pods, in nginx's place: `python web.py POD_NAME [PORT]`, standard library only.

GET or HEAD /            a small page, with nginx's headers and X-Pod naming the pod that answered
GET /transfer/N/S        N blocks of known content (see `block`), spread over S seconds
"""

import email.utils
import hashlib
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BLOCK_BYTES = 65536
PAGE = b"<!DOCTYPE html>\n<title>test-app-2</title>\n<p>It works: this page came from a pod of test-app-2.</p>\n"
READY = "serving"


def block(index: int) -> bytes:
    """The content of block `index`: every byte of a transfer is known in advance, and no two blocks are alike."""
    return hashlib.shake_256(index.to_bytes(4, "big")).digest(BLOCK_BYTES)


def blocks(count: int) -> Iterator[bytes]:
    """The content of a whole transfer."""
    return (block(index) for index in range(count))


class Handler(BaseHTTPRequestHandler):
    """Answers with the headers nginx sends; and X-Pod."""

    protocol_version = "HTTP/1.1"
    pod_name = "unknown"
    started = time.time()

    def version_string(self) -> str:
        """The Server header names this program, not nginx."""
        return "dragline-test-app/1.0"

    def do_HEAD(self) -> None:
        """The page's headers."""
        self._page()

    def do_GET(self) -> None:
        """The page, or a transfer."""
        parts = self.path.strip("/").split("/")
        if parts[0] == "transfer" and len(parts) == 3:
            self._transfer(int(parts[1]), float(parts[2]))
        else:
            self._page()
            self.wfile.write(PAGE)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Silence: the demo prints what the client sees."""

    def _page(self) -> None:
        self._begin("text/html", len(PAGE))

    def _begin(self, content_type: str, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(length))
        self.send_header("Last-Modified", email.utils.formatdate(self.started, usegmt=True))
        self.send_header("Connection", "keep-alive")
        self.send_header("ETag", f'"{int(self.started):x}-{length:x}"')
        self.send_header("Accept-Ranges", "none")
        self.send_header("X-Pod", self.pod_name)
        self.end_headers()

    def _transfer(self, count: int, seconds: float) -> None:
        self._begin("application/octet-stream", count * BLOCK_BYTES)
        begin = time.monotonic()
        for index, content in enumerate(blocks(count)):
            self.wfile.write(content)
            time.sleep(max(0.0, begin + seconds * (index + 1) / count - time.monotonic()))


def main() -> None:
    """Serve until killed; says when it listens."""
    Handler.pod_name = sys.argv[1]
    port = int(sys.argv[2]) if len(sys.argv) > 2 else 80
    server = ThreadingHTTPServer(("0.0.0.0", port), Handler)
    print(READY, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
