"""A host outside the mesh: says who it is on HTTP ports 80 and 8080, TLS port 443, plain TCP ports 5432 and 9999, and UDP port 443."""
import http.server, socket, socketserver, ssl, sys, threading

name = sys.argv[1].encode()
said = b"I am " + name


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_):
        pass


class Echo(socketserver.BaseRequestHandler):
    """Answers each message, until the caller ends."""

    def handle(self):
        while self.request.recv(1024):
            self.request.sendall(said)


class Datagram(socketserver.BaseRequestHandler):
    def handle(self):
        self.request[1].sendto(said, self.client_address)


class Tcp(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2], sys.argv[3])


class Secure(http.server.ThreadingHTTPServer):
    """A handshake that fails is its connection's affair."""

    def finish_request(self, request, address):
        try:
            request = context.wrap_socket(request, server_side=True)
        except (ssl.SSLError, OSError):
            return
        super().finish_request(request, address)


servers = [
    http.server.ThreadingHTTPServer(("0.0.0.0", 80), Answer),
    http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Answer),
    Secure(("0.0.0.0", 443), Answer),
    Tcp(("0.0.0.0", 5432), Echo),
    Tcp(("0.0.0.0", 9999), Echo),
    socketserver.UDPServer(("0.0.0.0", 443), Datagram),
]
for server in servers[1:]:
    threading.Thread(target=server.serve_forever, daemon=True).start()
servers[0].serve_forever()
