"""gRPC: `serve PORT`, or `ask HOST PORT MARKER` a stream both ways, message by message."""

import sys
import threading
from concurrent import futures

import grpc

METHOD = ("bulkhead.test.Echo", "Stream")


def serve(port):
    def stream(messages, context):
        for message in messages:
            yield message + b" from " + context.peer().encode()

    handler = grpc.method_handlers_generic_handler(METHOD[0], {METHOD[1]: grpc.stream_stream_rpc_method_handler(stream)})
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(f"0.0.0.0:{port}")
    server.start()
    server.wait_for_termination()


def ask(host, port, marker):
    heard = threading.Semaphore(0)

    def messages():
        for number in range(200):
            yield f"{marker} {number}".encode()
            # The next one only when this one was answered: a stream, not a batch.
            heard.acquire()

    with grpc.insecure_channel(f"{host}:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        call = channel.stream_stream("/" + "/".join(METHOD))
        count = 0
        for answer in call(messages(), timeout=60):
            assert answer.startswith(f"{marker} {count} from ".encode()), answer
            count += 1
            heard.release()
        print(count, "answers", answer.decode())


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]))
else:
    ask(sys.argv[2], int(sys.argv[3]), sys.argv[4])
