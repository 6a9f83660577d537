"""A model hub on this machine with the API of a Hugging Face mirror."""

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SECONDS_PER_FILE = 0.2
"""Delay per file, long enough for two requests of the same file to overlap."""

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves one folder as the model `figment/digits`, and counts the downloads of each file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        self.num_fetched: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.url = ""


def handler_of(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.respond(with_body=False)

        def do_GET(self) -> None:
            self.respond(with_body=True)

        def respond(self, with_body: bool) -> None:
            path = self.path.partition("?")[0].strip("/")
            file = path.removeprefix(f"figment/digits/resolve/{COMMIT}/")
            if path.startswith(f"api/models/figment/digits/tree/{COMMIT}"):
                entries = [
                    {"type": "file", "path": name, "size": entry.stat().st_size, "oid": name}
                    for name, entry in hub.files.items()
                ]
                self.send(json.dumps(entries).encode(), with_body)
            elif path.startswith("api/models/figment/digits"):
                siblings = [{"rfilename": name} for name in hub.files]
                self.send(json.dumps({"id": "figment/digits", "sha": COMMIT, "siblings": siblings}).encode(), with_body)
            elif file in hub.files:
                if with_body:
                    with hub.lock:
                        hub.num_fetched[file] += 1
                    time.sleep(SECONDS_PER_FILE)
                self.send(hub.files[file].read_bytes(), with_body)
            else:
                self.send_error(404)

        def send(self, body: bytes, with_body: bool) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            """Log nothing."""

    return Handler


@contextmanager
def serve_hub(folder: Path) -> Iterator[Hub]:
    """Serve a folder while the body runs."""
    hub = Hub(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
