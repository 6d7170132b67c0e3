"""Inductive, transductive, self-training, supervised: which text is shown, what unseen pixels
teach, which scores are lowered at test.

Label maps hold dataset labels 0..N-1 and ``IGNORE``; all N names are known to the vocabulary. A
target holds positions among the classes *shown*, and ``IGNORE``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

from unseen.errors import InputError, did_you_mean
from unseen.vocabulary import IGNORE, Vocabulary

Labels = Integer[Tensor, "B H W"]
Logits = Float[Tensor, "B C h w"]


def show_seen(vocabulary: Vocabulary) -> tuple[int, ...]:
    """Show only seen names: those of unseen classes are not known while training."""
    return vocabulary.positions(vocabulary.seen)


def show_all(vocabulary: Vocabulary) -> tuple[int, ...]:
    """Show every name."""
    return tuple(range(len(vocabulary)))


def ignore_unseen(labels: Labels, logits: Logits, vocabulary: Vocabulary) -> Labels:
    """Renumber seen labels among the seen; everything else becomes ``IGNORE``."""
    table = torch.full((256,), IGNORE, device=labels.device)
    seen = show_seen(vocabulary)
    table[list(seen)] = torch.arange(len(seen), device=labels.device)
    return table[labels.long()]


@torch.no_grad()
def self_label(labels: Labels, logits: Logits, vocabulary: Vocabulary) -> Labels:
    """Give each pixel of an unseen class the unseen class the model itself finds likeliest there.

    Which pixels are unseen is taken from the labels; which of the unseen classes they show is not.
    ``IGNORE`` stays.
    """
    unseen = list(vocabulary.positions(vocabulary.unseen))
    if not unseen:
        return labels.long()
    scores = F.interpolate(logits[:, unseen], labels.shape[1:], mode="bilinear").sigmoid()
    guess = torch.tensor(unseen, device=labels.device)[scores.argmax(dim=1)]
    hidden = torch.isin(labels, torch.tensor(unseen, device=labels.device))
    return torch.where(hidden, guess, labels.long())


@torch.no_grad()
def self_label_freely(labels: Labels, logits: Logits, vocabulary: Vocabulary) -> Labels:
    """Give each pixel without a seen label the class the model itself finds likeliest, of all.

    Pixels of unseen classes and ``IGNORE`` look alike: which are which is not known here.
    """
    guess = F.interpolate(logits, labels.shape[1:], mode="bilinear").sigmoid().argmax(dim=1)
    seen = torch.tensor(show_seen(vocabulary), device=labels.device)
    return torch.where(torch.isin(labels, seen), labels.long(), guess)


def as_labelled(labels: Labels, logits: Logits, vocabulary: Vocabulary) -> Labels:
    """Take the labels as they are."""
    return labels.long()


@dataclass(frozen=True)
class Setting:
    """The three answers that make a setting.

    Args:
        name: what results call it.
        shown: labels whose names are shown in training, in order.
        target: label map to training target; sees the step's logits over the shown classes.
        calibration: γ, subtracted from the scores of seen classes at test.
        guesses: the target depends on the logits.
    """

    name: str
    shown: Callable[[Vocabulary], tuple[int, ...]]
    target: Callable[[Labels, Logits, Vocabulary], Labels]
    calibration: float
    guesses: bool = False


INDUCTIVE = Setting("inductive", show_seen, ignore_unseen, calibration=0.1)
TRANSDUCTIVE = Setting("transductive", show_all, self_label, calibration=0.0, guesses=True)
# ZegCLIP's second transductive row, without the knowledge of which pixels are unseen. No paper or
# code spells it out: this is the plain reading
SELF_TRAINING = Setting("self-training", show_all, self_label_freely, calibration=0.0, guesses=True)
# the authors subtract 0.1 here too, but from every class, which changes nothing
SUPERVISED = Setting("supervised", show_all, as_labelled, calibration=0.0)

SETTINGS = {
    setting.name: setting for setting in (INDUCTIVE, TRANSDUCTIVE, SELF_TRAINING, SUPERVISED)
}


def find_setting(name: str) -> Setting:
    """Return a setting by its name, or say which there are."""
    if name not in SETTINGS:
        hint = did_you_mean(name, SETTINGS)
        raise InputError(f"no setting is called {name!r}{hint} (known: {', '.join(SETTINGS)})")
    return SETTINGS[name]
