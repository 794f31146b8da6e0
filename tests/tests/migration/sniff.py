"""Looks at every TCP segment that passes the interfaces other than loopback, from or to a port, until standard input ends; then
prints how many begin like HTTP in the clear, how many like a TLS record, and an example of the first kind. What an address tries in the
clear is counted by itself; what it gets is not."""
import json, select, socket, struct, sys

port, prober = int(sys.argv[1]), socket.inet_aton(sys.argv[2])
packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0003))
packets.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
seen = {"plain": 0, "probes": 0, "tls": 0, "example": None}
print("ready", flush=True)


def look():
    packet, (interface, *_) = packets.recvfrom(65535)
    if interface == "lo" or packet[0] >> 4 != 4 or packet[9] != 6:
        return
    at = (packet[0] & 15) * 4
    if port not in struct.unpack("!2H", packet[at:at + 4]):
        return
    payload = packet[at + (packet[at + 12] >> 4) * 4:struct.unpack("!H", packet[2:4])[0]]
    if payload[:4] in (b"GET ", b"HTTP", b"PRI ", b"POST"):
        if packet[12:16] == prober:
            seen["probes"] += 1
            return
        seen["plain"] += 1
        seen["example"] = seen["example"] or repr(payload[:120])
    elif payload[:1] in (b"\x14", b"\x15", b"\x16", b"\x17") and payload[1:2] == b"\x03":
        seen["tls"] += 1


while True:
    readable, _, _ = select.select([packets, sys.stdin], [], [])
    if packets in readable:
        look()
    elif not sys.stdin.buffer.read1(1):
        break
lost = struct.unpack("2I", packets.getsockopt(263, 6, 8))[1]  # SOL_PACKET, PACKET_STATISTICS
print(json.dumps(seen | {"lost": lost}), flush=True)
