"""Work ahead of the consumer: in order, bounded, and stopped without a lock."""

from __future__ import annotations

import concurrent.futures.thread
import gc
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from tiny import threads_end

from untaught.data.decoding import ahead, prefetch


def test_results_come_in_order_and_no_more_are_begun_than_said() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        time.sleep(0.01 if item % 3 == 0 else 0)
        return item * item

    for number, result in enumerate(ahead(work, range(50), workers=3, depth=2)):
        assert result == number * number
        assert len(begun) <= number + 6


def test_what_weighs_much_is_not_read_ahead() -> None:
    read: list[int] = []
    items = (read.append(i) or i for i in range(10))
    given = ahead(lambda item: item, items, workers=2, weigh=lambda item: 1 << 28)
    next(given)
    assert read == [0]


def test_an_exception_comes_out_at_its_item() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("broken")

    given = prefetch(items())
    assert next(given) == 1
    with pytest.raises(OSError, match="broken"):
        next(given)


@pytest.mark.parametrize("make", [lambda items: prefetch(items), lambda items: ahead(lambda item: item, items, 2)])
def test_closing_takes_no_lock(make: Callable[[Iterator[int]], Iterator[int]]) -> None:
    """The garbage collector may close one while its thread holds any lock: in the start of another thread, for example."""
    given = make(iter(range(1000)))
    assert next(given) == 0
    locked, closed = threading.Event(), threading.Event()

    def close() -> None:
        locked.wait(10)
        given.close()  # type: ignore[attr-defined]
        closed.set()

    threading.Thread(target=close, daemon=True).start()
    with threading._shutdown_locks_lock, concurrent.futures.thread._global_shutdown_lock:  # type: ignore[attr-defined]
        locked.set()
        assert closed.wait(10)


def test_threads_end_when_nobody_wants_their_results() -> None:
    before = threading.active_count()
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        time.sleep(0.05)
        return item

    given = ahead(work, range(1000), workers=2)
    next(given)
    circle = [given]
    circle.append(circle)  # type: ignore[arg-type]
    del given, circle
    gc.collect()
    assert threads_end(before)
    assert len(begun) <= 5
