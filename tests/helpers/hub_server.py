"""A hub on this machine: the few routes of huggingface.co that a push and a download take."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USER, TOKEN = "someone", "hf_token_of_someone"


@dataclass
class Repository:
    private: bool = False
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{}])

    def commit(self, revision):
        """The digest and the files of "main", of a tag "vN" or of a digest; None without such."""
        for number, files in enumerate(self.commits):
            digest = hashlib.sha1(str(number).encode()).hexdigest()
            names = {digest, f"v{number}", "main" if files is self.commits[-1] else digest}
            if revision in names:
                return digest, files
        return None


@dataclass
class Hub:
    """Its content, and what was asked of it."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # of Git LFS, by SHA-256
    requests: list[str] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving():
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Refused(Exception):
    def __init__(self, status, code="", said=""):
        super().__init__(status, code, said)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.hub.requests.append(f"{self.command} {self.path}")
        size = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(size)
        path = self.path.partition("?")[0]
        try:
            for pattern, method in _ROUTES.items():
                if match := re.fullmatch(pattern, f"{self.command} {path}"):
                    content, headers = method(self, *match.groups())
                    return self.answer(200, content, headers)
            raise _Refused(404)
        except _Refused as refused:
            status, code, said = refused.args
            content = json.dumps({"error": said}).encode()
            self.answer(status, content, {"X-Error-Code": code, "X-Error-Message": said})

    do_HEAD = do_POST = do_PUT = do_GET

    def answer(self, status, content, headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    @property
    def known(self):
        authorization = self.headers.get("Authorization")
        if authorization not in (None, f"Bearer {TOKEN}"):
            raise _Refused(401, "", "Invalid credentials in Authorization header")
        return authorization is not None

    def repository(self, name, *, write=False):
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self.known):
            raise _Refused(404 if self.known else 401, "RepoNotFound", "Repository not found")
        if write and not (self.known and name.startswith(f"{USER}/")):
            raise _Refused(403, "", "you do not have write access")
        return found

    def commit(self, name, revision):
        found = self.repository(name).commit(revision)
        if found is None:
            raise _Refused(404, "RevisionNotFound", "Invalid rev id")
        return found

    def validate(self):
        return b"{}", {}

    def create(self):
        asked = json.loads(self.body)
        if not self.known or asked["organization"] != USER:
            raise _Refused(403, "", f"You may not create a model under {asked['organization']}")
        name = f"{USER}/{asked['name']}"
        self.hub.repositories[name] = Repository(asked.get("visibility") == "private")
        return _json({"url": f"{self.hub.url}/{name}"})

    def info(self, name, revision="main"):
        digest, files = self.commit(name, revision)
        private = self.hub.repositories[name].private
        siblings = [{"rfilename": file} for file in files]
        return _json({"id": name, "sha": digest, "private": private, "siblings": siblings})

    def tree(self, name, revision):
        _, files = self.commit(name, revision)
        return _json(
            [{"type": "file", "path": n, "size": len(d), "oid": _sha(d)} for n, d in files.items()]
        )

    def preupload(self, name):
        self.repository(name, write=True)
        files = [file["path"] for file in json.loads(self.body)["files"]]
        modes = {True: "lfs", False: "regular"}
        answer = [
            {"path": n, "uploadMode": modes[n.endswith(".safetensors")], "shouldIgnore": False}
            for n in files
        ]
        return _json({"files": answer})

    def batch(self, name):
        self.repository(name, write=True)
        objects = json.loads(self.body)["objects"]
        for each in objects:
            each["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"}}
        return _json({"objects": objects, "transfer": "basic"})

    def upload(self, digest):
        assert hashlib.sha256(self.body).hexdigest() == digest
        self.hub.objects[digest] = self.body
        return b"", {}

    def add_commit(self, name):
        repository = self.repository(name, write=True)
        files = dict(repository.commits[-1])
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        repository.commits.append(files)
        digest, _ = repository.commit("main")
        return _json({"commitUrl": f"{self.hub.url}/{name}/commit/{digest}", "commitOid": digest})

    def resolve(self, name, revision, file):
        digest, files = self.commit(name, revision)
        if file not in files:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        return files[file], {"X-Repo-Commit": digest, "ETag": f'"{_sha(files[file])}"'}


def _json(value):
    return json.dumps(value).encode(), {"Content-Type": "application/json"}


def _sha(data):
    return hashlib.sha1(data).hexdigest()


_NAME = "([^/]+/[^/]+)"
_ROUTES = {
    "POST /api/validate-yaml": _Handler.validate,
    "POST /api/repos/create": _Handler.create,
    f"GET /api/models/{_NAME}": _Handler.info,
    f"GET /api/models/{_NAME}/revision/(.+)": _Handler.info,
    f"GET /api/models/{_NAME}/tree/(.+)": _Handler.tree,
    f"POST /api/models/{_NAME}/preupload/main": _Handler.preupload,
    f"POST /{_NAME}.git/info/lfs/objects/batch": _Handler.batch,
    "PUT /lfs/([0-9a-f]+)": _Handler.upload,
    f"POST /api/models/{_NAME}/commit/main": _Handler.add_commit,
    f"(?:GET|HEAD) /{_NAME}/resolve/([^/]+)/(.+)": _Handler.resolve,
}
