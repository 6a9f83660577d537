from pathlib import Path

import pytest

from generation.recipes.plan import plan_sample
from generation.recipes.prompts import PAPER_TEMPLATES
from generation.recipes.recipe import Recipe, recipe_file_text
from ray_jobs import train
from ray_jobs.cli.config import CompareConfig, JobConfig, MiniatureConfig, load_config, to_yaml
from ray_jobs.cli.experiment_config import ExperimentConfig, is_experiment
from ray_jobs.cli.scale_config import ScaleConfig
from tests.support.commands import prepared

FOLDER = Path(__file__).parents[3] / "ray_jobs" / "configs"
CONFIGS = sorted(FOLDER.rglob("*.yaml"))
PAINTED = str(FOLDER / "painted.yaml")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_committed_configs_survive_a_round_trip(path: Path, tmp_path: Path):
    commands = {"compare": CompareConfig, "miniature": MiniatureConfig, "scale": ScaleConfig}
    schema = ExperimentConfig if is_experiment(str(path)) else commands.get(path.stem, JobConfig)
    config = load_config(schema, [str(path)])
    (tmp_path / "again.yaml").write_text(to_yaml(config))
    assert load_config(schema, [str(tmp_path / "again.yaml")]) == config


def test_override_wins_over_the_file():
    config = load_config(JobConfig, [PAINTED, "recipe.seed=7", "recipe.backgrounds=[noise,stripes]", "output=runs/x"])
    assert (config.recipe.seed, config.recipe.backgrounds, config.output) == (7, ("noise", "stripes"), "runs/x")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("recipe.sede=7", r"no setting 'recipe\.sede'. Did you mean recipe\.seed\?"),
        ("generatoin.batch_size=7", r"'generatoin'. Did you mean generation\?"),
        ("recipe.seed=many", r"recipe\.seed is 'many'; use a whole number"),
        ("recipe.generator=magic", r"recipe\.generator: .*'magic'.*diffusers.*painted"),
        ("recipe.image_size=30", r"image_size is 30; .* Try 24"),
        ("recipe.generated_size=30", r"generated_size is 30; .* Try 24"),
        ("recipe.generated_size=16", r"generated_size is 16, less than image_size 32"),
        ("recipe.scheduler=eular", r"recipe\.scheduler: .*'eular'.*euler_ancestral"),
        ("recipe.templates=background", r"recipe\.backgrounds is empty"),
        ("recipe.templates=caption", r"recipe\.captions_file is empty"),
        ("recipe.templates=[]", r"recipe\.templates is empty"),
        ("recipe.templates='{clas}'", r"field \{clas\} is unknown"),
        ("recipe.prefix='{lemmas}'", r"prefix is '\{lemmas\}'; fields are not allowed"),
        ("recipe.template_weights=[0.5,0.5]", r"template_weights has 2 values for 1 templates"),
        ("recipe.template_weights=0.8", r"template_weights are 0\.8, which sum to 0\.8"),
        ("recipe.class_weights.zero=-1", r"class_weights\.zero is -1\.0; use 0 or more"),
        ("recipe.guidance_scale=0.5", r"guidance_scale is 0\.5; use 1"),
        ("recipe.guidance_draw=between", r"guidance_scale is 2, but recipe.guidance_draw is between: set two"),
        ("generation.min_actors=5", r"min_actors is 5, but max_actors is 2"),
        ("training.seed", r"'training\.seed' is not an override"),
        ("evaluation.sets=[", r"override is not valid YAML"),
        ("recipe.seed=[1", r"recipe\.seed is '\[1'; use a whole number"),
        ("recipe.seed=010", r"recipe\.seed is 010, which YAML reads as octal"),
        ("recipe.seed=12:30", r"recipe\.seed is '12:30'; use a whole number"),
        ("recipe.guidance_scale=1,5", r"recipe\.guidance_scale is '1,5'; use a number"),
        ("training.reuse=010", r"training\.reuse is 010, which YAML reads as octal"),
        ("output=???", r"output is '\?\?\?'\. Set a value"),
        ("training.seed=???", r"training\.seed is '\?\?\?'\. Set a value"),
        ('recipe.templates=["???"]', r"recipe\.templates is '\?\?\?'\. Set a value"),
        ("training.base_learning_rate=12e4567", r"base_learning_rate is 12e4567, too large for a float"),
        ("recipe.seed=", r"recipe\.seed is empty\. Set a value"),
        ("recipe=7", r"recipe is a section, not '7'\. Set recipe\.\w+, for example"),
        ("recipe..seed=7", r"'recipe\.\.seed=7' is not an override"),
        ("=7", r"'=7' is not an override"),
        ("recipe.seed.deeper=7", r"recipe\.seed is \{'deeper': '7'\}; use a single value"),
        ("recipe.prefix=${oc.env:HOME}", r"recipe\.prefix is '\$\{oc\.env:HOME\}', but a recipe must be self-"),
        ("recipe.templates=${output}", r"recipe\.templates is '\$\{output\}', but a recipe must be self-contained"),
        ("recipe.seed=18446744073709551616", r"use 0 to 2\*\*64 - 1"),
        ("recipe.guidance_scale=nan", r"guidance_scale is nan"),
        ("training.base_learning_rate=nan", r"base_learning_rate is nan"),
        ("training.seed=-1", r"training\.seed is -1"),
        ("generation.gpus_per_actor=1.5", r"generation\.gpus_per_actor is 1\.5; use a whole number, or a fraction"),
        ("training.gpus_per_worker=2.5", r"training\.gpus_per_worker is 2\.5; use a whole number, or a fraction"),
        ("evaluation.gpus_per_actor=1.1", r"evaluation\.gpus_per_actor is 1\.1; use a whole number, or a fraction"),
        ("training.cpus_per_worker=0", r"gpus_per_worker and cpus_per_worker are 0, so Ray reserves nothing"),
        ("generation.label_selector=generator", r"generation\.label_selector is generator; use a mapping"),
        ("training.global_batch_size=1", r"batch normalization needs 2"),
    ],
)
def test_wrong_setting_is_one_line_with_the_remedy(argument: str, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        load_config(JobConfig, [PAINTED, argument])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("output=runs/exp #3", "runs/exp #3"),
        ("output=2024_11_28", "2024_11_28"),
        ("output=null", "null"),
        ("output='a b'", "a b"),
        ("output=[a", "[a"),
        ("output=a=b: c", "a=b: c"),
        ("recipe.revision=12e4567", "12e4567"),
        ("recipe.revision=007", "007"),
        ("data.tee=", ""),
        ("recipe.templates={class_name}, photo #1", ("{class_name}, photo #1",)),
        ("recipe.backgrounds=[010, true, a b]", ("010", "true", "a b")),
        ("recipe.backgrounds=", ()),
        ("training.label_selector.ray.io/node-group=1e3", {"ray.io/node-group": "1e3"}),
        ("training.label_selector=", {}),
        ("training.reuse=3", 3),
        ("training.reuse=auto", "auto"),
        ("recipe.seed=1_000", 1000),
        ("training.base_learning_rate=1e-3", 0.001),
        ("resume=true", True),
    ],
)
def test_text_settings_stay_as_typed(argument: str, value: object):
    config = load_config(JobConfig, [PAINTED, argument])
    found: object = config
    for name in argument.partition("=")[0].partition(".ray.io")[0].split("."):
        found = getattr(found, name)
    assert found == value


def test_values_in_files_stay_as_typed(tmp_path: Path):
    path = tmp_path / "c.yaml"
    path.write_text(f"base: {PAINTED}\noutput: 2024_11_28\nrecipe: {{revision: 1e5, backgrounds: [010, yes]}}\ndata:")
    config = load_config(JobConfig, [str(path)])
    assert (config.output, config.recipe.revision, config.recipe.backgrounds) == ("2024_11_28", "1e5", ("010", "yes"))
    path.write_text("recipe: {seed: 1}\nrecipe: {seed: 2}")
    with pytest.raises(ValueError, match="found duplicate key recipe"):
        load_config(JobConfig, [str(path)])


def test_last_override_of_a_key_wins():
    assert load_config(JobConfig, [PAINTED, "recipe.seed=1", "recipe.seed=2"]).recipe.seed == 2


def test_label_selector_keys_may_have_dots():
    config = load_config(JobConfig, [PAINTED, 'training.label_selector={ray.io/node-group: trainer, zone: "in(a,b)"}'])
    assert config.training.label_selector == {"ray.io/node-group": "trainer", "zone": "in(a,b)"}


def test_overriding_label_selector_replaces_the_one_in_the_file():
    cluster = "ray_jobs/configs/cluster.yaml"
    config = load_config(JobConfig, [cluster, "training.label_selector={zone: a}", "evaluation.label_selector={}"])
    assert config.training.label_selector == {"zone": "a"}
    assert config.evaluation.label_selector == {}
    assert config.generation.label_selector == {"ray.io/node-group": "generator"}


def test_single_value_is_a_list_of_one():
    config = load_config(JobConfig, [PAINTED, "recipe.templates=hypernym", "recipe.guidance_scale=7.5"])
    assert (config.recipe.templates, config.recipe.guidance_scale) == (("hypernym",), (7.5,))


def test_config_overrides_its_bases(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("recipe: {seed: 1, image_size: 32, generator: painted}")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.yaml").write_text("base: ../a.yaml\nrecipe: {seed: 2}")
    (tmp_path / "c.yaml").write_text("base: sub/b.yaml\noutput: runs/c")
    config = load_config(JobConfig, [str(tmp_path / "c.yaml"), "recipe.image_size=48"])
    assert (config.recipe.seed, config.recipe.image_size, config.recipe.generator) == (2, 48, "painted")
    assert config.output == "runs/c"
    (tmp_path / "d.yaml").write_text("base: nowhere.yaml")
    with pytest.raises(ValueError, match=r"no config '.*nowhere\.yaml'"):
        load_config(JobConfig, [str(tmp_path / "d.yaml")])
    (tmp_path / "e.yaml").write_text("base: f.yaml")
    (tmp_path / "f.yaml").write_text("base: e.yaml")
    with pytest.raises(ValueError, match=r"'.*e\.yaml' is its own base"):
        load_config(JobConfig, [str(tmp_path / "e.yaml")])


def test_recipe_file_replaces_a_config_or_its_recipe(painted: Recipe, tmp_path: Path):
    path = tmp_path / "recipe.json"
    path.write_text(recipe_file_text(painted))
    assert load_config(JobConfig, [str(path), "training.seed=3"]).opened_recipe == painted
    assert load_config(JobConfig, [PAINTED, f"recipe_file={path}"]).opened_recipe == painted
    with pytest.raises(ValueError, match=r"Settings in recipe have no effect, .*recipe\.json"):
        load_config(JobConfig, [str(path), "recipe.seed=3"])
    (tmp_path / "both.yaml").write_text("base: recipe.json\nrecipe: {seed: 3}")
    with pytest.raises(ValueError, match="have no effect"):
        load_config(JobConfig, [str(tmp_path / "both.yaml")])
    config = load_config(JobConfig, [str(path)])
    (tmp_path / "again.yaml").write_text(to_yaml(config))
    assert load_config(JobConfig, [str(tmp_path / "again.yaml")]) == config


@pytest.mark.parametrize("space", ["imagenet100", "imagenet1k"])
@pytest.mark.parametrize("guidance", ["7.5", "2.0"])
@pytest.mark.parametrize("form", PAPER_TEMPLATES)
def test_every_run_of_the_paper_has_a_config(space: str, guidance: str, form: str):
    config = load_config(JobConfig, [str(FOLDER / "paper" / f"{space}_{form}_guidance{guidance}.yaml")])
    recipe = config.opened_recipe
    assert (recipe.model, recipe.num_inference_steps) == ("CompVis/stable-diffusion-v1-4", 50)
    plan = plan_sample(recipe, 0)
    assert (plan.template, plan.guidance_scale) == (PAPER_TEMPLATES[form], float(guidance))
    assert recipe.label_space.name == space


@pytest.mark.parametrize(
    ("name", "num_images", "num_replays", "num_steps"),
    [
        ("paper.yaml", 129_792, 99, 50_700),  # 507 steps of 256, a hundred times
        ("paper_online.yaml", 129_792, 0, 507),
        ("paper/imagenet100_definition_guidance2.0.yaml", 129_792, 99, 50_700),
        ("paper/imagenet1k_definition_guidance2.0.yaml", 1_299_968, 99, 507_800),
    ],
)
def test_paper_configs_can_be_prepared(name: str, num_images: int, num_replays: int, num_steps: int, tmp_path: Path):
    job = prepared(train, str(FOLDER / name), f"output={tmp_path / 'run'}")
    assert (job.source.num_images, job.config.data.replays) == (num_images, num_replays)
    assert job.config.training.num_steps == num_steps


def test_missing_broken_and_odd_config_files_are_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no config 'nowhere\.yaml'"):
        load_config(JobConfig, ["nowhere.yaml"])
    (tmp_path / "broken.yaml").write_text("recipe: [")
    with pytest.raises(ValueError, match=r"broken\.yaml' is not a readable YAML file"):
        load_config(JobConfig, [str(tmp_path / "broken.yaml")])
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ValueError, match="contains a list; expected sections"):
        load_config(JobConfig, [str(tmp_path / "list.yaml")])


@pytest.mark.parametrize(
    ("schema", "old", "new"),
    [
        (JobConfig, "rates.judged_per_second", "rates.validated_per_second"),
        (ScaleConfig, "step.appetite_fraction", "step.trainer_fraction"),
    ],
)
def test_renamed_setting_is_still_accepted(schema: type[JobConfig], old: str, new: str, tmp_path: Path, capsys):
    section, _, name = old.partition(".")
    path = tmp_path / "old.yaml"
    path.write_text(f"base: {PAINTED}\n{section}: {{{name}: 0.5}}\n")
    for arguments in ([str(path)], [PAINTED, f"{old}=0.5"]):
        assert load_config(schema, arguments) == load_config(schema, [PAINTED, f"{new}=0.5"])
        assert capsys.readouterr().err == f"note: the setting {old} is now called {new}\n"


def test_missing_config_argument_shows_the_usage():
    with pytest.raises(ValueError, match="Usage"):
        load_config(JobConfig, [])


def test_loras_and_an_interval_can_be_set_on_the_command_line():
    overrides = ["recipe.loras={org/style.v2@main: 0.5, lcm: 1}", "recipe.guidance_interval=[0.2,0.8]"]
    recipe = load_config(JobConfig, [str(FOLDER / "digits.yaml"), *overrides]).recipe
    assert recipe.loras == {"org/style.v2@main": 0.5, "lcm": 1.0}
    assert tuple(recipe.guidance_interval) == (0.2, 0.8)


def test_setting_that_is_not_utf8_is_refused():
    with pytest.raises(ValueError, match=r"'output=runs/\\udcff' is not UTF-8\. Rename"):
        load_config(JobConfig, [PAINTED, "output=runs/\udcff"])


def test_tilde_is_the_home_folder_in_every_setting_with_a_file(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "base.yaml").write_text(Path(PAINTED).read_text())
    (tmp_path / "mine.yaml").write_text("base: ~/base.yaml\n")
    (tmp_path / "classes.csv").write_text("class_name,definition\nauk,a bird\nowl,another\n")
    (tmp_path / "captions.jsonl").write_text(
        "".join(f'{{"class": "{c}", "caption": "a {c}"}}\n' for c in ("auk", "owl"))
    )
    (tmp_path / "backgrounds.yaml").write_text("auk: [sea]\nowl: [wood]\n")
    settings = [
        *("recipe.label_space=~/classes.csv", "recipe.captions_file=~/captions.jsonl"),
        *("recipe.templates=[caption, background]", "recipe.backgrounds_file=~/backgrounds.yaml"),
    ]
    recipe = load_config(JobConfig, ["~/mine.yaml", *settings]).opened_recipe
    assert (recipe.captions, recipe.label_space.class_names) == ((("a auk",), ("a owl",)), ("auk", "owl"))
    assert recipe.class_backgrounds == ((0, ("sea",)), (1, ("wood",)))
    (tmp_path / "recipe.json").write_text(recipe_file_text(recipe))
    assert load_config(JobConfig, ["~/mine.yaml", "recipe_file=~/recipe.json"]).opened_recipe == recipe
    assert load_config(JobConfig, ["~/recipe.json"]).opened_recipe == recipe


def test_unknown_home_folder_is_one_line():
    with pytest.raises(ValueError, match=r"There is no config '~nobody-of-this-name/c\.yaml'"):
        load_config(JobConfig, ["~nobody-of-this-name/c.yaml"])


def test_shipped_config_is_found_from_any_folder(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config(JobConfig, ["ray_jobs/configs/painted.yaml"]) == load_config(JobConfig, [PAINTED])
