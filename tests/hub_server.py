"""A hub on loopback that speaks as much of huggingface.co's protocol as publishing and fetching use."""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse


class Hub:
    """What it holds.

    Attributes:
        files: Path -> bytes, of the one repository that there is.
        commits: Commit -> `files` then.
        asked: Lines `"METHOD path"` of all requests.
        spoil: A path whose bytes are served wrongly, or None.
        closed: Whether everybody is turned away as not logged in.
    """

    def __init__(self):
        self.files, self.commits, self.objects, self.asked = {}, {}, {}, []
        self.spoil, self.closed, self.private = None, False, None

    def commit(self, lines):
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[value["path"]] = self.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del self.files[value["path"]]
        name = hashlib.sha1(f"{len(self.commits)}".encode()).hexdigest()
        self.commits[name] = dict(self.files)
        return name

    def at(self, revision):
        return self.files if revision == "main" else self.commits[revision]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b"".join(self._chunks())
        self._answer(body)

    do_PUT = do_POST

    def do_GET(self):
        self._answer(b"")

    do_HEAD = do_GET

    def _chunks(self):
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _answer(self, body):
        hub, address = self.server.hub, f"http://127.0.0.1:{self.server.server_port}"
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        hub.asked.append(f"{self.command} {path}")
        if hub.closed:
            return self._send(401, {"error": "Invalid username or password."})
        if path == "/api/repos/create":
            asked = json.loads(body)  # the older and the newer way
            hub.private = asked.get("private") or asked.get("visibility") == "private"
            return self._send(200, {"url": f"{address}/me/flowers", "name": "me/flowers"})
        if path == "/api/validate-yaml":
            return self._send(200, {"errors": [], "warnings": []})
        if path == "/api/models/me/flowers/preupload/main":
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["size"] > 10_000 else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self._send(200, {"files": modes})
        if path == "/me/flowers.git/info/lfs/objects/batch":
            objects = [
                {
                    **wanted,
                    "actions": {"upload": {"href": f"{address}/objects/{wanted['oid']}"}},
                }
                for wanted in json.loads(body)["objects"]
            ]
            return self._send(200, {"transfer": "basic", "objects": objects})
        if match := re.fullmatch(r"/objects/(\w+)", path):
            assert hashlib.sha256(body).hexdigest() == match[1]
            hub.objects[match[1]] = body
            return self._send(200, {})
        if path == "/api/models/me/flowers/commit/main":
            name = hub.commit([json.loads(line) for line in body.splitlines()])
            url = f"{address}/me/flowers/commit/{name}"
            return self._send(200, {"success": True, "commitOid": name, "commitUrl": url})
        if match := re.fullmatch(r"/api/models/me/flowers(?:/revision/(\w+))?", path):
            name = match[1] if match[1] not in (None, "main") else list(hub.commits)[-1]
            siblings = [{"rfilename": file} for file in hub.commits[name]]
            return self._send(
                200, {"id": "me/flowers", "sha": name, "private": False, "siblings": siblings}
            )
        if match := re.fullmatch(r"/api/models/me/flowers/tree/(\w+)", path):
            tree = [
                {
                    "type": "file",
                    "path": file,
                    "size": len(content),
                    "oid": hashlib.sha1(content).hexdigest(),
                }
                for file, content in hub.at(match[1]).items()
            ]
            return self._send(200, tree)
        if match := re.fullmatch(r"/me/flowers/resolve/(\w+)/(.+)", path):
            name = match[1] if match[1] != "main" else list(hub.commits)[-1]
            if match[2] not in hub.commits[name]:
                return self._send(
                    404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"}
                )
            content = hub.commits[name][match[2]]
            if match[2] == hub.spoil:
                content = content[:-1] + bytes([content[-1] ^ 1])
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            return self._send(200, content, {"X-Repo-Commit": name, "ETag": etag})
        return self._send(404, {"error": f"{path} is not spoken here"})

    def _send(self, code, content, headers=None):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128  # many files are asked for at once


@contextlib.contextmanager
def served():
    """A fresh `Hub` and its address."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.hub = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
