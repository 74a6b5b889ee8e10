"""The errors that fastdml raises under names of its own."""


class InputError(ValueError):
    """An argument that does not fit; the message names it, what it was and what is accepted."""


class RuleError(InputError):
    """A rule that :func:`fastdml.rules.check` found wrong; the message lists everything it found."""


class BackendError(RuntimeError):
    """A backend that was asked for and cannot run here; the message says why, and what can."""
