"""TLS certificates on this host.

The router's workers read their certificate whenever one of them starts, and end if they cannot use it. So they get a
copy of a pair that was tried out, in one file. Control watches the user's files, and renews the copy.
"""

import hashlib
import os
import re
import ssl
from dataclasses import dataclass
from pathlib import Path

from berth.processes import replace_file

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----\n?", re.DOTALL)
_V3 = "3"  # of X.509: the router's TLS library reads no other


class CertificateError(Exception):
    """The router cannot serve with this certificate and key. The message names the variable and the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    names: tuple[str, ...]  # of hosts, and addresses
    ends: float  # Unix seconds


def certificate(cert: str, key: str) -> Certificate:
    """What clients learn from the first certificate of a PEM file. CertificateError if they would reject it for its
    dates, if the key is another's, or if a file cannot be used.
    """
    return tried(cert, key)[1]


def install(cert: str, key: str, path: Path) -> None:
    """Writes a certificate and its key to one file for the router, once a client has accepted them. CertificateError as
    above; OSError if the file cannot be written.
    """
    replace_file(path, tried(cert, key)[0], mode=0o600)


def digest(cert: str, key: str) -> str:
    """Another one when a file has changed, or is gone."""
    found = hashlib.sha256()
    for path in (cert, key):
        try:
            found.update(hashlib.sha256(Path(path).read_bytes()).digest())
        except OSError as error:
            found.update(str(error.errno).encode())
    return found.hexdigest()


def tried(cert: str, key: str) -> tuple[bytes, Certificate]:
    """What the router's copy of both files has, after a handshake with them. CertificateError as above."""
    certs = [block for kind, block in _blocks("BERTH_TLS_CERT", cert) if kind == b"CERTIFICATE"]
    if not certs:
        raise CertificateError(f"BERTH_TLS_CERT={cert!r} has no certificate as PEM (-----BEGIN CERTIFICATE-----)")
    keys = [(kind, block) for kind, block in _blocks("BERTH_TLS_KEY", key) if kind.endswith(b"PRIVATE KEY")]
    if not keys:
        raise CertificateError(f"BERTH_TLS_KEY={key!r} has no private key as PEM (-----BEGIN PRIVATE KEY-----)")
    kind, block = keys[0]
    if kind.startswith(b"ENCRYPTED") or b"Proc-Type: 4,ENCRYPTED" in block:
        raise CertificateError(f"BERTH_TLS_KEY={key!r}: the key has a password: write it without one")
    pem = b"".join([block, *certs])
    try:
        return pem, _handshake(pem)
    except ssl.SSLError as error:
        library = str(getattr(error, "reason", None) or "").replace("_", " ").lower()
        reason = getattr(error, "verify_message", "") or library or error.strerror
        raise CertificateError(f"BERTH_TLS_CERT={cert!r} with BERTH_TLS_KEY={key!r}: {reason}") from error


def _blocks(variable: str, path: str) -> list[tuple[bytes, bytes]]:
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise CertificateError(f"{variable}={path!r}: {error.strerror}") from error
    return [(found[1], found[0].rstrip() + b"\n") for found in _BLOCK.finditer(text)]


def _handshake(pem: bytes) -> Certificate:
    """Of a server with this certificate and a client that knows its issuer. No file holds the key meanwhile."""
    memory = os.memfd_create("tls")
    try:
        os.write(memory, pem)
        path = f"/proc/self/fd/{memory}"
        server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server_side.load_cert_chain(path)
        client_side = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client_side.check_hostname = False
        client_side.load_verify_locations(path)
    finally:
        os.close(memory)
    client_side.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # its issuer may not be known here
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_side.wrap_bio(to_client, to_server)
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    waiting = [client, server]
    while waiting:
        for side in tuple(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                continue
    found = client.getpeercert() or {}
    if str(found["version"]) != _V3:
        raise ssl.SSLError(1, f"version {found['version']} of X.509: make one of version 3, with a subjectAltName")
    names = [str(entry[1]) for entry in found.get("subjectAltName", ()) if entry[0] in ("DNS", "IP Address")]
    return Certificate(names=tuple(names), ends=ssl.cert_time_to_seconds(str(found["notAfter"])))
