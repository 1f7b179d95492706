"""A hub on this machine: as much of the Hugging Face hub's interface as sending a folder takes."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import yaml

TOKEN = "hf_stand_in"
NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass
class Hub:
    """What the hub holds, and how it behaves."""

    address: str = ""
    repositories: dict = field(default_factory=dict)
    """{(kind, name): {path: content}}."""
    private: dict = field(default_factory=dict)
    """{(kind, name): whether it was made private}."""
    large: dict = field(default_factory=dict)
    """{sha256: content} of what was sent as large files."""
    asked: list = field(default_factory=list)
    """(method, path) of each request."""
    refused: str = ""
    """Requests whose path this is found in are refused."""
    role: str = "write"


def large(file):
    """Whether the hub wants a file in its large file storage."""
    return file["path"].endswith(".safetensors") or file["size"] > 1_000_000


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, body, status=200):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def serve(self):
        hub, path, body = self.server.hub, urlsplit(self.path).path, self.body()
        hub.asked.append((self.command, path))
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if hub.refused and hub.refused in path:
            return self.answer({"error": "the storage is full"}, 403)
        if self.command == "PUT":  # an address of the storage, which takes no token
            name = path.removeprefix("/storage/")
            hub.large[name] = body
            return self.answer({}, 200 if hashlib.sha256(body).hexdigest() == name else 400)
        if path.startswith("/api/") and not known:
            return self.answer({"error": "Invalid credentials"}, 401)
        for pattern, method in ROUTES:
            if found := re.fullmatch(pattern, path):
                return method(self, body, *found.groups())
        self.answer({}, 200 if self.command == "HEAD" else 404)

    do_GET = do_HEAD = do_POST = do_PUT = serve

    def whoami(self, _):
        token = {"accessToken": {"role": self.server.hub.role}}
        self.answer({"name": "me", "orgs": [{"name": "us"}], "auth": token})

    def create(self, body):
        hub, asked = self.server.hub, json.loads(body)
        kind, name = asked.get("type", "model"), f"{asked['organization']}/{asked['name']}"
        url = f"{hub.address}/{'datasets/' if kind == 'dataset' else ''}{name}"
        if (kind, name) in hub.repositories:
            return self.answer({"error": "it is there already", "url": url}, 409)
        hub.repositories[kind, name] = {".gitattributes": b"*.safetensors filter=lfs\n"}
        hub.private[kind, name] = asked.get("visibility") == "private" or asked.get("private")
        self.answer({"url": url})

    def check_card(self, body):
        """Like the hub, refuses the card of a model that links what cannot be an id."""
        asked = json.loads(body)
        head = yaml.safe_load(asked["content"].split("---")[1])
        named = [head["base_model"]] if "base_model" in head else []
        bad = [name for name in [*named, *head.get("datasets", [])] if not NAME.fullmatch(name)]
        errors = [{"message": f'"{name}" is not valid'} for name in bad]
        self.answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    def files(self, kind, name):
        return self.server.hub.repositories.get((kind, name))

    def tree(self, _, kind, name):
        files = self.files(kind, name)
        if files is None:
            return self.answer({"error": "no such repository"}, 404)
        self.answer(
            [
                {"type": "file", "path": path, "size": len(data), "oid": git_hash(data)}
                for path, data in files.items()
            ]
        )

    def information(self, _, kind, name):
        self.answer({"id": name, "sha": "0" * 40, "siblings": []})

    def ask_how(self, body, kind, name):
        answers = []
        for file in json.loads(body)["files"]:
            there = self.files(kind, name).get(file["path"])
            code = None
            if there is not None:
                code = hashlib.sha256(there).hexdigest() if large(file) else git_hash(there)
            mode = "lfs" if large(file) else "regular"
            known = {"uploadMode": mode, "shouldIgnore": False, "oid": code}
            answers.append({"path": file["path"]} | known)
        self.answer({"files": answers})

    def batch(self, body, *_):
        hub, found = self.server.hub, []
        for item in json.loads(body)["objects"]:
            oid, size = item["oid"], item["size"]
            actions = {
                "upload": {"href": f"{hub.address}/storage/{oid}"},
                "verify": {"href": f"{hub.address}/verify"},
            }
            found.append(
                {"oid": oid, "size": size} | ({} if oid in hub.large else {"actions": actions})
            )
        self.answer({"transfer": "basic", "objects": found})

    def verify(self, body):
        asked = json.loads(body)
        there = self.server.hub.large.get(asked["oid"], b"")
        self.answer({}, 200 if len(there) == asked["size"] else 404)

    def commit(self, body, kind, name):
        hub, files = self.server.hub, self.files(kind, name)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = hub.large[value["oid"]]
            else:
                assert line["key"] == "header", line
        self.answer({"commitUrl": f"{hub.address}/{name}/commit/{'0' * 40}", "commitOid": "0" * 40})


REPOSITORY = r"/api/(model|dataset)s/([\w.-]+/[\w.-]+)"
ROUTES = (
    (r"/api/whoami-v2", Handler.whoami),
    (r"/api/repos/create", Handler.create),
    (r"/api/validate-yaml", Handler.check_card),
    (rf"{REPOSITORY}/tree/main", Handler.tree),
    (rf"{REPOSITORY}/preupload/main", Handler.ask_how),
    (rf"{REPOSITORY}/commit/main", Handler.commit),
    (rf"{REPOSITORY}(?:/revision/main)?", Handler.information),
    (r"/(?:datasets/)?[\w.-]+/[\w.-]+\.git/info/lfs/objects/batch", Handler.batch),
    (r"/verify", Handler.verify),
)


@contextmanager
def stand_in_hub():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.hub = Hub(address=f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.hub
        server.shutdown()


def reach(address, monkeypatch, folder):
    """Let this process take `address` for the hub, and know the stand-in's token alone."""
    from huggingface_hub import constants

    for name in ("HF_HUB_OFFLINE", "HF_OIDC_RESOURCE", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    # What the environment says is read but once, when the library is imported.
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


def files_of(folder):
    """{path: content} of a folder."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }
