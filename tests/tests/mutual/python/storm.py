"""Many short connections: `serve PORT` an echo, or `ask HOST PORT COUNT TOGETHER MARKER [SECONDS]`.

Each asks one question and checks its answer. What came of them is printed as JSON: how many were answered,
how many were refused and how, how long the longest of each took, and by how much a mere pause was longer than it was
meant to be, which is the machine's doing. With SECONDS it goes on until then, whatever the count.
"""

import collections
import errno
import json
import socket
import sys
import threading
import time

SIZE = 64


def serve(port):
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096)
    while True:
        threading.Thread(target=echo, args=listener.accept()[:1], daemon=True).start()


def echo(connection):
    with connection:
        try:
            while data := connection.recv(65536):
                connection.sendall(data)
        except OSError:
            pass


def question(host, port, number, marker):
    text = f"{marker}{number}".encode().ljust(SIZE, b".")
    with socket.create_connection((host, port), timeout=20) as connection:
        connection.sendall(text)
        answer = b""
        while len(answer) < SIZE:
            part = connection.recv(SIZE)
            if not part:
                return "cut"
            answer += part
    return "answered" if answer == text else "wrong"


def word(error):
    return "timeout" if isinstance(error, TimeoutError) else errno.errorcode.get(error.errno, str(error))


def ask(host, port, count, together, marker, seconds):
    came, longest, numbers = collections.Counter(), {}, iter(range(1 << 40))
    begun, lock, over, late = time.monotonic(), threading.Lock(), threading.Event(), [0.0]

    def goes_on(number):
        return number < count or time.monotonic() < begun + seconds

    def work():
        while goes_on(number := next(numbers)):
            start = time.monotonic()
            try:
                what = question(host, port, number, marker)
            except OSError as error:
                what = word(error)
            took = time.monotonic() - start
            with lock:
                came[what] += 1
                longest[what] = max(took, longest.get(what, 0.0))

    def rule():
        while not over.is_set():
            start = time.monotonic()
            time.sleep(0.01)
            late[0] = max(late[0], time.monotonic() - start - 0.01)

    ruler = threading.Thread(target=rule)
    workers = [threading.Thread(target=work) for _ in range(together)]
    for thread in [ruler, *workers]:
        thread.start()
    for thread in workers:
        thread.join()
    over.set()
    ruler.join()
    print(json.dumps({"came": came, "longest": longest, "late": late[0]}))


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
else:
    seconds = float(sys.argv[7]) if len(sys.argv) > 7 else 0.0
    ask(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), sys.argv[6], seconds)
