"""A served model as a teacher, by the Open Inference Protocol V2 of Triton, TorchServe, KServe and MLServer.

    MODEL_URL=http://localhost:8000/v2/models/digits python v2_teacher.py

The model takes images of digits, (n, 64) floats in [0, 1], and returns logits. Without an address in the environment
the script asks a stand-in of its own, which compares with the mean picture of each class.
"""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

from tuition import ResponseStore, data, distill, models, teachers

pool, test = data.load("digits"), data.load("digits", split="test")
theirs, ours = pool.split(600, seed=0)  # the teacher learned from other inputs than the student
centres = torch.stack([theirs.inputs[theirs.labels == k].float().mean(0) for k in range(10)]).flatten(1) / 255


class StandIn(BaseHTTPRequestHandler):
    def do_GET(self):
        x = {"name": "pixels", "datatype": "FP32", "shape": [-1, 64]}
        y = {"name": "logits", "datatype": "FP32", "shape": [-1, 10]}
        self.reply({"name": "digits", "versions": ["1"], "inputs": [x], "outputs": [y]})

    def do_POST(self):
        x = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"][0]
        logits = -2 * torch.cdist(torch.tensor(x["data"]).view(x["shape"]), centres)
        y = {"name": "logits", "datatype": "FP32", "shape": list(logits.shape), "data": logits.flatten().tolist()}
        self.reply({"model_name": "digits", "model_version": "1", "outputs": [y]})

    def reply(self, content):
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


url = os.environ.get("MODEL_URL")
if url is None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v2/models/digits"

teacher = teachers.from_v2(url, name="served")
print(teacher.fingerprint)
store = ResponseStore("sqlite:///responses.db")
asked, others = ours.split(160, seed=0)
transfer = store.ask(teacher, asked, budget=160, batch_size=32, concurrency=4)
print(transfer.accounts)
student = models.create("cnn_8", num_classes=10, in_channels=1, seed=0)
run = distill(student, transfer, "ckd", validation=others.sample(60, seed=1), test=test, epochs=40)
print(f"accuracy of the student of {len(transfer)} calls: {run.accuracy:.1f} %")
