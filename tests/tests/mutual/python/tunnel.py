"""A peer at the tunnels' port: `HOST FOLDER|- AUTHORITY [WAY]`, prints what came of it as JSON.

FOLDER has the certificate that it shows. It asks for a tunnel to AUTHORITY, and there to have something sent
back. WAY: `tls1.2`, `no-alpn`, `clear`, `silent`, `headers` (more of them than anybody needs), `get`.
"""

import json
import socket
import ssl
import sys

import h2.config
import h2.connection
import h2.events

host, folder, authority, way = [*sys.argv[1:], ""][:4]
told = {"handshake": False, "status": None, "answer": ""}


def tell(**more):
    print(json.dumps({**told, **more}))
    sys.exit()


def context():
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    if way == "tls1.2":
        tls.maximum_version = ssl.TLSVersion.TLSv1_2
    if way != "no-alpn":
        tls.set_alpn_protocols(["h2"])
    if folder != "-":
        tls.load_cert_chain(f"{folder}/tls.crt", f"{folder}/tls.key")
    return tls


def events(stream, http):
    data = stream.recv(65536)
    if not data:
        tell(error="the stream ended")
    return http.receive_data(data)


def run():
    plain = socket.create_connection((host, 15008), timeout=30)
    if way == "clear":
        plain.sendall(b"GET / HTTP/1.1\r\nHost: db\r\n\r\n")
        tell(error="it said " + repr(plain.recv(100)))
    if way == "silent":
        tell(error="it ended with " + repr(plain.recv(100)))
    stream = context().wrap_socket(plain)
    http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8", validate_outbound_headers=False))
    http.initiate_connection()
    headers = [(":method", "GET" if way == "get" else "CONNECT"), (":authority", authority)]
    if way == "get":
        headers += [(":scheme", "https"), (":path", "/")]
    if way == "headers":
        headers += [(f"x-{n}", "y" * 1000) for n in range(1000)]
    http.send_headers(1, headers, end_stream=way == "get")
    stream.sendall(http.data_to_send())
    question, answer = b"a question", b""
    while True:
        for event in events(stream, http):
            if isinstance(event, h2.events.RemoteSettingsChanged):
                # In TLS 1.3 the client learns by this only that its certificate was taken.
                told["handshake"] = True
            if isinstance(event, h2.events.ResponseReceived):
                told["status"] = int(dict(event.headers)[":status"])
                if told["status"] == 200:
                    http.send_data(1, question)
            if isinstance(event, h2.events.DataReceived):
                answer += event.data
                told["answer"] = answer.decode()
                if told["status"] == 200 and answer == question:
                    tell()
            if isinstance(event, (h2.events.StreamEnded, h2.events.StreamReset, h2.events.ConnectionTerminated)):
                tell(error=type(event).__name__)
        stream.sendall(http.data_to_send())


try:
    run()
except (OSError, h2.exceptions.ProtocolError) as error:
    tell(error=str(error))
