"""Optuna's study of a search: what was proposed and what came of it, in SQLite or in any database that Optuna knows."""

import os
import re
import secrets
from typing import TYPE_CHECKING

from vademecum.errors import ConfigError, InputError
from vademecum.study.declaration import SearchConfig
from vademecum.study.folder import StudyFolder

if TYPE_CHECKING:
    import optuna
    from optuna.pruners import BasePruner

VARIABLE = "VADE_SEARCH_STORAGE"
"""Of the environment: the storage's address where the declaration names none."""
NAME = "optuna.json"
"""In the search's directory: its name in the storage, which other searches of the same name may share."""
PASSWORD = re.compile(r"://[^:/@]*:[^@]*@|[?&][^=&]*password=", re.IGNORECASE)
"""In a database's address."""


def check_storage(address: str) -> None:
    """Refuse an address that may not stand in the search's files.

    Raises:
        ConfigError: it holds a password.
    """
    if PASSWORD.search(address):
        raise ConfigError(
            "storage holds a password, which would stand in the search's files",
            hint=f"leave storage unset and give the address in the environment variable {VARIABLE}; or keep the "
            "password where the database's own client looks for it, such as ~/.pgpass",
        )


def open_optuna(config: SearchConfig, folder: StudyFolder) -> "optuna.Study":
    """The search's study, new or as it was left; what was being trained when a process was killed comes first again.

    Raises:
        InputError: Optuna is not installed, or the storage cannot be used or is another than the search's.
    """
    try:
        import optuna
    except ImportError:
        raise InputError(
            "a search needs Optuna, which is not installed", hint="pip install '.[search]' in the checkout"
        ) from None
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruning = optuna.pruners.SuccessiveHalvingPruner(reduction_factor=2)
    pruner = pruning if config.prune else optuna.pruners.NopPruner()
    address = config.storage or os.environ.get(VARIABLE) or f"sqlite:///{folder.path.resolve() / 'optuna.db'}"
    try:
        study = _open_study(address, folder, pruner)
        for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):  # its process was killed
            study.enqueue_trial(trial.params)
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    except (ImportError, OSError, RuntimeError, ValueError, SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        found = str(error.__cause__ or error).partition("\n")[0]  # what the database's driver says
        raise InputError(
            f"the search's storage cannot be used: {found}",
            hint="write its address as Optuna takes it, such as sqlite:////folder/file.db or "
            "postgresql+psycopg://user@host/name; the database must be reached from here, and its driver be installed",
        ) from error
    # Another seed in each sitting, or it would propose again what it proposed first.
    study.sampler = optuna.samplers.TPESampler(seed=config.seed + len(study.trials))
    return study


def _open_study(address: str, folder: StudyFolder, pruner: "BasePruner") -> "optuna.Study":
    import optuna

    file = folder.files.file(NAME)
    if not file.is_file():
        name = f"{folder.files.name}-{secrets.token_hex(4)}"
        study = optuna.create_study(study_name=name, storage=address, pruner=pruner, direction="minimize")
        folder.files.write_json(NAME, {"study_name": name})
        return study
    name = folder.files.read_json(NAME)["study_name"]
    try:
        return optuna.load_study(study_name=name, storage=address, pruner=pruner)
    except KeyError:
        raise InputError(
            f"the storage does not know the search {name!r}, which was begun in another",
            hint=f"give the same address as before, by storage or by {VARIABLE}; or remove {file}, and the search "
            "proposes anew: what is trained is not trained again",
        ) from None
