"""A Hugging Face Hub on 127.0.0.1 with a second server, its CDN, for the large files. What test_hub.py runs against.

Both answer as the real ones do towards huggingface_hub (whose client the tests run against this too), remember every
request, and misbehave where a test says so: `hub.hooks[METHOD, NAME]` takes the handler of a request instead.
"""

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


@dataclass
class Repository:
    files: dict  # name -> bytes
    commit: str
    revisions: set = field(default_factory=lambda: {"main"})
    branches: list = field(default_factory=list)  # Repositories of other commits, as refs/convert/parquet is one

    def at(self, revision):
        return next((each for each in [self, *self.branches] if revision in each.revisions | {each.commit}), None)

    def etag(self, name):
        data = self.files[name]
        if is_large(name):
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Request:
    server: str  # hub or cdn
    method: str
    path: str
    name: str  # of the file, where it is one
    first_byte: int
    token: str | None
    sent: int = 0  # bytes of a file


def is_large(name):
    return name.endswith((".safetensors", ".bin", ".parquet"))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.handle_request()

    def do_GET(self):
        self.handle_request()

    def handle_request(self):
        hub, path = self.server.hub, unquote(self.path)
        name = path.rpartition("/")[2] if self.server.role == "cdn" else ""
        if file := re.search(r"/resolve/[^/]+/(.+)", path):
            name = file[1]
        if self.server.role == "cdn":
            name = hub.blob_names.get(name, name)
        authorization = self.headers.get("Authorization")
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        self.request_seen = Request(self.server.role, self.command, self.path, name, int(span[1]) if span else 0,
                                    authorization.removeprefix("Bearer ") if authorization else None)
        with hub.lock:
            hub.requests.append(self.request_seen)
        try:
            hook = hub.hooks.get((self.command, name or "list"))
            # What hangs on the GET of a large file is said by the server that has its bytes, all else by the Hub.
            if hook and self.server.role == ("cdn" if is_large(name) and self.command == "GET" else "hub"):
                hook(self)
            else:
                self.answer(path)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    # What a well-behaved Hub says.

    def answer(self, path):
        hub = self.server.hub
        if self.server.role == "cdn":
            self.send_file(hub.blobs[path.rpartition("/")[2]])
            return
        if hub.token and self.request_seen.token != hub.token:
            wrong = {"X-Error-Message": "Invalid credentials in Authorization header"} if self.request_seen.token else {}
            self.send(401, headers={"X-Error-Code": "RepoNotFound"} if not wrong else wrong)
            return
        for old, new in hub.moved.items():
            if f"/{old}/" in path:  # as the Hub does it with a repository that was renamed
                self.send(307, headers={"Location": self.path.replace(f"/{old}/", f"/{new}/")})
                return
        listing = re.fullmatch(r"/api/(?:models/|(?=datasets/))((?:datasets/)?[^/]+/[^/]+)/(revision|tree)/([^?]+)(\?.*)?", path)
        file = re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = listing or file
        repository = match and hub.repositories.get(match[1])
        if repository is None:
            self.send(404, headers={"X-Error-Code": "RepoNotFound"})
            return
        revision, folder = match[3 if listing else 2], ""
        if listing and listing[2] == "tree":
            revision, folder = self.revision_and_folder(repository, revision)
        repository = repository.at(revision)
        if repository is None:
            self.send(404, headers={"X-Error-Code": "RevisionNotFound"})
        elif listing and listing[2] == "revision":
            self.send_json({"id": match[1], "sha": repository.commit,
                            "siblings": [{"rfilename": name} for name in repository.files]})
        elif listing:
            self.send_tree(repository, folder, "recursive=true" in (listing[4] or "").lower())
        elif file[3] not in repository.files:
            self.send(404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repository.commit})
        else:
            self.describe(repository, file[3])

    @staticmethod
    def revision_and_folder(repository, path):
        """Of REVISION/FOLDER, either of which may have slashes."""
        ends = [at for at in range(len(path) + 1) if path[at:at + 1] in ("/", "") and repository.at(path[:at])]
        return (path[:ends[-1]], path[ends[-1]:].strip("/")) if ends else (path, "")

    def send_tree(self, repository, folder, recursive):
        """Files of a folder and its folders, or all below it."""
        start = f"{folder}/" if folder else ""
        below = [name for name in repository.files if name.startswith(start)]
        if folder and not below:
            self.send(404, headers={"X-Error-Code": "EntryNotFound"})
            return
        folders = {"/".join(name.split("/")[:depth]) for name in below for depth in range(1, name.count("/") + 1)}
        entries = [self.tree_entry(repository, name) for name in below]
        entries += [{"type": "directory", "path": each, "size": 0, "oid": hashlib.sha1(each.encode()).hexdigest()}
                    for each in sorted(folders) if each.startswith(start)]
        self.send_json([each for each in entries if recursive or "/" not in each["path"][len(start):]])

    def tree_entry(self, repository, name):
        size, etag = len(repository.files[name]), repository.etag(name)
        entry = {"type": "file", "path": name, "size": size, "oid": etag[:40]}
        return entry | {"lfs": {"oid": etag, "size": size, "pointerSize": 130}} if is_large(name) else entry

    def describe(self, repository, name, **changed):
        """The answer to HEAD or GET of a file; headers can be changed (None drops one)."""
        data, etag = repository.files[name], repository.etag(name)
        headers = {"X-Repo-Commit": repository.commit, "ETag": f'"{etag}"'}
        if is_large(name):
            headers |= {"X-Linked-ETag": f'"{etag}"', "X-Linked-Size": len(data), "ETag": '"of the redirect"',
                        "Location": f"{self.server.hub.cdn_url}/{etag}"}
        headers |= {key.replace("_", "-"): value for key, value in changed.items()}
        headers = {key: value for key, value in headers.items() if value is not None}
        if "Location" in headers:
            self.send(302, b"Found. Redirecting", headers)
        else:
            self.send_file(data, headers)

    # How it is said.

    def send(self, status, body=b"", headers=None):
        headers = {"Content-Length": len(body)} | (headers or {})
        self.send_response(status)
        for key, value in headers.items():
            if value is not None:
                self.send_header(key, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.write(body)

    def send_json(self, value):
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def send_file(self, data, headers=None, until=None, length=None, pause=0.0):
        """Honours Range; `until` breaks the connection there, `length` lies, `pause` waits between pieces."""
        first = self.request_seen.first_byte
        headers = {"Content-Length": len(data) - first if length is None else length} | (headers or {})
        if first:
            headers |= {"Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"}
        self.send(206 if first else 200, headers=headers)
        if self.command == "HEAD":
            return
        body = data[first:until]
        for start in range(0, len(body), 1 << 16):
            self.write(body[start:start + (1 << 16)])
            if pause:
                self.server.hub.stopping.wait(pause)
        if until is not None or length is not None:
            self.close_connection = True

    def write(self, data):
        self.wfile.write(data)
        if self.request_seen.name:
            self.request_seen.sent += len(data)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that goes away is what many tests are about."""


class FakeHub:
    """Start it with `with`."""

    def __init__(self):
        self.repositories, self.blobs, self.blob_names = {}, {}, {}
        self.requests, self.hooks, self.lock = [], {}, threading.Lock()
        self.token, self.moved = None, {}
        self.stopping = threading.Event()
        self.servers = []

    def __enter__(self):
        for role in ("hub", "cdn"):
            server = Server(("127.0.0.1", 0), Handler)
            server.hub, server.role = self, role
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
            self.servers.append(server)
        self.url, self.cdn_url = (f"http://127.0.0.1:{server.server_port}" for server in self.servers)
        return self

    def __exit__(self, *exception):
        self.stop()

    def stop(self):
        self.stopping.set()
        while self.servers:
            server = self.servers.pop()
            server.shutdown()
            server.server_close()

    def add(self, name, files, commit=None, branch=None):
        """A repository of files, of a data set by the name datasets/ORG/NAME; the same name again is a new commit of it.
        `branch` is a further one of a repository, with files of its own."""
        listing = b"".join(hashlib.sha1(data).digest() + key.encode() for key, data in sorted(files.items()))
        repository = Repository(files, commit or hashlib.sha1(name.encode() + listing).hexdigest())
        for key in filter(is_large, files):
            self.blobs[repository.etag(key)] = files[key]
            self.blob_names[repository.etag(key)] = key
        if branch:
            repository.revisions = {branch}
            self.repositories[name].branches.append(repository)
        else:
            self.repositories[name] = repository
        return repository

    def seen(self, method=None, name=None, server=None):
        with self.lock:
            return [each for each in self.requests if method in (None, each.method) and name in (None, each.name)
                    and server in (None, each.server)]

    def forget(self):
        with self.lock:
            self.requests.clear()
