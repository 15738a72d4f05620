"""A chat server for the pages: it answers with the label word whose hints a text holds, most often."""

import json
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# The label words of the prompt are A, B, C; the guide's labels are sports, cooking, music.
HINTS = {
    "A": ("goal", "match", "race", "team", "coach"),
    "B": ("soup", "bread", "oven", "recipe", "salt"),
    "C": ("piano", "choir", "song", "guitar", "concert"),
}


class Chat(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][-1]["content"].rpartition("Text: ")[2].lower()
        scores = {word: math.exp(2 * sum(hint in text for hint in hints)) for word, hints in HINTS.items()}
        likely = [{"token": w, "logprob": math.log(s / (sum(scores.values()) + 0.1))} for w, s in scores.items()]
        best = max(scores, key=lambda word: scores[word])
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": best},
            "logprobs": {"content": [{"token": best, "logprob": -0.1, "top_logprobs": likely}]},
        }
        usage = {"prompt_tokens": 40 + len(text.split()), "completion_tokens": 1}
        reply = json.dumps({"choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[str]:
    """The address of a server that runs inside."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Chat)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    with serving() as address:
        print(address, flush=True)
        threading.Event().wait()
