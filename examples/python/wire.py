"""Messages and services, compiled from the .proto files at start by grpcio-tools: there is no
generated code to keep in step. And the few things that bytes in them mean."""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import grpc

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path += [str(REPOSITORY / "proto"), str(REPOSITORY / "coordinator" / "proto")]
common = grpc.protos("unanimous/v1/common.proto")
proto, sessions = grpc.protos_and_services("unanimous/v1/participant.proto")
work, calls = grpc.protos_and_services("unanimous/dev/v1/bank.proto")


class Branch(NamedTuple):
    """A branch's name: 24 bytes each, as `common.proto` lays them out."""

    gtrid: bytes
    bqual: bytes

    def ref(self) -> Any:
        return common.BranchRef(gtrid=self.gtrid, bqual=self.bqual)

    def __str__(self) -> str:
        return f"{self.gtrid.hex()[-8:]}/{self.bqual.hex()[:16]}"


def log_bytes(owner: Any) -> bytes:
    """Cluster, slot and incarnation of an owner or a mark, as a gtrid has them."""
    parts = ((owner.cluster, 4), (owner.slot, 2), (owner.incarnation, 4))
    return b"".join(number.to_bytes(size, "big") for number, size in parts)


def log_numbers(log: bytes) -> dict[str, int]:
    parts = {"cluster": log[:4], "slot": log[4:6], "incarnation": log[6:]}
    return {name: int.from_bytes(part, "big") for name, part in parts.items()}


def is_ended(mark: Any, gtrid: bytes) -> bool:
    """Whether the mark passes the transaction. Big endian: bytes compare as the numbers do."""
    upto = mark.epoch.to_bytes(4, "big") + mark.sequence.to_bytes(8, "big")
    return gtrid[1:11] == log_bytes(mark) and gtrid[11:23] <= upto and gtrid not in mark.exceptions
