"""Many runs compared: what is varied (`declaration`, `design`), how large each trial is (`sizing`), where they run
(`executors`), and what they say together (`analysis`, `report`)."""

from vademecum.study.declaration import StudyConfig, load_study, study_names
from vademecum.study.execution import Setting, run_study, run_trial
from vademecum.study.executors import make_executor

__all__ = ["Setting", "StudyConfig", "load_study", "make_executor", "run_study", "run_trial", "study_names"]
