"""Trials on this machine: real processes that write, fail, are killed, stop, and lose the one that started them."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from tests.study.executors.programs import (
    BEGIN_AND_END,
    MEET,
    POLITE,
    SLEEP,
    STUBBORN,
    WRITE_PID,
    Ended,
    log,
    number_in,
    python,
    wait_until_gone,
)

from vademecum.errors import RunError, StoppedError
from vademecum.stopping import Stop
from vademecum.study.executors.local import LocalExecutor
from vademecum.study.executors.room import Room
from vademecum.study.executors.tasks import Task

SEES = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['OMP_NUM_THREADS'], os.environ.get('WORD'))"


def run(tasks: list[Task], room: Room | None = None) -> dict[str, int]:
    ended = Ended()
    LocalExecutor(room or Room(2, 1000, [])).run(tasks, Stop(), ended)
    return ended.codes


def test_each_task_ends_in_its_own_way_and_keeps_none_of_the_others(tmp_path: Path) -> None:
    tasks = [
        python(tmp_path, "good", "print('done')"),
        python(tmp_path, "bad", "import sys; sys.exit('no such thing')"),
        python(tmp_path, "killed", "import os; os.kill(os.getpid(), 9)"),
        python(tmp_path, "crashed", "import os; os.kill(os.getpid(), 11)"),
        Task(name="missing", command=("/nowhere/program",), log=tmp_path / "missing.log"),
    ]
    assert run(tasks) == {"good": 0, "bad": 1, "killed": -9, "crashed": -11, "missing": 127}
    assert log(tasks[0]) == "done\n"
    assert log(tasks[1]) == "no such thing\n"
    assert "/nowhere/program" in log(tasks[4])


def test_a_log_is_added_to(tmp_path: Path) -> None:
    task = python(tmp_path, "one", "print('here')")
    run([task])
    run([task])
    assert log(task) == "here\nhere\n"


@pytest.mark.parametrize(
    ("room", "demand"),
    [
        (Room(1, 1000, []), {}),
        (Room(8, 1000, []), {"threads": 5}),
        (Room(8, 1000, []), {"threads": 9}),
        (Room(8, 1000, []), {"memory_bytes": 501}),
        (Room(8, 1000, []), {"memory_bytes": 2000}),
        (Room(8, 1000, ["GPU-a"]), {"gpu": True}),
    ],
    ids=["cores", "threads", "too many threads", "memory", "too much memory", "GPU"],
)
def test_what_does_not_fit_beside_another_waits_its_turn(tmp_path: Path, room: Room, demand: dict[str, float]) -> None:
    events = tmp_path / "events"
    tasks = [python(tmp_path, name, BEGIN_AND_END, events, name, **demand) for name in "abc"]
    assert run(tasks, room) == {"a": 0, "b": 0, "c": 0}
    assert events.read_text() == "".join(f"begin {name}\nend {name}\n" for name in "abc")


@pytest.mark.parametrize(
    ("room", "demand"),
    [
        (Room(2, 1000, []), {"memory_bytes": 500}),
        (Room(2, 0, ["GPU-a", "GPU-b"]), {"gpu": True}),
    ],
    ids=["CPU", "two GPUs"],
)
def test_what_fits_works_at_the_same_time(tmp_path: Path, room: Room, demand: dict[str, float]) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    tasks = [python(tmp_path, "a", MEET, mine, other, **demand), python(tmp_path, "b", MEET, other, mine, **demand)]
    assert run(tasks, room) == {"a": 0, "b": 0}


def test_a_task_goes_ahead_of_one_that_has_no_room_yet(tmp_path: Path) -> None:
    events = tmp_path / "events"
    tasks = [
        python(tmp_path, name, BEGIN_AND_END, events, name, threads=threads)
        for name, threads in (("first", 1), ("wide", 2), ("small", 1))
    ]
    run(tasks)
    assert events.read_text().splitlines()[-2:] == ["begin wide", "end wide"]


def test_a_task_sees_its_own_gpu_and_threads_alone(tmp_path: Path) -> None:
    tasks = [
        python(tmp_path, "first", SEES, gpu=True, threads=2),
        python(tmp_path, "second", SEES, gpu=True, environment={"WORD": "yes"}),
        python(tmp_path, "none", SEES),
    ]
    run(tasks, Room(8, 1000, ["GPU-a", "GPU-b"]))
    assert [log(task) for task in tasks] == ["GPU-a 2 None\n", "GPU-b 1 yes\n", " 1 None\n"]


def test_a_task_that_needs_a_gpu_where_there_is_none_is_refused_before_any_starts(tmp_path: Path) -> None:
    tasks = [python(tmp_path, "first", "print()"), python(tmp_path, "second", "print()", gpu=True)]
    with pytest.raises(RunError, match="second needs a GPU, and this machine has none"):
        run(tasks)
    assert not tasks[0].log.exists()


def test_the_room_of_this_machine_lets_a_task_in(tmp_path: Path) -> None:
    ended = Ended()
    LocalExecutor().run([python(tmp_path, "one", "print()", threads=1)], Stop(), ended)
    assert ended.codes == {"one": 0}


def test_stopping_is_patient_for_a_while(tmp_path: Path) -> None:
    polite, stubborn = tmp_path / "polite", tmp_path / "stubborn"
    tasks = [
        python(tmp_path, "stubborn", STUBBORN, stubborn),
        python(tmp_path, "polite", POLITE, polite),
        python(tmp_path, "waiting", "print()"),
    ]
    stop, ended = Stop(), Ended()

    def ask() -> None:
        number_in(polite), number_in(stubborn)
        stop.ask(signal.SIGTERM)

    asking = threading.Thread(target=ask)
    asking.start()
    with pytest.raises(StoppedError):
        LocalExecutor(Room(2, 1000, []), patience_seconds=2.0).run(tasks, stop, ended)
    asking.join()
    assert ended.codes == {"stubborn": -9, "polite": 143}
    assert not tasks[2].log.exists()
    for pid in (number_in(polite), number_in(stubborn)):
        wait_until_gone(pid)


def test_no_task_outlives_an_error_of_whoever_is_told(tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    def refuse(task: Task, code: int) -> None:
        number_in(pid)
        raise OSError("no room for the result")

    tasks = [python(tmp_path, "long", WRITE_PID + SLEEP, pid), python(tmp_path, "short", "print()")]
    with pytest.raises(OSError, match="no room"):
        LocalExecutor(Room(2, 1000, [])).run(tasks, Stop(), refuse)
    wait_until_gone(number_in(pid))


def test_nothing_is_left_of_a_task_whose_attendant_is_killed(tmp_path: Path) -> None:
    child, grandchild = tmp_path / "child", tmp_path / "grandchild"

    def kill_the_attendant() -> None:
        number_in(grandchild)
        psutil.Process(number_in(child)).parent().kill()

    killing = threading.Thread(target=kill_the_attendant)
    killing.start()
    assert run([python(tmp_path, "one", FAMILY, child, grandchild)]) == {"one": -9}
    killing.join()
    for pid in (number_in(child), number_in(grandchild)):
        wait_until_gone(pid)


DRIVER = """
import sys
from pathlib import Path
from vademecum.cli.signals import listening
from vademecum.errors import StoppedError
from vademecum.stopping import Stop
from vademecum.study.executors.local import LocalExecutor
from vademecum.study.executors.tasks import Task

folder, *command = sys.argv[1:]
task = Task(name="one", command=tuple(command), log=Path(folder) / "log")
stop = Stop()
with listening(stop):
    try:
        LocalExecutor().run([task], stop, lambda task, code: print(code, flush=True))
    except StoppedError as stopped:
        print(stopped.signal.name)
"""
FAMILY = f"""
import subprocess, sys
subprocess.Popen([sys.executable, "-c", {WRITE_PID + SLEEP!r}, sys.argv[2]])
{WRITE_PID} {SLEEP}
"""
COUNTING = f"""
import signal, sys
signals = []
def end(*_):
    print(signals)
    sys.exit(143)
signal.signal(signal.SIGINT, lambda *_: signals.append("SIGINT"))
signal.signal(signal.SIGTERM, lambda *_: (signals.append("SIGTERM"), signal.setitimer(signal.ITIMER_REAL, 0.5)))
signal.signal(signal.SIGALRM, end)
{WRITE_PID}
while True:
    time.sleep(0.1)
"""


def start_driver(folder: Path, program: str, *arguments: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(folder), *command],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_a_killed_driver_takes_its_tasks_along_and_a_new_one_can_start(tmp_path: Path) -> None:
    child, grandchild = tmp_path / "child", tmp_path / "grandchild"
    driver = start_driver(tmp_path, FAMILY, child, grandchild)
    pids = [number_in(child), number_in(grandchild)]
    driver.kill()
    driver.communicate()
    for pid in pids:
        wait_until_gone(pid)
    assert run([python(tmp_path, "one", "print('again')")]) == {"one": 0}


def test_ctrl_c_reaches_the_driver_alone_and_is_passed_on_once(tmp_path: Path) -> None:
    driver = start_driver(tmp_path, COUNTING, tmp_path / "pid")
    number_in(tmp_path / "pid")
    os.killpg(driver.pid, signal.SIGINT)  # what a terminal does
    told, _ = driver.communicate()
    assert told.split() == ["143", "SIGINT"]
    assert (tmp_path / "log").read_text() == "['SIGTERM']\n"
