"""The base of errors whose message tells the user what to do."""


class FigmentError(RuntimeError):
    """A failure during a job whose one-line message names the cause and the remedy; jobs print it without a trace."""
