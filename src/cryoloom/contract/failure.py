"""What can go wrong, said so that a user can mend it, with the exit code of the command line."""

from dataclasses import dataclass


class CryoloomError(Exception):
    """An expected error: its message is one sentence naming the item, the cause and the remedy."""

    exit_code = 1


class InputError(CryoloomError, ValueError):
    """Wrong input or usage (exit code 2)."""

    exit_code = 2


class WorkFailed(CryoloomError):
    """The work itself failed although its input was sound (exit code 1)."""

    exit_code = 1


class TooManyFailures(CryoloomError):
    """So many items failed that going on would waste time; finished items are kept (exit code 3)."""

    exit_code = 3


@dataclass(frozen=True)
class Failure:
    """One item that was left out, and why.

    Attributes
    ----------
    item
        Name of the item: a movie, a micrograph, a particle.
    cause
        One sentence: what was expected and what was found.
    """

    item: str
    cause: str
