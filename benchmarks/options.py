"""Options of a benchmark next to its settings: `--name value`, anywhere among the arguments."""

from collections.abc import Sequence


def split_options(
    arguments: Sequence[str], names: Sequence[str], flags: Sequence[str] = ()
) -> tuple[dict[str, str], list[str]]:
    """Return the options by name and the other arguments; ValueError for an unknown option or one without a value.

    Flags are options without a value.
    """
    options, others = {}, []
    remaining = iter(arguments)
    for argument in remaining:
        if not argument.startswith("--"):
            others.append(argument)
            continue
        name, separator, value = argument.removeprefix("--").partition("=")
        if name in flags and not separator:
            options[name] = ""
            continue
        if name not in names:
            known = ", ".join(f"--{known}" for known in (*names, *flags))
            raise ValueError(f"'{argument}' is not an option. Options are {known}.")
        options[name] = value if separator else next(remaining, "")
        if not options[name]:
            raise ValueError(f"'--{name}' has no value. Write --{name} VALUE.")
    return options, others
