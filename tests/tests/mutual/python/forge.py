"""Certificates that nobody should believe, or not for long: `AUTHORITY OUT KIND [SECONDS]`, into a folder as
`bulkhead ca issue` makes.

AUTHORITY is the folder of the built-in authority, whose key signs all of them but the one of its own making.
KIND is what is wrong with it; or `for-` and an account, whose certificate is good for SECONDS from now on.
"""

import datetime
import pathlib
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

authority, out, kind = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
day, now = datetime.timedelta(days=1), datetime.datetime.now(datetime.timezone.utc)
begin, end = {"expired": (-2, -1), "not-yet-valid": (1, 2)}.get(kind, (-1, 1))
account = "web"
if kind.startswith("for-"):
    account, end = kind.removeprefix("for-"), float(sys.argv[4]) / 86_400
names = {
    "wrong-trust-domain": ["spiffe://example.com/ns/host/sa/web"],
    "two-names": ["spiffe://example.org/ns/host/sa/web", "spiffe://example.org/ns/host/sa/db"],
    "bad-name": ["spiffe://example.org/web"],
}.get(kind, [f"spiffe://example.org/ns/host/sa/{account}"])
usages = [ExtendedKeyUsageOID.SERVER_AUTH] + [ExtendedKeyUsageOID.CLIENT_AUTH] * (kind != "wrong-usage")

key = ec.generate_private_key(ec.SECP256R1())
root = x509.load_pem_x509_certificate((authority / "roots/1.crt").read_bytes())
signs = serialization.load_pem_private_key((authority / "roots/1.key").read_bytes(), None)
issuer = root.subject
if kind == "self-signed":
    issuer, signs = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "myself")]), key
certificate = (
    x509.CertificateBuilder()
    .subject_name(issuer if kind == "self-signed" else x509.Name([]))
    .issuer_name(issuer)
    .public_key(key.public_key())
    .serial_number(x509.random_serial_number())
    .not_valid_before(now + begin * day)
    .not_valid_after(now + end * day)
    .add_extension(x509.KeyUsage(True, *[False] * 8), critical=True)
    .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(n) for n in names]), critical=True)
    .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signs.public_key()), critical=False)
    .sign(signs, hashes.SHA256())
)
out.mkdir()
(out / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
(out / "tls.key").write_bytes(key.private_bytes(*form))
(out / "ca.crt").write_bytes((authority / "ca.crt").read_bytes())
