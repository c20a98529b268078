"""TLS certificates on this host."""

import ssl
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    names: tuple[str, ...]  # of hosts, and addresses
    ends: float  # Unix seconds


def certificate(cert: str, key: str) -> Certificate:
    """What clients learn from the first certificate of a PEM file, in a handshake with its key. ssl.SSLError if a
    client would reject it for its dates, or if the key is another's; OSError if a file cannot
    be read.
    """
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(cert, key, password=_no_password)
    client_side = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_side.check_hostname = False
    client_side.load_verify_locations(cert)
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
    names = [str(entry[1]) for entry in found.get("subjectAltName", ()) if entry[0] in ("DNS", "IP Address")]
    return Certificate(names=tuple(names), ends=ssl.cert_time_to_seconds(str(found["notAfter"])))


def _no_password() -> str:
    raise ssl.SSLError(1, "the key has a password: write it without one")
