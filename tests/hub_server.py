"""A Hub for tests: the part of the Hugging Face Hub's HTTP API that `huggingface_hub` uses, over a folder on disk.

    python -m tests.hub_server FOLDER PORT

Repositories are commits of path -> blob; a blob is stored once, under its SHA-256. A token "private-reader" may read
private repositories; any token may write what it may read.
"""

import base64
import hashlib
import json
import os
import sys
import time
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

INITIAL_TIME = "2026-01-01T00:00:00.000Z"
READER_TOKEN = "private-reader"
BINARY_SUFFIXES = (".safetensors", ".bin", ".parquet", ".pt", ".png")


class HubError(HTTPException):
    """What the Hub answers when something is not there; clients tell cases apart by the code."""

    def __init__(self, code: str, message: str, status: int = 404, **headers):
        super().__init__(status, message, headers={"X-Error-Code": code, "X-Error-Message": message, **headers})


class Repository:
    """Branches, tags and commits of one repository; all of it in one JSON file."""

    def __init__(self, folder: Path, kind: str, name: str):
        self.kind, self.name = kind, name
        self.path = folder / kind / name.replace("/", "--") / "repository.json"
        self.state = json.loads(self.path.read_text()) if self.path.is_file() else None

    def create(self, private: bool):
        first = hashlib.sha1(f"{self.kind}/{self.name}".encode()).hexdigest()
        self.state = {"private": private, "branches": {"main": first}, "tags": {}, "commits": {first: {}}}
        self.save()

    def save(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(self.state))
        unfinished.rename(self.path)

    def commit_of(self, revision: str) -> str:
        commit = {**self.state["tags"], **self.state["branches"]}.get(revision, revision)
        if commit not in self.state["commits"]:
            raise HubError("RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def files(self, revision: str) -> dict[str, dict]:
        return self.state["commits"][self.commit_of(revision)]

    def url(self, request: Request) -> str:
        return f"{request.base_url}{'' if self.kind == 'models' else self.kind + '/'}{self.name}"


def describe(path: str, file: dict) -> dict:
    entry = {"type": "file", "path": path, "size": file["size"], "oid": file["oid"]}
    if file["lfs"]:
        entry["lfs"] = {"oid": file["sha256"], "size": file["size"], "pointerSize": 134}
    return entry


def token_of(request: Request) -> str:
    return request.headers.get("authorization", "").removeprefix("Bearer ")


def refuse_without_token(request: Request):
    if not token_of(request):
        raise HTTPException(401, headers={"X-Error-Message": "Invalid username or password."})


class Hub:
    def __init__(self, folder: Path):
        self.folder, self.blobs = folder, folder / "blobs"
        self.blobs.mkdir(parents=True, exist_ok=True)

    def repository(self, request: Request) -> Repository:
        names = request.path_params
        repository = Repository(self.folder, names.get("kind", "models"), f"{names['namespace']}/{names['name']}")
        token = token_of(request)
        hidden = repository.state is not None and repository.state["private"] and token != READER_TOKEN
        if repository.state is None or hidden:
            raise HubError("RepoNotFound", "Repository not found", 401 if hidden else 404)
        return repository

    def writable(self, request: Request) -> Repository:
        refuse_without_token(request)
        return self.repository(request)

    def store(self, content: bytes) -> str:
        sha256 = hashlib.sha256(content).hexdigest()
        unfinished = self.blobs / f".{sha256}"
        unfinished.write_bytes(content)
        unfinished.rename(self.blobs / sha256)
        return sha256

    async def whoami(self, request):
        token = {"displayName": "test", "role": "write"}
        return JSONResponse({"type": "user", "name": "local", "orgs": [], "auth": {"accessToken": token}})

    async def validate_yaml(self, request):
        return JSONResponse({"errors": [], "warnings": []})

    async def create(self, request):
        refuse_without_token(request)
        body = await request.json()
        kind, name = f"{body.get('type', 'model')}s", f"{body.get('organization') or 'local'}/{body['name']}"
        repository = Repository(self.folder, kind, name)
        exists = repository.state is not None
        if not exists:
            repository.create(body.get("visibility") == "private")
        answer = {"url": repository.url(request), "name": name, "id": name}
        return JSONResponse(
            answer | ({"error": "You already created this repo"} if exists else {}), 409 if exists else 200
        )

    async def delete(self, request):
        refuse_without_token(request)
        body = await request.json()
        name = f"{body.get('organization') or 'local'}/{body['name']}"
        repository = Repository(self.folder, f"{body.get('type', 'model')}s", name)
        if repository.state is None:
            raise HubError("RepoNotFound", "Repository not found")
        repository.path.unlink()
        return JSONResponse({})

    async def preupload(self, request):
        known = self.writable(request).files(request.path_params["revision"])
        files = []
        for file in (await request.json())["files"]:
            sample, path = base64.b64decode(file["sample"]), file["path"]
            large = b"\0" in sample or path.endswith(BINARY_SUFFIXES)
            entry = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            if path in known:  # by which the client leaves unchanged files out
                entry["oid"] = known[path]["sha256" if known[path]["lfs"] else "oid"]
            files.append(entry)
        return JSONResponse({"files": files})

    async def lfs_batch(self, request):
        self.writable(request)
        objects = []
        for item in (await request.json())["objects"]:
            href = f"{str(request.base_url).rstrip('/')}/lfs/{item['oid']}"
            known = (self.blobs / item["oid"]).is_file()
            actions = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
            objects.append(item if known else {**item, "actions": actions})
        return JSONResponse({"transfer": "basic", "objects": objects})

    async def lfs_put(self, request):
        # A test can make the next uploads fail, as `COUNT STATUS`: clients try again at 503, and give up at 400.
        failures = self.folder / "failures"
        if failures.is_file():
            left, status = map(int, failures.read_text().split())
            if left > 0:
                failures.write_text(f"{left - 1} {status}")
                return Response(status_code=status)
        content = await request.body()
        if hashlib.sha256(content).hexdigest() != request.path_params["oid"]:
            return JSONResponse({"error": "the content has another hash"}, 400)
        self.store(content)
        return Response()

    async def lfs_verify(self, request):
        return JSONResponse({}, 200 if (self.blobs / request.path_params["oid"]).is_file() else 404)

    async def commit(self, request):
        repository, revision = self.writable(request), request.path_params["revision"]
        parent = repository.commit_of(revision)
        files = dict(repository.files(revision))
        body = await request.body()
        for line in filter(str.strip, body.decode().splitlines()):
            change = json.loads(line)
            key, value = change["key"], change["value"]
            if key == "file":
                content = base64.b64decode(value["content"])
                oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
                file = {"sha256": self.store(content), "size": len(content), "lfs": False, "oid": oid}
                files[value["path"]] = file
            elif key == "lfsFile":
                blob = self.blobs / value["oid"]
                if not blob.is_file():
                    return JSONResponse({"error": f"no content for {value['path']}"}, 400)
                oid = hashlib.sha1(value["oid"].encode()).hexdigest()
                size = blob.stat().st_size
                files[value["path"]] = {"sha256": value["oid"], "size": size, "lfs": True, "oid": oid}
            elif key == "deletedFile":
                files.pop(value["path"], None)
            elif key == "deletedFolder":
                files = {path: file for path, file in files.items() if not path.startswith(value["path"])}
            elif key != "header":
                return JSONResponse({"error": f"unsupported operation {key}"}, 400)
        commit = hashlib.sha1(body + parent.encode() + str(time.time_ns()).encode()).hexdigest()
        repository.state["commits"][commit] = files
        repository.state["branches"][revision if revision in repository.state["branches"] else "main"] = commit
        repository.save()
        url = f"{repository.url(request)}/commit/{commit}"
        return JSONResponse({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    async def tag(self, request):
        repository, revision = self.writable(request), request.path_params["revision"]
        if request.method == "DELETE":
            return self.remove_ref(repository, "tags", revision)
        return self.add_ref(repository, "tags", (await request.json())["tag"], revision)

    async def branch(self, request):
        repository, name = self.writable(request), request.path_params["branch"]
        if request.method == "DELETE":
            return self.remove_ref(repository, "branches", name)
        body = await request.body()
        start = json.loads(body).get("startingPoint") if body else None
        return self.add_ref(repository, "branches", name, start or "main")

    def add_ref(self, repository: Repository, kind: str, name: str, revision: str) -> Response:
        if name in repository.state[kind]:
            return JSONResponse({"error": f"Reference already exists: {name}"}, 409)
        repository.state[kind][name] = repository.commit_of(revision)
        repository.save()
        return JSONResponse({})

    def remove_ref(self, repository: Repository, kind: str, name: str) -> Response:
        if repository.state[kind].pop(name, None) is None:
            raise HubError("RevisionNotFound", f"Invalid rev id: {name}")
        repository.save()
        return JSONResponse({})

    async def info(self, request):
        repository = self.repository(request)
        commit = repository.commit_of(request.path_params.get("revision", "main"))
        siblings = [
            {"rfilename": path, "size": file["size"], "blobId": file["oid"]}
            for path, file in repository.files(commit).items()
        ]
        about = {"_id": "0", "id": repository.name, "modelId": repository.name, "sha": commit, "siblings": siblings}
        about |= {"private": repository.state["private"], "gated": False, "disabled": False, "tags": []}
        about |= {"downloads": 0, "likes": 0, "lastModified": INITIAL_TIME, "createdAt": INITIAL_TIME}
        return JSONResponse(about)

    async def tree(self, request):
        files = self.repository(request).files(request.path_params["revision"])
        folder = request.path_params.get("path", "").strip("/")
        recursive = request.query_params.get("recursive", "").lower() in ("1", "true")
        entries = {}
        for path, file in files.items():
            if folder and not path.startswith(f"{folder}/"):
                continue
            inner = path[len(folder) + 1 :] if folder else path
            if "/" in inner and not recursive:
                name = path[: len(path) - len(inner)] + inner.split("/")[0]
                entries[name] = {"type": "directory", "path": name, "size": 0, "oid": "0" * 40}
            else:
                entries[path] = describe(path, file)
        if folder and not entries:
            raise HubError("EntryNotFound", "Entry not found")
        return JSONResponse(list(entries.values()))

    async def paths_info(self, request):
        files = self.repository(request).files(request.path_params["revision"])
        if "json" in request.headers.get("content-type", ""):
            paths = (await request.json())["paths"]
        else:
            paths = (await request.form()).getlist("paths")
        entries = [describe(path, files[path]) for path in paths if path in files]
        entries += [
            {"type": "directory", "path": path, "size": 0, "oid": "0" * 40}
            for path in paths
            if any(other.startswith(f"{path}/") for other in files)
        ]
        return JSONResponse(entries)

    async def refs(self, request):
        state = self.repository(request).state
        answer = {
            kind: [
                {"name": name, "ref": f"refs/{ref}/{name}", "targetCommit": commit}
                for name, commit in state[kind].items()
            ]
            for kind, ref in (("branches", "heads"), ("tags", "tags"))
        }
        return JSONResponse({**answer, "converts": []})

    async def resolve(self, request):
        repository, path = self.repository(request), request.path_params["path"]
        commit = repository.commit_of(request.path_params["revision"])
        file = repository.files(commit).get(path)
        if file is None:
            raise HubError("EntryNotFound", "Entry not found", **{"X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit, "ETag": f'"{file["sha256"] if file["lfs"] else file["oid"]}"'}
        if file["lfs"]:
            headers |= {"X-Linked-Etag": f'"{file["sha256"]}"', "X-Linked-Size": str(file["size"])}
        if request.method == "HEAD":
            return Response(headers={**headers, "Content-Length": str(file["size"])})
        return FileResponse(self.blobs / file["sha256"], headers=headers)

    def application(self) -> Starlette:
        api, kinds = "/api/{kind}/{namespace}/{name}", ("/{kind}/{namespace}/{name}", "/{namespace}/{name}")
        post, get_or_head = {"methods": ["POST"]}, {"methods": ["GET", "HEAD"]}
        return Starlette(
            routes=[
                Route("/api/whoami-v2", self.whoami),
                Route("/api/repos/create", self.create, **post),
                Route("/api/repos/delete", self.delete, methods=["DELETE"]),
                Route("/api/validate-yaml", self.validate_yaml, **post),
                Route(f"{api}/preupload/{{revision:path}}", self.preupload, **post),
                Route(f"{api}/commit/{{revision:path}}", self.commit, **post),
                Route(f"{api}/tag/{{revision:path}}", self.tag, methods=["POST", "DELETE"]),
                Route(f"{api}/branch/{{branch:path}}", self.branch, methods=["POST", "DELETE"]),
                Route(f"{api}/tree/{{revision}}", self.tree),
                Route(f"{api}/tree/{{revision}}/{{path:path}}", self.tree),
                Route(f"{api}/paths-info/{{revision:path}}", self.paths_info, **post),
                Route(f"{api}/refs", self.refs),
                Route(f"{api}/revision/{{revision:path}}", self.info),
                Route(api, self.info),
                Route("/lfs/{oid}/verify", self.lfs_verify, **post),
                Route("/lfs/{oid}", self.lfs_put, methods=["PUT"]),
                *(Route(f"{kind}.git/info/lfs/objects/batch", self.lfs_batch, **post) for kind in kinds),
                *(Route(f"{kind}/resolve/{{revision}}/{{path:path}}", self.resolve, **get_or_head) for kind in kinds),
            ]
        )


def client_environment(endpoint: str, cache: Path, token: str = "anyone") -> dict[str, str]:
    """Environment of a process that uses this Hub alone, with a cache of its own."""
    # The Hub's chunked storage protocol is not spoken here; clients fall back to LFS.
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1"}
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    return environment | settings


if __name__ == "__main__":
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    uvicorn.run(Hub(folder).application(), host="127.0.0.1", port=port, log_level="warning")
