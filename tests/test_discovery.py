import sys
from pathlib import Path

import pytest

from fastq import FastQ
from fastq.discovery import find_app, guess_module
from fastq.errors import AppImportError, AppNotFound, ConfigurationError


@pytest.fixture(autouse=True)
def forget_modules(monkeypatch: pytest.MonkeyPatch):
    """What a test imports is forgotten after it, and so is where from."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def folder(tmp_path: Path):
    def write(**modules: str) -> str:
        for name, text in modules.items():
            path = tmp_path.joinpath(*name.split("__")).with_suffix(".py")
            path.parent.mkdir(exist_ok=True)
            if path.parent != tmp_path:
                (path.parent / "__init__.py").touch()
            path.write_text(text)
        return str(tmp_path)

    return write


APP = "from fastq import FastQ\napp = FastQ('shop')\n"
TASKS = "from fastq import task\n@task\ndef add(x, y):\n    return x + y\n"


@pytest.mark.parametrize("path", ["found_shop__tasks:app", "found_shop__tasks", None])
def test_an_app_is_found_by_its_path_by_its_module_and_by_being_the_only_one(folder, path):
    root = folder(found_shop__tasks=APP, unrelated="print('never imported') or 1 / 0")
    app = find_app(path and path.replace("__", "."), root)
    assert isinstance(app, FastQ)
    assert app.name == "shop"


def test_an_attribute_of_an_attribute_can_be_an_app(folder):
    root = folder(nested=f"{APP}class Things:\n    mine = app\n")
    assert find_app("nested:Things.mine", root).name == "shop"


def test_a_module_of_bare_tasks_stands_for_the_default_app(folder):
    assert list(find_app(None, folder(bare=TASKS)).tasks) == ["bare.add"]


def test_an_app_that_a_module_imported_twice_under_two_names_is_one(folder):
    assert find_app("aliased", folder(aliased=f"{APP}same = app\n")).name == "shop"


def test_a_module_that_makes_an_app_is_guessed_before_those_that_only_use_one(folder):
    root = folder(shop__app=APP, shop__more="import fastq\nfrom shop.app import app\n@fastq.task\ndef f(): ...\n")
    assert guess_module(Path(root)) == "shop.app"


def test_guessing_imports_nothing(folder):
    root = folder(loud=f"{APP}raise SystemExit('imported')\n")
    assert guess_module(Path(root)) == "loud"
    assert "loud" not in sys.modules


def test_a_package_is_guessed_by_its_own_name(folder):
    root = Path(folder(pack__inner=""))
    (root / "pack" / "__init__.py").write_text(APP)
    assert guess_module(root) == "pack"


def test_several_candidates_are_named(folder):
    with pytest.raises(AppNotFound, match=r"\(one, two\): name one with -A, or FASTQ_APP"):
        find_app(None, folder(one=APP, two=APP))


def test_no_candidate_is_an_error_that_says_where_it_looked(folder):
    root = folder(nothing="import os\n")
    with pytest.raises(AppNotFound, match=f"No module in '{root}' holds a fastq app"):
        find_app(None, root)


@pytest.mark.parametrize(
    "path", ["", "a b", "a/b", "../a", "a:", ":a", "a::b", "a:b()", "a.b:c d", "1a", "a..b", "a\n", "a\0"]
)
def test_what_is_no_path_is_refused_before_anything_is_imported(folder, path):
    with pytest.raises(AppNotFound, match="is not an app path: it has the form package.module:app"):
        find_app(path, folder())


@pytest.mark.parametrize("path", ["os:system", "os", "json:loads"])
def test_what_is_no_app_is_not_called(folder, path):
    with pytest.raises(AppNotFound, match=r"not a FastQ app|has no FastQ app"):
        find_app(path, folder())


def test_a_module_that_is_missing_is_told_from_one_that_misses_another(folder):
    root = folder(lacking="import no_such_library\n")
    with pytest.raises(AppNotFound, match="There is no module 'absent'"):
        find_app("absent.tasks:app", root)
    with pytest.raises(AppImportError, match="No module named 'no_such_library'"):
        find_app("lacking", root)


def test_the_traceback_of_an_import_is_the_users_own(folder):
    with pytest.raises(AppImportError, match="'raising' raised on import: ZeroDivisionError") as caught:
        find_app("raising", folder(raising="def f():\n    1 / 0\nf()\n"))
    assert "raising.py" in caught.value.traceback
    assert "importlib" not in caught.value.traceback
    assert "discovery.py" not in caught.value.traceback


def test_a_module_that_exits_does_not_end_the_process(folder):
    with pytest.raises(AppImportError, match=r"SystemExit\(3\)"):
        find_app("leaving", folder(leaving="raise SystemExit(3)\n"))


def test_a_wrong_setting_in_an_app_is_told_as_such(folder):
    with pytest.raises(ConfigurationError, match=r"'wrong' can't be used: .*'concurency'.*did you mean 'concurrency'"):
        find_app("wrong", folder(wrong="from fastq import FastQ\napp = FastQ('x', concurency=2)\n"))


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(AppNotFound, match="nowhere' does not exist"):
        find_app("a", str(tmp_path / "nowhere"))


def test_a_file_that_can_not_be_read_is_passed_over(folder, tmp_path):
    (tmp_path / "latin.py").write_bytes(b"# \xe9\nimport fastq\n")
    assert guess_module(Path(folder(fine=APP))) == "fine"
