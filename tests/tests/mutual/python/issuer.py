"""Certificates as others make them: `OUT ACCOUNT:KEY...`, a folder in OUT for each account.

The root and its one intermediate have RSA keys, as Istio's own authority and cert-manager's by default. KEY is `rsa`
or `ec`, of the account's own key, which is written as OpenSSL's older forms (`BEGIN RSA PRIVATE KEY`, `BEGIN EC
PRIVATE KEY`), as cert-manager does.
"""

import datetime
import pathlib
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PEM = serialization.Encoding.PEM
now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)
# digitalSignature, contentCommitment, keyEncipherment, dataEncipherment, keyAgreement, keyCertSign, cRLSign, …
AUTHORITY = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
WORKLOAD = x509.KeyUsage(True, False, True, False, False, False, False, False, False)


def generate(kind="rsa"):
    return rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(ec.SECP256R1())


def builder(subject, issuer, key, is_authority):
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        .add_extension(AUTHORITY if is_authority else WORKLOAD, critical=True)
    )


def name(text):
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, text)])


root_key, between_key = generate(), generate()
root = builder(name("root"), name("root"), root_key, True).sign(root_key, hashes.SHA256())
between = builder(name("between"), name("root"), between_key, True).sign(root_key, hashes.SHA256())
for account, kind in (word.split(":") for word in sys.argv[2:]):
    key, out = generate(kind), pathlib.Path(sys.argv[1]) / account
    uri = x509.UniformResourceIdentifier(f"spiffe://example.org/ns/host/sa/{account}")
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    leaf = (
        builder(x509.Name([]), name("between"), key, False)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName([uri]), critical=True)
        .sign(between_key, hashes.SHA256())
    )
    out.mkdir(parents=True)
    # The root at the end of a chain is of no use, and does no harm.
    (out / "tls.crt").write_bytes(b"".join(one.public_bytes(PEM) for one in (leaf, between, root)))
    (out / "ca.crt").write_bytes(root.public_bytes(PEM))
    form = (PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    (out / "tls.key").write_bytes(key.private_bytes(*form))
