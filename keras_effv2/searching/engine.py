"""Which network comes next: Optuna draws and remembers, the files of the search say what is true."""

import contextlib
import pathlib
import threading
import warnings

import numpy as np
from absl import logging

from keras_effv2 import errors, needs

SAMPLERS = ("random", "tpe", "nsga2")
STARTUP = 10  # networks drawn at random before a sampler learns from them
PATIENCE = 200  # draws in a row that bring nothing new


class Engine:
    """Draws networks that fit the caps and were not drawn before.

    Args:
        workdir: Folder of the search.
        space: A `Space`.
        sampler: One of `SAMPLERS`.
        seed: With one worker, the same seed draws the same networks.
        storage: URL of a database that Optuna knows; None: `study.db` in the workdir.
        study: Name of the study in it.
        fits: `variant -> reason why not, or None`.
    """

    def __init__(self, workdir, space, sampler, seed, storage, study, fits):
        self.optuna = _optuna()
        self.space, self.sampler, self.seed, self.fits = space, sampler, seed, fits
        self.several = sampler == "nsga2"
        self._lock = threading.Lock()
        # of an address what comes after the password
        self._place = storage.split("@")[-1] if storage else pathlib.Path(workdir, "study.db")
        directions = ["maximize", "minimize"] if self.several else ["maximize"]
        # one with several objectives is another study
        name = f"{study}-front" if self.several else study
        with self._alone():
            self.study = _find(self._place, storage, name, directions)

    @contextlib.contextmanager
    def _alone(self):
        """For one thread at a time; a disk that is full is told in a sentence."""
        with self._lock, errors.writing(self._place, "what was trained is unharmed"):
            yield

    def remember(self, results):
        """Adds results that the study does not have; what it believes to be running is not."""
        with self._alone():
            state = self.optuna.trial.TrialState
            known = set()
            for old in self.study.get_trials(deepcopy=False):
                if old.state == state.RUNNING:
                    with contextlib.suppress(ValueError, RuntimeError):
                        self.study.tell(old.number, state=state.FAIL)
                elif old.state == state.COMPLETE:
                    known.add(old.user_attrs.get("name"))
            for result in results:
                if result["name"] not in known and result["values"] is not None:
                    self._add(result)

    def draw(self, number, taken):
        """A new network: `(values, variant, trial of the study or None)`.

        Args:
            number: Of the trial, from 0.
            taken: Names of the networks that were drawn before.

        Raises:
            RuntimeError: If the space has nothing new within the caps.
        """
        with self._alone():
            for attempt in range(PATIENCE * 10):
                random = np.random.default_rng((self.seed, number, attempt))
                by_chance = (
                    self.sampler == "random"
                    or (self.sampler == "tpe" and number < STARTUP)
                    or attempt >= PATIENCE
                )
                trial = None if by_chance else self._ask(int(random.integers(1 << 31)))
                values = trial.params if trial else self.space.draw(random)
                variant = self.space.variant(self.space.rows(values))
                reason = "drawn before" if variant.name in taken else self.fits(variant)
                if reason is None:
                    return values, variant, trial
                if trial:  # so that the sampler keeps away from there
                    self.study.tell(trial, state=self.optuna.trial.TrialState.PRUNED)
        raise RuntimeError(
            f"The space {self.space.name!r} has hardly a network left that fits the caps and was "
            f"not drawn before; {len(taken)} were. Raise max_parameters or max_macs, or ask for fewer "
            "trials."
        )

    def tell(self, result, trial=None):
        """Notes a result."""
        with self._alone():
            if trial is None:
                self._add(result)
                return
            try:
                trial.set_user_attr("name", result["name"])
                trial.set_user_attr("result", result)
                self.study.tell(trial, self._worth(result))
            except (ValueError, self.optuna.exceptions.UpdateFinishedTrialError):
                self._add(result)  # another process, just started, took the trial for lost

    def _worth(self, result):
        if self.several:
            return [result["accuracy"], result["step_time"]]
        return [result["reward"]]

    def _add(self, result):
        distributions = self._distributions()
        values = {name: result["values"][name] for name in distributions}
        self.study.add_trial(
            self.optuna.trial.create_trial(
                params=values,
                distributions=distributions,
                values=self._worth(result),
                user_attrs={"name": result["name"], "result": result},
            )
        )

    def _ask(self, seed):
        samplers = self.optuna.samplers
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self.optuna.exceptions.ExperimentalWarning)
            if self.sampler == "tpe":  # written out: 4.x and 5.0 differ in defaults
                self.study.sampler = samplers.TPESampler(
                    multivariate=True, constant_liar=True, n_startup_trials=0, seed=seed
                )
            else:
                self.study.sampler = samplers.NSGAIISampler(population_size=20, seed=seed)
            return self.study.ask(self._distributions())

    def _distributions(self):
        optuna = self.optuna.distributions
        return {
            name: optuna.IntDistribution(min(choices), max(choices), step=choices[1] - choices[0])
            if name.endswith("_layers") and _evenly(choices)
            else optuna.CategoricalDistribution(choices)
            for name, choices in self.space.parameters().items()
        }


def _find(place, storage, name, directions):
    """The study of that name; in a file of its own that is broken it is begun anew."""
    optuna = _optuna()
    from sqlalchemy.exc import SQLAlchemyError  # it comes with Optuna

    url = storage or f"sqlite:///{place.resolve()}"
    refuse_nfs(url)
    settings = {"study_name": name, "directions": directions, "load_if_exists": True}
    try:
        return optuna.create_study(storage=url, **settings)
    except ImportError as error:
        raise ImportError(
            f"The database {place} needs a driver that is not installed, for "
            "PostgreSQL psycopg2-binary: give --storage=postgresql+psycopg2://HOST/NAME."
        ) from error
    except (optuna.exceptions.OptunaError, SQLAlchemyError) as error:
        if storage:
            raise RuntimeError(
                f"The database {place} cannot be used: {errors.first_line(error)}."
            ) from error
        if errors.is_full(error):
            raise
        logging.warning("%s is broken; the study is made again from the result files.", place)
        place.replace(place.with_suffix(".broken"))
        return optuna.create_study(storage=url, **settings)


def _evenly(choices):
    """Whether numbers are more than one and ascend by one step."""
    steps = {b - a for a, b in zip(choices, choices[1:])}
    return len(steps) == 1 and steps.pop() > 0


def _optuna():
    with needs.naming("A search"):
        import optuna
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def refuse_nfs(url, mounts="/proc/mounts"):
    """Refuses SQLite on NFS, where its locks do not hold: studies broke (optuna #815, #820).

    Args:
        url: Of the database.
        mounts: The system's list of file systems.

    Raises:
        ValueError: If it is a file on NFS.
    """
    if not url.startswith("sqlite:///"):
        return
    path = pathlib.Path(url.removeprefix("sqlite:///")).resolve()
    best = ("", "")
    with contextlib.suppress(OSError):
        for line in pathlib.Path(mounts).read_text(encoding="utf-8").splitlines():
            mount, kind = line.split()[1:3]
            inside = path == pathlib.Path(mount) or pathlib.Path(mount) in path.parents
            if inside and len(mount) >= len(best[0]):
                best = (mount, kind)
    if best[1].startswith("nfs"):
        raise ValueError(
            f"{path} lies on {best[1]}, where SQLite breaks. Give --storage=URL of a database, such "
            "as postgresql+psycopg2://HOST/NAME; the workdir may stay there."
        )
