import pytest

from unseen.clip.tokenizer import BytePairTokenizer, WordTokenizer
from unseen.errors import InputError


def test_end_of_text_is_the_highest_id_and_padding_is_zero():
    for tokenizer in (BytePairTokenizer(), WordTokenizer(["cat", "dog"], 8)):
        row = tokenizer(["dog cat"])[0]
        assert len(row) == tokenizer.context_length
        end = int(row.argmax())
        assert (row[end + 1 :] == 0).all()
        assert (row[: end + 1] > 0).all()


def test_words_are_found_whatever_their_case_and_punctuation():
    tokenizer = WordTokenizer(["a", "photo", "of", "dog"], 8)
    assert tokenizer(["A photo of a DOG."]).tolist() == tokenizer(["a photo, of a dog"]).tolist()


def test_unknown_words_name_the_nearest_known():
    tokenizer = WordTokenizer(["horse", "house", "cow"], 8, note="It knows drawings, not photos.")
    with pytest.raises(InputError, match=r"'hoarse'.*horse, house.*not photos"):
        tokenizer(["hoarse"])
    knows = WordTokenizer(["a", "photo", "of", "scene", "bus"], 8)
    with pytest.raises(InputError, match=r"'photon'; the nearest it knows: bus\."):
        knows(["photon"])


@pytest.mark.parametrize("tokenizer", [BytePairTokenizer(), WordTokenizer(["word"], 32)])
def test_labels_that_are_too_long_get_one_sentence(tokenizer):
    with pytest.raises(InputError, match=r"may take \d+ tokens.*500 words.*shorten") as caught:
        tokenizer([" ".join(["word"] * 500)])
    assert len(str(caught.value)) < 250


def test_longest_sentence_that_fits_is_taken_whole():
    tokenizer = BytePairTokenizer()
    assert int((tokenizer([" ".join(["dog"] * 75)]) > 0).sum()) == 77
    with pytest.raises(InputError):
        tokenizer([" ".join(["dog"] * 76)])
