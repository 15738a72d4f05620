"""What others wrote, in each medium: against the rules of that medium, not against the patterns of the code."""

import csv
import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuition import escape

TEXT = st.text(st.characters(), max_size=40)  # lone surrogates too


@given(TEXT)
def test_a_line_is_printable_and_one_line(text):
    line = escape.line(text)
    assert len(line.splitlines()) <= 1
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in line)
    assert not any(
        unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI") for c in line
    )
    line.encode()


@given(TEXT)
def test_a_cell_is_no_formula_and_comes_back(text):
    cell = escape.cell(text)
    assert cell.strip()[:1] not in ("=", "+", "-", "@") or _is_number(cell)
    assert escape.uncell(cell) == escape.visible(escape.uncell(cell), keep="\n\t")
    file = io.StringIO(newline="")
    csv.writer(file).writerow([cell, "next"])
    assert next(csv.reader(io.StringIO(file.getvalue(), newline="")))[1] == "next"


def _is_number(text):
    try:
        float(text.removesuffix("%"))
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("value", ["=1+1", "+A1", "-A1", "@SUM(1)", "\t=1", " =1", "＝1", "-1+2", "=", "\n=1"])
def test_text_that_a_spreadsheet_would_run_is_marked(value):
    assert escape.cell(value).startswith("'")
    assert escape.uncell(escape.cell(value)) == value


@pytest.mark.parametrize("value", ["-1.5", "+3", "1e-5", "-inf", 3.5, -2, True, "a=b", "ant", "", "99 %"])
def test_numbers_and_plain_words_stay(value):
    assert escape.cell(value) == value


@given(TEXT, st.integers(20, 300))
def test_what_is_shortened_keeps_both_ends(text, longest):
    long = "start" + text * 50 + "end"
    short = escape.shorten(long, longest)
    assert len(short) <= longest
    assert short.startswith("start")
    assert short.endswith("end")
    assert escape.shorten(short, longest) == short


@given(TEXT)
def test_a_page_has_no_markup_of_others(text):
    assert not set(escape.page(text)) & set("<>\"'")


def test_scripts_that_need_joiners_keep_them():
    assert escape.line("\u0915\u094d\u200d\u0937 👩\u200d🔬 naïve 語") == "\u0915\u094d\u200d\u0937 👩\u200d🔬 naïve 語"
