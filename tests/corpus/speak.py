"""Speaks what no program of Debian 12 does: QUIC, post-quantum TLS, RDP up to its TLS.

speak.py WHAT serve|ask PORT CERT KEY
"""

import asyncio
import socket
import sys


def tls(role, port, cert, key, before=lambda conversation: None):
    from OpenSSL import SSL

    context = SSL.Context(SSL.TLS_METHOD)
    if role == "serve":
        context.use_certificate_file(cert)
        context.use_privatekey_file(key)
        with socket.create_server(("127.0.0.1", port)) as listener:
            conversation, _ = listener.accept()
            before(conversation)
            encrypted = SSL.Connection(context, conversation)
            encrypted.set_accept_state()
            encrypted.do_handshake()
            encrypted.send(encrypted.recv(100))
    else:
        conversation = socket.create_connection(("127.0.0.1", port))
        before(conversation)
        encrypted = SSL.Connection(context, conversation)
        encrypted.set_tlsext_host_name(b"server.example")
        encrypted.set_connect_state()
        encrypted.do_handshake()
        encrypted.send(b"hello")
        encrypted.recv(100)


def rdp(role, port, cert, key):
    request = bytes.fromhex("030000130ee000000000000100080003000000")
    confirm = bytes.fromhex("030000130ed000001234000200080001000000")

    def before(conversation):
        if role == "serve":
            conversation.recv(len(request))
            conversation.send(confirm)
        else:
            conversation.send(request)
            conversation.recv(len(confirm))

    tls(role, port, cert, key, before)


async def quic(role, port, cert, key):
    from aioquic.asyncio import connect, serve
    from aioquic.quic.configuration import QuicConfiguration

    configuration = QuicConfiguration(is_client=role == "ask", alpn_protocols=["hq-interop"])
    if role == "serve":
        configuration.load_cert_chain(cert, key)

        async def answer(reader, writer):
            writer.write(await reader.read())
            writer.write_eof()

        def handler(reader, writer):
            asyncio.ensure_future(answer(reader, writer))

        await serve("127.0.0.1", port, configuration=configuration, stream_handler=handler)
        await asyncio.Future()
    else:
        configuration.verify_mode = 0
        configuration.server_name = "server.example"
        async with connect("127.0.0.1", port, configuration=configuration) as client:
            reader, writer = await client.create_stream()
            writer.write(b"GET /\r\n")
            writer.write_eof()
            await reader.read()


what, role, port, cert, key = sys.argv[1:]
if what == "quic":
    asyncio.run(quic(role, int(port), cert, key))
else:
    {"tls": tls, "rdp": rdp}[what](role, int(port), cert, key)
