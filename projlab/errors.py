"""The errors projlab raises. Each message names what is wrong, where, and what to do."""


class ProjlabError(Exception):
    """Base class of every error that projlab raises on purpose."""


class InputError(ProjlabError, ValueError):
    """An argument has the wrong type, shape, dtype, device or value."""


class InconsistentError(ProjlabError):
    """No x satisfies A x = b, so the projection does not exist."""


class RankDeficientError(ProjlabError):
    """Rows are linearly dependent where the operation asked for needs them independent."""


class AccuracyError(ProjlabError):
    """No variant, or not the one asked for, is predicted to reach the accuracy asked for."""


class MemoryLimitError(ProjlabError):
    """A dense matrix that the computation needs does not fit into memory."""
