"""SMTP with and without STARTTLS: `serve PORT CERT KEY`, or `ask HOST PORT clear|starttls` a message.

The server answers a message with its digest, which the client compares with what it has sent, and with the
client's address, which the client tells.
"""

import asyncio
import hashlib
import smtplib
import ssl
import sys

from aiosmtpd.smtp import SMTP


class Digest:
    async def handle_DATA(self, server, session, envelope):
        return f"250 {hashlib.sha256(envelope.content).hexdigest()} {session.peer[0]}"


async def serve(port, cert, key):
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(cert, key)
    loop = asyncio.get_running_loop()
    make = lambda: SMTP(Digest(), tls_context=tls, hostname="bulkhead.test")
    server = await loop.create_server(make, "0.0.0.0", port)
    await server.serve_forever()


def ask(host, port, way):
    message = sys.stdin.buffer.read().replace(b"\n", b"\r\n")
    with smtplib.SMTP(host, port, local_hostname="client.test", timeout=20) as smtp:
        if way == "starttls":
            tls = ssl.create_default_context()
            tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
            smtp.starttls(context=tls)
        smtp.ehlo()
        smtp.mail("a@bulkhead.test")
        smtp.rcpt("b@bulkhead.test")
        code, answer = smtp.data(message)
    digest, seen = answer.decode().split()
    if (code, digest) != (250, hashlib.sha256(message).hexdigest()):
        sys.exit(f"the server took something else: {code} {answer}")
    print("seen", seen)


if sys.argv[1] == "serve":
    asyncio.run(serve(int(sys.argv[2]), *sys.argv[3:5]))
else:
    ask(sys.argv[2], int(sys.argv[3]), sys.argv[4])
