"""What the report of one run says first: how good the student is, what it cost, and what to do next."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tuition.data import Accounts, Bill
from tuition.store.price import money
from tuition.training.rising import MORE

if TYPE_CHECKING:
    from tuition.studies.run_report import RunReport


def verdict(report: RunReport) -> Iterable[str]:
    """How good the student is, beside its teacher, and what it cost."""
    results, measured = report.results, report.record.get("measured", {})
    if report.test is not None:
        from scipy.stats import binomtest

        right = round(report.test.accuracy * report.test.count / 100)
        low, high = binomtest(right, report.test.count).proportion_ci(method="wilson")
        yield (
            f"The student classifies {report.test.accuracy:.2f} % of {report.test.count:,} test inputs correctly "
            f"(95 % interval {100 * low:.1f} to {100 * high:.1f} %, for other inputs of this kind; another seed may "
            "differ by more)."
        )
    elif results["accuracy"] is not None:
        where = measured.get("accuracy", "the test inputs")
        yield f"The student classifies {results['accuracy']:.2f} % of {where} correctly."
    elif results["validation"] is not None:
        where = measured.get("validation", "on validation inputs")
        yield f"The best validation figure is {results['validation']:.2f} %: {where}. Nothing was tested on labels."
    else:
        yield "Nothing was measured on labels, neither for validation nor for test."
    if results["teacher_accuracy"] is not None:
        yield (
            f"The teacher itself is right on {results['teacher_accuracy']:.2f} % of the "
            f"{results['teacher_inputs']:,} labelled inputs it was asked about."
        )
    if results["agreement"] is not None:
        yield f"The student agrees with the teacher to {results['agreement']:.2f} % on what it was trained on."
    accounts, bill = Accounts(**report.record["accounts"]), Bill.from_dict(report.record.get("bill", {}))
    if accounts.paid or accounts.served:
        price = f", for {money(bill.cost)} in the currency of the price" if bill.cost else ""
        each = f" ({money(round(bill.cost / accounts.paid, 6))} a call)" if bill.cost and accounts.paid else ""
        stored = f"; {accounts.served:,} answers were stored already" if accounts.served else ""
        yield f"It took {accounts.paid:,} paid calls{price}{each}{stored}."


def next_steps(report: RunReport) -> list[str]:
    """What to do next, by the validation, and where teacher and student were measured in classes."""
    if report.rising:
        return [f"Next: train for longer. {MORE}."]
    accuracy, theirs = report.results["accuracy"], report.results["teacher_accuracy"]
    agreement = report.results["agreement"]
    if accuracy is None or theirs is None or agreement is None:
        return []
    behind = theirs - accuracy
    if behind <= 1:
        return ["Next: ship it; it is about as accurate on test inputs as the teacher on those it was asked about."]
    if agreement < 95:
        return [
            "Next: train for more epochs, or a larger student; it does not reproduce answers that it was trained on, "
            f"and is {behind:.1f} points behind the teacher's accuracy on the inputs it was asked about."
        ]
    return [
        f"Next: ask about more inputs, if {behind:.1f} points to the teacher's accuracy on the inputs it was asked "
        "about are worth them; the student reproduces the answers that it has."
    ]
