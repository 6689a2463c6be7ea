import threading
import time

import pytest
import threadpoolctl
import torch

from cryoloom.compute import SerialExecutor, ThreadExecutor
from cryoloom.compute.threads import thread_budget


@pytest.mark.parametrize("executor", [SerialExecutor(), ThreadExecutor(2), ThreadExecutor(3, ahead=4)])
def test_results_come_in_the_order_of_the_chunks(executor):
    def work(i):
        time.sleep(0.002 * ((7 * i) % 5))
        return i

    assert list(executor.map(work, range(20))) == list(range(20))
    assert executor.reduce(lambda a, b: a + b, executor.map(work, range(20))) == 190


def test_only_a_few_chunks_are_in_flight():
    taken, lock = 0, threading.Lock()

    def chunks():
        nonlocal taken
        for i in range(50):
            with lock:
                taken += 1
            yield i

    for done, _ in enumerate(ThreadExecutor(2).map(lambda i: i, chunks())):
        assert taken - done <= 4


def test_an_error_in_a_chunk_reaches_the_caller():
    def work(i):
        if i == 3:
            raise KeyError("three")
        return i

    with pytest.raises(KeyError, match="three"):
        list(ThreadExecutor(2).map(work, range(10)))


def test_reducing_nothing_is_refused():
    with pytest.raises(ValueError, match="parts"):
        SerialExecutor().reduce(lambda a, b: a + b, [])


def test_libraries_use_one_thread_inside_a_chunk_whatever_the_budget_outside_is():
    def inner(_):
        return {torch.get_num_threads()} | {pool["num_threads"] for pool in threadpoolctl.threadpool_info()}

    with thread_budget(2):
        for counts in ThreadExecutor(2).map(inner, range(4)):
            assert counts == {1}
        assert torch.get_num_threads() == 2
