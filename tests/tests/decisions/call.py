"""Calls a URL with headers (`name=value` each) and prints status, headers and body as JSON."""
import json, sys, urllib.error, urllib.request

request = urllib.request.Request(sys.argv[1])
for header in sys.argv[2:]:
    request.add_header(*header.split("=", 1))
try:
    answer = urllib.request.urlopen(request, timeout=10)
except urllib.error.HTTPError as error:
    answer = error
except (urllib.error.URLError, OSError) as error:
    print(json.dumps({"status": 0, "headers": {}, "body": str(error)}))
    sys.exit()
headers = {name.lower(): value for name, value in answer.headers.items()}
print(json.dumps({"status": answer.status, "headers": headers, "body": answer.read().decode()}))
