"""An echo over TLS 1.3 with a post-quantum key exchange, which this OpenSSL offers first.

`serve PORT CERT KEY`, or `ask HOST PORT` with what is on standard input; the client fails unless the
group is X25519MLKEM768.
"""

import socket
import sys

from OpenSSL import SSL


def serve(port, cert, key):
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate_file(cert)
    context.use_privatekey_file(key)
    with socket.create_server(("0.0.0.0", port)) as listener:
        while True:
            plain, _ = listener.accept()
            tls = SSL.Connection(context, plain)
            tls.set_accept_state()
            try:
                said = read(tls, int(read(tls, 8)))
                tls.sendall(said)
                tls.shutdown()
            except SSL.Error as error:
                print("a client left:", error, file=sys.stderr, flush=True)
            plain.close()


def read(tls, count):
    said = b""
    while len(said) < count:
        said += tls.recv(count - len(said))
    return said


def ask(host, port):
    message = sys.stdin.buffer.read()
    plain = socket.create_connection((host, port), timeout=20)
    # A timeout makes the socket non-blocking, which OpenSSL would have to be told.
    plain.settimeout(None)
    tls = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), plain)
    tls.set_tlsext_host_name(b"bulkhead.test")
    tls.set_connect_state()
    tls.do_handshake()
    if tls.get_group_name() != "X25519MLKEM768":
        sys.exit(f"the group is {tls.get_group_name()}")
    tls.sendall(b"%8d" % len(message))
    tls.sendall(message)
    sys.stdout.buffer.write(read(tls, len(message)))


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]), *sys.argv[3:5])
else:
    ask(sys.argv[2], int(sys.argv[3]))
