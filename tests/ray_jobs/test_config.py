from pathlib import Path

import pytest

from ray_jobs.config import JobConfig, load_config, to_yaml

CONFIGS = sorted((Path(__file__).parents[2] / "ray_jobs" / "configs").glob("*.yaml"))
PAINTED = str(CONFIGS[0].parent / "painted.yaml")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_committed_config_is_read_and_written_back_the_same(path: Path, tmp_path: Path):
    config = load_config(JobConfig, [str(path)])
    (tmp_path / "again.yaml").write_text(to_yaml(config))
    assert load_config(JobConfig, [str(tmp_path / "again.yaml")]) == config


def test_an_override_wins_over_the_file():
    config = load_config(JobConfig, [PAINTED, "recipe.seed=7", "recipe.backgrounds=[noise,stripes]", "output=runs/x"])
    assert (config.recipe.seed, config.recipe.backgrounds, config.output) == (7, ("noise", "stripes"), "runs/x")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("recipe.sede=7", r"no setting 'recipe\.sede'. Did you mean recipe\.seed\?"),
        ("generatoin.batch_size=7", r"'generatoin'. Did you mean generation\?"),
        ("recipe.seed=many", r"recipe\.seed: .*'many'.*Integer"),
        ("recipe.generator=magic", r"recipe\.generator: .*'magic'.*diffusers.*painted"),
        ("recipe.image_size=30", r"image_size is 30; .* Try 24"),
        ("recipe.prompt=background", r"needs recipe\.backgrounds"),
        ("generation.min_actors=5", r"min_actors is 5 and max_actors 2"),
        ("training.seed", r"'training\.seed' is no override"),
        ("recipe.seed=[", r"override is no YAML"),
        ("recipe.seed=18446744073709551616", r"give 0 to 2\*\*64 - 1"),
        ("recipe.guidance_scale=nan", r"guidance_scale is nan"),
        ("training.peak_learning_rate=nan", r"peak_learning_rate is nan"),
        ("training.seed=-1", r"training\.seed is -1"),
        ("training.global_batch_size=1", r"batch normalisation needs two"),
    ],
)
def test_a_wrong_setting_ends_in_one_line_with_the_remedy(argument: str, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        load_config(JobConfig, [PAINTED, argument])
    assert "\n" not in str(caught.value)


def test_a_missing_a_broken_and_an_odd_config_file_are_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no config 'nowhere\.yaml'"):
        load_config(JobConfig, ["nowhere.yaml"])
    (tmp_path / "broken.yaml").write_text("recipe: [")
    with pytest.raises(ValueError, match=r"broken\.yaml' is no YAML"):
        load_config(JobConfig, [str(tmp_path / "broken.yaml")])
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ValueError, match="must hold sections"):
        load_config(JobConfig, [str(tmp_path / "list.yaml")])


def test_no_config_at_all_says_how_to_call():
    with pytest.raises(ValueError, match="Usage"):
        load_config(JobConfig, [])
