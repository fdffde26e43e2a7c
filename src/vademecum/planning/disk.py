"""What a run will take on the disk: its directory when it is fullest. The base model lies in the cache, not there.

    disk = corpus + checkpoints + adapter + answers + reports

corpus        pairs and splits as `prepare` has written them, measured
checkpoints   adapter weights x 12 (float32 and AdamW's two moments), one more than are kept while the newest is written
adapter       x 4, once in the making and once finished
answers       new tokens at most x 6, once in chunks and once whole: a token of English is about four letters; JSON and
              the row's other fields come on top
reports       OTHERS_BYTES: pages, logs, the Trainer's own state
"""

import shutil
from pathlib import Path

from vademecum.errors import RunError
from vademecum.planning.memory import ADAPTER_BYTES_PER_WEIGHT, OPTIMIZER_BYTES_PER_WEIGHT, MemoryPrediction
from vademecum.training import CHECKPOINTS_KEPT

ANSWER_BYTES_PER_TOKEN = 6
OTHERS_BYTES = 2_000_000


def predict_disk_bytes(corpus_bytes: int, memory: MemoryPrediction, answer_tokens: int) -> int:
    """Bytes of the run's directory at its fullest; `answer_tokens` is the most that all systems together can write."""
    weights = memory.adapter_bytes // ADAPTER_BYTES_PER_WEIGHT
    checkpoints = (CHECKPOINTS_KEPT + 1) * (4 + OPTIMIZER_BYTES_PER_WEIGHT) * weights
    return corpus_bytes + checkpoints + 2 * 4 * weights + 2 * ANSWER_BYTES_PER_TOKEN * answer_tokens + OTHERS_BYTES


def check_disk(needed_bytes: int, there_bytes: int, folder: Path) -> None:
    """Refuse a run that would fill the disk; `there_bytes` of what it needs are written already.

    Raises:
        RunError: the rest does not fit.
    """
    free = shutil.disk_usage(folder).free
    if needed_bytes - there_bytes > free:
        raise RunError(
            f"the disk of {folder} has {free / 1e9:.2f} GB free, and the run will need {needed_bytes / 1e9:.2f} GB",
            hint="make room, choose another disk with --out, or take a smaller lora.r or generate.test_pairs",
        )
