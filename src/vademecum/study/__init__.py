"""Many runs compared: what is varied (`declaration`, `design`), how large each trial is (`sizing`), where they run
(`executors`), and what they say together (`analysis`, `report`)."""

from vademecum.study.declaration import SearchConfig, StudyConfig, is_study, load_search, load_study, study_names
from vademecum.study.execution import Setting, forecast_study, run_study
from vademecum.study.executors import make_executor
from vademecum.study.sharing import train_trials, trial_run

__all__ = [
    "SearchConfig",
    "Setting",
    "StudyConfig",
    "forecast_study",
    "is_study",
    "load_search",
    "load_study",
    "make_executor",
    "run_study",
    "study_names",
    "train_trials",
    "trial_run",
]
