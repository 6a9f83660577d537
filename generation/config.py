"""Settings of generation: the pool of generator actors and the devices that it runs on."""

from dataclasses import dataclass, field
from typing import Literal

from generation.ranges import AtLeastOne, BelowOne, Count, Documented, Gpus, NotNegative, SomeAttempts, check_ranges


@dataclass(frozen=True)
class GenerationConfig(Documented):
    """The pool of generator actors and its request stream. What images show is decided by the recipe alone."""

    min_actors: Count = 1
    """Smallest size of the pool, in actors; autoscaling never goes below it."""

    max_actors: AtLeastOne = 1
    """Largest size of the pool, in actors."""

    initial_actors: Count = 0
    """Size of the pool at start, in actors; 0 means `max_actors`. Training waits for at most `min_actors`."""

    gpus_per_actor: Gpus = 1.0
    """GPUs per actor; 0 runs on the CPU, and a fraction such as 0.5 places several actors on one GPU."""

    cpus_per_actor: NotNegative = 0.5
    """CPUs that Ray reserves per actor; `threads_per_actor` sets how many are used."""

    label_selector: dict[str, str] = field(default_factory=dict)
    """Ray node labels that actors require, such as `{ray.io/node-group: generator}` or
    `{ray.io/accelerator-type: "in(L4,A10G)"}`; empty allows any node.
    """

    threads_per_actor: AtLeastOne = 1
    """Number of torch threads per actor."""

    batch_size: Count = 0
    """Images per batch; 0 measures the fastest batch size that fits in memory when the actor starts."""

    batch_sizes: dict[str, AtLeastOne] = field(default_factory=dict)
    """Overrides `batch_size` by GPU type (node label `ray.io/accelerator-type`), such as `{L4: 8, A100: 32}`."""

    attention: Literal["sdpa", "xformers"] = "sdpa"
    """Attention kernel: torch's scaled_dot_product_attention, or xformers, which needs a GPU and the extra `gpu`."""

    fuse_qkv: bool = False
    """Fuse the query, key and value projections of each attention layer into one matrix multiplication."""

    channels_last: bool = False
    """Use the channels_last (NHWC) memory format, which speeds up half-precision convolutions on GPUs."""

    compile: bool = False
    """Compile denoiser and decoder when an actor starts (about a minute); batches are padded to `batch_size`."""

    prompt_cache_size: Count = 2_000
    """Cache prompt embeddings of recipes with at most this many prompts; 0.2 MB each for SD in float16."""

    max_attempts: SomeAttempts = 10
    """Attempts per image before the run fails. Images that are black, flat, not finite or flagged by the safety checker
    are refused. `recipe.leave_out_after`, if set, applies instead: such samples are left out.

    With 5% of attempts refused and the default, one run in eight million fails, at 1.3 million images each; with 30%
    refused in one class of 1,300 images, one in 130.
    """

    max_buffered_bytes: AtLeastOne = 100_000_000
    """How far generation may run ahead of training, in bytes of images, over all workers.

    In addition, out-of-order results are buffered: 4 batches per actor, up to 16 behind a slow one.
    """

    wait_for_nodes_seconds: NotNegative = 0.0
    """Seconds to wait for the cluster's autoscaler to add nodes; 0 requires everything to fit on existing nodes."""

    start_timeout_seconds: NotNegative = 900.0
    """Timeout for the start of the pool in seconds, including the download of the model."""

    idle_seconds: NotNegative = 60.0
    """Seconds after which an unneeded actor above `min_actors` is stopped."""

    painted_batch_seconds: NotNegative = 0.0
    """Minimum seconds per batch if `recipe.generator` is painted, for a known rate; 0 means no minimum."""

    painted_start_seconds: NotNegative = 0.0
    """Startup time in seconds if `recipe.generator` is painted, as if it loaded a model."""

    def __post_init__(self) -> None:
        check_ranges(self, "generation")
        if self.min_actors > self.max_actors:
            raise ValueError(
                f"generation.min_actors is {self.min_actors}, but max_actors is {self.max_actors}. Lower min_actors or "
                "raise max_actors."
            )
        if self.initial_actors and not self.min_actors <= self.initial_actors <= self.max_actors:
            raise ValueError(
                f"generation.initial_actors is {self.initial_actors}; use {self.min_actors} to {self.max_actors} "
                "(min_actors to max_actors), or 0 for max_actors."
            )
        if self.attention == "xformers" and (self.fuse_qkv or not self.gpus_per_actor):
            raise ValueError(
                "generation.attention is xformers, which needs gpus_per_actor above 0 and fuse_qkv=false. "
                "Set generation.attention=sdpa."
            )

    @property
    def num_initial_actors(self) -> int:
        """Size of the pool at start."""
        return self.initial_actors or self.max_actors

    @property
    def start_limit_seconds(self) -> float:
        """Timeout for the first running actor, including the wait for new nodes."""
        return self.start_timeout_seconds + self.wait_for_nodes_seconds


@dataclass(frozen=True)
class SharingConfig(Documented):
    """How several learners share the images of one pool: see `generation.pool.sharing`."""

    buffered_bytes: Count = 1_000_000_000
    """Bytes of images to keep for learners that have yet to request them; 0 keeps nothing."""

    max_waiting_fraction: BelowOne = 0.25
    """Share of its time that a learner may wait for slower ones while the buffer is full; beyond it, dropped images are
    generated again.
    """

    def __post_init__(self) -> None:
        check_ranges(self, "sharing")
