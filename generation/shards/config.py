"""Settings of where samples come from, and of what is kept as shards."""

from dataclasses import dataclass
from typing import Literal

from generation.ranges import AtLeastOne, Count, check_ranges


@dataclass(frozen=True)
class DataConfig:
    """Where samples come from, and whether and how they are kept: as shards of WebDataset's format."""

    source: Literal["stream", "shards", "real"] = "stream"
    """What training takes: images generated meanwhile, those kept in `shards`, or, as a reference, `real` ones."""

    shards: str = ""
    """What to train on where `source` is shards: a folder or URL that `ray_jobs.generate`, or `tee`, has written."""

    real: str = ""
    """What to train on where `source` is real: `digits`, or a folder of images by class; the recipe says which classes
    alone.
    """

    tee: str = ""
    """Keep what the stream generates here, a folder or URL such as s3://bucket/folder; empty keeps nothing."""

    replays: Count = 0
    """With `tee`: how often what was kept is trained on again, after it streamed. `training.num_images` counts all."""

    shard_size: AtLeastOne = 1024
    """Images in a shard, a multiple of the batches in which they are made."""

    image_format: Literal["png", "jpg", "webp"] = "png"
    """Files that images are kept as."""

    quality: int = 0
    """0 is lossless, which jpg is not; else the format's own scale, 1 to 100."""

    num_readers: AtLeastOne = 2
    """Processes that read and decode shards, or real images that are mixed in."""

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
