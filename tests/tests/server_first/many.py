"""Opens NUMBER connections to HOST PORT and has a byte back on each, again for each line of standard input; keeps them open until it
ends. Prints how many had their byte."""
import asyncio, resource, sys

resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
host, port, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


async def main():
    gate = asyncio.Semaphore(100)

    async def connect():
        async with gate:
            reader, writer = await asyncio.open_connection(host, port)
            return reader, writer, await ask(reader, writer)

    async def ask(reader, writer):
        writer.write(b"x")
        return await asyncio.wait_for(reader.readexactly(1), 60) == b"x"

    async def again(reader, writer):
        async with gate:
            return await ask(reader, writer)

    def failures(results):
        return next((repr(result) for result in results if isinstance(result, BaseException)), "")

    opened = await asyncio.gather(*(connect() for _ in range(number)), return_exceptions=True)
    good = [found for found in opened if not isinstance(found, BaseException) and found[2]]
    print(len(good), failures(opened), flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        results = await asyncio.gather(*(again(reader, writer) for reader, writer, _ in good), return_exceptions=True)
        print(sum(result is True for result in results), failures(results), flush=True)


asyncio.run(main())
