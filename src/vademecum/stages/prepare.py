"""prepare: source → pairs.jsonl, cleaning.json, identifiers.json, splits.jsonl, leakage.json."""

from collections import Counter
from pathlib import Path

from vademecum.corpus import (
    audit_leakage,
    check_identifiers,
    clean,
    digest_corpus,
    load_corpus,
    missing_fields,
    sample_path,
    scan_identifiers,
    sensitive_words,
    split,
)
from vademecum.sources import fetch_corpus, local_corpus
from vademecum.stages.road import Road, Stage


def corpus_digest(road: Road) -> dict[str, str]:
    """Digest of a corpus on this disk; the archive on the web is pinned by its digest in the package already."""
    source = road.config.corpus.source
    path = sample_path() if source == "sample" else local_corpus(source)
    return {"corpus": digest_corpus(path)} if path else {}


def prepare(road: Road, _: Path) -> None:
    """Read, clean and split the corpus, look for personal identifiers, and measure what leaks."""
    config, run = road.config, road.run
    path = (
        sample_path() if config.corpus.source == "sample" else fetch_corpus(config.corpus.source, offline=road.offline)
    )
    remarks: list[str] = []

    def remark(text: str) -> None:
        remarks.append(text)
        road.observer.say(text)

    found = load_corpus(path, config.corpus, remark)
    pairs, rules = clean(found, config.corpus)
    identifiers = scan_identifiers(pairs)
    if config.corpus.identifiers == "stop":  # before any text of the corpus is written
        check_identifiers(identifiers)
    if words := sensitive_words(identifiers):
        road.observer.say(f"the corpus holds what looks like personal identifiers ({words})")
    missing = missing_fields(pairs)
    if missing:
        road.observer.say(f"the corpus has no {', '.join(missing)}: what goes by them falls away")
    assignments = split(pairs, config.split, config.seed)
    leakage = audit_leakage(pairs, assignments)
    counts = Counter(row.split for row in assignments)
    run.write_rows("pairs.jsonl", pairs)
    run.write_json(
        "cleaning.json",
        {
            "source": config.corpus.source,
            "pairs_in": len(found),
            "pairs_kept": len(pairs),
            "rules": rules,
            "remarks": remarks,
            "missing_fields": missing,
        },
    )
    run.write_json("identifiers.json", {kind: one.model_dump() for kind, one in identifiers.items()})
    run.write_rows("splits.jsonl", assignments)
    run.write_json(
        "leakage.json",
        {
            "strategy": config.split.strategy,
            "counts": {name: counts[name] for name in ("train", "validation", "test", "excluded")},
            "groups": len({row.group for row in assignments}),
            "leakage": leakage.model_dump(),
        },
    )


PREPARE = Stage(
    name="prepare",
    settings=("seed", "corpus", "split"),
    reads=(),
    writes=("pairs.jsonl", "cleaning.json", "identifiers.json", "splits.jsonl", "leakage.json"),
    work=prepare,
    outside=corpus_digest,
)
