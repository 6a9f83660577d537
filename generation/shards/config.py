"""Settings: where samples come from, and whether they are stored as shards."""

from dataclasses import dataclass
from typing import Literal

from generation.ranges import AtLeastOne, Count, Documented, check_ranges


@dataclass(frozen=True)
class DataConfig(Documented):
    """Source of the samples, and storage as shards in WebDataset format."""

    source: Literal["stream", "shards", "real"] = "stream"
    """Source of the training samples: `stream` generates them during training, `shards` reads stored ones, and `real`
    reads real images as a reference.
    """

    shards: str = ""
    """Data set to train on with `data.source=shards`: a folder or URL written by `ray_jobs.generate` or `data.tee`."""

    real: str = ""
    """Images to train on with `data.source=real`: `digits`, or a folder of images by class. The recipe then only
    defines the classes.
    """

    tee: str = ""
    """Folder or URL, such as s3://bucket/folder, where streamed images are stored as shards. Empty stores nothing."""

    replays: Count = 0
    """With `data.tee`: number of further passes over the stored images after the streamed pass. 0 is none.
    `training.num_images` counts all passes.
    """

    shard_size: AtLeastOne = 1024
    """Images per shard; must be a multiple of the generation batch size."""

    image_format: Literal["png", "jpg", "webp"] = "png"
    """File format of stored images."""

    quality: int = 0
    """Quality of stored images: 1 to 100 on the format's own scale, 0 is lossless. png needs 0, jpg 1 or more."""

    num_readers: AtLeastOne = 2
    """Processes that read and decode shards, or real images mixed into training."""

    def __post_init__(self) -> None:
        check_ranges(self, "data")
        lowest, highest, values = {
            "png": (0, 0, "0 (always lossless)"),
            "webp": (0, 100, "0 (lossless) to 100"),
            "jpg": (1, 100, "1 to 100"),
        }[self.image_format]
        if not lowest <= self.quality <= highest:
            raise ValueError(f"data.quality is {self.quality}; use {values} for {self.image_format}.")
        if self.source == "shards" and not self.shards:
            raise ValueError("data.source is shards, but data.shards is empty. Set it to a folder or URL of shards.")
        if self.replays and not self.tee:
            raise ValueError(f"data.replays is {self.replays}, but no images are stored to replay. Set data.tee.")
        for name in ("shards", "real"):
            if getattr(self, name) and self.source != name:
                raise ValueError(f"data.{name} is set, but data.source is {self.source}. Add data.source={name}.")
        if self.source == "real" and not self.real:
            raise ValueError("data.source is real, but data.real is empty. Set it to digits or a folder of classes.")
        if self.source != "stream" and self.tee:
            raise ValueError(f"data.tee stores generated images, but data.source is {self.source}. Remove one of them.")
