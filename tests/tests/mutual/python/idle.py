"""Connections that say nothing for a long time: `serve PORT`, or `ask HOST PORT COUNT SECONDS MARKER`.

Every connection is greeted, so that it is made from end to end. Then nothing is said for SECONDS, until one
side, by turns the client and the server, sends a payload, which the other sends back in reverse: whoever has it
again has compared both directions. All ends in good order, or the client fails.
"""

import socket
import sys
import threading
import time

GREETING = b"hello\n"
SIZE = 64 * 1024


def payload(marker, number):
    return (f"{marker} {number} ".encode() * SIZE)[:SIZE]


def exactly(connection, size):
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        assert part, f"cut after {len(data)} of {size} bytes"
        data += part
    return data


def speaks(connection, said):
    connection.sendall(said)
    assert exactly(connection, SIZE) == said[::-1], "what came back is something else"


def answers(connection, expected):
    heard = exactly(connection, SIZE)
    assert heard == expected, "something else was heard"
    connection.sendall(heard[::-1])


def handle(connection):
    with connection:
        wish = b""
        while not wish.endswith(b"\n"):
            wish += exactly(connection, 1)
        who, number, seconds, marker = wish.decode().split()
        connection.sendall(GREETING)
        said = payload(marker, number)
        if who == "server":
            time.sleep(float(seconds))
            speaks(connection, said)
        else:
            answers(connection, said)
        assert connection.recv(1) == b"", "more than was to be said"


def serve(port):
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    while True:
        threading.Thread(target=handle, args=listener.accept()[:1], daemon=True).start()


def ask(host, port, count, seconds, marker):
    connections = []
    for number in range(count):
        who = ("client", "server")[number % 2]
        connection = socket.create_connection((host, port), timeout=60)
        connection.sendall(f"{who} {number} {seconds} {marker}\n".encode())
        assert exactly(connection, len(GREETING)) == GREETING
        connections.append((who, number, connection))
    begun, silent = time.monotonic(), time.time()
    print("silent", flush=True)
    time.sleep(seconds)
    failures = 0
    for who, number, connection in connections:
        connection.settimeout(60)
        try:
            (answers if who == "server" else speaks)(connection, payload(marker, number))
            connection.close()
        except (OSError, AssertionError) as error:
            failures += 1
            print(f"{who} {number} after {time.monotonic() - begun:.0f} s: {error!r}", file=sys.stderr)
    print(count - failures, "of", count, f"spoke after {time.time() - silent:.0f} seconds")
    sys.exit(failures > 0)


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
else:
    ask(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]), sys.argv[6])
