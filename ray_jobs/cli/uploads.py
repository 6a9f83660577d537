"""Why a file is not in the working directory that `ray job submit` uploaded.

Ray is imported only where it has uploaded something: commands without Ray end by these lines too.
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
    """Return a sentence for the first path that an error message quotes and a rule kept out of the upload; else ''.

    Relative paths are those of the working directory, absolute ones may be below it or, by `run_folder.resolve`,
    below the home folder.
    """
    if not in_package() or message.startswith("output "):  # which is made, not uploaded
        return ""
    for quoted in re.findall(r"'([^']+)'", message):
        path = _in_working_directory(quoted)
        if path is None or os.path.exists(quoted) or os.path.exists(path):
            continue
        if rule := rule_against(path):
            return (
                f" '{path}' was not uploaded with the job: {rule} excludes it. Give an absolute path on storage that "
                "all nodes share, or change that rule."
            )
    return ""


def rule_against(path: PurePosixPath) -> str:
    """Return the rule that keeps a path of the working directory from being uploaded, and its file; else ''."""
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
    """Return the line that decides about a path, if it ignores it; the path may be a folder's."""
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
    """Return what the job's runtime environment leaves out."""
    from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

    job = json.loads(os.environ.get(RAY_JOB_CONFIG_JSON_ENV_VAR, "{}"))
    return list((job.get("runtime_env") or {}).get("excludes") or [])


def _in_working_directory(quoted: str) -> PurePosixPath | None:
    """Return a quoted path relative to the working directory; None for what is no path of it."""
    if "://" in quoted or ".." in Path(quoted).parts:
        return None
    for root in (Path.cwd(), Path.home()):
        path = Path(root, quoted)
        if path.is_relative_to(root):
            return PurePosixPath(path.relative_to(root))
    return None
