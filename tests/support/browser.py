"""Pages as a browser shows them."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium")

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


def screenshot(page: Path, width: int, height: int) -> np.ndarray:
    """Return the top of a page, uint8 [height, width, 3]; writes `seen.png` beside it."""
    picture = page.with_name("seen.png")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={width},{height}"]
    subprocess.run(
        [str(CHROMIUM), *options, f"--screenshot={picture}", f"file://{page}"],
        check=True,
        capture_output=True,
        timeout=120,
    )
    return np.asarray(Image.open(picture).convert("RGB"))
