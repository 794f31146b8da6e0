"""A host outside the mesh: says on ports 80 and 443 how it was reached."""
import http.server, json, ssl, sys, threading


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        is_tls = isinstance(self.connection, ssl.SSLSocket)
        said = {"tls": is_tls, "peer": self.client_address[0], "host": self.headers.get("host")}
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


plain = http.server.ThreadingHTTPServer(("0.0.0.0", 80), Answer)
secure = http.server.ThreadingHTTPServer(("0.0.0.0", 443), Answer)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
secure.socket = context.wrap_socket(secure.socket, server_side=True)
threading.Thread(target=plain.serve_forever, daemon=True).start()
secure.serve_forever()
