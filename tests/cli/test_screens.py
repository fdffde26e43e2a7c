"""What the last screens say where there is no number to show."""

from pathlib import Path

import pytest

from vademecum.cli.screens import show_search
from vademecum.study.search import SearchResult, Tried


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ((), "No settings were tried"),
        (
            (("diverged", None), ("diverged", 9.5), ("failed", None)),
            "(2 diverged, 1 failed), so the settings could not",
        ),
        ((("completed", 1.6), ("diverged", None)), "No settings had a lower validation loss"),
    ],
)
def test_why_a_search_ends_with_its_baseline(
    ends: tuple[tuple[str, float | None], ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline = Tried(name="baseline", settings={}, status="completed", validation_loss=1.5)
    tried = [
        Tried(name=f"trial {number}", settings={"lora.r": number}, status=status, validation_loss=loss)
        for number, (status, loss) in enumerate(ends)
    ]
    show_search(SearchResult(best="baseline", settings={}, trials=[baseline, *tried], comparisons=[]), Path("s"))
    assert words in capsys.readouterr().out
