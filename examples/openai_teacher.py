"""A chat model behind an OpenAI-compatible server as a teacher: classes by the log-probabilities of label words.

    OPENAI_API_KEY=... MODEL=gpt-4.1-mini python openai_teacher.py
    OPENAI_BASE_URL=http://localhost:8000/v1 MODEL=Qwen/Qwen3-4B python openai_teacher.py

With neither in the environment it asks a stand-in of its own, which counts words and refuses every seventh request.
"""

import itertools
import json
import math
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tuition import ResponseStore, data, teachers

LABELS = ["sports", "cooking", "music"]
TEXTS = [
    f"{who} {what}"
    for who in ("My uncle", "A neighbour", "The mayor", "Nobody")
    for what in ("scored a late goal", "stirred the soup", "tuned the old piano", "ran a lap and won", "baked bread")
]
WORDS = {"A": ("goal", "lap", "won"), "B": ("soup", "bread", "stirred"), "C": ("piano", "tuned")}
number = itertools.count(1)


class StandIn(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][0]["content"].rpartition("Text: ")[2]
        scores = {word: math.exp(3 * sum(hint in text for hint in hints)) for word, hints in WORDS.items()}
        likely = [{"token": w, "logprob": math.log(s / (sum(scores.values()) + 0.1))} for w, s in scores.items()]
        choice = {"index": 0, "message": {"role": "assistant"}, "logprobs": {"content": [{"top_logprobs": likely}]}}
        refused = next(number) % 7 == 0
        reply = json.dumps({"error": "too many requests"} if refused else {"choices": [choice]}).encode()
        self.send_response(429 if refused else 200)
        self.send_header("Content-Length", str(len(reply)))
        if refused:
            self.send_header("Retry-After", "0.1")
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *arguments):
        pass


if not os.environ.keys() & {"OPENAI_API_KEY", "OPENAI_BASE_URL"}:
    server = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["OPENAI_BASE_URL"] = f"http://127.0.0.1:{server.server_port}/v1"

teacher = teachers.from_openai(
    os.environ.get("MODEL", "stand-in"), task="chat", labels=LABELS, name="chat", requests_per_minute=3000
)
pool = data.from_tensors(TEXTS, class_names=LABELS)
store = ResponseStore("sqlite:///responses.db")
# A chat request is about one text; several are under way at a time.
transfer = store.ask(teacher, pool, budget=len(TEXTS), concurrency=4)
print("first:", transfer.accounts)
print("again:", store.ask(teacher, pool, budget=len(TEXTS)).accounts)
for text, logits in zip(TEXTS[:5], transfer.responses["logits"], strict=False):
    shown = ", ".join(f"{label} {p:.2f}" for label, p in zip(LABELS, logits.exp().tolist(), strict=True))
    print(f"{text:30} {shown}")
