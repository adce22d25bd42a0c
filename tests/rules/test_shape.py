"""Sizes, names and docstrings are right in src/, and told where they are not."""

import pytest

from tests.rules import house, shape
from tests.rules.source import list_modules, sample

CHECKS = [
    shape.check_file_lengths,
    shape.check_total,
    shape.check_function_lengths,
    shape.check_class_sizes,
    shape.check_nesting,
    shape.check_names,
    shape.check_docstrings,
    shape.check_untyped,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_sources_keep_to(check):
    assert check(list_modules()) == []


def test_a_long_file_is_told():
    assert shape.check_file_lengths(sample(vdsm__core__a="x = 1\n" * house.FILE_LINES)) == []
    [problem] = shape.check_file_lengths(sample(vdsm__core__a="x = 1\n" * (house.FILE_LINES + 1)))
    assert "src/vdsm/core/a.py: 701 lines" in problem


def test_a_product_too_large_is_told():
    [problem] = shape.check_total(sample(a="x\n" * 20_000, b="x\n" * 14_701))
    assert problem == "src/ has 34701 lines of code, 34700 at most"


def test_only_lines_of_code_count():
    text = '"""Promise.\n\nMore.\n"""\n\n# why\nx = (\n    1,  # one\n)\n\n\n'
    text += 'def f():\n    """Promise."""\n    return """a\nb"""\n'
    assert sample(a=text)[0].code_lines == 6


def make_function(lines, docstring=""):
    return f"async def work():\n{docstring}" + "    x = 1\n" * lines


def test_a_long_function_is_told_and_its_docstring_is_free():
    docstring = '    """' + "promise\n" * 90 + '    """\n'
    assert shape.check_function_lengths(sample(vdsm__core__a=make_function(60, docstring))) == []
    [problem] = shape.check_function_lengths(sample(vdsm__core__a=make_function(61)))
    assert "src/vdsm/core/a.py:work (line 1): a body of 61 lines" in problem


def test_exceptions_are_named_and_do_not_outlive_their_need(monkeypatch):
    monkeypatch.setattr(house, "LONG_FUNCTIONS", {"src/vdsm/core/a.py:work": "a table", "src/vdsm/core/b.py:gone": ""})
    assert shape.check_function_lengths(sample(vdsm__core__a=make_function(61))) == [
        "src/vdsm/core/b.py:gone is short: take it from LONG_FUNCTIONS"
    ]


def test_a_class_of_many_jobs_is_told():
    def make_class(methods):
        return "class Wide:\n" + "".join(f"    def m{n}(self): ...\n" for n in range(methods))

    assert shape.check_class_sizes(sample(a=make_class(25))) == []
    [problem] = shape.check_class_sizes(sample(a=make_class(26)))
    assert "Wide: 26 methods" in problem


def nest(depth):
    return (
        "def deep():\n" + "".join("    " * n + "if x:\n" for n in range(1, depth + 1)) + "    " * (depth + 1) + "pass\n"
    )


def test_deep_nesting_is_told():
    assert shape.check_nesting(sample(a=nest(5))) == []
    [problem] = shape.check_nesting(sample(a=nest(6)))
    assert "deep nests 6 blocks" in problem


def test_elif_and_inner_functions_are_no_depth():
    chain = "def flat():\n    if a: pass\n" + "    elif b: pass\n" * 9 + "    else: pass\n"
    assert shape.check_nesting(sample(a=chain)) == []
    inner = nest(5).replace("pass", "def inner():\n" + "    " * 7 + "if y: pass")
    assert shape.check_nesting(sample(a=inner)) == []


@pytest.mark.parametrize("name", ["vdsm__core__utils", "vdsm__helpers__disk"])
def test_a_name_that_says_nothing_is_told(name):
    assert len(shape.check_names(sample(**{name: ""}))) == 1


def test_missing_promises_are_told():
    text = (
        "def open(): ...\nclass Disk:\n    def size(self): ...\ndef _own(): ...\n"
        "@group('vm')\nclass VmApi:\n    'Verbs.'\n    @verb('VM.x', http='GET /x')\n    async def x(self): ...\n"
    )
    problems = shape.check_docstrings(sample(a=text))
    assert [problem.partition(": ")[2] for problem in problems] == [
        "open with what it does and what it leaves to others",
        "open promises nothing (docstring)",
        "Disk promises nothing (docstring)",
        "the verb VmApi.x promises nothing (docstring)",
    ]


@pytest.mark.parametrize("text", ["def f(x) -> None: ...", "def f(x: int): ...", "def f(*, x) -> None: ..."])
def test_an_untyped_function_is_told(text):
    assert len(shape.check_untyped(sample(a=text))) == 1
    assert shape.check_untyped(sample(a="class A:\n    def f(self, x: int) -> None: ...")) == []
