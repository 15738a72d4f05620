"""Calls and money for target accuracies, from what runs and studies leave."""

import json
import math
from decimal import Decimal

import pytest
from tests.studies.conftest import LIMITS

from tuition.cli import main as cli
from tuition.data import Accounts, Bill
from tuition.errors import UserError
from tuition.studies import needed, paid_calls, records
from tuition.studies.paid_calls import PaidCalls

ROUNDS = "round,calls,refused,paid,cost,validation,validation_inputs\n"


def inverse(method, target):
    return ((LIMITS[method] - target) / 900) ** (-1 / 0.42)


@pytest.fixture
def study(runs, tmp_path):
    for record in runs(methods=("ckd", "kd"), noise=0.2, seeds=5):
        records.append(tmp_path, record)
    paid_calls.write(tmp_path, [PaidCalls("wrn_40_2", Accounts(paid=12_000), Bill(Decimal("24"), 0, 0, 0))])
    return tmp_path


def found(folder, *targets):
    return {(each.of.method, each.target): each for each in needed.plan(needed.measured(folder), targets)}


def test_calls_of_every_method_of_a_study_with_their_price(study):
    table = found(study, 35, 45)
    for method, target in (("ckd", 35), ("ckd", 45), ("kd", 35)):
        each = table[method, target]
        assert each.needed.measured
        assert each.needed.value == pytest.approx(inverse(method, target), rel=0.05)
        assert each.needed.low < each.needed.value < each.needed.high
        assert each.cost == pytest.approx(Decimal("0.002") * math.ceil(each.needed.value), rel=Decimal("0.001"))


def test_a_target_beyond_the_range_follows_the_power_law_or_says_why_not(study):
    table = found(study, 48, 51, 65)
    near = table["ckd", 51].needed
    assert not near.measured
    assert near.value == pytest.approx(inverse("ckd", 51), rel=0.1)  # 1.3 times the most calls
    for far in (table["ckd", 65], table["kd", 65]):
        assert math.isnan(far.needed.value)
        assert far.cost is None
    (sentence,) = (each for each in needed.unknown(list(table.values())) if "CKD 65 %" in each)
    assert "times the most calls measured" in sentence


def test_a_run_with_rounds_has_the_interval_that_its_validation_inputs_allow(tmp_path):
    lines = [(1, 10, 50), (2, 20, 62), (3, 40, 74), (4, 80, 86)]
    text = ROUNDS + "".join(f"{n},{calls},0,{calls},{calls * 0.25},{v},200\n" for n, calls, v in lines)
    (tmp_path / "rounds.csv").write_text(text)
    each = found(tmp_path, 80)[tmp_path.name, 80]
    assert each.needed.value == pytest.approx(60)
    assert each.cost == Decimal("15")
    error = 1.96 * 100 * math.sqrt(0.8 * 0.2 / 200)  # 12 points a doubling here, over 40 calls
    assert each.needed.high - each.needed.low == pytest.approx(2 * error * 40 / 12, rel=0.15)
    assert "200 inputs" in each.of.figure


@pytest.mark.parametrize(("further", "calls"), [((200,) * 4, 60 + 200), ((0,) * 4, 60), ((200, 200, 190, 150), 60)])
def test_the_price_has_the_calls_to_validate_on(further, calls, tmp_path, monkeypatch, capsys):
    """As a run without labels pays for them; some answers of the last were stored before."""
    text = ROUNDS
    for number, (asked, share, more) in enumerate(zip((10, 20, 40, 80), (50, 62, 74, 86), further, strict=True), 1):
        text += f"{number},{asked},0,{asked + more},{(asked + more) * 0.25},{share},200\n"
    (tmp_path / "rounds.csv").write_text(text)
    assert found(tmp_path, 80)[tmp_path.name, 80].cost == Decimal("0.25") * calls
    monkeypatch.setattr("sys.argv", ["tuition", "plan", str(tmp_path), "--until", "80"])
    assert cli.main() == 0
    assert ("200 calls to validate on are paid; the cost has them" in capsys.readouterr().err) == (calls > 60)


def test_a_single_round_is_one_round(tmp_path):
    (tmp_path / "rounds.csv").write_text(ROUNDS + "1,10,0,10,0,50,200\n")
    (curve,) = needed.measured(tmp_path)
    assert curve.title == "1 round"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.json", "{}", "asked all its calls at once"),
        ("other.txt", "", "has neither runs.csv nor rounds.csv"),
        ("rounds.csv", ROUNDS, "no round of"),
        ("rounds.csv", ROUNDS + "1,10,0,10,0,101,200\n", "line 2: validation is not a percentage"),
        ("rounds.csv", ROUNDS + "1,10,0,10,-1,90,200\n", "price"),
    ],
)
def test_a_folder_without_a_curve_is_refused(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        needed.measured(tmp_path)


def test_the_command_prints_numbers_reasons_and_json(study, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["tuition", "plan", str(study), "--until", "40", "--until", "65"])
    assert cli.main() == 0
    shown = capsys.readouterr()
    assert "95 % interval" in shown.out
    assert "No number where the accuracy is beyond the measured range" in shown.err
    monkeypatch.setattr("sys.argv", ["tuition", "plan", str(study), "--until", "40", "--until", "65", "--json"])
    assert cli.main() == 0
    targets = json.loads(capsys.readouterr().out)["targets"]
    assert [(row["method"], row["target"]) for row in targets] == [("ckd", 40), ("ckd", 65), ("kd", 40), ("kd", 65)]
    assert targets[0]["calls"] == math.ceil(found(study, 40)["ckd", 40].needed.value)
    assert targets[1]["calls"] is None
    assert targets[1]["why"]
