"""Work on several weights at a time, with the results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_THREADS = 2
"""NumPy lets go of the interpreter while it computes; what lies between keeps more from gaining."""


def in_threads(work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Yield the result for each item, in their order; two are worked on at a time.

    No thread is left once this is exhausted, closed, or has raised what `work` raised.
    """
    if len(items) < 2:
        yield from map(work, items)
        return
    threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="graphopt-threshold")
    ahead: deque[Future[R]] = deque()
    try:
        for item in items:
            ahead.append(threads.submit(work, item))
            if len(ahead) > 2 * _THREADS:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)
