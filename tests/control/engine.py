"""A fake engine: serves HTTP on a port and injects faults.

engine.py DIR PORT [FAULT...]: while DIR/<PORT>.sick exists it responds with 503, with DIR/<PORT>.hang not at all, and
with DIR/<PORT>.bad its log probabilities are not numbers.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

COMPLETION = (
    b'{"id":"1","object":"text_completion","created":1,"model":"chat","choices":[{"index":0,"text":".",'
    b'"logprobs":{"tokens":["."],"token_logprobs":[-0.1],"top_logprobs":[null],"text_offset":[0]},'
    b'"finish_reason":"length"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'
)

CHAT = (
    b'{"id":"1","object":"chat.completion","created":1,"model":"chat","choices":[{"index":0,"message":{"role":'
    b'"assistant","content":"Hello."},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}'
)
STREAM = b"data: [DONE]\n\n"


def serve(directory: Path, port: int, faults: dict[str, str]) -> None:
    _misbehave(faults, directory, port)
    listener = socket.create_server(("127.0.0.1", port))
    _say("INFO:     Application startup complete.")
    while True:
        connection, _ = listener.accept()
        with connection:
            request = _read(connection)
            if request.startswith(b"POST /die"):
                os._exit(int(faults.get("die", "0")))
            while Path(directory, f"{port}.hang").exists():
                time.sleep(0.02)
            sick = Path(directory, f"{port}.sick").exists()
            status = b"503 Service Unavailable" if sick else b"200 OK"
            body = b"" if sick or not request.startswith(b"POST") else _answer(request)
            if Path(directory, f"{port}.bad").exists():
                body = body.replace(b"-0.1", b"null")
            head = b"\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            connection.sendall(b"HTTP/1.1 " + status + head + body)


def _answer(request: bytes) -> bytes:
    if b"/chat/completions" not in request.partition(b"\r\n")[0]:
        return COMPLETION
    return STREAM if b'"stream":true' in request.replace(b": ", b":") else CHAT


def _read(connection: socket.socket) -> bytes:
    """A whole request: to close the connection before it has come would reset it."""
    request = connection.recv(65536)
    head, gap, body = request.partition(b"\r\n\r\n")
    lengths = [
        int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    ]
    while len(body) < sum(lengths) and (more := connection.recv(65536)):
        body += more
    return head + gap + body


def _misbehave(faults: dict[str, str], directory: Path, port: int) -> None:
    if "deaf" in faults:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "orphan" in faults:
        child = subprocess.Popen(["sleep", "300"])
        Path(directory, f"{port}.orphan").write_text(str(child.pid), encoding="ascii")
    with Path(directory, f"{port}.started").open("a", encoding="ascii") as started:
        started.write(f"{time.monotonic()}\n")
    if "steps" in faults:  # a slow load with a progress bar
        for step in range(int(faults["steps"]) + 1):
            _say(f"Loading safetensors checkpoint shards: {step}% Completed | {step}/100 [00:00", end="\r")
            time.sleep(0.1)
    time.sleep(float(faults.get("slow", "0")))
    if "say" in faults:
        _say(faults["say"])
    if "exit" in faults:
        sys.exit(int(faults["exit"]))


def _say(text: str, end: str = "\n") -> None:
    sys.stdout.write(text + end)
    sys.stdout.flush()


def main() -> None:
    faults = dict(fault.partition("=")[::2] for fault in sys.argv[3:])
    serve(Path(sys.argv[1]), int(sys.argv[2]), faults)


if __name__ == "__main__":
    main()
