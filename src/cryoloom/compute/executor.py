"""Executors: where chunks of work run. Results come back in the order of the chunks."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from cryoloom.compute.threads import thread_budget

T = TypeVar("T")
S = TypeVar("S")


class SerialExecutor:
    """Runs each chunk in the calling thread."""

    n_workers = 1

    def map(self, fn: Callable[[T], S], chunks: Iterable[T]) -> Iterator[S]:
        """Apply `fn` to each chunk in turn."""
        return (fn(chunk) for chunk in chunks)

    def reduce(self, fn: Callable[[S, S], S], parts: Iterable[S]) -> S:
        """Fold `parts` from the left."""
        return _fold(fn, parts)


class ThreadExecutor:
    """Runs chunks on threads of this process; kernels release the interpreter lock.

    At most `n_workers + ahead` chunks are in flight, so memory does not grow with their number, and the results
    are handed out in the order of the chunks, so sums do not depend on which thread was faster.

    Each `map` has its own pool: a worker may itself call `map` without waiting for its own slot.
    """

    def __init__(self, n_workers: int, *, ahead: int = 1) -> None:
        if n_workers < 1:
            raise ValueError(f"n_workers: expected at least 1, got {n_workers}")
        self.n_workers = n_workers
        self._ahead = ahead

    def map(self, fn: Callable[[T], S], chunks: Iterable[T]) -> Iterator[S]:
        """Apply `fn` to each chunk on `n_workers` threads."""
        if self.n_workers == 1:
            yield from (fn(chunk) for chunk in chunks)
            return
        # One thread inside each chunk: libraries that fight for the cores make everything tens of times slower.
        with thread_budget(1), ThreadPoolExecutor(self.n_workers, thread_name_prefix="chunk") as pool:
            waiting: deque[Future[S]] = deque()
            try:
                for chunk in chunks:
                    waiting.append(pool.submit(fn, chunk))
                    if len(waiting) >= self.n_workers + self._ahead:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def reduce(self, fn: Callable[[S, S], S], parts: Iterable[S]) -> S:
        """Fold `parts` from the left."""
        return _fold(fn, parts)


def _fold(fn: Callable[[S, S], S], parts: Iterable[S]) -> S:
    iterator = iter(parts)
    try:
        total = next(iterator)
    except StopIteration:
        raise ValueError("parts: expected at least one part, got none") from None
    for part in iterator:
        total = fn(total, part)
    return total
