"""A model hub of one repository on this machine: as much of its protocol as unseen needs."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub(ThreadingHTTPServer):
    """Holds the files of owner/name, and what was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.made: dict[str, object] = {}
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: object) -> None:
        pass

    def answer(self, facts: object = None, code: int = 200, **headers: str) -> None:
        body = facts if isinstance(facts, bytes) else json.dumps(facts).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        _, found, name = self.path.partition("/owner/name/resolve/main/")
        if not found:
            self.answer({"id": "owner/name", "sha": "c" * 40, "siblings": []})
        elif name in self.server.files:
            body = self.server.files[name]
            etag = f'"{hashlib.sha1(body).hexdigest()}"'
            self.answer(body, ETag=etag, X_Repo_Commit="c" * 40)
        else:
            self.answer({}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit="c" * 40)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/repos/create"):
            self.server.made = json.loads(body)
            self.answer({"url": f"{self.server.address}/owner/name"})
        elif "/preupload/" in self.path:
            named = [one["path"] for one in json.loads(body)["files"]]
            self.answer(
                {
                    "files": [
                        {"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in named
                    ]
                }
            )
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    one = line["value"]
                    self.server.files[one["path"]] = base64.b64decode(one["content"])
            place = f"{self.server.address}/owner/name/commit/{'c' * 40}"
            self.answer({"commitUrl": place, "commitOid": "c" * 40, "success": True})
        else:
            self.answer({"errors": [], "warnings": []})  # /api/validate-yaml


@contextmanager
def serve() -> Iterator[Hub]:
    """Run a hub while within."""
    hub = Hub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
