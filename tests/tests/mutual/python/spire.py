"""A SPIFFE Workload API, as far as X.509 goes, by gRPC: `SOCKET FOLDER...`.

Each FOLDER has tls.crt, tls.key and ca.crt, which are told as one SVID and told anew when they change. `ready` is
said on standard output.
"""

import pathlib
import sys
import time
from concurrent import futures

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization

DER = serialization.Encoding.DER
folders = [pathlib.Path(folder) for folder in sys.argv[2:]]


def field(number, data):
    """A field of bytes, of protocol buffers."""
    length, size = len(data), bytearray()
    while length >= 0x80:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([number << 3 | 2, *size, length]) + data


def svid(folder):
    # What is swapped meanwhile is read from one version.
    folder = (folder / "..data").resolve()
    read = lambda name: (folder / name).read_bytes()
    chain = x509.load_pem_x509_certificates(read("tls.crt"))
    names = chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    name = names.get_values_for_type(x509.UniformResourceIdentifier)[0]
    key = serialization.load_pem_private_key(read("tls.key"), None)
    pkcs8 = key.private_bytes(DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    der = lambda all: b"".join(one.public_bytes(DER) for one in all)
    roots = x509.load_pem_x509_certificates(read("ca.crt"))
    return field(1, name.encode()) + field(2, der(chain)) + field(3, pkcs8) + field(4, der(roots))


def fetch(request, context):
    if ("workload.spiffe.io", "true") not in context.invocation_metadata():
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing")
    told = None
    while context.is_active():
        now = b"".join(field(1, svid(folder)) for folder in folders)
        if now != told:
            told = now
            yield now
        time.sleep(0.1)


handler = grpc.method_handlers_generic_handler(
    "SpiffeWorkloadAPI", {"FetchX509SVID": grpc.unary_stream_rpc_method_handler(fetch)}
)
server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((handler,))
server.add_insecure_port("unix:" + sys.argv[1])
server.start()
print("ready", flush=True)
server.wait_for_termination()
