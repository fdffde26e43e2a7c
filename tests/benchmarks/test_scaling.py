"""What `scaling` measures must be so on any machine: a study over Ray survives the loss of a worker."""

import pytest
from benchmarks.scaling import measure_ray

TRIALS = 3


@pytest.mark.slow
@pytest.mark.timeout(1200)  # Ray takes minutes to start where the cores are busy
def test_a_study_on_two_ray_nodes_of_which_a_worker_is_killed_ends_as_on_this_machine() -> None:
    found = measure_ray(TRIALS)
    names = ("completed", "equal", "killed")
    assert [found[f"scaling.ray.{name}"]["value"] for name in names] == [TRIALS, TRIALS, 1]
