"""Bytes that no honest client sends, for a real socket."""

import json
import random
from collections.abc import Iterator

GET, POST = (
    b"GET /livez HTTP/1.1\r\nHost: localhost\r\n",
    b"POST /v1/decisions HTTP/1.1\r\nHost: localhost\r\n",
)
JSON = b"Content-Type: application/json\r\n"
SOUND = b'{"model": "models:/a/1"}'


def _post(body: bytes, *headers: bytes, length: int | None = None) -> bytes:
    size = b"Content-Length: %d\r\n" % (len(body) if length is None else length)
    return POST + JSON + b"".join(headers) + size + b"\r\n" + body


def _chunked(*chunks: bytes) -> bytes:
    return POST + JSON + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(chunks)


REQUESTS: dict[str, bytes] = {
    "nothing": b"",
    "null bytes": b"\0" * 4096,
    "a TLS greeting": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xaa" * 500,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/9": b"GET / HTTP/9.9\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "a method of 10^4 letters": b"A" * 10_000 + b" / HTTP/1.1\r\n\r\n",
    "a path of 10^5 letters": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a path that climbs": b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "an encoded climb": b"GET /v1/models/%2e%2e%2f%2e%2e HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a null in the path": b"GET /v1/models/a%00b HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "bytes that are no text in the path": GET.replace(b"/livez", b"/v1/models/\xff\xfe") + b"\r\n",
    "half a surrogate in the query": GET.replace(b"/livez", b"/v1/assessments?model=%ed%a0%80")
    + b"\r\n",
    "an absolute address": b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "another host": b"GET /livez HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "two hosts": GET + b"Host: evil.example\r\n\r\n",
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "a header of 10^6 bytes": GET + b"X: " + b"x" * 1_000_000 + b"\r\n\r\n",
    "10^4 headers": GET + b"X: x\r\n" * 10_000 + b"\r\n",
    "a header without a colon": GET + b"nonsense\r\n\r\n",
    "a folded header": GET + b"X: a\r\n b\r\n\r\n",
    "a null in a header": GET + b"X: a\0b\r\n\r\n",
    "a request id that is markup": GET + b"X-Request-Id: <script>\r\n\r\n",
    "a length that is no number": POST + JSON + b"Content-Length: 1e3\r\n\r\n",
    "a negative length": POST + JSON + b"Content-Length: -1\r\n\r\n",
    "a length of 10^30": POST + JSON + b"Content-Length: 1" + b"0" * 30 + b"\r\n\r\n",
    "two lengths": _post(SOUND, b"Content-Length: 5\r\n"),
    "a length and chunks": _post(SOUND, b"Transfer-Encoding: chunked\r\n"),
    "a length that is too long": _post(SOUND, length=500),
    "a length that is too short": _post(SOUND, length=5),
    "a chunk that lies": _chunked(b"ffffffff\r\n", SOUND),
    "a chunk of no size": _chunked(b"zz\r\n", SOUND, b"\r\n0\r\n\r\n"),
    "a chunk of negative size": _chunked(b"-5\r\n", SOUND, b"\r\n0\r\n\r\n"),
    "chunks that never end": _chunked(*([b"1\r\n \r\n"] * 5000)),
    "10 MB": _post(b" " * 10_000_000),
    "10 MB in chunks": _chunked(*([b"10000\r\n" + b" " * 65536 + b"\r\n"] * 160), b"0\r\n\r\n"),
    "10^5 brackets": _post(b"[" * 100_000),
    "10^5 braces": _post(b'{"a":' * 100_000),
    "a key twice": _post(b'{"model": "a", "model": "b"}'),
    "NaN": _post(b'{"model": NaN}'),
    "a number of 10^5 digits": _post(b'{"model": ' + b"9" * 100_000 + b"}"),
    "bytes that are no text": _post(b'{"model": "\xff\xfe"}'),
    "half a surrogate": _post(b'{"model": "\\ud800"}'),
    "UTF-16": _post('{"model": "a"}'.encode("utf-16")),
    "nothing in a body": _post(b""),
    "a form without a boundary": POST
    + b"Content-Type: multipart/form-data\r\nContent-Length: 0\r\n\r\n",
    "a type that is odd": _post(SOUND).replace(
        b"application/json", b'application/json; charset="\xff"'
    ),
    "a gzip body": _post(b"\x1f\x8b\x08" + b"\0" * 99, b"Content-Encoding: gzip\r\n"),
    "expect": _post(SOUND, b"Expect: 100-continue\r\n"),
    "an upgrade": GET + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "a token of nonsense": _post(SOUND, b"Authorization: Bearer " + b"\xff" * 100 + b"\r\n"),
    "100 requests at once": (GET + b"\r\n") * 100,
    "a smuggled request": _post(SOUND + b"GET /metrics HTTP/1.1\r\n\r\n", length=len(SOUND)),
}


def mutated(seed: int, count: int) -> Iterator[bytes]:
    """Sound requests with bytes flipped, cut, doubled and filled with nonsense."""
    rng = random.Random(seed)
    sound = [_post(json.dumps({"model": f"models:/a/{n}"}).encode()) for n in range(3)]
    sound += [GET + b"\r\n", *(each for each in REQUESTS.values() if 0 < len(each) < 2000)]
    for _ in range(count):
        raw = bytearray(rng.choice(sound))
        for _ in range(rng.randint(1, 8)):
            place = rng.randrange(len(raw) + 1)
            match rng.randrange(4):
                case 0:
                    raw[place : place + 1] = bytes([rng.randrange(256)])
                case 1:
                    del raw[place : place + rng.randint(1, 20)]
                case 2:
                    raw[place:place] = rng.randbytes(rng.randint(1, 20))
                case _:
                    raw[place:place] = raw[place : place + 30]
        yield bytes(raw)
