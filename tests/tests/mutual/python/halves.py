"""Streams that end one direction at a time: `serve PORT`, or `ask HOST PORT client|server MARKER`.

Whoever is named ends its direction first; the other one goes on afterwards, by a lot. The server tells whom
it sees, the client whom it thinks it speaks to; what the server took last, it says on its standard error.
"""

import hashlib
import socket
import sys
import threading

LOT = 3_000_000


def everything(connection):
    digest, size = hashlib.sha256(), 0
    while data := connection.recv(1 << 16):
        digest.update(data)
        size += len(data)
    return f"{size} {digest.hexdigest()}"


def handle(connection, peer):
    with connection:
        first = connection.recv(6)
        if first == b"client":
            told = everything(connection)
            connection.sendall(f"{peer[0]} {peer[1]} {told}\n".encode() + b"x" * LOT)
        else:
            connection.sendall(f"{peer[0]} {peer[1]}\n".encode())
            connection.shutdown(socket.SHUT_WR)
            # There is no way back to the client.
            print(everything(connection), file=sys.stderr, flush=True)


def serve(port):
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    while True:
        connection, peer = listener.accept()
        threading.Thread(target=handle, args=(connection, peer), daemon=True).start()


def ask(host, port, first, marker):
    lot = (marker.encode() * (LOT // len(marker)))
    with socket.create_connection((host, port), timeout=30) as connection:
        print("peer", *connection.getpeername()[:2], "own", *connection.getsockname()[:2])
        connection.sendall(first.encode())
        if first == "client":
            connection.sendall(lot)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while data := connection.recv(1 << 16):
                answer += data
            line, rest = answer.split(b"\n", 1)
            assert rest == b"x" * LOT, len(rest)
            expected = f"{len(lot)} {hashlib.sha256(lot).hexdigest()}"
            assert line.decode().endswith(expected), line
        else:
            line = b""
            while data := connection.recv(1 << 16):
                line += data
            # It has ended; we have not.
            connection.sendall(lot)
            print("sent", len(lot), hashlib.sha256(lot).hexdigest())
        print("seen as", *line.decode().split()[:2])


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
else:
    ask(sys.argv[2], int(sys.argv[3]), *sys.argv[4:6])
