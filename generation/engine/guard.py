"""Which generated images must not reach training: black, flat, non-finite and flagged ones.

diffusers replaces what its safety checker flags by a black image. A model in half precision may overflow to black or to
NaN. Either would teach a classifier nothing but the mistake. What decides is a few bytes an image, computed where the
image was made.
"""

from generation.engine.generator import GeneratedImages

MAX_BLACK_LEVEL = 2
"""An image whose brightest value (0..255) is at most this is black."""

MIN_CONTRAST = 4
"""An image whose values (0..255) differ by less than this from darkest to brightest is flat."""


def refusals(generated: GeneratedImages) -> list[str]:
    """Return for each image why it is refused, or an empty string."""
    reasons = []
    for i in range(len(generated.finite)):
        if not generated.finite[i]:
            reasons.append("non_finite")
        elif generated.flagged[i]:
            reasons.append("flagged")
        elif generated.brightest[i] <= MAX_BLACK_LEVEL:
            reasons.append("black")
        elif int(generated.brightest[i]) - int(generated.darkest[i]) < MIN_CONTRAST:
            reasons.append("flat")
        else:
            reasons.append("")
    return reasons
