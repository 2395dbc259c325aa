"""The rules of `participant.proto`: branches from their enlistment to their end, and the session.

Everything between two `await`s happens at one moment, so there are no locks but those on accounts.
An enum value that is not known falls through: that is "hold and ask again".
"""

import asyncio
import logging
import os
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc
import grpc.aio

from store import CENTS_MAX, Store
from wire import Branch, common, is_ended, log_bytes, log_numbers, proto, sessions

# A work call waits so long for the coordinator; its enlistment is repeated meanwhile.
JOIN_S, ENLIST_AGAIN_S = 10.0, 0.5
# An active branch is undone so long after its transaction's time-out.
GRACE_S = 5.0
INQUIRE_S_MIN, INQUIRE_S_MAX, INQUIRE_BRANCHES_MAX = 1.0, 30.0, 1_000
REDIAL_S_MIN, REDIAL_S_MAX, WELCOME_S = 0.1, 2.0, 10.0
OUTBOX_MAX = 10_000
DIAL = [
    # Without a pool of its own the library remembers refused dials and waits up to 2 minutes.
    ("grpc.use_local_subchannel_pool", 1),
    # A coordinator that is gone without a word is noticed.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
]


class Refused(Exception):
    """A work call is refused. Its transaction can only roll back."""

    def __init__(self, code: grpc.StatusCode, why: str) -> None:
        super().__init__(why)
        self.code = code


@dataclass
class Active:
    """A branch without a vote. It lives in memory only: a crash undoes it."""

    branch: Branch
    # Done when the coordinator has enlisted it, or refused to.
    enlisted: asyncio.Future[Any]
    undo_at: float
    changes: dict[int, int] = field(default_factory=dict)
    # Calls that are not over, and whether one of them has told the caller of a new branch.
    calls: int = 0
    announced: bool = False
    # Why it must not commit.
    obstacle: str | None = None


@dataclass
class Prepared:
    """A branch in doubt. Only the coordinator's decision ends it."""

    changes: dict[int, int]
    ask_at: float
    asked: int = 0


class Participant:
    """The rules of `participant.proto`."""

    def __init__(self, name: str, coordinator: str, store: Store) -> None:
        self.name, self.coordinator, self.store = name, coordinator, store
        self.resource = f"{name}/accounts"
        self.instance = os.urandom(16)
        number = 0x811C9DC5
        for byte in f"{name}\0{self.resource}".encode():
            number = (number ^ byte) * 0x01000193 % 2**32
        self.resource_manager = number
        # While there is a session: the coordinator's life, and what is to be said to it.
        self.owner: Any = None
        self.outbox: asyncio.Queue[Any] | None = None
        self.active: dict[bytes, Active] = {}
        self.prepared = {
            branch: Prepared(changes, ask_at=0.0) for branch, changes in store.prepared().items()
        }
        # Two transactions never wait for each other: the second one is refused.
        self.locks = {
            account: branch for branch, held in self.prepared.items() for account in held.changes
        }
        self.fences: dict[bytes, int] = {}
        self.seen = store.seen()
        self.marks: dict[bytes, Any] = {}

    # Work: called by the bank.

    async def join(self, gtrid: bytes) -> tuple[Active, int]:
        """The transaction's branch here, enlisted, and the number of branches to announce.

        The caller must do its work before the next `await`: until then no message comes between.
        """
        active = self.active.get(gtrid)
        if active is None:
            if self.owner is None:
                raise Refused(grpc.StatusCode.UNAVAILABLE, "no session with the coordinator")
            active = self.active[gtrid] = self.begin(gtrid)
        active.calls += 1
        try:
            await self.enlist(active)
        except BaseException:
            # A call that is given up may be counted as work by its caller: never commit it.
            active.obstacle = "a work call was given up"
            raise
        finally:
            active.calls -= 1
        news, active.announced = int(not active.announced), True
        return active, news

    def begin(self, gtrid: bytes) -> Active:
        # At random: what an earlier life of this process has used in this transaction, and has
        # forgotten, must not be enlisted again as if its work were still here.
        number = random.getrandbits(32)
        owner = log_bytes(self.owner) + self.owner.epoch.to_bytes(4, "big")
        numbers = self.resource_manager.to_bytes(4, "big") + number.to_bytes(4, "big")
        branch = Branch(gtrid, numbers + owner + bytes(2))
        loop = asyncio.get_running_loop()
        return Active(branch, loop.create_future(), undo_at=loop.time() + JOIN_S + GRACE_S)

    async def enlist(self, active: Active) -> None:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + JOIN_S
        while not active.enlisted.done():
            if loop.time() >= give_up_at:
                raise Refused(grpc.StatusCode.DEADLINE_EXCEEDED, "the coordinator did not answer")
            branch = active.branch.ref()
            self.say(enlist=proto.Enlist(branch=branch, resource_id=self.resource))
            await asyncio.wait([active.enlisted], timeout=ENLIST_AGAIN_S)
        answer = active.enlisted.result()
        if answer.status != proto.ENLIST_STATUS_ENLISTED:
            self.undo(active)
            raise Refused(grpc.StatusCode.ABORTED, f"not enlisted: {answer}")
        # Something may have come between the answer and this call.
        if self.active.get(active.branch.gtrid) is not active:
            raise Refused(grpc.StatusCode.ABORTED, "the branch was undone")

    def move(self, active: Active, account: int, cents: int) -> None:
        try:
            balance = self.store.balance(account)
            if balance is None:
                raise Refused(grpc.StatusCode.NOT_FOUND, f"there is no account {account}")
            holder = self.locks.get(account, active.branch)
            if holder != active.branch:
                raise Refused(grpc.StatusCode.ABORTED, f"account {account} is locked by {holder}")
            changed = active.changes.get(account, 0) + cents
            if abs(balance + changed) > CENTS_MAX or abs(changed) > CENTS_MAX:
                raise Refused(grpc.StatusCode.OUT_OF_RANGE, "the amount is too large")
        except Refused as refused:
            # The caller may overlook the failure and commit: then this branch says no.
            active.obstacle = str(refused)
            raise
        self.locks[account] = active.branch
        active.changes[account] = changed

    # What ends a branch here.

    def release(self, changes: dict[int, int]) -> None:
        for account in changes:
            del self.locks[account]

    def undo(self, active: Active) -> None:
        if self.active.get(active.branch.gtrid) is active:
            del self.active[active.branch.gtrid]
            self.release(active.changes)
        if not active.enlisted.done():
            active.enlisted.set_result(proto.Enlisted(status=proto.ENLIST_STATUS_ROLLED_BACK))

    def obstacle(self, active: Active) -> str | None:
        if active.calls:
            return "its work has not ended"
        for account, cents in active.changes.items():
            balance = self.store.balance(account) or 0
            if cents < 0 and balance + cents < 0:
                return f"account {account} would be overdrawn"
        return active.obstacle

    def commit(self, branch: Branch, changes: dict[int, int]) -> None:
        self.store.commit(branch, changes, self.seen, self.marks)
        self.release(changes)

    # Messages. Each may be repeated and late, and is answered from where the branch is now.

    def on_message(self, message: Any) -> None:
        if message.HasField("ended"):
            self.marks[log_bytes(message.ended)] = message.ended
        kind = message.WhichOneof("body")
        if kind is None or kind == "welcome":
            return
        body = getattr(message, kind)
        branch = Branch(body.branch.gtrid, body.branch.bqual)
        active = self.active.get(branch.gtrid)
        if active is not None and active.branch != branch:
            active = None
        if kind == "enlisted":
            if active is not None and not active.enlisted.done():
                active.undo_at = loop_time() + body.remaining_ms / 1000 + GRACE_S
                active.enlisted.set_result(body)
            return
        if kind == "answer" and body.verdict not in (
            proto.VERDICT_COMMIT,
            proto.VERDICT_ROLLBACK,
        ):
            return
        log = log_bytes(self.owner)
        if message.sender_epoch < self.fences.get(log, 0):
            return
        self.fences[log] = message.sender_epoch
        if kind == "prepare":
            self.on_prepare(branch, active)
        elif kind == "decide" and body.decision == proto.DECISION_COMMIT:
            self.note_seen(log, (message.sender_epoch, body.frame))
            self.on_commit(branch, active)
        elif kind == "decide" and body.decision == proto.DECISION_ROLLBACK:
            self.on_rollback(branch, active)
        elif kind == "decide" and body.decision == proto.DECISION_COMMIT_ONE_PHASE:
            self.on_commit_one_phase(branch, active)
        elif kind == "answer" and branch in self.prepared:
            # In any other state the answer is old. A rollback that is presumed because everything
            # has ended long ago says nothing about a branch that was committed meanwhile.
            if body.verdict == proto.VERDICT_COMMIT:
                self.note_seen(log, (message.sender_epoch, body.frame))
                self.on_commit(branch, None)
            else:
                self.on_rollback(branch, None)
        elif kind == "forget":
            self.acknowledge(branch, proto.DONE_FORGOTTEN)

    def note_seen(self, log: bytes, told: tuple[int, int]) -> None:
        self.seen[log] = max(told, self.seen.get(log, told))

    def on_prepare(self, branch: Branch, active: Active | None) -> None:
        if branch in self.prepared:
            self.vote(branch, proto.BALLOT_COMMIT)
        elif active is None:
            if not self.is_late(branch):
                self.vote(branch, proto.BALLOT_ROLLBACK, "no such branch")
        elif (obstacle := self.obstacle(active)) is not None:
            self.undo(active)
            self.vote(branch, proto.BALLOT_ROLLBACK, obstacle)
        elif not any(active.changes.values()):
            self.undo(active)
            self.vote(branch, proto.BALLOT_READ_ONLY)
        else:
            self.store.prepare(branch, active.changes)
            del self.active[branch.gtrid]
            ask_at = loop_time() + INQUIRE_S_MIN * random.uniform(1, 2)
            self.prepared[branch] = Prepared(active.changes, ask_at)
            self.vote(branch, proto.BALLOT_COMMIT)

    def on_commit(self, branch: Branch, active: Active | None) -> None:
        if branch in self.prepared:
            self.commit(branch, self.prepared.pop(branch).changes)
            self.acknowledge(branch, proto.DONE_DONE)
        elif active is not None:
            self.undo(active)
            self.acknowledge(branch, proto.DONE_NOT_PREPARED)
        elif self.store.is_committed(branch):
            self.acknowledge(branch, proto.DONE_DONE)
        elif not self.is_late(branch):
            self.acknowledge(branch, proto.DONE_HEURISTIC_HAZARD, "no such branch")

    def on_rollback(self, branch: Branch, active: Active | None) -> None:
        if active is not None:
            self.undo(active)
        elif branch in self.prepared:
            self.store.rollback(branch)
            self.release(self.prepared.pop(branch).changes)
        elif self.store.is_committed(branch):
            return self.acknowledge(branch, proto.DONE_HEURISTIC_COMMIT, "it is committed")
        self.acknowledge(branch, proto.DONE_DONE)

    def on_commit_one_phase(self, branch: Branch, active: Active | None) -> None:
        obstacle = self.obstacle(active) if active is not None else None
        if active is not None and obstacle is None:
            del self.active[branch.gtrid]
            self.commit(branch, active.changes)
            self.acknowledge(branch, proto.DONE_DONE)
        elif active is not None:
            self.undo(active)
            self.acknowledge(branch, proto.DONE_ROLLED_BACK, obstacle or "")
        elif branch in self.prepared or self.store.is_committed(branch):
            self.on_commit(branch, None)
        elif not self.is_late(branch):
            # Every commit is remembered until the mark: without a memory there was none.
            self.acknowledge(branch, proto.DONE_ROLLED_BACK, "no such branch")

    def is_late(self, branch: Branch) -> bool:
        """The transaction has ended, the proof may be gone, and nobody waits for an answer."""
        mark = self.marks.get(branch.gtrid[1:11])
        return mark is not None and is_ended(mark, branch.gtrid)

    # The session.

    def say(self, **body: Any) -> None:
        """Says it or drops it: whoever needs it asks again."""
        if self.outbox is not None and not self.outbox.full():
            self.outbox.put_nowait(proto.ParticipateRequest(**body))

    def vote(self, branch: Branch, ballot: int, reason: str = "") -> None:
        self.say(vote=proto.Vote(branch=branch.ref(), ballot=ballot, reason=reason))

    def acknowledge(self, branch: Branch, done: int, detail: str = "") -> None:
        if done in (proto.DONE_HEURISTIC_HAZARD, proto.DONE_HEURISTIC_COMMIT):
            logging.error("%s: %s (%s)", branch, proto.Done.Name(done), detail)
        acknowledged = proto.Acknowledged(branch=branch.ref(), done=done, detail=detail)
        self.say(acknowledged=acknowledged)

    def hello(self) -> Any:
        return proto.Hello(
            protocol_version=1,
            participant=self.name,
            instance=self.instance,
            sdk=f"bank.py (grpcio {grpc.__version__})",
            capabilities=[
                proto.CAPABILITY_INQUIRES,
                proto.CAPABILITY_REMEMBERS_COMMITTED,
                proto.CAPABILITY_ONE_PHASE,
            ],
            resources=[proto.Resource(resource_id=self.resource, kind="sqlite")],
            in_doubt=[branch.ref() for branch in list(self.prepared)[:INQUIRE_BRANCHES_MAX]],
            seen_frames=[
                common.SeenFrame(**log_numbers(log), epoch=epoch, frame=frame)
                for log, (epoch, frame) in self.seen.items()
            ],
        )

    async def keep_session(self) -> NoReturn:
        """One session after the other, for ever."""
        failures = 0
        while True:
            begun = loop_time()
            try:
                await self.session()
                why = "the coordinator ended the session"
            except (grpc.aio.AioRpcError, asyncio.TimeoutError) as error:
                why = getattr(error, "details", lambda: "no welcome in time")()
            finally:
                self.owner = self.outbox = None
            failures = 0 if loop_time() - begun > 1 else failures + 1
            logging.info("no session: %s", why)
            # Many lose the coordinator at the same moment, and must not come back at the same one.
            longest = min(REDIAL_S_MAX, REDIAL_S_MIN * 2 ** min(failures, 10))
            await asyncio.sleep(random.uniform(0, longest))

    async def session(self) -> None:
        outbox: asyncio.Queue[Any] = asyncio.Queue(OUTBOX_MAX)
        outbox.put_nowait(proto.ParticipateRequest(hello=self.hello()))

        async def requests() -> AsyncIterator[Any]:
            while True:
                yield await outbox.get()

        async with grpc.aio.insecure_channel(self.coordinator, DIAL) as channel:
            call = sessions.ParticipantServiceStub(channel).Participate(requests())
            message = await asyncio.wait_for(call.read(), WELCOME_S)
            while message is not grpc.aio.EOF:
                kind = message.WhichOneof("body")
                if kind == "goodbye":
                    logging.warning("goodbye %s", message.goodbye)
                    return
                if kind == "welcome":
                    self.owner, self.outbox = message.welcome.coordinator, outbox
                    logging.info("session with epoch %d", self.owner.epoch)
                    for prepared in self.prepared.values():
                        prepared.ask_at, prepared.asked = 0.0, 0
                if self.owner is not None:
                    self.on_message(message)
                message = await call.read()

    async def watch(self) -> NoReturn:
        """Branches that wait too long: active ones are undone, prepared ones asked about."""
        while True:
            now = loop_time()
            for active in [active for active in self.active.values() if active.undo_at <= now]:
                self.undo(active)
            due = [branch for branch, prepared in self.prepared.items() if prepared.ask_at <= now]
            due = due[:INQUIRE_BRANCHES_MAX]
            for branch in due:
                prepared = self.prepared[branch]
                longest = min(INQUIRE_S_MAX, INQUIRE_S_MIN * 2 ** min(prepared.asked, 10))
                prepared.ask_at = now + longest * random.uniform(0.5, 1)
                prepared.asked += 1
            if due:
                self.say(inquire=proto.Inquire(branches=[branch.ref() for branch in due]))
            await asyncio.sleep(0.1)


def loop_time() -> float:
    return asyncio.get_running_loop().time()
