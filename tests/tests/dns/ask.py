"""Asks DNS questions and prints the answers as JSON: NAME TYPE [tcp] for each line of standard input.

The server is the first name server of /etc/resolv.conf: redirection has to bring the question to the sidecar."""
import json, random, socket, struct, sys

TYPES = {"A": 1, "CNAME": 5, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28, "SRV": 33, "HTTPS": 65}


def name_at(packet, at):
    labels, end = [], None
    while packet[at]:
        if packet[at] >= 0xC0:
            end = end or at + 2
            at = struct.unpack("!H", packet[at:at + 2])[0] & 0x3FFF
            continue
        labels.append(packet[at + 1:at + 1 + packet[at]].decode())
        at += 1 + packet[at]
    return ".".join(labels), end or at + 1


def ask(server, name, kind, tcp):
    identifier = random.randrange(65536)
    question = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"
    packet = struct.pack("!6H", identifier, 0x0100, 1, 0, 0, 0) + question + struct.pack("!2H", TYPES[kind], 1)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as connection:
        connection.settimeout(15)
        connection.connect((server, 53))
        if tcp:
            connection.sendall(struct.pack("!H", len(packet)) + packet)
            stream = connection.makefile("rb")
            answer = stream.read(struct.unpack("!H", stream.read(2))[0])
        else:
            connection.send(packet)
            answer = connection.recv(65535)
    got, flags, _, count, _, _ = struct.unpack("!6H", answer[:12])
    assert got == identifier, "an answer to another question"
    _, at = name_at(answer, 12)
    at += 4
    records = []
    for _ in range(count):
        owner, at = name_at(answer, at)
        kind, _, ttl, length = struct.unpack("!HHIH", answer[at:at + 10])
        at += 10
        data = answer[at:at + length]
        if kind == 1:
            value = socket.inet_ntop(socket.AF_INET, data)
        elif kind == 28:
            value = socket.inet_ntop(socket.AF_INET6, data)
        elif kind in (5, 12):
            value = name_at(answer, at)[0]
        else:
            value = data.hex()
        records.append([owner, next(name for name, number in TYPES.items() if number == kind), value])
        at += length
    return {"code": flags & 15, "truncated": bool(flags & 0x200), "records": records}


server = next(line.split()[1] for line in open("/etc/resolv.conf") if line.startswith("nameserver"))
for line in sys.stdin:
    words = line.split()
    print(json.dumps(ask(server, words[0], words[1], "tcp" in words)), flush=True)
