"""A corpus on disk → clean question-answer pairs → splits that do not leak."""

from vademecum.corpus.cleaning import clean
from vademecum.corpus.identifiers import check_identifiers, scan_identifiers, sensitive_words
from vademecum.corpus.leakage import Leakage, audit_leakage
from vademecum.corpus.loading import digest_corpus, load_corpus, mapped_columns, missing_fields, sample_path
from vademecum.corpus.splitting import split

__all__ = [
    "Leakage",
    "audit_leakage",
    "check_identifiers",
    "clean",
    "digest_corpus",
    "load_corpus",
    "mapped_columns",
    "missing_fields",
    "sample_path",
    "scan_identifiers",
    "sensitive_words",
    "split",
]
