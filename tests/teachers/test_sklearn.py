"""scikit-learn's estimators as teachers: what they answer, and fingerprints that equal fits share."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
)
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import MultinomialNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC, LinearSVC

from tuition import ResponseStore, data
from tuition.errors import UserError
from tuition.teachers import NotCharged, from_sklearn

X, Y = load_digits(return_X_y=True)
X, Y = X[:200] / 16, Y[:200]
TEXTS = ["good film", "a bad film", "very good", "bad bad bad", "good", "so bad"]
MARKS = [1, 0, 1, 0, 1, 0]
ESTIMATORS = {
    "logistic": lambda: LogisticRegression(max_iter=50),
    "forest": lambda: RandomForestClassifier(5, random_state=0),
    "boosted": lambda: GradientBoostingClassifier(n_estimators=2, random_state=0),
    "histograms": lambda: HistGradientBoostingClassifier(max_iter=2, random_state=0),
    "neighbours": lambda: KNeighborsClassifier(3),
    "neighbours of a tree": lambda: KNeighborsClassifier(3, algorithm="kd_tree"),
    "network": lambda: MLPClassifier((8,), max_iter=3, random_state=0),
    "support vectors": lambda: SVC(),
    "linear": lambda: LinearSVC(random_state=0),
    "pipeline": lambda: make_pipeline(StandardScaler(), FunctionTransformer(np.tanh), SGDClassifier(random_state=0)),
    "search": lambda: GridSearchCV(LogisticRegression(max_iter=20), {"C": [0.1, 1.0]}, cv=2),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", ESTIMATORS)
def test_equal_fits_have_equal_fingerprints(kind: str) -> None:
    model = ESTIMATORS[kind]().fit(X, Y)
    teacher = from_sklearn(model)
    first = teacher.fingerprint
    teacher(torch.tensor(X[:20]))
    model.score(X, Y)
    assert teacher.fingerprint == first, "answering changes nothing"
    assert from_sklearn(ESTIMATORS[kind]().fit(X.copy(), Y.copy())).fingerprint == first
    assert from_sklearn(pickle.loads(pickle.dumps(model))).fingerprint == first
    other = X.copy()
    other[:, 20] = 1 - other[:, 20]
    assert from_sklearn(ESTIMATORS[kind]().fit(other, Y)).fingerprint != first
    model.fit(other, Y)
    assert teacher.fingerprint != first, "a fit after the teacher was made is seen too"


PROGRAM = """
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline
from tuition.teachers import from_sklearn
X, Y = load_digits(return_X_y=True)
print(from_sklearn(RandomForestClassifier(5, random_state=0).fit(X[:200] / 16, Y[:200])).fingerprint)
words = make_pipeline(TfidfVectorizer(vocabulary={"a", "good", "bad", "film"}), MultinomialNB())
print(from_sklearn(words.fit(["good film", "a bad film"], [1, 0])).fingerprint)
"""


def test_fingerprints_are_the_same_in_other_processes() -> None:
    runs = {
        subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(runs) == 1, "sets and hashes differ by process, fingerprints do not"
    forest = RandomForestClassifier(5, random_state=0).fit(X, Y)
    assert runs.pop().splitlines()[0] == from_sklearn(forest).fingerprint


def test_the_fingerprint_knows_parameters_scale_and_lambdas_but_not_jobs() -> None:
    def made(power: float = 1.0, scale: float = 1.0, jobs: int | None = None, **changes: object) -> str:
        function = (lambda x: x**2) if power == 2 else (lambda x: x**3) if power == 3 else np.tanh
        model = make_pipeline(FunctionTransformer(function), KNeighborsClassifier(**changes, n_jobs=jobs))
        return from_sklearn(model.fit(X, Y), scale=scale).fingerprint

    assert made(jobs=2) == made()
    found = [made(), made(2), made(3), made(scale=0.5), made(n_neighbors=3), made(weights="distance")]
    assert len(set(found)) == len(found)


def test_probabilities_become_logarithms() -> None:
    model = LogisticRegression(max_iter=50).fit(X, Y)
    answer = from_sklearn(model)(torch.tensor(X[:9]))["logits"]
    assert answer.dtype == torch.float32
    torch.testing.assert_close(answer.softmax(1), torch.tensor(model.predict_proba(X[:9])).float())
    forest = from_sklearn(RandomForestClassifier(3, random_state=0).fit(X, Y))(torch.tensor(X[:9]))["logits"]
    assert forest.min() == pytest.approx(np.log(1e-6))
    assert torch.equal(forest.argmax(1), torch.tensor(Y[:9]))


def test_decisions_are_taken_and_two_classes_become_two_columns() -> None:
    many = LinearSVC(random_state=0).fit(X, Y)
    torch.testing.assert_close(
        from_sklearn(many)(torch.tensor(X[:9]))["logits"], torch.tensor(many.decision_function(X[:9])).float()
    )
    rows = Y < 2
    two = LinearSVC(random_state=0).fit(X[rows], Y[rows])
    answer = from_sklearn(two)(torch.tensor(X[rows]))["logits"]
    torch.testing.assert_close(answer[:, 1] - answer[:, 0], torch.tensor(two.decision_function(X[rows])).float())
    torch.testing.assert_close(answer.sum(1), torch.zeros(len(answer)))
    assert np.array_equal(answer.argmax(1), two.predict(X[rows]))
    pairs = from_sklearn(SVC(decision_function_shape="ovo").fit(X, Y))
    with pytest.raises(NotCharged, match=r"10 classes with shape \(3, 45\)"):
        pairs(torch.tensor(X[:3]))


def test_bytes_are_scaled_and_flattened() -> None:
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    flat = np.array(
        [[image[c, y, x].item() / 255 for c in range(3) for y in range(8) for x in range(8)] for image in images]
    )
    model = LogisticRegression().fit(flat, [0, 1, 2, 0, 1])
    torch.testing.assert_close(
        from_sklearn(model)(images)["logits"], torch.tensor(model.predict_log_proba(flat)).float(), atol=1e-5, rtol=0
    )
    whole = LogisticRegression().fit(flat * 16, [0, 1, 2, 0, 1])
    torch.testing.assert_close(
        from_sklearn(whole, scale=16 / 255)(images)["logits"],
        torch.tensor(whole.predict_log_proba(flat * 16)).float(),
        atol=1e-5,
        rtol=0,
    )


def test_texts_are_asked_and_stored(tmp_path) -> None:
    model = make_pipeline(CountVectorizer(), MultinomialNB()).fit(TEXTS, MARKS)
    transfer = ResponseStore(str(tmp_path / "r.db")).ask(from_sklearn(model), data.from_tensors(TEXTS), budget=6)
    torch.testing.assert_close(
        transfer.responses["logits"].softmax(1), torch.tensor(model.predict_proba(TEXTS)).float(), atol=1e-3, rtol=0
    )


def test_inputs_of_another_kind_charge_nothing() -> None:
    vectors = from_sklearn(LogisticRegression().fit(X, Y))
    texts = from_sklearn(make_pipeline(TfidfVectorizer(), MultinomialNB()).fit(TEXTS, MARKS))
    for teacher, inputs in [(vectors, TEXTS), (vectors, torch.zeros(2, 5)), (texts, torch.zeros(2, 5))]:
        with pytest.raises(NotCharged, match="the estimator failed with") as raised:
            teacher(inputs)
        assert not raised.value.retry


def test_what_is_no_fitted_classifier() -> None:
    with pytest.raises(UserError, match="this LogisticRegression is not fitted"):
        from_sklearn(LogisticRegression())
    for model in (Ridge().fit(X, Y), KMeans(2, n_init=1).fit(X), IsolationForest(n_estimators=2).fit(X)):
        with pytest.raises(UserError, match="has no classes_"):
            from_sklearn(model)
    for model in ("model.pkl", LogisticRegression):
        with pytest.raises(UserError, match="give a fitted classifier"):
            from_sklearn(model)
