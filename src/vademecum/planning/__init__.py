"""What a run will cost, and what to do within its budget."""

from vademecum.planning.choice import Candidate, Settings, choose_settings, possible_settings, settings_cost, weigh
from vademecum.planning.disk import check_disk, predict_disk_bytes
from vademecum.planning.memory import (
    AnsweringShape,
    MemoryLimit,
    MemoryPrediction,
    Quantization,
    TrainingShape,
    memory_limit,
    predict_memory,
    process_bytes,
)
from vademecum.planning.operations import Shape
from vademecum.planning.plan import TAKES_LESS, Plan, Workload, apply_choice, check_memory, choose_steps
from vademecum.planning.timing import AnswerRates, ForecastWork, Rates, answering_seconds, forecast_rates
from vademecum.planning.tracing import read_model_config, shapeless

__all__ = [
    "TAKES_LESS",
    "AnswerRates",
    "AnsweringShape",
    "Candidate",
    "ForecastWork",
    "MemoryLimit",
    "MemoryPrediction",
    "Plan",
    "Quantization",
    "Rates",
    "Settings",
    "Shape",
    "TrainingShape",
    "Workload",
    "answering_seconds",
    "apply_choice",
    "check_disk",
    "check_memory",
    "choose_settings",
    "choose_steps",
    "forecast_rates",
    "memory_limit",
    "possible_settings",
    "predict_disk_bytes",
    "predict_memory",
    "process_bytes",
    "read_model_config",
    "settings_cost",
    "shapeless",
    "weigh",
]
