"""The base class of errors with a message for the user."""


class FigmentError(RuntimeError):
    """A failure during a job, with a one-line message: the cause and, where there is one, the remedy.

    Commands print the message without a traceback.
    """
