"""Failures: what is kept of an exception, and that nothing is run because a stored one names it."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastq import failure, register_exception
from fastq.errors import EncodingError, RemoteError, RemoteTraceback, TaskLost
from fastq.failure import Failure


class PaymentError(Exception):
    """One that no caller has registered."""


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, type[BaseException]]]:
    known: dict[str, type[BaseException]] = {}
    monkeypatch.setattr(failure, "_registered", known)
    return known


def there_and_back(error: BaseException) -> BaseException:
    """Return an exception as its caller gets it."""
    try:
        raise error
    except BaseException as raised:
        return Failure.decode(Failure.of(raised).encode()).exception()


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        ValueError(),
        KeyError("key"),
        ZeroDivisionError("division by zero"),
        FileNotFoundError(2, "No such file or directory", "/nowhere"),
        TimeoutError(1, 2.5, True, None),
        TaskLost("gone"),
        UserWarning("é\n\x00"),
    ],
    ids=repr,
)
def test_an_exception_of_python_or_fastq_comes_back_as_itself(error: Exception) -> None:
    back = there_and_back(error)

    assert (type(back), str(back), back.args) == (type(error), str(error), error.args)


def test_the_cause_is_the_traceback_of_the_worker() -> None:
    back = there_and_back(ValueError("no"))

    assert isinstance(back.__cause__, RemoteTraceback)
    assert "raise error" in str(back.__cause__)
    assert str(back.__cause__).endswith("ValueError: no\n")


def test_an_exception_that_is_not_registered_comes_back_as_a_remote_error_with_its_name_and_text() -> None:
    back = there_and_back(PaymentError("declined", 402))

    assert isinstance(back, RemoteError)
    assert (back.type_name, back.message) == (f"{__name__}.PaymentError", "('declined', 402)")
    assert str(back) == f"{__name__}.PaymentError: ('declined', 402)"


def test_an_exception_that_is_registered_comes_back_as_itself() -> None:
    register_exception(PaymentError)

    back = there_and_back(PaymentError("declined", 402))

    assert type(back) is PaymentError
    assert back.args == ("declined", 402)


@pytest.mark.parametrize("what", [PaymentError("an instance"), "ValueError", int, None, print])
def test_what_is_no_exception_type_can_not_be_registered(what: object) -> None:
    with pytest.raises(TypeError, match="is not an exception type"):
        register_exception(what)  # type: ignore[type-var]


def test_a_remote_error_passes_through_a_second_task_and_through_pickle() -> None:
    error = RemoteError("shop.Declined", "402")

    for back in (there_and_back(error), pickle.loads(pickle.dumps(error))):
        assert (type(back), str(back), back.type_name) == (RemoteError, "shop.Declined: 402", "shop.Declined")


@pytest.mark.parametrize(
    ("argument", "carried"),
    [
        ((1, 2), "(1, 2)"),
        (float("nan"), "nan"),
        (1 << 64, "18446744073709551616"),
        ("\ud800", "\\ud800"),
        (b"\xff", "b'\\xff'"),
        (ValueError, "<class 'ValueError'>"),
    ],
    ids=repr,
)
def test_an_argument_that_json_has_no_form_for_is_carried_as_text(argument: object, carried: str) -> None:
    back = there_and_back(KeyError(argument, "other"))

    assert type(back) is KeyError
    assert back.args == (carried, "other")


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_what_would_end_the_caller_s_process_comes_back_as_a_remote_error(error: BaseException) -> None:
    back = there_and_back(error)

    assert isinstance(back, RemoteError)
    assert back.type_name == type(error).__name__


class Nasty(Exception):
    args = 5  # type: ignore[assignment]

    def __str__(self) -> str:
        raise SystemExit("from __str__")

    __repr__ = __str__

    def __bool__(self) -> bool:
        raise SystemExit("from __bool__")


def test_an_exception_whose_own_code_raises_is_kept_all_the_same() -> None:
    kept = Failure.of(Nasty(Nasty(), 1))

    assert kept.type_name == f"{__name__}.Nasty"
    assert kept.message == f"<{__name__}.Nasty, whose text can't be made>"
    assert kept.arguments == ["<Nasty>", 1]


class Picky(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(first + second)


class NoException(Exception):
    def __new__(cls, *args: object) -> object:  # type: ignore[misc]
        return 7 if args == ("seven",) else super().__new__(cls, *args)


def test_a_registered_type_that_refuses_its_arguments_comes_back_as_a_remote_error() -> None:
    register_exception(Picky)
    register_exception(NoException)

    assert str(there_and_back(Picky(1, 2))) == f"{__name__}.Picky: 3"
    assert isinstance(Failure(f"{__name__}.NoException", "m", ["seven"], "").exception(), RemoteError)


@pytest.mark.parametrize("text", ["x" * 1_000_000, "\ud800" * 100_000], ids=["long", "surrogates"])
def test_a_long_exception_is_kept_in_part(text: str) -> None:
    try:
        raise ValueError(text)
    except ValueError as error:
        encoded = Failure.of(error).encode()

    assert len(encoded) < 1_000_000
    assert type(Failure.decode(encoded).exception()) is ValueError


# -- what a hostile writer may put into a result backend ------------------------------------


@pytest.mark.parametrize(
    "type_name",
    [
        "os.system",
        "system",
        "builtins.eval",
        "eval",
        "exec",
        "print",
        "object",
        "type",
        "subprocess.Popen",
        "fastq.errors.builtins",
        "fastq.errors.annotations",
        "fastq.failure.Failure",
        "shop.tasks:app",
        "__main__.X",
        "../x",
        "",
        "SystemExit",
    ],
)
def test_a_stored_name_is_not_imported_nor_called(type_name: str, tmp_path: Path) -> None:
    canary = f"touch {tmp_path}/canary"
    modules = set(sys.modules)

    back = Failure.decode(json.dumps([type_name, canary, [canary], "trace"]).encode()).exception()

    assert isinstance(back, RemoteError)
    assert set(sys.modules) == modules
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "stored",
    [
        b'{"exc_type": "system", "exc_module": "os", "exc_message": "touch canary"}',
        b'{"exc_type": "eval", "exc_module": "builtins", "exc_message": ["1"], "py/object": "os.system"}',
        b'["ValueError", "m", {"a": 1}, "t"]',
        b'["ValueError", "m", "args", "t"]',
        b'["ValueError", "m", [], null]',
        b'["ValueError", ["m"], [], ""]',
        b'["ValueError"]',
        b"[]",
        b'"abcd"',
        b"4",
        b"",
        b"\x80\x04c__main__\n",
        b"[" * 100_000,
    ],
)
def test_what_is_no_failure_becomes_one_that_says_so(stored: bytes) -> None:
    back = Failure.decode(stored).exception()

    assert isinstance(back, EncodingError)
    assert "can't be read" in str(back)


@given(
    st.binary(max_size=100) | st.lists(st.text() | st.none() | st.lists(st.integers())).map(json.dumps).map(str.encode)
)
def test_any_stored_bytes_give_an_exception_to_raise(stored: bytes) -> None:
    assert isinstance(Failure.decode(stored).exception(), Exception)


def test_a_failure_says_in_which_task_of_a_workflow_it_was() -> None:
    failure = Failure.of(ValueError("no"))._replace(origin=("shop.add", "0192e4a1-b2c3-7d4e-8f90-a1b2c3d4e5f6"))

    found = Failure.decode(failure.encode())

    assert found == failure
    assert str(found.exception().__cause__).startswith("\nIn task shop.add[0192e4a1-b2c3-7d4e-8f90-a1b2c3d4e5f6]:\n")


@pytest.mark.parametrize("more", [["one"], ["one", 2], "one", ["a", "b"], {}])
def test_an_origin_that_is_none_makes_a_failure_unreadable(more: object) -> None:
    body = json.dumps(
        ["builtins.ValueError", "no", [], "", more, *(["too much"] if more == ["a", "b"] else [])]
    ).encode()

    assert "can't be read" in Failure.decode(body).message
