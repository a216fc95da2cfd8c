"""An agent in a process of its own, for tests that stop or kill it: it says a word and then only listens."""

import asyncio
import sys
from pathlib import Path

from fedrl.transport.grpc_transport import GrpcTransport
from fedrl.transport.seam import LinkClosedError
from tests.support.certified import credentials


async def main(folder: str, name: str, address: str) -> None:
    link = await GrpcTransport(credentials(Path(folder), name)).connect(address)
    await link.send(b"here")
    try:
        while True:
            await link.receive()
    except LinkClosedError as fault:
        print(fault, flush=True)
    # After it was stopped, sending on the dead stream has to raise the same error and no other.
    try:
        await link.send(b"late")
        await link.send(b"late")
    except LinkClosedError as fault:
        print(fault, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
