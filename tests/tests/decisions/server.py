"""An application that answers with what it was asked, and an external authorizer that counts its questions."""
import http.server, json, sys, threading

count, lock = 0, threading.Lock()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        global count
        with lock:
            count += 1
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = json.dumps({"path": self.path, "headers": headers}).encode()
        self.send_response(403 if headers.get("x-ext-user") == "mallory" else 200)
        self.send_header("content-length", str(len(body)))
        self.send_header("x-count", str(count))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("", int(sys.argv[1])), Handler).serve_forever()
