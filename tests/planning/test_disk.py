"""What a run takes on the disk is known before, and a disk that is too small is noticed before."""

from pathlib import Path

import pytest
from tests.listener import Listener
from tests.test_pipeline import tiny_config

from vademecum.errors import RunError
from vademecum.planning import Plan, check_disk
from vademecum.planning.disk import OTHERS_BYTES
from vademecum.runs import Run
from vademecum.stages import Road, run_road


class Scales(Listener):
    """Weighs the run's directory whenever something is done."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.most = 0

    def progress(self, done: float, total: float, unit: str) -> None:
        self.most = max(self.most, self.run.size_bytes)


def test_the_directory_at_its_fullest_is_what_was_predicted(tiny_checkpoint: Path, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    scales = Scales(run)
    # An adapter of some size, or all would be overhead.
    config = tiny_config(tiny_checkpoint, "lora.r=256", "train.save_steps=1", "generate.systems=['tuned']")
    run_road(Road(run, config, scales), until="predict")
    predicted = run.read_record("plan.json", Plan).disk_bytes
    assert scales.most <= predicted
    # Between a step and the next it is weighed, while no third checkpoint is being written.
    assert predicted - OTHERS_BYTES <= 2 * scales.most


def test_a_disk_without_room_is_refused(tmp_path: Path) -> None:
    check_disk(1000, 1000, tmp_path)
    with pytest.raises(RunError, match=r"GB free, and the run will need 1000000000\.00 GB") as caught:
        check_disk(10**18, 10**6, tmp_path)
    assert "--out" in caught.value.hint
