"""Servers that speak first, as MySQL does: a greeting, then each line comes back in capitals. One port, or several; a port with
`+echo` says nothing first and returns every byte."""
import asyncio, resource, sys

resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)


async def first(reader, writer):
    writer.write(b"5.7.0 ready\n")
    while line := await reader.readline():
        writer.write(line.upper())
    writer.close()


async def echo(reader, writer):
    while data := await reader.read(4096):
        writer.write(data)
    writer.close()


async def main():
    for word in sys.argv[1:]:
        port, _, kind = word.partition("+")
        await asyncio.start_server(echo if kind else first, "0.0.0.0", int(port), backlog=4096)
    await asyncio.Event().wait()


asyncio.run(main())
