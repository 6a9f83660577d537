"""Settings of generation: the pool of actors that makes images, and on what."""

from dataclasses import dataclass, field
from typing import Literal

from generation.ranges import AtLeastOne, Count, Documented, Gpus, NotNegative, SomeAttempts, check_ranges


@dataclass(frozen=True)
class GenerationConfig(Documented):
    """The pool of generator actors, and how the stream asks it. Decides no image."""

    min_actors: Count = 1
    """The pool shrinks to no less than this many actors where the trainer needs less."""

    max_actors: AtLeastOne = 1
    """The pool never has more."""

    initial_actors: Count = 0
    """The pool starts with this many actors; 0 is `max_actors`. Training does not wait for more than `min_actors`."""

    gpus_per_actor: Gpus = 1.0
    """0 runs the actor on the CPU; with a share of a GPU, such as 0.5, several actors are on one."""

    cpus_per_actor: NotNegative = 0.5
    """Cores that Ray counts as taken; see `threads_per_actor` for the cores really used."""

    label_selector: dict[str, str] = field(default_factory=dict)
    """Labels of the nodes that may hold an actor, as Ray selects by them: `{ray.io/node-group: generator}`,
    `{ray.io/accelerator-type: "in(L4,A10G)"}`; empty is any node.
    """

    threads_per_actor: AtLeastOne = 1
    """Threads that torch may use in an actor."""

    batch_size: Count = 0
    """Images an actor makes at once; 0 is the best that it finds when it starts, within the memory there is."""

    batch_sizes: dict[str, AtLeastOne] = field(default_factory=dict)
    """The same for types of GPU in place of `batch_size`: `{L4: 8, A100: 32}`, by nodes' `ray.io/accelerator-type`."""

    attention: Literal["sdpa", "xformers"] = "sdpa"
    """By torch's scaled_dot_product_attention, or by xformers, which needs a GPU and the extra `gpu`."""

    fuse_qkv: bool = False
    """Compute queries, keys and values of an attention layer in one multiplication."""

    channels_last: bool = False
    """Lay weights and activations out channel by channel, as convolutions in half precision like it on GPUs."""

    compile: bool = False
    """Compile denoiser and decoder when an actor starts, for a minute; batches are filled up to `batch_size`."""

    prompt_cache_size: Count = 2_000
    """A recipe of no more prompts has their embeddings kept, 0.2 MB each for Stable Diffusion in float16."""

    max_attempts: SomeAttempts = 10
    """A refused image is made again until this many attempts were refused, which ends the run, unless
    `recipe.leave_out_after` says to do without.

    With 5% refused at each attempt that is one run in eight million, of 1.3 million images each; with 30% of one class
    of 1,300 images, one in 130.
    """

    max_buffered_bytes: AtLeastOne = 100_000_000
    """How far the stream may run ahead of training, in bytes of images.

    Beside it who asks holds what is answered before its turn: 4 batches an actor, up to 16 once one came late.
    """

    wait_for_nodes_seconds: NotNegative = 0.0
    """How long to wait for the cluster's autoscaler to bring nodes; 0 asks that all fits on the nodes there are."""

    start_timeout_seconds: NotNegative = 900.0
    """The longest that the pool may take to start, download of the model included."""

    idle_seconds: NotNegative = 60.0
    """An actor above `min_actors` that nobody needs is given back after this long."""

    painted_batch_seconds: NotNegative = 0.0
    """A painted generator takes at least this long for a batch, which gives it a known rate."""

    painted_start_seconds: NotNegative = 0.0
    """A painted generator takes this long to start, as if it loaded a model."""

    def __post_init__(self) -> None:
        check_ranges(self, "generation")
        if self.min_actors > self.max_actors:
            raise ValueError(
                f"generation.min_actors is {self.min_actors}, more than max_actors {self.max_actors}. Give as many, or "
                "less."
            )
        if self.initial_actors and not self.min_actors <= self.initial_actors <= self.max_actors:
            raise ValueError(
                f"generation.initial_actors is {self.initial_actors}; give {self.min_actors} to {self.max_actors}, as "
                "min_actors and max_actors are, or 0 for the most."
            )
        if self.attention == "xformers" and (self.fuse_qkv or not self.gpus_per_actor):
            raise ValueError("generation.attention is xformers, which needs gpus_per_actor and no fuse_qkv. Take sdpa.")

    @property
    def num_initial_actors(self) -> int:
        """How many actors the pool starts with."""
        return self.initial_actors or self.max_actors

    @property
    def longest_start_seconds(self) -> float:
        """How long the pool may be without an actor that is up."""
        return self.start_timeout_seconds + self.wait_for_nodes_seconds
