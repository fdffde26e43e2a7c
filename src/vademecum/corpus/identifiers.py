"""What in a corpus looks like a personal identifier: counted by kind, never shown.

| kind | what is found | stops a run |
|---|---|---|
| birth_date | a full date after `DOB` or `date of birth`, or after two names and `born` | yes |
| record_number | digits after `MRN`, `medical record number`, `patient ID`, `NHS number` and the like | yes |
| social_security_number | three, two and four digits as the United States write and issue them | yes |
| phone | a number of ten digits in North American groups, or one that begins with + | no |
| email | an address with @ and a domain | no |
| postal_address | a house number with a street, or a P.O. box | no |

The patterns go by form and ask for context where digits alone would not tell. They miss what is written in another way,
such as a bare name: a count of 0 proves nothing. Texts for the public are full of the addresses of help lines and
clinics, so the last three kinds never stop a run.
"""

import re
from collections.abc import Mapping, Sequence

from vademecum.errors import AuditError
from vademecum.records import QAPair, Record

FIRST_IDS = 5
"""Pairs that are named for each kind."""
SENSITIVE = ("birth_date", "record_number", "social_security_number")
"""Kinds that no text for the public needs."""

_MONTH = "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]{0,6}\\.?"
_DAY = "[0-3]?[0-9](?:st|nd|rd|th)?"
_YEAR = "(?:18|19|20)[0-9]{2}"
_DATE = (
    f"(?:{_MONTH} {_DAY},? {_YEAR}|{_DAY} {_MONTH},? {_YEAR}|{_YEAR}-[01][0-9]-[0-3][0-9]"
    f"|[0-3]?[0-9][/.][0-3]?[0-9][/.](?:{_YEAR}|[0-9]{{2}}))(?![0-9])"
)
_NAME = "[A-ZÀ-ÖØ-Þ][\\w'’-]{1,30}"
_STREET = "(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Parkway|Pike|Drive|Highway)"
_PATTERNS = {
    "birth_date": re.compile(
        f"\\b(?:DOB|D\\.O\\.B\\.|[Dd]ate [Oo]f [Bb]irth)(?: is|:)?[ (]{{0,2}}{_DATE}"
        f"|\\b{_NAME} (?:[A-Z]\\. )?{_NAME},? (?:was )?\\(?born (?:on )?{_DATE}"
    ),
    "record_number": re.compile(
        "\\b(?:MRN|(?:medical record|health record|patient|hospital|chart|NHS) (?:number|no\\.?|id))\\b"
        "(?: is)?[ :#=-]{0,3}[A-Z]{0,3}-?[0-9](?:[ -]?[0-9]){4,11}(?![0-9])",
        re.IGNORECASE,
    ),
    "social_security_number": re.compile(
        "(?<![0-9-])(?!000|666|9)[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}(?![0-9-])"
    ),
    "phone": re.compile(
        "(?<![0-9+.-])(?:1[ .-])?(?:\\([2-9][0-9]{2}\\) ?|[2-9][0-9]{2}[ .-])[2-9][0-9]{2}[ .-][0-9]{4}(?![0-9-])"
        "|(?<![0-9+])\\+[1-9][0-9]{0,2}(?:[ .-]?\\(?[0-9]{1,4}\\)?){2,5}(?![0-9])"
    ),
    "email": re.compile("(?<![\\w.+-])[\\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\\.){1,4}[A-Za-z]{2,24}(?![\\w-])"),
    "postal_address": re.compile(
        f"(?<![0-9.,-])[1-9][0-9]{{0,4}} (?:[NSEW]\\.? )?(?:[A-Z][a-z]{{1,20}} ){{1,3}}{_STREET}\\b"
        "|\\bP\\. ?O\\. Box [0-9]{1,6}\\b|\\b(?:PO|P\\.O\\.) [Bb]ox [0-9]{1,6}\\b"
    ),
}  # fmt: skip


class Found(Record):
    """What one kind's pattern found."""

    count: int
    """Places in questions and answers."""
    pairs: int
    first_ids: tuple[str, ...]
    """Of the first FIRST_IDS such pairs, in order of id."""


def scan_identifiers(pairs: Sequence[QAPair]) -> dict[str, Found]:
    """Count what looks like a personal identifier in questions and answers; every kind stands there, with 0 too."""
    ordered = sorted(pairs, key=lambda pair: pair.id)
    found = {}
    for kind, pattern in _PATTERNS.items():
        counts = {
            pair.id: sum(1 for text in (pair.question, pair.answer) for _ in pattern.finditer(text)) for pair in ordered
        }
        ids = [name for name, count in counts.items() if count]
        found[kind] = Found(count=sum(counts.values()), pairs=len(ids), first_ids=tuple(ids[:FIRST_IDS]))
    return found


def sensitive_words(found: Mapping[str, Found]) -> str:
    """What was found of the sensitive kinds, with ids and without any matched text; empty where there is nothing."""
    return "; ".join(
        f"{kind.replace('_', ' ')}: {found[kind].count} in {found[kind].pairs} pairs, the first "
        + ", ".join(repr(name) for name in found[kind].first_ids)
        for kind in SENSITIVE
        if found[kind].count
    )


def check_identifiers(found: Mapping[str, Found]) -> None:
    """Refuse a corpus in which a sensitive kind was found.

    Raises:
        AuditError: names the kinds, how often, and the first pairs, and shows none of the text.
    """
    if words := sensitive_words(found):
        raise AuditError(
            f"the corpus holds what looks like personal identifiers ({words})",
            hint="take them out of the corpus, or look at these pairs and set corpus.identifiers to 'count'",
        )
