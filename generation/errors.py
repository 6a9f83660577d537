"""The base class of errors with a message for the user."""


class FigmentError(RuntimeError):
    """A failure during a job whose one-line message names the cause and the remedy; jobs print it without a trace."""
