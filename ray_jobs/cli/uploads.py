"""Why a file is missing from the working directory that `ray job submit` uploaded.

Ray is imported only in a submitted job, because commands without Ray use this module too.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

IGNORE_FILES = (".gitignore", ".rayignore")


def in_package() -> bool:
    """Return whether this process runs in a submitted job's copy of the working directory."""
    return "working_dir_files" in Path.cwd().parts


def not_uploaded(message: str) -> str:
    """Return a sentence about the first quoted path in an error message that was excluded from the upload; else ''.

    Relative paths start at the working directory; absolute paths may be below it or, after `run_folder.resolve`, below
    the home folder.
    """
    if not in_package() or message.startswith("output "):  # the job creates it
        return ""
    for quoted in re.findall(r"'([^']+)'", message):
        path = _in_working_directory(quoted)
        if path is None or os.path.exists(quoted) or os.path.exists(path):
            continue
        if rule := rule_against(path):
            return (
                f" '{path}' was not uploaded with the job: {rule} excludes it. Use an absolute path on storage that "
                "all nodes share, or change that rule."
            )
    return ""


def rule_against(path: PurePosixPath) -> str:
    """Return the rule that excludes a path of the working directory from the upload, and its file; else ''."""
    from ray._private.ray_constants import get_runtime_env_default_excludes

    for folder in path.parents:
        for name in IGNORE_FILES:
            if found := _last_match(_lines(Path(folder, name)), path.relative_to(folder)):
                return f"'{found}' in {PurePosixPath(folder, name)}"
    if found := _last_match(_excludes(), path):
        return f"'{found}' in the runtime environment's excludes"
    if found := _last_match(get_runtime_env_default_excludes(), path):
        return f"Ray's own rule '{found}'"
    return ""


def _last_match(lines: Iterable[str], path: PurePosixPath) -> str:
    """Return the ignore rule that excludes a path, which may be a folder; '' if none does."""
    from ray._private.thirdparty.pathspec.pathspec import PathSpec

    deciding = ""
    for line in lines:
        pattern = line.strip()
        if PathSpec.from_lines("gitwildmatch", [pattern.removeprefix("!")]).match_file(f"{path}/"):
            deciding = pattern
    return "" if deciding.startswith("!") else deciding


def _lines(path: Path) -> Iterator[str]:
    if path.is_file():
        yield from path.read_text(errors="replace").splitlines()


def _excludes() -> list[str]:
    """Return the `excludes` of the job's runtime environment."""
    from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

    job = json.loads(os.environ.get(RAY_JOB_CONFIG_JSON_ENV_VAR, "{}"))
    return list((job.get("runtime_env") or {}).get("excludes") or [])


def _in_working_directory(quoted: str) -> PurePosixPath | None:
    """Return a quoted path relative to the working directory; None if it is not below it."""
    if "://" in quoted or ".." in Path(quoted).parts:
        return None
    for root in (Path.cwd(), Path.home()):
        path = Path(root, quoted)
        if path.is_relative_to(root):
            return PurePosixPath(path.relative_to(root))
    return None
