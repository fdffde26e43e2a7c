"""How numbers are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vademecum.report import numbers


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (numbers.score(0.2714), "0.271"),
        (numbers.score(1.0), "1.000"),
        (numbers.difference(0.0471), "+0.047"),
        (numbers.difference(-0.0102), "−0.010"),
        (numbers.difference(-0.0001), "0.000"),
        (numbers.difference(0.0001), "0.000"),
        (numbers.p_value(0.0412), ".0412"),
        (numbers.p_value(1 / 10_001), "< .0001"),
        (numbers.p_value(1.0), "1.0000"),
        (numbers.share(0.0), "0.0 %"),
        (numbers.share(0.0002), "< 0.1 %"),
        (numbers.share(0.9999), "> 99.9 %"),
        (numbers.share(1.0), "100.0 %"),
        (numbers.level(0.95), "95 %"),
        (numbers.counted(1, "group"), "1 group"),
        (numbers.counted(12_480, "pair"), "12,480 pairs"),
        (numbers.duration(1.62), "1.6 s"),
        (numbers.duration(750), "12.5 min"),
        (numbers.duration(11_520), "3.2 h"),
        (numbers.gigabytes(1_893_000_000), "1.89 GB"),
        (numbers.metric("rougeLsum"), "ROUGE-Lsum"),
        (numbers.file_name("/home/someone/corpora/pairs.csv"), "pairs.csv"),
        (numbers.file_name("C:\\corpora\\pairs.csv"), "pairs.csv"),
    ],
)
def test_a_number_is_written_in_one_way(written: str, expected: str) -> None:
    assert written == expected


@given(st.floats(0, 1))
def test_no_p_value_is_rounded_to_nought(p: float) -> None:
    assert numbers.p_value(p) != ".0000"


@given(st.floats(-1, 1))
def test_a_difference_has_a_sign_unless_it_is_nought(value: float) -> None:
    written = numbers.difference(value)
    assert written == "0.000" or written[0] == ("+" if value > 0 else "−")
