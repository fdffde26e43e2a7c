"""What a run will cost, and what to do within its budget."""

from vademecum.planning.plan import Plan, Workload, check_memory, choose_steps
from vademecum.planning.timing import AnswerRates, Rates, answering_seconds

__all__ = ["AnswerRates", "Plan", "Rates", "Workload", "answering_seconds", "check_memory", "choose_steps"]
