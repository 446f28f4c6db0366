"""What can go wrong, as one tree; every message gives the cause, the value and the cure."""


class BilevelError(Exception):
    """The root: `except BilevelError` catches all that this library raises on purpose."""


class BadInput(BilevelError):
    """What the user gave cannot work. Raised before anything starts; exit status 2."""


class MissingData(BadInput):
    """A data set is not there: the message says where to get it, its size, its licence and what to set."""


class RunLocked(BadInput):
    """Another driver is at work on the same run."""


class StudyChanged(BadInput):
    """The study's source is not the one that the run began with."""


class TrialFailed(BilevelError):
    """A trial cannot go on; the reason is recorded with it and the study goes on without it."""


class UnitFailed(TrialFailed):
    """A unit of work raised, or killed its worker too often. The message names the unit."""


class RecordDamaged(BilevelError):
    """The journal or a checkpoint is not what was written."""


class NotReproduced(BilevelError):
    """A recomputed value is not the recorded one."""


class StoreFailed(BilevelError):
    """The store cannot be written (disk full, permissions). What was recorded stays; the run can be resumed."""


class ClusterFailed(BilevelError):
    """No worker could be had from Ray. What was recorded stays; the run can be resumed."""


def described(error: BaseException) -> str:
    """An exception in words, `Type: message`, whatever its own `__str__` does; text that any file can hold."""
    name = type(error).__name__
    try:
        message = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as broken:  # noqa: BLE001 the user's code
        return f"{name} (its message cannot be shown: __str__ raised {type(broken).__name__})"
    return f"{name}: {message}".encode(errors="backslashreplace").decode()


class NotPromised(UserWarning):
    """Something of the user's gives other numbers each time: the same bits cannot be promised. The message names it."""
