"""Against a server with the part of the hub's HTTP interface that a download needs."""

import json
import subprocess
import sys
import threading
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

COMMIT = "c" * 40
CARD = """---
dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
          '0': cat
          '1': dog
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: test
    path: data/test-*
---
"""


class Hub(BaseHTTPRequestHandler):
    """Serves `folder/owner/name/...` and notes the files that were asked for."""

    folder: Path
    fetched: list[str]

    def answer(self):
        kind, *parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        kind, parts = ("api", parts[1:]) if kind == "api" else (kind, parts)
        place, rest = self.folder / "/".join(parts[:2]), parts[2:]
        if not place.is_dir() or len(parts) < 2:
            self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif kind == "datasets":  # resolve/<revision>/<path>
            file = place / "/".join(rest[2:])
            if file.is_file():
                if self.command == "GET":
                    self.fetched.append(file.name)
                self.send(
                    200,
                    file.read_bytes(),
                    {"X-Repo-Commit": COMMIT, "ETag": f'"{sha1(file.read_bytes()).hexdigest()}"'},
                )
            else:
                self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        elif rest[:1] == ["tree"] and (place / "/".join(rest[2:])).is_dir():
            found = sorted((place / "/".join(rest[2:])).iterdir())
            kinds = {True: "file", False: "directory"}
            listing = [{"type": kinds[it.is_file()], "path": str(it.relative_to(place)), "size": it.stat().st_size,
                        "oid": sha1(it.name.encode()).hexdigest()} for it in found]  # fmt: skip
            self.send(200, json.dumps(listing).encode())
        elif not rest or rest[0] == "revision":
            siblings = [{"rfilename": str(it.relative_to(place))} for it in sorted(place.rglob("*")) if it.is_file()]
            about = {"id": "/".join(parts[:2]), "sha": COMMIT, "private": False, "siblings": siblings}
            self.send(200, json.dumps(about).encode())
        else:
            self.send(404, b"", {"X-Error-Code": "EntryNotFound"})

    do_GET = do_HEAD = do_POST = answer  # noqa: N815

    def send(self, code, body, headers=None):
        self.send_response(code)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


PROGRAM = """
import sys, tuition.data as data
from tuition.errors import UserError
for words in sys.argv[1:]:
    name, split, config = words.split(",")
    try:
        pool = data.load(name, split=split, config=config or None)
        print(len(pool), pool.labels.tolist(), list(pool.class_names), pool.inputs[:, 0, 0, 0].tolist(), pool.name)
    except UserError as error:
        print(error)
"""


def write(path, levels, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path.with_suffix(".png"))
    images = []
    for level in levels:
        Image.fromarray(np.full((8, 8), level, np.uint8)).save(path.with_suffix(".png"))
        images.append({"bytes": path.with_suffix(".png").read_bytes(), "path": None})
    path.with_suffix(".png").unlink()
    pq.write_table(pa.table({"image": images, "label": labels}), path)


@pytest.mark.slow
def test_a_data_set_of_the_hub(tmp_path, cache_folder):
    write(tmp_path / "hub/some/pets/data/train-00000-of-00002.parquet", [10, 20], [1, 0])
    write(tmp_path / "hub/some/pets/data/train-00001-of-00002.parquet", [30], [1])
    write(tmp_path / "hub/some/pets/data/test-00000-of-00001.parquet", [40], [0])
    (tmp_path / "hub/some/pets/README.md").write_text(CARD)
    handler = type("Handler", (Hub,), {"folder": tmp_path / "hub", "fetched": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "hf"),
        "TUITION_CACHE": str(cache_folder), "PATH": "", "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip

    def loads(*wanted):
        command = [sys.executable, "-c", PROGRAM, *wanted]
        ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.splitlines()

    for split, labels in (("train", ["Good", "bad"]), ("test", ["good", "so so"])):
        write(tmp_path / f"hub/some/words/data/{split}-00000-of-00001.parquet", [10, 20], labels)
    (tmp_path / "hub/some/words/README.md").write_text("# Words")
    asked = ("some/pets,train,", "some/pets,validation,", "some/pets,train,large", "no/such,train,", "cifar100,train,")
    found = loads(*asked)
    assert found[0] == "3 [1, 0, 1] ['cat', 'dog'] [10, 20, 30] some/pets train"
    assert found[1] == "some/pets has no split 'validation'; choose one of: train, test."
    assert found[2].startswith("cannot load 'some/pets' from the hub (BuilderConfig 'large' not found")
    assert found[3].startswith("'no/such' was not found, here or on the hub")
    assert found[4].startswith("'uoft-cs/cifar100' was not found, here or on the hub")
    assert [name for name in handler.fetched if "parquet" in name] == [
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
    ]
    # Classes that the metadata do not name are those of all splits.
    assert loads("some/words,test,") == ["2 [0, 2] ['Good', 'bad', 'so so'] [10, 20] some/words test"]
    server.shutdown()
    server.server_close()
    again = loads("some/pets,train,", "some/pets,test,")  # the one is cached, for the other the hub is gone
    assert again[0] == found[0]
    assert again[1].startswith("'some/pets' was not found here, and the hub cannot be reached (")
    assert again[1].endswith("); connect, or give a folder of its files.")
