"""What a run will cost, and what to do within its budget."""

from vademecum.planning.plan import Plan, Workload, choose_steps
from vademecum.planning.timing import Rates, answering_seconds

__all__ = ["Plan", "Rates", "Workload", "answering_seconds", "choose_steps"]
