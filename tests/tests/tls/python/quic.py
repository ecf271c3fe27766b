"""An echo over QUIC: `serve PORT CERT KEY`, or `ask HOST PORT` with what is on standard input."""

import asyncio
import ssl
import sys

from aioquic.asyncio import connect, serve
from aioquic.quic.configuration import QuicConfiguration

ALPN = ["bulkhead-echo"]


async def echo(reader, writer):
    writer.write(await reader.read())
    writer.write_eof()


async def answer(port, cert, key):
    configuration = QuicConfiguration(is_client=False, alpn_protocols=ALPN)
    configuration.load_cert_chain(cert, key)
    handle = lambda reader, writer: asyncio.ensure_future(echo(reader, writer))
    await serve("0.0.0.0", port, configuration=configuration, stream_handler=handle)
    await asyncio.Event().wait()


async def ask(host, port):
    configuration = QuicConfiguration(is_client=True, alpn_protocols=ALPN, verify_mode=ssl.CERT_NONE)
    configuration.server_name = "bulkhead.test"
    async with connect(host, port, configuration=configuration) as protocol:
        reader, writer = await protocol.create_stream()
        writer.write(sys.stdin.buffer.read())
        writer.write_eof()
        sys.stdout.buffer.write(await reader.read())


if sys.argv[1] == "serve":
    asyncio.run(answer(int(sys.argv[2]), *sys.argv[3:5]))
else:
    asyncio.run(asyncio.wait_for(ask(sys.argv[2], int(sys.argv[3])), 20))
