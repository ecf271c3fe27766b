"""HBONE by another library's HTTP/2: `client LISTEN HOST FOLDER AUTHORITY`, or `server LISTEN FOLDER`.

The client takes what connects to LISTEN through a CONNECT to HOST's port 15008; the server takes CONNECTs at
LISTEN to wherever they want to go. FOLDER has tls.crt, tls.key and ca.crt. HTTP/2 is Python's `h2`, TLS is
OpenSSL. `ready` is said on standard output.
"""

import asyncio
import ssl
import sys

import h2.config
import h2.connection
import h2.events
import h2.settings

CHUNK = 1 << 16


def context(folder, server):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    # Names are URIs, which OpenSSL's check of host names does not know.
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(f"{folder}/ca.crt")
    tls.load_cert_chain(f"{folder}/tls.crt", f"{folder}/tls.key")
    tls.set_alpn_protocols(["h2"])
    return tls


class Tunnel:
    """One connection of HTTP/2, with many streams."""

    def __init__(self, reader, writer, server):
        self.reader, self.writer, self.server = reader, writer, server
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=not server, header_encoding="utf-8"))
        # What comes in on each stream: bytes, None for the end, a number for a status.
        self.inboxes, self.room = {}, asyncio.Condition()
        self.http.initiate_connection()
        self.flush()

    def flush(self):
        self.writer.write(self.http.data_to_send())

    async def run(self, accepted=None):
        while data := await self.reader.read(CHUNK):
            for event in self.http.receive_data(data):
                await self.hear(event, accepted)
            self.flush()
            await self.writer.drain()
        for inbox in self.inboxes.values():
            inbox.put_nowait(ConnectionResetError())

    async def hear(self, event, accepted):
        inbox = self.inboxes.get(getattr(event, "stream_id", None))
        if isinstance(event, h2.events.RequestReceived):
            self.inboxes[event.stream_id] = asyncio.Queue()
            asyncio.create_task(accepted(self, event.stream_id, dict(event.headers)))
        elif isinstance(event, h2.events.ResponseReceived) and inbox:
            inbox.put_nowait(int(dict(event.headers)[":status"]))
        elif isinstance(event, h2.events.DataReceived) and inbox:
            inbox.put_nowait((event.data, event.flow_controlled_length))
        elif isinstance(event, h2.events.StreamEnded) and inbox:
            inbox.put_nowait(None)
        elif isinstance(event, h2.events.StreamReset) and inbox:
            inbox.put_nowait(ConnectionResetError())
        elif isinstance(event, (h2.events.WindowUpdated, h2.events.RemoteSettingsChanged)):
            async with self.room:
                self.room.notify_all()

    async def send(self, stream, data):
        while data:
            async with self.room:
                while not (size := min(self.http.local_flow_control_window(stream), self.http.max_outbound_frame_size)):
                    await self.room.wait()
            part, data = data[:size], data[size:]
            self.http.send_data(stream, part)
            self.flush()
            await self.writer.drain()

    async def up(self, stream, reader):
        while data := await reader.read(CHUNK):
            await self.send(stream, data)
        self.http.send_data(stream, b"", end_stream=True)
        self.flush()

    async def down(self, stream, writer):
        while (got := await self.inboxes[stream].get()) is not None:
            if isinstance(got, Exception):
                raise got
            data, counted = got
            writer.write(data)
            await writer.drain()
            self.http.acknowledge_received_data(counted, stream)
            self.flush()
        writer.write_eof()

    async def carry(self, stream, reader, writer):
        try:
            await asyncio.gather(self.up(stream, reader), self.down(stream, writer))
        finally:
            writer.close()


async def client(listen, host, folder, authority):
    reader, writer = await asyncio.open_connection(host, 15008, ssl=context(folder, False), server_hostname="peer")
    tunnel = Tunnel(reader, writer, False)
    print(writer.get_extra_info("ssl_object").version(), file=sys.stderr)
    asyncio.create_task(tunnel.run())

    async def program(reader, writer):
        stream = tunnel.http.get_next_available_stream_id()
        tunnel.inboxes[stream] = asyncio.Queue()
        tunnel.http.send_headers(stream, [(":method", "CONNECT"), (":authority", authority)])
        tunnel.flush()
        status = await tunnel.inboxes[stream].get()
        print("status", status, file=sys.stderr, flush=True)
        if status == 200:
            await tunnel.carry(stream, reader, writer)
        writer.close()

    await serve(listen, program)


async def server(listen, folder):
    async def accepted(tunnel, stream, headers):
        print(headers, file=sys.stderr, flush=True)
        if headers[":method"] != "CONNECT":
            return tunnel.http.send_headers(stream, [(":status", "400")], end_stream=True)
        host, port = headers[":authority"].rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        tunnel.http.send_headers(stream, [(":status", "200")])
        tunnel.flush()
        await tunnel.carry(stream, reader, writer)

    async def tunnel(reader, writer):
        await Tunnel(reader, writer, True).run(accepted)
        writer.close()

    await serve(listen, tunnel, ssl=context(folder, True))


async def serve(listen, each, **more):
    host, port = listen.rsplit(":", 1)
    async with await asyncio.start_server(each, host, int(port), **more) as listener:
        print("ready", flush=True)
        await listener.serve_forever()


asyncio.run(server(*sys.argv[2:]) if sys.argv[1] == "server" else client(*sys.argv[2:]))
