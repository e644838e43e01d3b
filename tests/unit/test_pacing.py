"""Work that runs ahead: while a thread has nothing to do, and as far as the memory goes."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from git_theta.commands.pacing import Pacing

PATIENCE = 60


def began(pacing: Pacing, cost: int, kept: int) -> Future[int]:
    """Work of some cost, of which so much will be kept."""
    future: Future[int] = Future()
    pacing.begin(cost, future, lambda done: 0 if done.exception() else kept)
    return future


def waits_for(work: Future[int], pacing: Pacing, cost: int, first: Future[int]) -> bool:
    """Whether there is room once some work is done, and nobody is told so before."""
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(pacing.wait, cost, first)
        assert not waits.done()
        work.set_result(0)
        return waits.result(PATIENCE)


def test_a_large_task_keeps_nobody_from_small_ones():
    pacing = Pacing(threads=2, budget=100, ahead=10)
    large = began(pacing, 60, kept=3)
    for _ in range(5):
        assert pacing.wait(20, large)
        began(pacing, 20, kept=2).set_result(0)  # 60 + 5 x 2
    assert pacing.wait(30, large)
    assert waits_for(large, pacing, 31, large)


def test_nothing_more_begins_while_all_are_at_work():
    pacing = Pacing(threads=2, budget=100, ahead=10)
    first, second = began(pacing, 20, kept=5), began(pacing, 20, kept=5)
    assert waits_for(second, pacing, 20, first)


def test_whoever_finds_no_room_takes_what_is_done():
    pacing = Pacing(threads=2, budget=100, ahead=10)
    first = began(pacing, 50, kept=90)
    first.set_result(0)
    assert not pacing.wait(20, first)
    pacing.taken(90)
    assert pacing.wait(20, first)
    failed = began(pacing, 100, kept=90)
    failed.set_exception(ValueError())
    assert pacing.wait(100, failed)
