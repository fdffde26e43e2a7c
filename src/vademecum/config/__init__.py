"""The one tree of settings: its sections (`sections`) and how a file becomes one (`loading`)."""

from vademecum.config.loading import anchored, load_config, preset_names
from vademecum.config.sections import (
    BudgetConfig,
    CorpusConfig,
    EvaluateConfig,
    GenerateConfig,
    LoraConfig,
    ModelConfig,
    PromptConfig,
    RunConfig,
    SplitConfig,
    TrainConfig,
)

__all__ = [
    "BudgetConfig",
    "CorpusConfig",
    "EvaluateConfig",
    "GenerateConfig",
    "LoraConfig",
    "ModelConfig",
    "PromptConfig",
    "RunConfig",
    "SplitConfig",
    "TrainConfig",
    "anchored",
    "load_config",
    "preset_names",
]
