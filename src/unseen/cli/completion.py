"""What the shell offers for a value: names that are known without torch.

typer leaves out those that do not begin with what is written; where none is left, shells offer
files.
"""

from collections.abc import Iterable


def models() -> list[str]:
    """Offer shipped models."""
    from unseen.shipped import shipped_models

    return shipped_models()


def clips() -> list[str]:
    """Offer CLIPs that go by a name."""
    from unseen.recipes import OPENAI_CLIP
    from unseen.shipped import SHIPPED_CLIP

    return [SHIPPED_CLIP, OPENAI_CLIP]


def vocabularies() -> list[str]:
    """Offer vocabularies."""
    from unseen.vocabulary import VOCABULARIES

    return list(VOCABULARIES)


def datasets() -> list[str]:
    """Offer data sets; written out, since what opens them takes half a second to import."""
    return (
        "miniature micro voc context context-released coco camvid uavid uavid-foreground udd6 "
        "udd6-foreground"
    ).split()


def recipes() -> list[str]:
    """Offer trainings."""
    from unseen.recipes import RECIPES

    return list(RECIPES)


def rows() -> list[str]:
    """Offer trainings and evaluations."""
    from unseen.recipes import EVALUATIONS, RECIPES

    return [*RECIPES, *EVALUATIONS]


def models_and_recipes() -> list[str]:
    """Offer what can be measured."""
    return [*models(), *recipes()]


def contenders(incomplete: str) -> list[str]:
    """Offer methods, and topics of claims of one word: bash would cut others."""
    from unseen.claims import TABLE, TOPICS

    words = [name for name in dict.fromkeys((*TABLE, *TOPICS)) if " " not in name]
    return _another(words, incomplete)


def formats() -> list[str]:
    """Offer what a model is exported to."""
    return ["onnx", "openvino", "torch"]


def tasks(incomplete: str) -> list[str]:
    """Offer what is timed."""
    return _another(("picture", "windows", "training", "loading"), incomplete)


def precisions(incomplete: str) -> list[str]:
    """Offer precisions."""
    return _another(("fp32", "bf16", "fp16"), incomplete)


def _another(names: Iterable[str], incomplete: str) -> list[str]:
    """Put names behind those that a list with commas has already."""
    before, comma, _ = incomplete.rpartition(",")
    return [before + comma + name for name in names]
