"""Talks to a server that speaks first: HOST PORT; prints its greeting and what it makes of a line, or why not."""
import socket, sys

try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30) as connection:
        lines = connection.makefile("rwb")
        greeting = lines.readline()
        if not greeting:
            raise OSError("closed")
        lines.write(b"select 1\n")
        lines.flush()
        print(greeting.decode().strip(), lines.readline().decode().strip())
except OSError as error:
    print("failed:", error)
