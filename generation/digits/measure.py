"""Measure the embedded model: `python -m generation.digits.measure` prints the table of its model card.

The reference is a support-vector classifier fitted on real training digits. The student is one fitted on generated
images alone. The evaluation digits are used only to test it.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from PIL import Image
from sklearn.svm import SVC

from generation.digits.backgrounds import BACKGROUNDS
from generation.digits.pool import needs_background, paper_prompt
from generation.digits.real_digits import evaluation_digits, training_digits
from generation.recipes.labels import load_label_space

MODEL = Path(__file__).parent / "model"
FORMS = ("class_name", "hypernym", "definition", "background", "hypernym_background")
NUM_CLASSES = 10
BATCH_SIZE = 128
PENALTY = 10.0
"""C of the support-vector classifiers, on features in 0..1."""


def load_pipeline(folder: Path) -> StableDiffusionPipeline:
    """Return the pipeline on the CPU in float32."""
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(pipeline: StableDiffusionPipeline, prompts: list[str], guidance: float, num_steps: int) -> np.ndarray:
    """Return uint8 [N, 32, 32, 3]; image `i` uses seed `i`."""
    chunks = []
    for start in range(0, len(prompts), BATCH_SIZE):
        chunk = prompts[start : start + BATCH_SIZE]
        seeds = [torch.Generator().manual_seed(start + offset) for offset in range(len(chunk))]
        images: np.ndarray = pipeline(  # pyright: ignore[reportAssignmentType]
            chunk,
            guidance_scale=guidance,
            num_inference_steps=num_steps,
            generator=seeds,
            output_type="np",
            return_dict=False,
        )[0]
        chunks.append(np.round(images * 255).astype(np.uint8))
    return np.concatenate(chunks)


def prompts_of(form: str, labels: np.ndarray, background: str = "plain") -> list[str]:
    """Return one prompt per label."""
    entries = load_label_space("digits").classes
    return [paper_prompt(form, entries[label], background) for label in labels]


def features(images: np.ndarray) -> np.ndarray:
    """Return rows of grayscale 8x8 images in 0..1."""
    return images.mean(-1).reshape(-1, 8, 4, 8, 4).mean((2, 4)).reshape(len(images), -1) / 255


def fit(images: np.ndarray, labels: np.ndarray) -> SVC:
    """Return a fitted digit classifier with scikit-learn's RBF kernel."""
    return SVC(C=PENALTY).fit(features(images), labels)


def print_table(pipeline: StableDiffusionPipeline, num_images: int, guidances: list[float], steps: list[int]) -> None:
    """Print the reference's agreement and the student's accuracy on real digits, for each setting."""
    reference = fit(*training_digits())
    real_images, real_labels = evaluation_digits()
    real_top1 = reference.score(features(real_images), real_labels)
    print(f"A classifier fitted on the {len(training_digits()[1])} real training digits: top1 {real_top1:.4f}")
    print(f"| guidance | steps | reference agreement | student top1 of {len(real_labels)} | on training digits |")
    print("|---|---|---|---|---|")
    labels = np.arange(num_images) % NUM_CLASSES
    prompts = prompts_of("definition", labels)
    for guidance in guidances:
        for num_steps in steps:
            images = generate(pipeline, prompts, guidance, num_steps)
            agreement = reference.score(features(images), labels)
            student = fit(images, labels)
            top1 = student.score(features(real_images), real_labels)
            train_top1 = student.score(features(training_digits()[0]), training_digits()[1])
            print(f"| {guidance} | {num_steps} | {agreement:.4f} | {top1:.4f} | {train_top1:.4f} |", flush=True)


def print_forms(pipeline: StableDiffusionPipeline, num_images: int) -> None:
    """Print the reference's agreement for each prompt form on plain backgrounds."""
    reference = fit(*training_digits())
    labels = np.arange(num_images) % NUM_CLASSES
    for form in FORMS:
        agreement = reference.score(features(generate(pipeline, prompts_of(form, labels), 2.0, 10)), labels)
        print(f"{form} on plain, guidance 2.0, 10 steps: reference agreement {agreement:.4f}")


def median_ms(call: Callable[[], object], num_calls: int = 15) -> float:
    """Return the median duration of a call in milliseconds, after one warm-up call."""
    call()
    durations = []
    for _ in range(num_calls):
        started_at = time.perf_counter()
        call()
        durations.append(time.perf_counter() - started_at)
    return float(np.median(durations) * 1000)


@torch.inference_mode()
def print_speed(pipeline: StableDiffusionPipeline) -> None:
    """Print the time of a batch of 128."""
    latents = torch.randn(BATCH_SIZE, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    timesteps = torch.full((BATCH_SIZE,), 500)
    hidden = torch.zeros(BATCH_SIZE, pipeline.tokenizer.model_max_length, 64)
    unet_ms = median_ms(lambda: pipeline.unet(latents, timesteps, hidden))
    decode_ms = median_ms(lambda: pipeline.vae.decode(latents))
    print(f"{torch.get_num_threads()} threads, batch {BATCH_SIZE}: UNet {unet_ms:.0f} ms, decode {decode_ms:.0f} ms")


def write_contact_sheet(pipeline: StableDiffusionPipeline, path: Path, guidance: float = 2.0) -> None:
    """Write a PNG of all forms and backgrounds, two images per class."""
    labels = np.arange(2 * NUM_CLASSES) % NUM_CLASSES
    rows = []
    for form in FORMS:
        for background in BACKGROUNDS if needs_background(form) else BACKGROUNDS[:1]:
            rows.append(np.concatenate(list(generate(pipeline, prompts_of(form, labels, background), guidance, 10)), 1))
    sheet = Image.fromarray(np.concatenate(rows))
    sheet.resize((2 * sheet.width, 2 * sheet.height), Image.Resampling.NEAREST).save(path)


def main() -> None:
    """Measure quality and speed of a model folder."""
    parser = argparse.ArgumentParser(description="Measure the embedded model of handwritten digits.")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU cores to use")
    parser.add_argument("--num-images", type=int, default=2000, help="number of images per row of the table")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 1.5, 2.0])
    parser.add_argument("--steps", type=int, nargs="+", default=[6, 8, 10])
    parser.add_argument("--sheet", type=Path, help="write a contact sheet PNG of all forms here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pipeline = load_pipeline(arguments.model)
    print_speed(pipeline)
    print_table(pipeline, arguments.num_images, arguments.guidance, arguments.steps)
    print_forms(pipeline, arguments.num_images // 2)
    if arguments.sheet:
        write_contact_sheet(pipeline, arguments.sheet)


if __name__ == "__main__":
    main()
