"""tasks/runtime/on_dask/jobs.py: which worker gets which task, and what a lost worker costs."""

import pytest

from tasks.errors import RunError
from tasks.runtime.on_dask.jobs import Job, Jobs

BOTH = ["tls://a:1", "tls://b:1"]
A, B = BOTH


def jobs_of(num):
    return Jobs([Job(number, [f"{number:02}"], lambda program, sent: b"") for number in range(num)], "program", "sent")


def given(jobs, worker, workers=BOTH, threads=2, busy=False):
    job = jobs.next(worker, workers, threads, busy)
    return None if job is None else job.number


def test_each_worker_gets_its_own_share_first_and_then_what_is_left():
    jobs = jobs_of(4)
    assert [given(jobs, A), given(jobs, A), given(jobs, A), given(jobs, B), given(jobs, B)] == [0, 2, 1, 3, None]


def test_tasks_are_not_handed_out_far_ahead_of_the_answers():
    jobs = jobs_of(100)
    handed = [given(jobs, A) for _ in range(10)]
    assert sorted(number for number in handed if number is not None) == [0, 1, 2, 3, 4, 5]  # three for each thread
    for number in (0, 1, 2):
        jobs.finish(jobs_of(100)._all[number], b"%d" % number)
    answers = jobs.ordered(lambda: None, lambda: None)
    assert [next(answers), next(answers)] == [b"0", b"1"]
    assert sorted([given(jobs, A), given(jobs, A)]) == [6, 7]
    assert given(jobs, A) is None


def test_answers_come_in_the_order_of_the_tasks():
    jobs, took = jobs_of(3), []
    for number in (2, 0, 1):
        jobs.finish(jobs_of(3)._all[number], b"%d" % number)
    assert list(jobs.ordered(lambda: None, lambda: took.append(1))) == [b"0", b"1", b"2"]
    assert len(took) == 3


def test_an_error_ends_the_pass():
    jobs = jobs_of(2)
    jobs.fail(RunError("lost"))
    with pytest.raises(RunError, match="lost"):
        next(jobs.ordered(lambda: None, lambda: None))


def test_a_cancelled_run_does_not_wait_for_answers():
    def cancelled():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(jobs_of(2).ordered(cancelled, lambda: None))


def test_a_task_that_was_lost_twice_has_a_worker_for_itself():
    jobs = jobs_of(2)
    job = jobs.next(A, BOTH, 2, False)
    for worker in (A, B):
        assert job.lose(worker) is None
    jobs.put_back(job)
    assert given(jobs, A, busy=True) == 1
    assert given(jobs, A, busy=True) is None
    assert given(jobs, A) == 0


def test_a_task_that_ends_every_worker_ends_the_run_and_names_workers_and_clients():
    job = Job(0, ["03", "07"], lambda program, sent: b"")
    assert [job.lose(f"tls://{n}:1") for n in range(3)] == [None] * 3
    error = job.lose("tls://3:1")
    assert "tls://0:1, tls://1:1, tls://2:1, tls://3:1 were lost" in str(error)
    assert "the clients 03, 07" in str(error)


def test_a_worker_that_cannot_read_a_task_does_not_get_it_again():
    jobs = jobs_of(1)
    job = jobs.next(A, BOTH, 2, False)
    job.unread[A] = b"u"
    jobs.put_back(job)
    assert given(jobs, A) is None
    assert list(jobs.tried_by_all(BOTH)) == []
    assert list(jobs.tried_by_all([A])) == [job]
    assert list(jobs.tried_by_all([A])) == []
