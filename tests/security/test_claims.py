"""Claims: large bodies are kept in a folder, come back from it, and go when their task has ended."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from fastq import FastQ
from fastq.claims import Claims
from fastq.errors import BrokerUnavailable, ConfigurationError, DeadLettered, EncodingError
from fastq.message import Message
from fastq.settings import Settings
from fastq.testing.kit import Kit

CALL = Message(bytes(15) + b"\1", "shop.add", "mail", b"x" * 1_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "not" / "there" / "yet"


@pytest.fixture
def claims(folder: Path) -> Claims:
    return Claims(f"file://{folder}", over_bytes=100, expires_s=60)


def test_a_large_body_is_kept_in_a_file_of_its_owners_own_and_a_small_one_is_not(claims: Claims, folder: Path) -> None:
    small = CALL._replace(body=b"x" * 100)
    assert claims.laid_aside(small) is small
    message = claims.laid_aside(CALL)
    assert claims.laid_aside(message) is message
    assert len(message.body) == 32
    (file,) = folder.iterdir()
    assert (file.name, stat.S_IMODE(file.stat().st_mode)) == (f"{CALL.id.hex()}.claim", 0o600)
    assert claims.body_of(Message.decode(message.encode())) == CALL.body
    claims.drop([CALL.id, CALL.id])
    assert list(folder.iterdir()) == []


def test_a_body_that_is_missing_or_another_is_refused(claims: Claims, folder: Path) -> None:
    message = claims.laid_aside(CALL)
    (file,) = folder.iterdir()
    file.write_bytes(b"another")
    with pytest.raises(EncodingError, match="is not the one that was sent"):
        claims.body_of(message)
    file.unlink()
    with pytest.raises(EncodingError, match="The body is not in .*, where it was kept: .*No such file"):
        claims.body_of(message)


def test_a_link_or_a_pipe_in_the_folder_is_not_followed(claims: Claims, folder: Path, tmp_path: Path) -> None:
    message = claims.laid_aside(CALL)
    (file,) = folder.iterdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(CALL.body)
    file.unlink()
    file.symlink_to(elsewhere)
    with pytest.raises(EncodingError, match="where it was kept"):
        claims.body_of(message)
    assert claims.laid_aside(CALL) == message  # it takes the place of the link
    assert (file.is_symlink(), elsewhere.read_bytes()) == (False, CALL.body)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(EncodingError, match="no regular file"):
        claims.body_of(message)


def test_what_is_too_old_is_swept_away(claims: Claims, folder: Path) -> None:
    claims.laid_aside(CALL)
    claims.laid_aside(CALL._replace(id=bytes(15) + b"\2"))
    old = folder / f"{CALL.id.hex()}.claim"
    os.utime(old, (time.time() - 61, time.time() - 61))
    assert claims.sweep() == 1
    assert not old.exists()


def test_a_folder_that_can_not_be_used_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BrokerUnavailable, match="The body of shop.add can't be kept in"):
        Claims(f"file://{tmp_path}/file", over_bytes=10, expires_s=60).laid_aside(CALL)
    for url in ("claims", "file:claims", "file://claims", "http://host/claims"):
        with pytest.raises(ConfigurationError, match="it takes a folder"):
            assert Settings(claims_url=url).envelope


@pytest.mark.parametrize("ack", ["late", "early"])
def test_a_large_call_runs_is_tried_again_and_leaves_nothing(folder: Path, ack: str) -> None:
    key = "a-secret-that-nobody-guesses-or-knows"
    app = FastQ(
        "large", broker="memory://", claims_url=f"file://{folder}", claim_over_bytes=1_000, signing_keys={"k": key},
        require_signed=True, encryption_keys={"e": key},
    )  # fmt: skip

    @app.task(bind=True, max_retries=1, ack=ack)
    def measure(self, text: str) -> int:
        if self.request.attempt < 2:
            self.retry(countdown=60)
        return len(text)

    with Kit(app) as kit:
        result, small = measure.delay("x" * 5_000), measure.delay("x")
        kit.run()
        (file,) = folder.iterdir()
        assert b"xxx" not in file.read_bytes()
        kit.clock.advance(60)
        assert (result.get(), small.get()) == (5_000, 1)
        assert list(folder.iterdir()) == []
        lost = measure.delay("x" * 5_000)
        next(folder.iterdir()).unlink()
        kit.run()
        with pytest.raises(DeadLettered, match="where it was kept"):
            lost.get()
