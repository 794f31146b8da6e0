"""Makes attempts, given as a JSON list on standard input, and prints what each one received, as a JSON list.

An attempt: {"address", "port", "udp", "tls" (server name, "" for none), "h2", "all" (read to the end), "sends" (texts; the next one after an answer to the last)}.
"""
import concurrent.futures, json, socket, ssl, sys

LIMIT = 15.0


def answer(stream):
    """One HTTP answer, or whatever comes before the end."""
    received = b""
    while b"\r\n\r\n" not in received:
        part = stream.recv(65536)
        if not part:
            return received
        received += part
        if not received.startswith(b"HTTP/1."):
            return received
    head, _, body = received.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        field, _, value = line.partition(b":")
        if field.lower() == b"content-length":
            length = int(value)
    while len(body) < length:
        part = stream.recv(65536)
        if not part:
            break
        body += part
        received += part
    return received


def answer_h2(stream):
    """All frames until the end of a stream or of the connection."""
    received = b""
    while True:
        part = stream.recv(65536)
        received += part
        if not part or ends(received):
            return received


def ends(frames):
    while len(frames) >= 9:
        length, kind, flags = int.from_bytes(frames[:3], "big"), frames[3], frames[4]
        if kind in (3, 7) or (kind in (0, 1) and flags & 1 and len(frames) >= 9 + length):
            return True
        frames = frames[9 + length :]
    return False


def attempt(wanted):
    received = b""
    try:
        if wanted.get("udp"):
            stream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            stream.connect((wanted["address"], wanted["port"]))
        else:
            stream = socket.create_connection((wanted["address"], wanted["port"]), timeout=LIMIT)
        stream.settimeout(LIMIT)
        if wanted.get("tls") is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            stream = context.wrap_socket(stream, server_hostname=wanted["tls"] or None)
        for text in wanted["sends"]:
            stream.sendall(text.encode("latin-1"))
            received += answer_h2(stream) if wanted.get("h2") else answer(stream)
        while wanted.get("all") and (part := stream.recv(65536)):
            received += part
        stream.close()
        return received.decode("latin-1") or "closed"
    except TimeoutError:
        return "timeout " + received.decode("latin-1")
    except OSError as error:
        return f"closed {error} " + received.decode("latin-1")


with concurrent.futures.ThreadPoolExecutor(16) as pool:
    print(json.dumps(list(pool.map(attempt, json.load(sys.stdin)))))
