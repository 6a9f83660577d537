"""The command line, which runs before torch and Ray are imported."""

import subprocess
import sys
from pathlib import Path

import click
import pytest

from generation.recipes.model_files import PROJECT_ROOT
from ray_jobs.cli import command_line
from ray_jobs.cli.command_line import Job, Work, figment, read
from ray_jobs.cli.config import CONFIGS, shipped_configs
from tests.support.settings import PAINTED

JOBS = [name for name, command in figment.commands.items() if isinstance(command, Job)]


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use an empty working directory, so that relative outputs are new folders."""
    monkeypatch.chdir(tmp_path)


def error_of(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        command_line.run(list(arguments))
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_every_command_file_is_a_command():
    files = {path.stem for path in (PROJECT_ROOT / "ray_jobs").glob("*.py")} - {"__init__"}
    assert files == set(figment.commands) - {"configs", "settings"}


@pytest.mark.parametrize("name", JOBS)
def test_help_lists_ten_settings_and_where_to_find_the_others(name: str, capsys):
    command = figment.commands[name]
    assert isinstance(command, Job)
    assert len(set(command.often_changed)) == 10
    assert read([name, "--help"]) is None
    out = capsys.readouterr().out
    assert f"Usage: figment {name} [OPTIONS] CONFIG [section.key=value ...]" in out
    for setting in command.often_changed:
        assert f"  {setting}=" in out
    assert "`figment settings` lists all of them" in out


def test_help_without_a_command_lists_all_commands(capsys):
    assert read([]) is None
    out = capsys.readouterr().out
    for name in figment.commands:
        assert f"\n  {name} " in out


def test_settings_reach_the_command():
    work = read(["train", "painted", "recipe.seed=7", "output=runs/x"])
    assert isinstance(work, Work)
    assert (work.name, work.needs_ray) == ("train", True)
    config = work.parameters["config"]
    assert (config.recipe.seed, config.output, config.recipe.generator) == (7, "runs/x", "painted")
    assert read(["train", PAINTED, "recipe.seed=7", "output=runs/x"]) == work


def test_options_are_accepted_anywhere():
    work = read(["gallery", "--images", "2", "painted", "recipe.seed=1", "--out=there", "--classes", "zero,one"])
    assert work is not None
    given = {name: value for name, value in work.parameters.items() if name != "config"}
    assert given == {"out": Path.cwd() / "there", "columns": "templates", "classes": "zero,one", "images": 2}


def test_plan_receives_its_arguments_for_a_rehearsal():
    work = read(["plan", "--cost", "painted", "recipe.seed=7"])
    assert work is not None
    assert (work.needs_ray, work.parameters["arguments"]) == (False, ["painted", "recipe.seed=7"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "There is no command 'trian'. Did you mean train? See figment --help."),
        (["train"], "Missing argument 'CONFIG'. See figment train --help."),
        (
            ["train", "dgits"],
            "There is no config 'dgits'. Did you mean digits? `figment configs` lists the shipped configs.",
        ),
        (["train", "painted", "training.reus=2"], "There is no setting 'training.reus'. Did you mean training.reuse?"),
        (
            ["plan", "painted", "--indx", "3"],
            "No such option '--indx'. Did you mean '--index'? See figment plan --help.",
        ),
        (["gallery", "painted", "--columns", "x"], "'x' is not one of 'templates', 'guidance_scale'"),
        (["gallery", "painted", "--images", "0"], "0 is not in the range x>=1"),
        (["regenerate", "painted", "--index", "1"], "Missing option '--out'"),
        (["report", "--out", "there"], "Missing argument 'EVALUATION ...'"),
        (["settings", "trianing"], "No setting has 'trianing' in its name or meaning. Did you mean training?"),
        (["train", "painted", "recipe.label_space=letters"], "letters"),
    ],
)
def test_bad_arguments_are_one_line_with_the_nearest_name(arguments: list[str], message: str, capsys):
    (line,) = error_of(*arguments, capsys=capsys).splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize(
    "arguments", [["train", "painted", "output={taken}"], ["regenerate", "painted", "--index=1", "--out={taken}"]]
)
def test_used_output_folder_is_refused_before_torch_is_imported(arguments: list[str], tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="already contains files"):
        read([argument.format(taken=tmp_path) for argument in arguments])


def test_configs_lists_one_line_per_shipped_config(capsys):
    assert read(["configs"]) is None
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(shipped_configs()) == len(list(CONFIGS.rglob("*.yaml")))
    assert all(len(line.split(maxsplit=1)) == 2 for line in lines)
    assert any(line.startswith("digits ") for line in lines)


@pytest.mark.parametrize(
    ("word", "listed", "not_listed"),
    [
        ("training", "training.reuse=1", "recipe.seed"),
        ("", "faults.seed=0", "nothing"),
        ("currency", "prices.currency=USD", "training.reuse"),
    ],
)
def test_settings_are_listed_by_section_or_word(word: str, listed: str, not_listed: str, capsys):
    assert read(["settings", word] if word else ["settings"]) is None
    names = {line.split()[0] for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")}
    assert listed in names
    assert not any(name.startswith(not_listed) for name in names)


def test_command_line_imports_neither_torch_nor_ray(tmp_path: Path):
    script = (
        "import sys; from ray_jobs.cli.command_line import read; "
        "read(['train', 'digits', f'output={sys.argv[1]}/run']); read(['train', '--help']); read(['settings']); "
        "print({'torch', 'ray', 'lightning', 'diffusers', 'sklearn', 'scipy', 'fastapi'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT_ROOT)
    assert ended.stdout.splitlines()[-1] == "set()"


def test_python_m_runs_the_same_command_line():
    command = [sys.executable, "-m", "ray_jobs.train", "dgits"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT_ROOT)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: There is no config 'dgits'. Did you mean digits?")


def test_every_command_has_a_description():
    for command in figment.commands.values():
        assert isinstance(command, click.Command)
        assert command.help
