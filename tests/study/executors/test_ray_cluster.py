"""Trials on a real Ray cluster on this machine: workers that are killed, stopping, and a driver that is killed."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.study.executors.programs import (
    MEET,
    POLITE,
    SLEEP,
    WRITE_PID,
    Ended,
    log,
    number_in,
    python,
    wait_for,
    wait_until_gone,
)

from vademecum.errors import RunError, StoppedError
from vademecum.stopping import Stop
from vademecum.study.executors.ray_cluster import RayExecutor, demand, within

SMALL, LARGE = {"CPU": 2.0, "memory": 1000.0}, {"CPU": 8.0, "memory": 500.0, "GPU": 2.0}
SECOND_TIME = f"""
import pathlib, sys
first, again = map(pathlib.Path, sys.argv[1:])
if first.exists():
    print("went on")
    again.touch()
else:
    {WRITE_PID} {SLEEP}
"""


@pytest.mark.parametrize(
    ("wanted", "needs"),
    [
        ({"threads": 2, "memory_bytes": 800}, {"num_cpus": 2, "num_gpus": 0, "memory": 800}),
        ({"threads": 16}, {"num_cpus": 8, "num_gpus": 0, "memory": 0}),
        ({"threads": 4, "memory_bytes": 800}, {"num_cpus": 4, "num_gpus": 0, "memory": 500}),
        ({"threads": 1, "memory_bytes": 800, "gpu": True}, {"num_cpus": 1, "num_gpus": 1, "memory": 500}),
    ],
)
def test_no_task_demands_more_than_the_largest_node_has(
    tmp_path: Path, wanted: dict[str, Any], needs: dict[str, float]
) -> None:
    assert demand(python(tmp_path, "one", "", **wanted), [SMALL, LARGE]) == needs


def test_a_task_has_no_more_threads_than_cores_where_it_runs(tmp_path: Path) -> None:
    task = python(tmp_path, "one", "", threads=64)
    assert within(task, demand(task, [SMALL, LARGE])).threads == 8


def test_a_gpu_that_no_node_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="one needs a GPU, and no node"):
        demand(python(tmp_path, "one", "", gpu=True), [SMALL])


def test_a_missing_ray_is_named_with_its_remedy() -> None:
    program = (
        "import sys; sys.modules['ray'] = None\n"
        "from vademecum.errors import InputError\n"
        "from vademecum.study.executors.ray_cluster import RayExecutor\n"
        "try: RayExecutor()\n"
        "except InputError as error: print(error.hint)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "pip install '.[ray]' in the checkout" in told


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[str]:
    """The address of a cluster of two nodes with a core each."""
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args=node)
        cluster.add_node(**node)
        try:
            yield str(cluster.address)
        finally:
            cluster.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(900)  # Ray takes minutes to start where the cores are busy
def test_a_killed_worker_s_trial_goes_on_elsewhere_and_everything_completes(tmp_path: Path, two_nodes: str) -> None:
    first, again, mine, other = (tmp_path / name for name in ("first", "again", "mine", "other"))
    tasks = [
        python(tmp_path, "victim", SECOND_TIME, first, again),
        python(tmp_path, "bad", "import sys; sys.exit('no such thing')"),
        python(tmp_path, "left", MEET, mine, other),
        python(tmp_path, "right", MEET, other, mine, environment={"WORD": "yes"}),
        python(tmp_path, "killed", "import os; os.kill(os.getpid(), 9)"),
    ]
    ended = Ended()

    def kill_the_worker() -> None:
        program = psutil.Process(number_in(first))
        attendant = program.parent()
        attendant.parent().kill()

    killing = threading.Thread(target=kill_the_worker)
    killing.start()
    RayExecutor(two_nodes).run(tasks, Stop(), ended)
    killing.join()
    assert ended.codes == {"victim": 0, "bad": 1, "left": 0, "right": 0, "killed": -9}
    assert again.exists()
    assert log(tasks[0]) == "went on\n"
    wait_until_gone(number_in(first))


@pytest.mark.slow
@pytest.mark.timeout(900)  # Ray takes minutes to start where the cores are busy
def test_stopping_lets_the_trials_at_work_end_cleanly(tmp_path: Path) -> None:
    pids = [tmp_path / "a", tmp_path / "b"]
    tasks = [python(tmp_path, pid.name, POLITE, pid) for pid in pids] + [python(tmp_path, "waiting", "print()")]
    stop, ended = Stop(), Ended()

    def ask() -> None:
        for pid in pids:
            number_in(pid)
        os.kill(os.getpid(), signal.SIGTERM)

    asking = threading.Thread(target=ask)
    before = signal.signal(signal.SIGTERM, lambda *_: stop.ask(signal.SIGTERM))
    try:
        asking.start()
        with pytest.raises(StoppedError):
            RayExecutor(cores=2).run(tasks, stop, ended)
    finally:
        asking.join()
        signal.signal(signal.SIGTERM, before)
    assert ended.codes == {"a": 143, "b": 143}
    assert not tasks[2].log.exists()


DRIVER = """
import sys
from pathlib import Path
from vademecum.stopping import Stop
from vademecum.study.executors.ray_cluster import RayExecutor
from vademecum.study.executors.tasks import Task

address, folder, *command = sys.argv[1:]
task = Task(name="one", command=tuple(command), log=Path(folder) / "log")
RayExecutor(address).run([task], Stop(), lambda task, code: None)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)  # Ray takes minutes to start where the cores are busy
def test_a_killed_driver_s_trials_are_ended_by_the_cluster_and_a_new_driver_goes_on(
    tmp_path: Path, two_nodes: str
) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    program = [sys.executable, "-c", SECOND_TIME, str(first), str(again)]
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, two_nodes, str(tmp_path), *program])
    pid = number_in(first)
    driver.kill()
    driver.wait()
    wait_until_gone(pid)
    ended = Ended()
    RayExecutor(two_nodes).run([python(tmp_path, "one", SECOND_TIME, first, again)], Stop(), ended)
    assert ended.codes == {"one": 0}
    wait_for(again.exists)
