"""Class names: which are the same, where they stand on the other side, and what is refused."""

import itertools
import random
import warnings

import pytest
import torch

from tuition.data import classes, from_tensors
from tuition.errors import Notice, UserError


@pytest.mark.parametrize("seed", range(20))
def test_places_are_those_of_a_naive_search(seed):
    draw = random.Random(seed)
    held = [f"kind {i}" for i in range(draw.randint(1, 12))]
    draw.shuffle(held)
    wanted = draw.sample([*held, "owl", "yak"], draw.randint(1, len(held)))
    found = classes.match(wanted, held)
    for name, place in zip(wanted, found.places, strict=True):
        assert (place is None) == (name not in held)
        assert place is None or held[place] == name
    assert set(found.missing) == set(wanted) - set(held)
    assert set(found.extra) == set(held) - set(wanted)
    assert found.loose == ()


@pytest.mark.parametrize(
    ("wanted", "held"),
    [
        ("golden_retriever", "Golden Retriever"),
        (" cat", "cat"),
        ("t-shirt", "T shirt"),
    ],
)
def test_names_written_otherwise_are_matched_and_said(wanted, held):
    found = classes.match(["dog", wanted], [held, "dog"])
    assert (found.places, found.loose, found.same) == ((1, 0), ((wanted, held),), True)
    with pytest.warns(Notice, match="are matched although"):
        classes.arrange(["dog", wanted], [held, "dog"], None, pool="pets", labelled=True)


@pytest.mark.parametrize(
    ("wanted", "held"),
    [(["Cat", "cat"], ["cat", "CAT"]), (["a b", "a_b"], ["A B", "x"]), (["cat"], ["Cat", "CAT"])],
)
def test_where_two_could_be_meant_nothing_is_matched_loosely(wanted, held):
    found = classes.match(wanted, held)
    assert found.loose == ()
    assert not found.same


def test_a_name_of_two_classes_is_refused_unless_both_sides_are_alike():
    assert classes.match(["crane", "crane"], ["crane", "crane"]).places == (0, 1)
    with pytest.raises(UserError, match="crane stands for two classes"):
        classes.match(["crane", "crane"], ["crane", "owl"])


def test_all_orders_of_four_names_come_back_as_columns():
    names = ("ant", "bee", "cat", "dog")
    for held in itertools.permutations(names):
        arranged, columns = classes.arrange(names, held, None, pool="pets", labelled=True)
        assert arranged == names
        assert [held[i] for i in (columns or range(4))] == list(names)


@pytest.mark.parametrize(
    ("names", "held", "width", "says"),
    [
        (("bee", "cat", "wasp"), ("ant", "bee", "cat"), None, "it lacks wasp and also knows ant; .*--set labels=false"),
        (("bee", "cat"), ("ant", "bee", "cat"), None, "also knows ant; .*classes=teacher"),
        (("ant", "bee", "cat"), ("bee", "cat"), None, "it lacks ant; "),
        (tuple("0123"), tuple("012345"), None, "answers with 6 classes, but pets has 4"),
        (tuple("0123"), None, 1000, "answers with 1000 classes, but pets has 4"),
        (("ant", "bee"), None, 3, "answers with 3 classes, but pets has 2"),
        (("ant", "bee"), ("0", "1", "2"), 3, "answers with 3 classes, but pets has 2"),
        (tuple(f"k{i}" for i in range(9)), ("k0",), None, "lacks k1, k2, k3, k4, k5 and 3 more"),
        (("1", "2", "3"), tuple("0123"), 4, "also knows 0"),
    ],
)
def test_classes_that_differ_are_refused(names, held, width, says):
    width = len(held) if held is not None else width
    with pytest.raises(UserError, match=says):
        classes.arrange(names, held, width, pool="pets", labelled=True)


def test_without_labels_the_teachers_classes_are_taken():
    for held in (("ant", "bee"), None):
        width = 2 if held else 3
        assert classes.arrange(("x", "y", "z"), held, width, pool="pets", labelled=False)[0] == (
            held or ("x", "y", "z")
        )
    assert classes.arrange(("bee", "ant"), ("ant", "bee"), 2, pool="pets", labelled=False) == (("bee", "ant"), [1, 0])
    assert classes.arrange(("x", "y"), None, 5, pool="pets", labelled=False) == (None, None)


def test_numbers_are_names_only_beside_numbers():
    lexicographic = ("0", "1", "10", "11", *"23456789")
    _, columns = classes.arrange(lexicographic, classes.numbers(12), None, pool="pets", labelled=True)
    assert columns == [0, 1, 10, 11, *range(2, 10)]
    assert classes.arrange(("ant", "bee"), ("0", "1"), 2, pool="pets", labelled=True) == (("ant", "bee"), None)
    assert classes.arrange(("0", "1"), ("ant", "bee"), 2, pool="pets", labelled=True) == (("ant", "bee"), None)
    assert classes.arrange(("1", "2", "3"), ("0", "1", "2"), 3, pool="pets", labelled=True) == (("1", "2", "3"), None)


def test_labels_move_to_other_names():
    pool = from_tensors(torch.zeros(4, 2), [0, 2, 1, 0], class_names=["wasp", "bee", "cat"], name="field")
    moved = pool.in_classes(["cat", "wasp", "ant", "bee"])
    assert [moved.class_names[label] for label in moved.labels] == ["wasp", "cat", "bee", "wasp"]
    with pytest.raises(UserError, match="field has the class wasp, which the model does not know"):
        pool.in_classes(["bee", "cat", "ant"])
    assert pool[[1, 2]].in_classes(["ant", "bee", "cat"]).labels.tolist() == [2, 1]  # no row is a wasp
    with pytest.raises(UserError, match="field has 3 classes, but the model knows 5 of other names"):
        pool.in_classes(classes.numbers(5))
    counted = from_tensors(torch.zeros(2, 2), [0, 1])
    assert counted.in_classes(["cat", "dog", "owl"]).labels.tolist() == [0, 1]
    with warnings.catch_warnings(action="error"):
        assert pool.in_classes(pool.class_names).labels.tolist() == [0, 2, 1, 0]


def test_who_does_not_know_a_class_is_named():
    pool = from_tensors(torch.zeros(2, 2), [0, 1], class_names=["wasp", "bee"], name="field")
    with pytest.raises(UserError, match="field has the class wasp, which the teacher does not know"):
        pool.in_classes(["bee", "cat"], "the teacher")
    with pytest.raises(UserError, match=r"field has 2 classes, but the teacher knows 5 .* give data of the teacher's"):
        pool.in_classes(classes.numbers(5), "the teacher")
