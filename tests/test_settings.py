"""Settings: where they come from, in which order, and that nothing misspelt or out of range gets through."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fastq import FastQ
from fastq.errors import ConfigurationError, UnknownSetting
from fastq.settings import _RANGES, Settings, fields_of, settings_of

if TYPE_CHECKING:
    from tests.conftest import Document


@pytest.fixture
def pyproject(tmp_path: Path) -> Callable[[str], None]:
    """Write the [tool.fastq] table of the current folder."""

    def write(table: str) -> None:
        (tmp_path / "pyproject.toml").write_text(f"[tool.fastq]\n{table}\n")

    return write


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Write a module that FASTQ_CONFIG names."""

    def write(text: str) -> None:
        name = f"config_{tmp_path.name}"
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("FASTQ_CONFIG", name)

    return write


# -- where they come from ------------------------------------


def test_without_a_word_the_defaults_hold() -> None:
    assert FastQ().settings == Settings()


def test_an_argument_wins_over_the_environment_and_that_over_the_file(
    pyproject: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pyproject("lease_s = 1\ngrace_s = 1\nconcurrency = 1")
    monkeypatch.setenv("FASTQ_LEASE_S", "2")
    monkeypatch.setenv("FASTQ_GRACE_S", "2")

    settings = FastQ(lease_s=3).settings

    assert (settings.lease_s, settings.grace_s, settings.concurrency) == (3, 2, 1)


def test_the_module_of_fastq_config_stands_in_for_the_pyproject_file(
    pyproject: Callable[[str], None], config: Callable[[str], None]
) -> None:
    pyproject("lease_s = 1\ngrace_s = 1")
    config("import os\nfrom pathlib import Path\nlease_s = 2\nBASE = 'of no concern'\n_own = 1\ndef helper(): ...")

    settings = FastQ().settings

    assert (settings.lease_s, settings.grace_s) == (2, 30)


def test_the_nearest_pyproject_file_above_is_read(
    pyproject: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyproject("lease_s = 1")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")

    assert FastQ().settings.lease_s == 1

    (tmp_path / "deep" / "pyproject.toml").write_text("[project]\nname = 'of another project'")

    assert FastQ().settings.lease_s == 30


def test_a_folder_that_was_deleted_has_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()

    assert FastQ().settings == Settings()


def test_the_backend_is_by_default_where_the_broker_is() -> None:
    assert FastQ(broker="memory://a").settings.backend_url == "memory://a"
    assert FastQ(broker="memory://a", backend="memory://b").settings.backend_url == "memory://b"


def test_settings_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        FastQ().settings.lease_s = 1  # type: ignore[misc]


# -- misspelt names ------------------------------------


def test_a_misspelt_argument_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(UnknownSetting, match="arguments: there is no setting 'concurency'; did you mean 'concurrency'"):
        FastQ(concurency=4)


def test_what_celery_s_users_write_is_an_error_that_says_what_is_meant_here(app: FastQ) -> None:
    with pytest.raises(UnknownSetting, match="'task_always_eager'; tests use fastq.testing.kit"):
        FastQ(task_always_eager=True)
    with pytest.raises(UnknownSetting, match="'broker_url'; did you mean 'broker'"):
        FastQ(broker_url="memory://")
    with pytest.raises(TypeError, match="no option 'acks_late': ack='late' says it here, and is the default"):
        app.task(acks_late=True)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="no option 'routing_key': queue says where a call goes"):
        app.task(lambda: None).apply_async(routing_key="mail")  # type: ignore[call-arg]


def test_a_misspelt_variable_is_an_error_with_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTQ_BROKR", "memory://")

    with pytest.raises(UnknownSetting, match="FASTQ_BROKR, which is no setting; did you mean 'FASTQ_BROKER'"):
        FastQ()


def test_a_misspelt_name_in_a_file_is_an_error_that_names_the_file(pyproject: Callable[[str], None]) -> None:
    pyproject("lease = 4")

    with pytest.raises(UnknownSetting, match=r"pyproject.toml: there is no setting 'lease'; did you mean 'lease_s'"):
        FastQ()


def test_a_misspelt_name_in_a_module_is_an_error(config: Callable[[str], None]) -> None:
    config("accepts = ['json']")

    with pytest.raises(UnknownSetting, match="did you mean 'accept'"):
        FastQ()


def test_a_name_that_is_like_no_other_is_an_error_that_lists_them() -> None:
    with pytest.raises(UnknownSetting, match="there are accept, ack, async_concurrency, autoscale_max"):
        FastQ(zzz=1)


def test_the_switches_that_are_no_settings_are_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FASTQ_APP", "FASTQ_SPEEDUPS", "FASTQ_PURE", "FASTQ_REQUIRE_SERVICES"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))

    assert FastQ().settings == Settings()


# -- values ------------------------------------


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("CONCURRENCY", "4", 4),
        ("LEASE_S", "2.5", 2.5),
        ("IGNORE_RESULT", "true", True),
        ("IGNORE_RESULT", "No", False),
        ("IGNORE_RESULT", "0", False),
        ("ACCEPT", "json, pickle,", ("json", "pickle")),
        ("BROKER", "memory://x", "memory://x"),
    ],
)
def test_a_variable_is_converted_to_the_setting_s_type(
    variable: str, text: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"FASTQ_{variable}", text)

    found = getattr(FastQ().settings, variable.lower())

    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("argument", "value"),
    [({"accept": ["json"]}, ("json",)), ({"concurrency": 4.0}, 4), ({"lease_s": 3}, 3.0), ({"lease_s": "3"}, 3.0)],
    ids=repr,
)
def test_an_argument_is_converted_where_nothing_is_lost(argument: dict[str, Any], value: object) -> None:
    (name,) = argument

    assert repr(getattr(FastQ(**argument).settings, name)) == repr(value)


@pytest.mark.parametrize(
    ("argument", "wants"),
    [
        ({"concurrency": "four"}, "a whole number"),
        ({"concurrency": ""}, "a whole number"),
        ({"concurrency": 1.5}, "a whole number"),
        ({"concurrency": True}, "a whole number"),
        ({"concurrency": float("nan")}, "a whole number"),
        ({"concurrency": float("inf")}, "a whole number"),
        ({"concurrency": None}, "a whole number"),
        ({"lease_s": "soon"}, "a number"),
        ({"lease_s": True}, "a number"),
        ({"lease_s": []}, "a number"),
        ({"ignore_result": 1}, "true or false"),
        ({"ignore_result": "maybe"}, "true or false"),
        ({"serializer": 7}, "text"),
        ({"default_queue": b"mail"}, "text"),
        ({"accept": 7}, "a list of names"),
        ({"accept": [7]}, "a list of names"),
        ({"accept": b"json"}, "a list of names"),
    ],
    ids=repr,
)
def test_a_value_of_the_wrong_type_is_an_error_that_quotes_it(argument: dict[str, Any], wants: str) -> None:
    ((name, value),) = argument.items()

    with pytest.raises(ConfigurationError) as refused:
        FastQ(**argument)

    assert str(refused.value) == f"arguments: {name} is {value!r}; it takes {wants}"


@pytest.mark.parametrize("name", _RANGES)
@pytest.mark.parametrize("value", ["-1", "1e300", "inf", "-inf", "nan"])
def test_a_number_out_of_its_range_is_an_error(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is "):
        FastQ(**{name: value})


@pytest.mark.parametrize("name", _RANGES)
def test_the_ends_of_a_range_are_in_it(name: str) -> None:
    for end in _RANGES[name]:
        assert getattr(FastQ(**{name: end}).settings, name) == end


@pytest.mark.parametrize(
    "given",
    [
        {"mail": ["100/m", 4], "video": 2},
        "mail=100/m, mail = 4,video=2,",
        (("mail", "100/m"), ("mail", "4"), ("video", "2")),
        [["mail", "100/m"], ["mail", 4], ["video", 2]],
    ],
    ids=["mapping", "text", "pairs", "json"],
)
def test_a_table_is_read_from_a_mapping_from_text_and_from_pairs(given: Any) -> None:
    assert FastQ(queue_limits=given).settings.queue_limits == (("mail", "100/m"), ("mail", "4"), ("video", "2"))


def test_a_table_keeps_its_order_wherever_it_comes_from(
    pyproject: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pyproject("fair_queues = { mail = 4 }\n[tool.fastq.task_routes]\n'shop.*' = 'mail'\n'*' = 'rest'")
    monkeypatch.setenv("FASTQ_QUEUE_LIMITS", "mail=5/s")

    settings = FastQ().settings

    assert settings.task_routes == (("shop.*", "mail"), ("*", "rest"))
    assert (settings.queue_limits, settings.shares) == ((("mail", "5/s"),), {"mail": 4})


@pytest.mark.parametrize("name", ["task_routes", "queue_limits", "fair_queues"])
@pytest.mark.parametrize(
    "value", ["mail", "mail=1=2", "=1", "mail=", {"mail": None}, {"mail": True}, {1: "a"}, 7, ["mail"]]
)
def test_what_is_no_table_is_an_error_that_quotes_it(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as refused:
        FastQ(**{name: value})

    assert str(refused.value) == f"arguments: {name} is {value!r}; it takes a table of names"


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ({"task_routes": {"shop.*": "a b"}}, "task_routes: 'a b' is not a queue name"),
        ({"queue_limits": {"a b": 1}}, "queue_limits: 'a b' is not a queue name"),
        ({"queue_limits": {"mail": "many"}}, "queue_limits of mail is 'many'; it takes a number, a slash and a unit"),
        ({"queue_limits": {"mail": 0}}, "queue_limits of mail is 0; it takes 1 to 1,000,000"),
        ({"queue_limits": {"mail": "0/s"}}, "queue_limits of mail is '0/s'"),
        ({"fair_queues": {"a b": 1}}, "fair_queues: 'a b:fair-1000' is not a queue name"),
        ({"fair_queues": {"x" * 250: 1}}, "fair_queues: 'xxx.* is not a queue name"),
        ({"fair_queues": {"mail": "many"}}, "fair_queues gives mail 'many' shares; it takes 1 to 1000"),
        ({"fair_queues": {"mail": 0}}, "fair_queues gives mail '0' shares"),
        ({"fair_queues": {"mail": 1001}}, "fair_queues gives mail '1001' shares"),
    ],
    ids=repr,
)
def test_a_table_of_what_can_not_be_is_an_error_that_says_why(argument: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        FastQ(**argument)


def test_settings_come_back_from_json_as_they_were() -> None:
    settings = FastQ(queue_limits={"mail": ["100/m", 4]}, fair_queues={"a": 2}, accept=["json"]).settings

    assert settings_of(json.loads(json.dumps(fields_of(settings)))) == settings


@pytest.mark.parametrize("queue", ["", "a b", "mail/now", "x" * 256])
def test_a_default_queue_that_is_no_queue_name_is_an_error(queue: str) -> None:
    with pytest.raises(ConfigurationError, match="default_queue: .* is not a queue name"):
        FastQ(default_queue=queue)


def test_an_unknown_ack_mode_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="ack is 'never'; it takes 'late' or 'early'"):
        FastQ(ack="never")


# -- files that can't be used ------------------------------------


@pytest.mark.parametrize(
    "text",
    ["[tool.fastq", "[tool]\nfastq = 5", "tool = 'fastq'", "# fastq\n[project]\nname = 'x'", "\x00fastq", "\xff"],
)
def test_a_pyproject_file_is_read_or_the_error_names_it(text: str, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_bytes(text.encode("latin-1"))

    try:
        settings = FastQ().settings
    except ConfigurationError as error:
        assert "pyproject.toml" in str(error)
    else:
        assert settings == Settings()


@pytest.mark.parametrize("text", ["import nowhere", "1 / 0", "def"])
def test_a_config_module_that_raises_is_an_error_that_names_it(config: Callable[[str], None], text: str) -> None:
    config(text)

    with pytest.raises(ConfigurationError, match="FASTQ_CONFIG names the module 'config_.*', which can't be imported"):
        FastQ()


def test_a_config_module_that_does_not_exist_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTQ_CONFIG", "no_such_module")

    with pytest.raises(ConfigurationError, match="No module named 'no_such_module'"):
        FastQ()


# -- the document ------------------------------------


def test_every_setting_is_documented_with_its_type_and_default(settings_page: Document) -> None:
    documented = [
        (name.strip("`"), kind, default.strip("`")) for name, kind, default, *_ in settings_page.table("All settings")
    ]

    assert documented == [(field.name, field.type, repr(field.default)) for field in fields(Settings)]


def test_every_range_is_documented(settings_page: Document) -> None:
    documented = {name.strip("`"): text for name, _, _, text, _ in settings_page.table("All settings") if text.strip()}

    assert documented == {name: f"{least:,} to {most:,}" for name, (least, most) in _RANGES.items()}
