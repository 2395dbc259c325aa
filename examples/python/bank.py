"""A bank that takes part in transactions: a participant made from the .proto files alone.

Work calls come by `unanimous.dev.v1.BankService`, orders of the coordinator by the session of
`unanimous.v1.ParticipantService`, and what must survive is in one SQLite file.
Files: `wire` (messages and ids), `store` (what survives), `participant` (the protocol's rules).
"""

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from participant import Participant, Refused
from store import Store
from wire import calls, work


class Bank(calls.BankServiceServicer):
    """The work calls."""

    def __init__(self, participant: Participant) -> None:
        self.participant = participant

    async def Move(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        headers = dict(context.invocation_metadata())
        try:
            try:
                gtrid = bytes.fromhex(headers.get("unanimous-transaction", ""))
            except ValueError:
                gtrid = b""
            if len(gtrid) != 24:
                raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "no header unanimous-transaction")
            active, news = await self.participant.join(gtrid)
            self.participant.move(active, request.account, request.cents)
        except Refused as refused:
            await context.abort(refused.code, str(refused))
        await context.send_initial_metadata((("unanimous-branches", str(news)),))
        return work.MoveResponse()

    async def Describe(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        in_doubt = len(self.participant.prepared)
        sum_cents = self.participant.store.sum_cents()
        return work.DescribeResponse(in_doubt=in_doubt, sum_cents=sum_cents)


async def serve(arguments: argparse.Namespace) -> None:
    store = Store(arguments.data_dir)
    participant = Participant(arguments.name, arguments.coordinator, store)
    logging.info("open, %d branches in doubt", len(participant.prepared))
    server = grpc.aio.server()
    calls.add_BankServiceServicer_to_server(Bank(participant), server)
    server.add_insecure_port(arguments.listen)
    await server.start()
    running = [
        asyncio.create_task(participant.keep_session()),
        asyncio.create_task(participant.watch()),
    ]
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopped.set)
    if arguments.exit_with_stdin:
        loop.add_reader(sys.stdin, stopped.set)
    stopping = asyncio.create_task(stopped.wait())
    await asyncio.wait([*running, stopping], return_when=asyncio.FIRST_COMPLETED)
    await server.stop(grace=1)
    for task in running:
        if task.done():
            task.result()
    store.db.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="A bank that takes part in transactions.")
    parser.add_argument("--name", default="bank-python")
    parser.add_argument("--coordinator", default="127.0.0.1:7450", help="host:port")
    parser.add_argument("--listen", default="127.0.0.1:7461", help="host:port of the work calls")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--exit-with-stdin", action="store_true", help="stop when stdin is closed")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(serve(arguments))


if __name__ == "__main__":
    main()
