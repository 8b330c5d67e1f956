"""Ask a process whether it serves: `Hello` and `StatusRequest` on its public port.

``python -m cluster.health --config FILE`` exits with 0 where it does; ``--testnet DIR --wait S``
waits for every process. The supervisor and deploy scripts use it; containers ask `cluster.ready`.
"""

from __future__ import annotations

import argparse
import asyncio
import struct
import sys

from protocol.codec import encode
from protocol.errors import Code, ConfigError, Rejected, RemoteFault, TrilemmaError
from protocol.messages import (
    NODE_FRAME_BYTES,
    WIRE_VERSION,
    Answer,
    ErrorFrame,
    Hello,
    Status,
    StatusRequest,
    Welcome,
    decode_answer,
)
from store.config import load_chain, load_config, parse_address
from store.testnet import ProcessEntry, Testnet

_LENGTH = struct.Struct(">I")
_ANY_HOSTS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_PAUSE_S = 0.2


async def probe(address: str, chain_id: bytes = b"", timeout_s: float = 2.0) -> Status:
    """The status of the process at `address`, whatever chain it is of where `chain_id` is empty.

    Raises `OSError` (`TimeoutError` included) where nobody answers, `RemoteFault` or `Rejected`
    where the answer is an error or makes no sense.
    """
    host, port = parse_address(address)
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(_ANY_HOSTS.get(host, host), port)
        try:
            welcome = await _ask(reader, writer, Hello(1, WIRE_VERSION, chain_id, "health"))
            if not isinstance(welcome, Welcome):
                raise Rejected(Code.WRONG_TYPE, "the answer to Hello is no Welcome")
            if chain_id and welcome.chain_id != chain_id:
                raise Rejected(Code.WRONG_CHAIN, f"{address} serves another chain")
            status = await _ask(reader, writer, StatusRequest(2))
            if not isinstance(status, Status):
                raise Rejected(Code.WRONG_TYPE, "the answer to StatusRequest is no Status")
            return status
        except asyncio.IncompleteReadError:
            raise ConnectionResetError(f"{address} closed the connection") from None
        finally:
            writer.close()


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Hello | StatusRequest
) -> Answer:
    payload = encode(request)
    writer.write(_LENGTH.pack(len(payload)) + payload)
    await writer.drain()
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if not 0 < length <= NODE_FRAME_BYTES:
        raise Rejected(Code.FRAME_TOO_LARGE, f"a frame of {length} bytes")
    answer: Answer = decode_answer(await reader.readexactly(length))
    if isinstance(answer, ErrorFrame):
        raise RemoteFault(answer.code, answer.text)
    return answer


async def wait_testnet(testnet: Testnet, timeout_s: float) -> list[str]:
    """Wait until every process of a testnet serves; what is wrong with those that do not."""
    chain_id = testnet.chain().chain_id
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s

    async def wait(entry: ProcessEntry) -> str:
        while True:
            try:
                await probe(entry.public, chain_id)
                return ""
            except (OSError, TrilemmaError) as error:
                trouble = f"{entry.name} does not serve: {str(error) or 'no answer in time'}"
            if loop.time() >= deadline:
                return trouble
            await asyncio.sleep(_PAUSE_S)

    answers = await asyncio.gather(*(wait(entry) for entry in testnet.processes))
    return [answer for answer in answers if answer]


def main(arguments: list[str] | None = None) -> int:
    """Probe a process, or all of a testnet: 0 serves, 1 does not, 2 bad configuration."""
    parser = argparse.ArgumentParser(prog="cluster.health", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--config", help="a process's TOML file")
    which.add_argument("--testnet", help="a testnet's directory")
    parser.add_argument("--wait", type=float, default=0.0, help="seconds until all must serve")
    options = parser.parse_args(arguments)
    try:
        if options.testnet is not None:
            troubles = asyncio.run(wait_testnet(Testnet.load(options.testnet), options.wait))
        else:
            troubles = asyncio.run(_check(options.config))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    for trouble in troubles:
        print(trouble, file=sys.stderr)
    return 1 if troubles else 0


async def _check(path: str) -> list[str]:
    config = load_config(path)
    try:
        status = await probe(config.public, load_chain(config).chain_id)
    except (OSError, RemoteFault, Rejected) as error:
        return [f"{config.name} does not serve: {str(error) or 'no answer in time'}"]
    print(" ".join(f"{name}={value}" for name, value in sorted(status.values.items())))
    return []


if __name__ == "__main__":
    sys.exit(main())
