"""Asks GET http://HOST:PORT/ all the time, until standard input ends; then prints what came back as JSON.

Half of the clients keep their connections, the other half makes a new one for each request. A line of standard input asks for what
came back so far."""
import collections, http.client, json, sys, threading

host, port, clients = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
lock, stop = threading.Lock(), threading.Event()
seen = {"total": 0, "pods": collections.Counter(), "failed": []}


def exchange(connection):
    connection.request("GET", "/move")
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise ValueError(f"{response.status}: {body[:200]}")
    return json.loads(body)["pod"]


def client(keeps):
    connection, uses = http.client.HTTPConnection(host, port, timeout=30), 0
    while not stop.is_set():
        try:
            pod, failure = exchange(connection), None
            uses += 1
        except (OSError, ValueError, http.client.HTTPException) as error:
            pod, failure = None, f"{type(error).__name__}: {error}; after {uses} on this connection"
            connection.close()
            uses = 0
        with lock:
            seen["total"] += 1
            if failure:
                seen["failed"].append(failure)
            else:
                seen["pods"][pod] += 1
        if not keeps:
            connection.close()
            uses = 0


def told():
    with lock:
        print(json.dumps(seen), flush=True)


threads = [threading.Thread(target=client, args=(number % 2 == 0,)) for number in range(clients)]
for thread in threads:
    thread.start()
for _ in sys.stdin:
    told()
stop.set()
for thread in threads:
    thread.join()
told()
