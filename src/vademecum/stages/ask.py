"""Asking a finished run questions of one's own: its model's answer, and the nearest answer that the corpus knows."""

from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

from vademecum.baselines import nearest, words_in_common
from vademecum.config import load_config
from vademecum.errors import InputError
from vademecum.generation import Decoding, KeptAnswers, Prompt, generate
from vademecum.hardware import choose_dtype, probe_hardware
from vademecum.planning import Plan
from vademecum.records import QAPair, Record, Stopped
from vademecum.runs import Run
from vademecum.sources import cache_folder
from vademecum.stages.answer import load_system
from vademecum.stages.material import Base, Pairs, prompts_for
from vademecum.stages.road import Road, Silence

if TYPE_CHECKING:
    from transformers import PreTrainedModel

System = Literal["tuned", "base", "few-shot"]


class Reply(Record):
    """What came of one question."""

    question: str
    answer: str
    stopped: Stopped
    new_tokens: int
    nearest: QAPair | None
    """The pair whose question is nearest, of the whole corpus: nothing is scored here, so test pairs need not be kept
    back. None where no question shares a word with this one."""
    shared: tuple[str, ...]
    """The words that the two questions share, in the order of this one."""


class Handbook:
    """One system of a run, loaded to be asked. Nothing is written.

    It answers with the run's own prompt and decoding, on the run's device and in its number format; on a machine that
    does not have that device (an adapter trained on a GPU, asked on a laptop), on what is there.
    """

    def __init__(self, run: Run, system: str = "tuned", *, offline: bool = False) -> None:
        """Raises InputError where the run has not come far enough, or has no such system; else as the stages do."""
        if system not in get_args(System):
            raise InputError(f"no system {system!r} can be asked", hint=f"it is one of {', '.join(get_args(System))}")
        _check_finished(run, system)
        self.run = run
        self.system = system
        self._road = Road(run, load_config(run.file("config.json")), Silence(), offline)
        self._decoding = Decoding.model_validate(run.read_json("decoding.json")["decoding"])

    def answer(self, question: str) -> Reply:
        """Answer one question, up to the run's max_new_tokens.

        Raises:
            InputError: the question is empty, or too long for the model's context.
        """
        asked = QAPair(id="question", question=question.strip(), answer="")
        if not asked.question:
            raise InputError("the question is empty", hint="ask something, such as 'What are the symptoms of gout?'")
        sink = KeptAnswers()
        generate(self._model, self._base.tokenizer, self._prompts(asked), self._decoding, sink)
        [said], [[known]] = sink.predictions, nearest(list(self._pairs.pairs.values()), [asked], 1)
        shared = words_in_common(asked.question, known.question)
        return Reply(
            question=asked.question,
            answer=said.text,
            stopped=said.stopped,
            new_tokens=said.new_tokens,
            nearest=known if shared else None,
            shared=shared,
        )

    def _prompts(self, asked: QAPair) -> list[Prompt]:
        return prompts_for(self.system, [asked], self._pairs.of("train"), self._base, self._road.config)

    @cached_property
    def _pairs(self) -> Pairs:
        return Pairs.read(self._road)

    @cached_property
    def _base(self) -> Base:
        return Base.locate(self._road)

    @cached_property
    def _model(self) -> "PreTrainedModel":
        plan = self.run.read_record("plan.json", Plan)
        here = _for_this_machine(plan, self._road.config.model.dtype)
        return load_system(self._road, self._base, here, self.system)


def _check_finished(run: Run, system: str) -> None:
    done = run.entries()
    needed = ("prepare", "plan", "decoding", *(("train",) if system == "tuned" else ()))
    if missing := [stage for stage in needed if stage not in done]:
        raise InputError(
            f"{run.path} cannot be asked yet: {', '.join(missing)} not finished",
            hint="give its `vade run` command again and let it finish; or ask the base model, with --system base",
        )
    if system == "tuned" and not run.file("adapter").is_dir():
        raise InputError(
            f"{run.path} has no trained model: its training came to nothing",
            hint="its report says why; --system base asks the base model",
        )


def _for_this_machine(plan: Plan, dtype: str) -> Plan:
    """The plan with a device that is here, in a number format that is not emulated unless it was configured so."""
    if plan.device == "cpu" and (plan.dtype == "float32" or dtype != "auto"):
        return plan
    hardware = probe_hardware(wanted="cpu" if plan.device == "cpu" else "auto", rates_cache=cache_folder())
    if hardware.device == plan.device != "cpu":
        return plan
    return plan.model_copy(update={"device": hardware.device, "dtype": choose_dtype(hardware)[0]})
