"""A run directory keeps whole files, an honest manifest, and one owner at a time."""

import errno
import multiprocessing
from pathlib import Path

import pytest

from vademecum.config import RunConfig, load_config
from vademecum.errors import InputError, RunError
from vademecum.records import Assignment
from vademecum.runs import Entry, Run


def entry_for(run: Run, **outputs: str) -> Entry:
    return Entry(
        inputs={"config.seed": "1"}, outputs=outputs or {"a.json": run.digest("a.json")}, seconds=1.0,
        peak_memory_bytes=1, versions={}, seed=0, device="cpu", dtype="float32",
    )  # fmt: skip


def test_open_refuses_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json"):
        Run.open(tmp_path)
    Run.create(tmp_path).write_config(RunConfig())
    assert Run.open(tmp_path).path == tmp_path


def test_the_configuration_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    model = tmp_path / "config.json"
    model.write_text('{"model_type": "llama"}', encoding="utf-8")
    with pytest.raises(InputError, match=r"a config\.json that no run has written"):
        Run.create(tmp_path).write_config(load_config("demo"))
    assert model.read_text(encoding="utf-8") == '{"model_type": "llama"}'


def test_a_directory_at_home_is_made_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert Run.create(Path("~/runs/x")).path == tmp_path / "runs" / "x"
    assert not Path("~").exists()


def test_stage_is_current_only_with_its_inputs_and_unharmed_outputs(tmp_path: Path) -> None:
    run = Run.create(tmp_path)
    run.write_json("a.json", {"x": 1})
    run.complete("prepare", entry_for(run))
    assert run.is_current("prepare", {"config.seed": "1"})
    assert not run.is_current("prepare", {"config.seed": "2"})
    run.write_json("a.json", {"x": 2})
    assert not run.is_current("prepare", {"config.seed": "1"})
    run.file("a.json").unlink()
    assert not run.is_current("prepare", {"config.seed": "1"})


def test_damaged_rows_are_named_with_their_line(tmp_path: Path) -> None:
    run = Run.create(tmp_path)
    run.write_rows("splits.jsonl", [Assignment(id="a", split="train", group="a")])
    assert run.read_rows("splits.jsonl", Assignment)[0].id == "a"
    with run.file("splits.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"id": "b", "split": "somewhere"}\n')
    with pytest.raises(RunError, match=r"splits\.jsonl, line 2"):
        run.read_rows("splits.jsonl", Assignment)


def test_rows_that_are_not_utf_8_are_named(tmp_path: Path) -> None:
    run = Run.create(tmp_path)
    run.file("splits.jsonl").write_bytes(b'{"id": "\xff", "split": "train", "group": "a"}\n')
    with pytest.raises(RunError, match=r"splits\.jsonl is missing or damaged"):
        run.read_rows("splits.jsonl", Assignment)


def test_of_a_damaged_manifest_it_is_not_said_that_it_could_be_deleted(tmp_path: Path) -> None:
    run = Run.create(tmp_path)
    run.file("manifest.json").write_text("{")
    with pytest.raises(RunError) as caught:
        run.entries()
    assert "delete" not in caught.value.hint


def test_half_written_last_line_is_not_there_yet(tmp_path: Path) -> None:
    run = Run.create(tmp_path)
    run.append_line("training.jsonl", {"step": 1})
    with run.file("training.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 2, "lo')
    assert run.read_lines("training.jsonl") == [{"step": 1}]


def test_workspace_survives_a_restart_with_the_same_inputs_only(tmp_path: Path) -> None:
    run = Run.create(tmp_path)
    folder = run.workspace("train", {"a": "1"})
    (folder / "chunk").write_text("work", encoding="utf-8")
    assert (run.workspace("train", {"a": "1"}) / "chunk").is_file()
    assert not (run.workspace("train", {"a": "2"}) / "chunk").exists()


def _try_to_lock(path: str, answers: "multiprocessing.Queue[str]") -> None:
    try:
        with Run(Path(path)).lock():
            answers.put("got it")
    except RunError as error:
        answers.put(error.message)


def test_second_process_is_refused_and_told_who_holds_the_run(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[str] = context.Queue()
    run = Run.create(tmp_path)
    with run.lock():
        other = context.Process(target=_try_to_lock, args=(str(tmp_path), answers))
        other.start()
        assert "in use by process" in answers.get(timeout=30)
        other.join()
    with run.lock():
        pass


def test_unfinished_work_that_a_kill_left_is_not_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while finished work is cleared away, and made anew by --force from the same inputs."""
    run = Run.create(tmp_path)
    run.write_json("a.json", {})
    (run.workspace("train", {"a": "1"}) / "chunk").write_text("work", encoding="utf-8")
    with monkeypatch.context() as killed:
        killed.setattr("shutil.rmtree", lambda *_, **__: None)
        run.complete("train", entry_for(run))
    assert (tmp_path / "work" / "train" / "chunk").is_file()
    assert not (run.workspace("train", {"a": "1"}) / "chunk").exists()


def test_files_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    run = Run.create(tmp_path)
    (tmp_path / "scores").mkdir()
    for name in (".plan.json.k2j3.part", "scores/.base.jsonl.x.part", "kept.part"):
        (tmp_path / name).write_text("half", encoding="utf-8")
    with run.lock():
        assert sorted(file.name for file in tmp_path.rglob("*.part")) == ["kept.part"]


def test_a_drive_without_locks_is_not_taken_for_a_run_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("vademecum.runs.fcntl.flock", refuse)
    with pytest.raises(RunError, match=r"without locks \(No locks available\)") as caught, Run.create(tmp_path).lock():
        pass
    assert "--out" in caught.value.hint


def test_whoever_locks_a_folder_leaves_alone_what_another_writes_in_a_locked_one_below(tmp_path: Path) -> None:
    """`vade study` is started while `vade trial` works on one of its trials."""
    study = Run.create(tmp_path)
    trial = Run.create(tmp_path / "trials" / "one")
    half = trial.path / "scores" / ".tuned.jsonl.x.part"
    half.parent.mkdir()
    with trial.lock():
        half.write_text("half", encoding="utf-8")
        with study.lock():
            pass
        assert half.is_file()
    with trial.lock():  # whose writer was killed after all
        assert not half.exists()


def test_a_growing_file_that_is_damaged_is_named(tmp_path: Path) -> None:
    run = Run.create(tmp_path)
    with pytest.raises(RunError, match=r"training\.jsonl is missing or damaged"):
        run.read_lines("training.jsonl")
    run.file("training.jsonl").write_bytes(b"\0\0\0\0\n")
    with pytest.raises(RunError, match=r"training\.jsonl is missing or damaged"):
        run.read_lines("training.jsonl")
