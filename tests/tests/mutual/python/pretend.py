"""Comes to a server as the proxy's last hop would: `CLIENT HOST PORT`, from the client's address and marked."""

import socket
import sys

client, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
IPV6_TRANSPARENT = 75
family = socket.AF_INET6 if ":" in client else socket.AF_INET
stream = socket.socket(family, socket.SOCK_STREAM)
if family == socket.AF_INET6:
    stream.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
else:
    stream.setsockopt(socket.SOL_IP, socket.IP_TRANSPARENT, 1)
stream.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x1508)
stream.settimeout(2)
stream.bind((client, 0))
print("begins", flush=True)
stream.connect((host, port))
stream.sendall(b"as if it were the proxy")
