"""Calls a URL and prints status and body as JSON; the CA of HTTPS servers is the second argument."""
import json, ssl, sys, urllib.error, urllib.request

context = ssl.create_default_context(cafile=sys.argv[2])
try:
    with urllib.request.urlopen(sys.argv[1], timeout=10, context=context) as answer:
        print(json.dumps({"status": answer.status, "body": answer.read().decode()}))
except urllib.error.HTTPError as error:
    headers = dict(error.headers.items())
    print(json.dumps({"status": error.code, "body": error.read().decode(), "headers": headers}))
except (urllib.error.URLError, OSError) as error:
    print(json.dumps({"status": 0, "body": str(error)}))
