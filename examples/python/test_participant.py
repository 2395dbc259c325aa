"""What a participant answers in each state, without a network: a list to test one's own by."""

import asyncio
import contextlib
import tempfile
import unittest
from pathlib import Path
from typing import Any

from participant import Active, Participant, Refused
from store import OPENING_CENTS, Store
from wire import Branch, common, log_bytes, proto

EPOCH = 7
OWNER = common.Owner(cluster=1, slot=2, incarnation=3, epoch=EPOCH)
NOT_KNOWN_YET = 99


def gtrid(sequence: int, epoch: int = EPOCH) -> bytes:
    numbers = epoch.to_bytes(4, "big") + sequence.to_bytes(8, "big")
    return b"\1" + log_bytes(OWNER) + numbers + b"\0"


class ParticipantTest(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.start()

    def start(self) -> None:
        """A start, or one after a kill: what is not in the store is gone."""
        with contextlib.suppress(AttributeError):
            self.bank.store.db.close()
        self.bank = Participant("bank", "nowhere", Store(self.folder))
        self.bank.owner, self.bank.outbox = OWNER, asyncio.Queue(100)

    async def asyncTearDown(self) -> None:
        self.bank.store.db.close()

    def said(self) -> list[Any]:
        """What it has said since the last look: ballots, and how branches were done."""
        said = []
        while not self.bank.outbox.empty():
            message = self.bank.outbox.get_nowait()
            kind = message.WhichOneof("body")
            if kind == "vote":
                said.append(proto.Ballot.Name(message.vote.ballot))
            elif kind == "acknowledged":
                said.append(proto.Done.Name(message.acknowledged.done))
            else:
                said.append(kind)
        return said

    def told(self, branch: Branch | None = None, epoch: int = EPOCH, **body: Any) -> list[Any]:
        """Tells it something about a branch; what it says then."""
        for message in body.values():
            if branch is not None:
                message.branch.CopyFrom(branch.ref())
        self.bank.on_message(proto.ParticipateResponse(sender_epoch=epoch, **body))
        return self.said()

    def prepare(self, branch: Branch) -> list[Any]:
        return self.told(branch, prepare=proto.Prepare())

    def decide(self, branch: Branch, decision: int, epoch: int = EPOCH) -> list[Any]:
        return self.told(branch, epoch, decide=proto.Decide(decision=decision, frame=5))

    def answer(self, branch: Branch, verdict: int, epoch: int = EPOCH) -> list[Any]:
        return self.told(branch, epoch, answer=proto.Answer(verdict=verdict, frame=5))

    async def work(self, sequence: int, account: int = 1, cents: int = -10) -> Active:
        """A work call's part: a branch, enlisted, with one change."""
        joining = asyncio.create_task(self.bank.join(gtrid(sequence)))
        await asyncio.sleep(0)
        active = self.bank.active[gtrid(sequence)]
        if not active.enlisted.done():
            enlisted = proto.Enlisted(status=proto.ENLIST_STATUS_ENLISTED, remaining_ms=1_000)
            self.assertEqual(self.told(active.branch, enlisted=enlisted), ["enlist"])
        await joining
        self.bank.move(active, account, cents)
        return active

    async def prepared(self, sequence: int, account: int = 1) -> Branch:
        branch = (await self.work(sequence, account)).branch
        self.assertEqual(self.prepare(branch), ["BALLOT_COMMIT"])
        return branch

    def moved(self, account: int = 1) -> int:
        return self.bank.store.balance(account) - OPENING_CENTS

    async def test_a_branch_is_prepared_and_committed_once_however_often_it_is_told(self) -> None:
        branch = await self.prepared(1)
        self.assertEqual(self.prepare(branch), ["BALLOT_COMMIT"])
        self.assertEqual(self.moved(), 0)
        for _ in range(2):
            self.assertEqual(self.decide(branch, proto.DECISION_COMMIT), ["DONE_DONE"])
            self.assertEqual(self.moved(), -10)
        self.start()
        self.assertEqual(self.decide(branch, proto.DECISION_COMMIT), ["DONE_DONE"])
        self.assertEqual((self.moved(), self.bank.locks), (-10, {}))

    async def test_a_prepared_branch_survives_a_kill_with_its_locks(self) -> None:
        branch = await self.prepared(1)
        self.start()
        self.assertEqual(list(self.bank.hello().in_doubt), [branch.ref()])
        with self.assertRaises(Refused):
            await self.work(2)
        self.assertEqual(self.prepare(branch), ["BALLOT_COMMIT"])
        self.assertEqual(self.decide(branch, proto.DECISION_ROLLBACK), ["DONE_DONE"])
        self.start()
        self.assertEqual((self.bank.prepared, self.bank.locks, self.moved()), ({}, {}, 0))

    async def test_an_active_branch_does_not_survive(self) -> None:
        branch = (await self.work(1)).branch
        self.start()
        self.assertEqual(self.prepare(branch), ["BALLOT_ROLLBACK"])
        self.assertEqual((self.bank.prepared, self.bank.store.prepared()), ({}, {}))
        await self.work(2)

    async def test_a_branch_is_never_committed_without_a_vote(self) -> None:
        branch = (await self.work(1)).branch
        self.assertEqual(self.decide(branch, proto.DECISION_COMMIT), ["DONE_NOT_PREPARED"])
        self.assertEqual((self.moved(), self.bank.locks), (0, {}))

    async def test_what_is_not_known_is_rolled_back_but_not_committed(self) -> None:
        branch = Branch(gtrid(1), bytes(24))
        self.assertEqual(self.prepare(branch), ["BALLOT_ROLLBACK"])
        self.assertEqual(self.decide(branch, proto.DECISION_ROLLBACK), ["DONE_DONE"])
        with self.assertLogs(level="ERROR"):
            self.assertEqual(self.decide(branch, proto.DECISION_COMMIT), ["DONE_HEURISTIC_HAZARD"])
        one_phase = self.decide(branch, proto.DECISION_COMMIT_ONE_PHASE)
        self.assertEqual(one_phase, ["DONE_ROLLED_BACK"])
        self.assertEqual(self.told(branch, forget=proto.Forget()), ["DONE_FORGOTTEN"])

    async def test_one_phase_commits_or_says_why_not(self) -> None:
        branch = (await self.work(1)).branch
        for _ in range(2):
            one_phase = self.decide(branch, proto.DECISION_COMMIT_ONE_PHASE)
            self.assertEqual((one_phase, self.moved()), (["DONE_DONE"], -10))
        poor = (await self.work(2, cents=-OPENING_CENTS)).branch
        one_phase = self.decide(poor, proto.DECISION_COMMIT_ONE_PHASE)
        self.assertEqual((one_phase, self.moved()), (["DONE_ROLLED_BACK"], -10))

    async def test_only_a_branch_that_can_commit_votes_so(self) -> None:
        overdrawn = (await self.work(1, cents=-OPENING_CENTS - 1)).branch
        self.assertEqual(self.prepare(overdrawn), ["BALLOT_ROLLBACK"])
        failed = await self.work(2, account=2)
        with self.assertRaises(Refused):
            self.bank.move(failed, 1_001, 1)
        self.assertEqual(self.prepare(failed.branch), ["BALLOT_ROLLBACK"])
        working = await self.work(3, account=3)
        working.calls += 1
        self.assertEqual(self.prepare(working.branch), ["BALLOT_ROLLBACK"])
        unchanged = (await self.work(4, account=4, cents=0)).branch
        self.assertEqual(self.prepare(unchanged), ["BALLOT_READ_ONLY"])
        self.assertEqual((self.bank.active, self.bank.locks), ({}, {}))

    async def test_a_call_that_is_given_up_keeps_its_branch_from_committing(self) -> None:
        active = await self.work(1)
        active.enlisted = asyncio.get_running_loop().create_future()
        joining = asyncio.create_task(self.bank.join(gtrid(1)))
        await asyncio.sleep(0)
        joining.cancel()
        await asyncio.wait([joining])
        self.said()
        self.assertEqual(self.prepare(active.branch), ["BALLOT_ROLLBACK"])

    async def test_work_waits_for_enlisted_and_is_refused_without_it(self) -> None:
        joining = asyncio.create_task(self.bank.join(gtrid(1)))
        await asyncio.sleep(0)
        branch = self.bank.active[gtrid(1)].branch
        self.assertFalse(joining.done())
        refused = proto.Enlisted(status=proto.ENLIST_STATUS_INACTIVE)
        self.assertEqual(self.told(branch, enlisted=refused), ["enlist"])
        with self.assertRaises(Refused):
            await joining
        self.assertEqual(self.bank.active, {})

    async def test_a_rollback_ends_a_call_that_waits(self) -> None:
        joining = asyncio.create_task(self.bank.join(gtrid(1)))
        await asyncio.sleep(0)
        branch = self.bank.active[gtrid(1)].branch
        self.assertEqual(self.decide(branch, proto.DECISION_ROLLBACK), ["enlist", "DONE_DONE"])
        with self.assertRaises(Refused):
            await asyncio.wait_for(joining, timeout=1)

    async def test_the_second_call_of_a_transaction_announces_no_branch(self) -> None:
        await self.work(1)
        self.assertEqual((await self.bank.join(gtrid(1)))[1], 0)

    async def test_an_answer_counts_only_while_the_branch_is_prepared(self) -> None:
        verdicts = [proto.VERDICT_ROLLBACK, proto.VERDICT_COMMIT]
        committed, active = await self.prepared(1), await self.work(2, account=2)
        self.assertEqual(self.answer(committed, proto.VERDICT_COMMIT), ["DONE_DONE"])
        for branch in (committed, active.branch, Branch(gtrid(3), bytes(24))):
            for verdict in verdicts:
                self.assertEqual(self.answer(branch, verdict), [])
        self.assertEqual((self.moved(), list(self.bank.active.values())), (-10, [active]))
        rolled_back = await self.prepared(4)
        self.assertEqual(self.answer(rolled_back, proto.VERDICT_ROLLBACK), ["DONE_DONE"])
        self.assertEqual((self.moved(), self.bank.store.prepared()), (-10, {}))

    async def test_what_is_not_understood_means_hold_and_ask_again(self) -> None:
        branch = await self.prepared(1)
        for verdict in (proto.VERDICT_WAIT, proto.VERDICT_LEAVE_ALONE, 0, NOT_KNOWN_YET):
            self.assertEqual(self.answer(branch, verdict), [])
        for decision in (0, NOT_KNOWN_YET):
            self.assertEqual(self.decide(branch, decision), [])
        self.assertEqual(self.told(), [])
        self.assertIn(branch, self.bank.prepared)

    async def test_an_old_coordinator_is_not_obeyed(self) -> None:
        branch, other = await self.prepared(1), await self.prepared(2, account=2)
        # Patience may be asked for by a life that has no durable epoch yet.
        self.assertEqual(self.answer(other, proto.VERDICT_WAIT, epoch=EPOCH + 9), [])
        self.assertEqual(self.decide(other, proto.DECISION_COMMIT, epoch=EPOCH + 1), ["DONE_DONE"])
        self.assertEqual(self.decide(branch, proto.DECISION_ROLLBACK), [])
        self.assertIn(branch, self.bank.prepared)

    async def test_a_proof_is_kept_until_the_mark_passes_it_and_then_nothing_is_said(self) -> None:
        first, second, third = await self.prepared(1), await self.prepared(2, 2), None
        for branch in (first, second):
            self.assertEqual(self.decide(branch, proto.DECISION_COMMIT), ["DONE_DONE"])
        numbers = {"cluster": 1, "slot": 2, "incarnation": 3, "epoch": EPOCH, "sequence": 2}
        mark = common.EndedMark(**numbers, exceptions=[first.gtrid])
        self.bank.on_message(proto.ParticipateResponse(sender_epoch=EPOCH, ended=mark))
        third = await self.prepared(3, 3)
        self.assertEqual(self.decide(third, proto.DECISION_COMMIT), ["DONE_DONE"])
        kept = [self.bank.store.is_committed(branch) for branch in (first, second, third)]
        self.assertEqual(kept, [True, False, True])
        for decision in (proto.DECISION_COMMIT, proto.DECISION_COMMIT_ONE_PHASE):
            self.assertEqual(self.decide(second, decision), [])
        self.assertEqual(self.decide(first, proto.DECISION_COMMIT), ["DONE_DONE"])

    async def test_frames_seen_are_told_after_a_kill(self) -> None:
        self.decide(await self.prepared(1), proto.DECISION_COMMIT)
        self.start()
        (seen,) = self.bank.hello().seen_frames
        self.assertEqual((seen.incarnation, seen.epoch, seen.frame), (3, EPOCH, 5))

    async def test_the_own_time_out_undoes_active_branches_and_prepared_ones_are_asked_about(
        self,
    ) -> None:
        prepared, active = await self.prepared(1), await self.work(2, account=2)
        self.said()
        active.undo_at = 0.0
        for _ in range(3):
            self.bank.prepared[prepared].ask_at = 0.0
            watching = asyncio.create_task(self.bank.watch())
            await asyncio.sleep(0)
            watching.cancel()
            self.assertEqual((self.bank.active, self.bank.locks), ({}, {1: prepared}))
            self.assertEqual(self.said(), ["inquire"])

    async def test_a_branch_has_another_name_after_a_kill(self) -> None:
        branch = (await self.work(1)).branch
        self.start()
        self.assertNotEqual((await self.work(1)).branch, branch)

    async def test_the_store_syncs_each_commit(self) -> None:
        # No kill of a process finds it when it does not.
        (journal,) = self.bank.store.db.execute("PRAGMA journal_mode").fetchone()
        (synchronous,) = self.bank.store.db.execute("PRAGMA synchronous").fetchone()
        self.assertEqual((journal, synchronous), ("wal", 2))


if __name__ == "__main__":
    unittest.main()
