"""Runs `tuition` and Python programs in forks of one process that has imported what they need: no imports again.

    python forks.py FOLDER

makes FOLDER/bin with the commands `tuition` and `python`, prints a line when it is ready, and ends with its standard
input. A command hands over its arguments, folder, environment and standard streams, and ends with the program's code.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import traceback
import warnings
from pathlib import Path

HEAVY = ("torch", "torch._dynamo", "torch.onnx", "onnxruntime", "onnxscript", "sklearn.datasets", "matplotlib.pyplot",
         "sqlalchemy", "sqlite3", "yaml", "pandas", "pyarrow.csv", "httpx", "tuition.cli.main", "tuition.pipeline.job",
         "tuition.training", "tuition.store", "tuition.teachers", "tuition.__main__")  # fmt: skip
CLIENT = """#!{python} -IS
import json, os, socket, sys

with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    request = json.dumps([os.path.basename(sys.argv[0]), sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [b"%20d" % len(request)], [0, 1, 2])
    server.sendall(request)
    sys.exit(int(server.recv(20) or b"1"))
"""


def serve(folder: Path) -> None:
    address = str(folder / "socket")
    for name in ("tuition", "python"):
        path = folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(CLIENT.format(python=sys.executable, address=address))
        path.chmod(0o755)
    for name in HEAVY:
        importlib.import_module(name)
    # Whoever trains and measures on the same inputs is told so; a page that does it fails.
    warnings.filterwarnings("error", message=".* in the (transfer|training) set too")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that answer
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        print("ready", flush=True)
        while sys.stdin not in select.select([server, sys.stdin], [], [])[0]:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _answer(connection)
                os._exit(0)
            connection.close()


def _answer(connection: socket.socket) -> None:
    size, streams, *_ = socket.recv_fds(connection, 20, 3)
    request = b""
    while len(request) < int(size):
        request += connection.recv(1 << 16)
    program = os.fork()
    if program == 0:
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os._exit(_run(*json.loads(request)))
    code = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    connection.sendall(b"%d" % (code if code >= 0 else 128 - code))


def _run(command: str, arguments: list[str], folder: str, environment: dict[str, str]) -> int:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [command, *arguments]
    code: int | str | None = 0
    try:
        if command == "tuition":
            from tuition.__main__ import main

            code = main()
        else:
            first, *rest = arguments
            sys.argv = arguments
            if first == "-c":
                exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
            else:
                sys.path.insert(0, str(Path(first).resolve().parent))
                runpy.run_path(first, run_name="__main__")
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else 0 if code is None else 1


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
