import pytest
import torch

from unseen.errors import InputError
from unseen.settings import INDUCTIVE, SELF_TRAINING, SUPERVISED, TRANSDUCTIVE, find_setting
from unseen.vocabulary import IGNORE, Vocabulary

KNOWN = Vocabulary("known", ("a", "b", "c", "d", "e"), unseen=("b", "d"))
LABELS = torch.tensor([[[0, 1, 2], [3, 4, IGNORE]]], dtype=torch.uint8)


def test_unseen_names_are_shown_except_when_inductive():
    assert INDUCTIVE.shown(KNOWN) == (0, 2, 4)
    assert TRANSDUCTIVE.shown(KNOWN) == SUPERVISED.shown(KNOWN) == (0, 1, 2, 3, 4)


def test_unseen_pixels_are_ignored_when_inductive_and_seen_ones_renumbered():
    target = INDUCTIVE.target(LABELS, torch.zeros(1, 3, 1, 1), KNOWN)
    assert target.tolist() == [[[0, IGNORE, 1], [IGNORE, 2, IGNORE]]]


def test_unseen_pixels_take_the_models_likeliest_unseen_class_when_transductive():
    logits = torch.zeros(1, 5, 2, 3)
    logits[0, 0] = 9  # a seen class may never be guessed
    logits[0, 3, 0, 1] = 1  # "d" where "b" is
    logits[0, 1, 1, 0] = 1  # "b" where "d" is
    target = TRANSDUCTIVE.target(LABELS, logits, KNOWN)
    assert target.tolist() == [[[0, 3, 2], [1, 4, IGNORE]]]


def test_self_labels_are_taken_at_the_labels_resolution():
    logits = torch.zeros(1, 5, 1, 2)
    logits[0, 1, 0, 0] = logits[0, 3, 0, 1] = 4
    labels = torch.full((1, 4, 8), 1, dtype=torch.uint8)
    target = TRANSDUCTIVE.target(labels, logits, KNOWN)
    assert (target[:, :, :4] == 1).all()
    assert (target[:, :, 4:] == 3).all()


def test_labels_are_taken_as_they_are_when_supervised():
    assert torch.equal(SUPERVISED.target(LABELS, torch.zeros(1, 5, 1, 1), KNOWN), LABELS.long())


def test_transductive_without_unseen_classes_is_supervised():
    everything = Vocabulary("all", KNOWN.names)
    logits = torch.randn(1, 5, 2, 3)
    assert torch.equal(TRANSDUCTIVE.target(LABELS, logits, everything), LABELS.long())


def test_plain_self_training_guesses_among_all_classes_wherever_no_seen_label_is():
    logits = torch.zeros(1, 5, 2, 3)
    logits[0, 0] = 1  # a seen class may be guessed
    logits[0, 3, 0, 1] = 2  # "d" where "b" is
    logits[0, 4, 1, 2] = 2  # "e" where nothing is known
    target = SELF_TRAINING.target(LABELS, logits, KNOWN)
    assert target.tolist() == [[[0, 3, 2], [0, 4, 4]]]
    assert SELF_TRAINING.shown(KNOWN) == (0, 1, 2, 3, 4) and SELF_TRAINING.calibration == 0.0


def test_unknown_settings_name_the_known():
    with pytest.raises(InputError, match="inductive, transductive, self-training, supervised"):
        find_setting("semi")


def test_only_inductive_models_lower_seen_scores():
    assert INDUCTIVE.calibration == 0.1
    assert TRANSDUCTIVE.calibration == SUPERVISED.calibration == 0.0
