import hashlib
import hmac
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = os.environ["WEBHOOK_SECRET"].encode()


def is_ours(body: bytes, signature: str) -> bool:
    expected = hmac.new(SECRET, body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, signature)


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        # The raw bytes, before any parsing.
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not is_ours(body, self.headers.get("X-Webhook-Signature", "")):
            self.send_response(401)
            self.end_headers()
            return
        event = json.loads(body)
        # Store it by webhook-id, which is the same in every attempt. Work on it afterwards.
        print(self.headers["X-Webhook-Event"], event["id"])
        self.send_response(204)
        self.end_headers()


ThreadingHTTPServer(("", int(os.environ.get("PORT", "8000"))), Receiver).serve_forever()
