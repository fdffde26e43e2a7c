"""What counts as a repetition: checked on hand-made sequences and against slow, plain definitions."""

from hypothesis import given
from hypothesis import strategies as st

from vademecum.generation import is_looping
from vademecum.generation.repetition import LONGEST_PHRASE, LOOP_TOKENS, LOOP_WORDS, RepeatBan, tokens_loop

SENTENCE = "see a doctor when the pain lasts longer than a week"  # 11 words
OPENING = "Gout is an illness of the joints that often begins at night in the big toe."


def test_a_token_said_sixty_times_is_a_loop() -> None:
    assert not tokens_loop([7] * 59)
    assert tokens_loop([7] * 60)
    assert tokens_loop([1, 2, 3] + [7] * 60)
    assert not tokens_loop([7] * 60 + [8])


def test_a_phrase_is_a_loop_from_its_third_time_on_and_from_sixty_tokens_on() -> None:
    short, long = list(range(10)), list(range(30))
    assert not tokens_loop(short * 5)
    assert tokens_loop(short * 6)
    assert not tokens_loop(long * 2 + long[:-1])
    assert tokens_loop(long * 3)


def test_a_phrase_may_break_off_unfinished() -> None:
    assert tokens_loop([99] + list(range(25)) * 3 + list(range(13)))


def test_what_is_longer_than_the_longest_phrase_is_no_loop() -> None:
    assert tokens_loop(list(range(LONGEST_PHRASE)) * 3)
    assert not tokens_loop(list(range(LONGEST_PHRASE + 1)) * 3)


@given(
    st.lists(st.integers(0, 3), max_size=12),
    st.lists(st.integers(0, 3), min_size=1, max_size=30),
    st.integers(min_value=0, max_value=150),
)
def test_tokens_loop_says_what_its_description_says(start: list[int], phrase: list[int], length: int) -> None:
    ids = start + [phrase[i % len(phrase)] for i in range(length)]
    plain = any(
        ids[-size:] == [ids[-size:][i % period] for i in range(size)]
        for period in range(1, LONGEST_PHRASE + 1)
        for size in [max(LOOP_TOKENS, 3 * period)]
        if size <= len(ids)
    )
    assert tokens_loop(ids) == plain


def test_a_text_that_ends_in_a_repeated_sentence_loops() -> None:
    assert is_looping(f"{OPENING} " + f"{SENTENCE}. " * 3)
    assert is_looping(f"{OPENING} {SENTENCE}. {SENTENCE.upper()}. {SENTENCE}. {SENTENCE}.")
    assert not is_looping(f"{OPENING} " + f"{SENTENCE}. " * 2)
    assert not is_looping(f"{SENTENCE}. " * 3 + OPENING)


def test_the_last_word_may_be_cut_off() -> None:
    text = f"{OPENING} " + f"{SENTENCE}. " * 3
    assert is_looping(f"{text} see a doc")


def test_emphasis_and_short_lists_do_not_loop() -> None:
    assert not is_looping("")
    assert not is_looping("It is very, very, very, very rare.")
    assert not is_looping("yes no " * 14)
    assert is_looping("yes no " * 15)


@given(
    st.lists(st.sampled_from(["joint", "pain", "and", "fever"]), max_size=20),
    st.lists(st.sampled_from(["joint", "pain", "and", "rest"]), min_size=1, max_size=40),
    st.integers(min_value=1, max_value=4),
)
def test_enough_repetitions_loop_and_a_new_ending_does_not(start: list[str], phrase: list[str], more: int) -> None:
    times = max(3, -(-LOOP_WORDS // len(phrase))) + more
    assert is_looping(" ".join(start + phrase * times))
    assert not is_looping(" ".join([*start, *phrase * times, "see", "page", "nine"]))


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(min_value=0, max_value=4))
def test_the_ban_is_exactly_on_tokens_that_would_repeat_an_ngram(ids: list[int], size: int) -> None:
    ban = RepeatBan(size)
    for end in range(1, len(ids) + 1):
        ban.note(ids[:end])
    seen = {tuple(ids[i : i + size]) for i in range(len(ids) - size + 1)} if size else set()
    assert set(ban.banned(ids)) == {
        token for token in range(5) if len(ids) >= size > 0 and (*ids[len(ids) - size + 1 :], token) in seen
    }
