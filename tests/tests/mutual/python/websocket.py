"""WebSocket: `serve PORT`, or `ask HOST PORT MARKER`; the server tells whom it sees."""

import sys

from websockets.sync.client import connect
from websockets.sync.server import serve


def answer(socket):
    socket.send(f"hello {socket.remote_address[0]}")
    for message in socket:
        socket.send(message)


def ask(host, port, marker):
    with connect(f"ws://{host}:{port}/", proxy=None) as socket:
        print(socket.recv())
        for size in [0, 1, 100, 20000]:
            message = marker * size
            socket.send(message)
            assert socket.recv() == message
    print("all came back")


if sys.argv[1] == "serve":
    with serve(answer, "0.0.0.0", int(sys.argv[2])) as server:
        server.serve_forever()
else:
    ask(sys.argv[2], int(sys.argv[3]), sys.argv[4])
