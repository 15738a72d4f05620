"""Runs sent to a hub over real sockets, and loaded from one; what is sent tells nothing of this machine."""

import base64
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

from tuition import UserError, data, distill, huggingface, load
from tuition.data import TransferSet
from tuition.pipeline.push import contents
from tuition.training import files


class Hub(BaseHTTPRequestHandler):
    """Keeps repositories in memory: `server.repositories[name]["main"]` holds files by path."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.route()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def log_message(self, *_):
        pass

    def route(self):
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        changes = self.command in ("POST", "PUT") and not path.startswith("/upload/")
        if changes and self.headers.get("Authorization") != "Bearer hf_mine":
            return self.answer(401, {"error": "Invalid username or password."})
        parts = path.strip("/").split("/")
        repositories = self.server.repositories
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            there, private = name in repositories, bool(asked.get("private")) or asked.get("visibility") == "private"
            repositories.setdefault(name, {"main": {}, "private": private})
            return self.answer(409 if there else 200, {"url": f"{self.server.address}/{name}"})
        if path == "/api/validate-yaml":  # of the card
            assert json.loads(body)["content"].startswith("---\nlibrary_name: tuition\n")
            return self.answer(200, {"errors": [], "warnings": []})
        if parts[0] == "upload":
            assert hashlib.sha256(body).hexdigest() == parts[1]
            self.server.large[parts[1]] = body
            return self.answer(200, {})
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            upload = [
                one | {"actions": {"upload": {"href": f"{self.server.address}/upload/{one['oid']}"}}} for one in objects
            ]
            return self.answer(200, {"transfer": "basic", "objects": upload})
        if parts[:2] == ["api", "models"]:
            name, rest = "/".join(parts[2:4]), parts[4:]
            if name not in repositories:
                return self.answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return self.model(name, repositories[name], rest, body)
        name, (_, revision, *file) = "/".join(parts[:2]), parts[2:]
        content = self.files(repositories.get(name, {}), revision).get("/".join(file))
        if content is None:
            return self.answer(404, {}, {"X-Error-Code": "EntryNotFound"})
        headers = {"X-Repo-Commit": revision, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        return self.send(200, content, headers)

    def model(self, name, repository, rest, body):
        if not rest or rest[0] == "revision":
            revision = rest[1] if rest else "main"
            if not self.files(repository, revision) and revision not in repository:
                return self.answer(404, {"error": "Revision not found"}, {"X-Error-Code": "RevisionNotFound"})
            commit = self.commit_of(repository, revision)
            siblings = [{"rfilename": path} for path in self.files(repository, revision)]
            return self.answer(200, {"id": name, "sha": commit, "private": repository["private"], "siblings": siblings})
        if rest[0] == "branch":
            repository.setdefault(rest[1], dict(repository["main"]))
            return self.answer(200, {})
        if rest[0] == "tree":
            files = self.files(repository, rest[1])
            tree = [{"type": "file", "path": path, "oid": "0" * 40, "size": len(it)} for path, it in files.items()]
            return self.answer(200, tree)
        if rest[0] == "preupload":
            asked = json.loads(body)["files"]
            mode = {True: "lfs", False: "regular"}
            files = [{"path": it["path"], "uploadMode": mode[it["path"].endswith(".safetensors")]} for it in asked]
            return self.answer(200, {"files": [it | {"shouldIgnore": False} for it in files]})
        assert rest[0] == "commit", rest
        for line in map(json.loads, body.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                assert value["encoding"] == "base64"
                repository[rest[1]][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository[rest[1]][value["path"]] = self.server.large[value["oid"]]
        commit = self.commit_of(repository, rest[1])
        url = f"{self.server.address}/{name}/commit/{commit}"
        return self.answer(200, {"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    def commit_of(self, repository, revision):
        files = sorted(self.files(repository, revision).items())
        return hashlib.sha1(repr(files).encode()).hexdigest()

    def files(self, repository, revision):
        """Of a branch, or of the commit that one holds."""
        branches = {name: files for name, files in repository.items() if isinstance(files, dict)}
        commits = {hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest(): files for files in branches.values()}
        return branches.get(revision) or commits.get(revision) or {}

    def answer(self, status, value, headers=None):
        self.send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def send(self, status, content, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextlib.contextmanager
def serving():
    """A running hub."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.repositories, server.large = {}, {}
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


SHA = "0123456789abcdef0123456789abcdef01234567"
SECRET = "hunter2hunter2"
CONFIG = {
    "data": {"data": "/home/ada/private/cats", "test": "test"},
    "ask": {"teacher": f"v2:https://ada:{SECRET}@teacher.example/v2", "store": "/home/ada/responses.db"},
    "student": "cnn_4",
}


@pytest.fixture(scope="module")
def transfer():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (24, 1, 8, 8), generator=generator, dtype=torch.uint8)
    pool = data.from_tensors(images, [i % 3 for i in range(24)], class_names=["/m/0", "/m/1", "/m/2"])  # as Open Images
    return TransferSet(pool, {"logits": torch.randn(24, 3, generator=generator)})


@pytest.fixture(scope="module")
def finished(transfer, tmp_path_factory):
    """A run with all that lies in a run's folder, and places of this machine in its settings."""
    out = tmp_path_factory.mktemp("finished") / "run"
    described = {"data": "/home/ada/private/cats", "teacher": CONFIG["ask"]["teacher"], "teacher_name": "big"}
    keep = {"config.yaml": yaml.safe_dump(CONFIG).encode()}
    distill("cnn_4", transfer, "kd", epochs=1, out=out, described=described, keep=keep)
    for name in ("objective.safetensors", "responses.db", "refused.csv", "events.out.tfevents.1", "mine.py", ".env"):
        (out / name).write_text("private")
    return out


@pytest.fixture
def run(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def kept(finished, tmp_path, monkeypatch):
    """A machine without a network, where huggingface_hub keeps ada/digits."""
    cache = tmp_path / "hub"
    keep(finished, cache, "ada", "digits")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return cache


def keep(run, cache, owner, name):
    """Put what was pushed where huggingface_hub keeps it: blobs, links to them by commit, the commit of a branch."""
    place = cache / f"models--{owner}--{name}"
    snapshot = place / "snapshots" / SHA
    for folder in ("blobs", "refs"):
        (place / folder).mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (place / "refs" / "main").write_text(SHA)
    for path, content in contents(run, f"{owner}/{name}")[0].items():
        digest = hashlib.sha256(content).hexdigest()
        (place / "blobs" / digest).write_bytes(content)
        (snapshot / path).symlink_to(f"../../blobs/{digest}")
    return snapshot


def command(words, folder, **environment):
    """The command line in `folder`, with huggingface_hub's own files there."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    clean |= {"HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=clean, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


# -- push --------------------------------------------------------------------------------------------------------------

SENT = ["README.md", "config.yaml", "curves.png", "metrics.csv", "run.json", "student.safetensors"]

PROGRAM = """
import os, sys
from tuition import load
from tuition.cli import main as cli
sys.argv = ["tuition", "push", "run", "ada/digits", "--private"]
assert cli.main() == 0
sys.argv = ["tuition", "push", "run", "ada/digits", "--revision", "second"]
assert cli.main() == 0
for name in ("ada/digits", "ada/digits@second"):
    assert load(name).class_names == load("run").class_names
sys.argv = ["tuition", "push", "run", "bob/open", "--private"]
assert cli.main() == 2
os.environ["HF_TOKEN"] = "hf_others"
sys.argv = ["tuition", "push", "run", "bob/new"]
assert cli.main() == 2
"""


def test_a_run_is_pushed_and_loaded_over_the_wire(run):
    with serving() as hub:
        hub.repositories["bob/open"] = {"main": {}, "private": False}
        done = command(["-c", PROGRAM], run.parent, HF_ENDPOINT=hub.address, HF_TOKEN="hf_mine")
        assert done.returncode == 0, done.stdout + done.stderr
        repository = hub.repositories["ada/digits"]
    assert repository["private"] is True
    assert sorted(repository["main"]) == sorted(repository["second"]) == SENT
    assert repository["main"]["student.safetensors"] == (run / "student.safetensors").read_bytes()
    assert b'load("ada/digits")' in repository["main"]["README.md"]
    assert f"{hub.address}/ada/digits/commit/" in done.stderr
    assert "bob/open is there already, and public" in done.stderr
    assert hub.repositories["bob/open"]["main"] == {}
    *_, refused = done.stderr.splitlines()
    assert refused.startswith("Error: bob/new cannot be pushed (")
    assert refused.endswith("log in with `hf auth login`, and check the name.")
    assert "bob/new" not in hub.repositories


def test_nothing_private_is_sent(run, monkeypatch):
    sent, own_code = contents(run, "ada/digits")
    assert sorted(sent) == SENT
    assert not own_code
    for name, content in sent.items():
        for private in (b"/home/ada", b"private", SECRET.encode(), b"/responses.db"):
            assert private not in content, name
    config = yaml.safe_load(sent["config.yaml"])
    assert config["data"]["data"] == "cats"
    assert config["ask"]["teacher"] == "v2:https://teacher.example/v2"
    assert json.loads(sent["run.json"])["student"]["class_names"] == ["/m/0", "/m/1", "/m/2"]


def test_what_people_wrote_is_looked_through(run, monkeypatch):
    card = run / "README.md"
    written = card.read_text()
    monkeypatch.setenv("HOME", "/home/ada")
    card.write_text(f"{written}\nSee /home/ada/notes.\n")
    with pytest.raises(UserError, match=r"README\.md names your home folder; take that out of it first"):
        contents(run, "ada/digits")
    monkeypatch.setenv("TEACHER_API_KEY", SECRET)
    card.write_text(f"{written}\nUse {SECRET}.\n")
    with pytest.raises(UserError, match=r"README\.md holds the value of TEACHER_API_KEY") as caught:
        contents(run, "ada/digits")
    assert SECRET not in str(caught.value)
    card.write_text(f"{written}\nEnjoy.\n")
    assert contents(run, "ada/digits")[0]["README.md"].endswith(b"Enjoy.\n")


def test_code_is_never_sent(transfer, tmp_path):
    own = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    distill(own, transfer, "kd", epochs=1, out=tmp_path / "own")
    sent, own_code = contents(tmp_path / "own", "ada/own")
    assert own_code
    assert sorted(sent) == ["README.md", "curves.png", "metrics.csv", "run.json", "student.safetensors"]
    assert b'load("ada/own", model=my_model)' in sent["README.md"]


def test_what_cannot_be_pushed(run, monkeypatch, capsys):
    from tuition.cli import main as cli

    def says(*words):
        monkeypatch.setattr("sys.argv", ["tuition", "push", *map(str, words)])
        assert cli.main() == 2
        return capsys.readouterr().err

    assert "'digits' is not the name of a repository; give OWNER/NAME" in says(run, "digits")
    assert "is not the name of a repository" in says(run, "ada/digits@main")
    assert "is not the folder of a run" in says(run.parent / "none", "ada/digits")
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"status": "running"}))
    assert "is not finished" in says(run, "ada/digits")


# -- load --------------------------------------------------------------------------------------------------------------


def test_a_student_of_the_hub_is_the_one_that_was_pushed(kept, finished, transfer):
    with pytest.warns(UserWarning, match=f"ada/digits is of the hub, at revision {SHA}; ada/digits@{SHA} stays"):
        student = load("ada/digits")
    assert torch.equal(student.logits(transfer.pool), load(finished).logits(transfer.pool))
    assert student.class_names == ("/m/0", "/m/1", "/m/2")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(f"ada/digits@{SHA}").input_shape == (1, 8, 8)


def test_it_is_trained_further(kept, transfer, tmp_path):
    name = f"ada/digits@{SHA}"
    first = distill(name, transfer, "kd", epochs=1, learning_rate=1e-12, out=tmp_path / "more")
    before = load(name).state_dict()
    close = [
        torch.allclose(v.float(), before[k].float(), atol=1e-3)
        for k, v in first.student.state_dict().items()
        if v.is_floating_point() and "running" not in k
    ]
    assert all(close), "it begins with these weights"
    recorded = files.read_run(tmp_path / "more")["settings"]
    assert recorded["initial_digest"] is not None


def test_a_folder_here_comes_first(kept, run):
    shutil.copytree(run, Path("ada/digits"))
    record = json.loads(Path("ada/digits/run.json").read_text())
    record["student"]["class_names"] = ["here", "and", "now"]
    Path("ada/digits/run.json").write_text(json.dumps(record))
    assert load("ada/digits").class_names == ("here", "and", "now")
    assert load(f"ada/digits@{SHA}").class_names == ("/m/0", "/m/1", "/m/2")


def test_a_misspelt_folder_is_not_asked_for_elsewhere(kept, tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("asked the hub")

    monkeypatch.setattr(huggingface, "snapshot", never)
    (tmp_path / "ada").mkdir()
    for name in ("runs/digits", "ada/digits", "./ada/none", "../digits", "none", "a/b/c", str(tmp_path / "x")):
        with pytest.raises(UserError, match="is not the folder of a run"):
            load(name)
    with pytest.raises(UserError, match="is not the folder of a run"):
        load(Path("bob/digits"))
    for name in ("transformers:ada/digits", "timm:a/b", "package.module:factory", "cnn_8"):
        assert not huggingface.is_repository(name)


@pytest.mark.parametrize("name", ["ada/none", "ada/digits@none", f"ada/digits@{'f' * 40}"])
def test_what_the_hub_does_not_have_is_one_sentence(kept, name):
    with pytest.raises(UserError, match=r"is not a folder, and the hub does not have it \(.*\); check the name"):
        load(name)


def test_a_repository_of_something_else(kept):
    place = kept / "models--ada--llm"
    (place / "snapshots" / SHA).mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(SHA)
    (place / "snapshots" / SHA / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"ada/llm on the hub holds no run .*; name what `tuition push` has made"):
        load("ada/llm")


def test_no_code_and_no_pickle_of_a_stranger_is_read(kept, tmp_path, monkeypatch):
    snapshot = kept / "models--ada--digits" / "snapshots" / SHA
    record = json.loads((snapshot / "run.json").read_text())
    (tmp_path / "evil.py").write_text("open('ran', 'w').close()\ndef model(**_): ...\n")

    def replace(name, content):
        (snapshot / name).unlink()
        (snapshot / name).write_bytes(content)

    named = record["student"]["model"] | {"name": "evil:model"}
    replace("run.json", json.dumps(record | {"student": record["student"] | {"model": named}}).encode())
    with pytest.raises(UserError, match="names code, evil:model, which would run"):
        load(f"ada/digits@{SHA}")
    assert not Path("ran").exists()
    replace("run.json", json.dumps(record).encode())
    weights = load_file(snapshot / "student.safetensors")
    (snapshot / "student.safetensors").unlink()
    torch.save(weights, snapshot / "student.safetensors")
    with pytest.raises(UserError, match="holds no weights that can be read"):
        load(f"ada/digits@{SHA}")
    (snapshot / "student.safetensors").unlink()
    save_file(weights, snapshot / "student.safetensors")
    assert load(f"ada/digits@{SHA}") is not None


def test_the_command_line_predicts_offline_by_name(finished, tmp_path):
    """As a user's machine has it: HF_HOME, no network."""
    keep(finished, tmp_path / "hf" / "hub", "ada", "digits")
    (tmp_path / "inputs").mkdir()
    from PIL import Image

    Image.new("L", (8, 8), 200).save(tmp_path / "inputs" / "one.png")
    done = command(["-m", "tuition", "predict", "ada/digits", "inputs"], tmp_path, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    header, row = done.stdout.splitlines()
    assert header == "input,class,confidence"
    assert row.split(",")[1].startswith("/m/")
    assert f"at revision {SHA}" in done.stderr
