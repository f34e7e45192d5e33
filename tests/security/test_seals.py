"""Seals: what is signed can't be changed, moved, kept for later or run twice, and keys are never shown."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastq import FastQ
from fastq.broker import Action, Delivery
from fastq.completion import Completed
from fastq.errors import ConfigurationError, SealBroken
from fastq.message import Message, now_us, set_clock
from fastq.pool import TaskInfo
from fastq.sealing import Seals, is_sealed, unsealed
from fastq.settings import Settings
from fastq.worker.replays import Replays
from fastq.worker.triage import Flight, Triage
from tests.conftest import Document

SECRET = "s3cret-" + "x" * 32
OTHER = "another-" + "y" * 32
CALL = Message(bytes(15) + b"\1", "shop.add", "mail", b"[[4,4],{}]")


def settings(**given: Any) -> Settings:
    return Settings.load({"signing_keys": {"k1": SECRET}, **given})


def pair() -> tuple[str, str]:
    """Return the private and the public half of a new key for Ed25519, as PEM text."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    private = Ed25519PrivateKey.generate()
    return (
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
    )


def refusal(seals: Seals, frame: bytes, subject: str = "queue:mail") -> str:
    with pytest.raises(SealBroken) as refused:
        seals.open(frame, subject)
    return str(refused.value)


@pytest.fixture
def later() -> Iterator[Any]:
    """Move this process's clock ahead, by seconds."""

    def move(seconds: float) -> None:
        now = now_us()
        set_clock(lambda: round((now + seconds * 1e6) * 1000))

    yield move
    set_clock(None)


# -- what is sealed ------------------------------------


@pytest.mark.parametrize("ed25519", [False, True], ids=["hmac", "ed25519"])
def test_what_was_sealed_is_opened_with_the_name_of_its_key(ed25519: bool) -> None:
    seals = settings(signing_keys={"k1": pair()[0]} if ed25519 else {"k1": SECRET}).seals
    frame = seals.sealed_call(CALL)
    opened = seals.open(frame, "queue:mail")
    assert (opened.key, opened.expired, Message.decode(opened.inner)) == ("k1", False, CALL)
    assert is_sealed(frame)
    assert unsealed(frame) == CALL.encode()


@pytest.mark.parametrize("ed25519", [False, True], ids=["hmac", "ed25519"])
def test_no_byte_of_a_seal_can_be_changed_left_out_or_added(ed25519: bool) -> None:
    seals = settings(signing_keys={"k1": pair()[0]} if ed25519 else {"k1": SECRET}, require_signed=True).seals
    frame = seals.sealed_call(CALL)
    for at in range(len(frame)):
        for changed in (frame[:at] + bytes([frame[at] ^ 0x41]) + frame[at + 1 :], frame[:at] + frame[at + 1 :]):
            refusal(seals, changed)
    refusal(seals, frame + b"\0")
    for size in range(len(frame)):
        refusal(seals, frame[:size])


@given(frame=st.binary(max_size=200), after=st.binary(max_size=120))
def test_any_bytes_are_opened_or_refused_and_nothing_else(frame: bytes, after: bytes) -> None:
    seals = Settings(signing_keys=(("k1", SECRET),), require_signed=True).seals
    for some in (frame, b"\xf5S" + frame, b"\xf5S\x01\x01" + frame + after):
        refusal(seals, some)
        assert unsealed(some) in some


def test_a_seal_for_one_queue_is_none_for_another() -> None:
    seals = settings().seals
    frame = seals.sealed_call(CALL)
    assert refusal(seals, frame, "queue:payments") == "it was signed for 'queue:mail', and came as 'queue:payments'"
    assert "came as 'log:control'" in refusal(seals, frame, "log:control")


def test_what_is_not_signed_is_let_in_unless_it_has_to_be() -> None:
    assert settings().seals.open(CALL.encode(), "queue:mail").key == ""
    assert "require_signed" in refusal(settings(require_signed=True).seals, CALL.encode())


def test_the_key_says_what_the_algorithm_is_and_not_the_seal() -> None:
    """A public key is known to all: as the secret of an HMAC it must open nothing."""
    private, public = pair()
    seals = settings(signing_keys={"k1": private}, require_signed=True).seals
    forged = Settings(signing_keys=(("k1", public.replace("-----BEGIN", "xxxxxBEGIN")),)).seals.sealed_call(CALL)
    assert "its signature is not that of the key 'k1'" in refusal(seals, forged)
    head = seals.sealed_call(CALL)[:-64]
    with_hmac = head[:3] + b"\1" + head[4:]
    forged = with_hmac + hmac.digest(public.strip().encode(), with_hmac, "sha256")
    assert "its signature is not that of the key 'k1'" in refusal(seals, forged)


def test_two_seals_of_the_same_message_are_not_the_same() -> None:
    seals = settings().seals
    assert seals.sealed_call(CALL) != seals.sealed_call(CALL)


# -- keys ------------------------------------


def test_the_first_key_signs_and_all_verify() -> None:
    old, new = settings(signing_keys={"old": OTHER}).seals, settings(signing_keys={"new": SECRET, "old": OTHER}).seals
    assert new.open(old.sealed_call(CALL), "queue:mail").key == "old"
    assert new.open(new.sealed_call(CALL), "queue:mail").key == "new"
    reason = "it is signed with the key 'new', which is not among the signing_keys here"
    assert refusal(old, new.sealed_call(CALL)) == reason


def test_who_has_the_public_key_alone_can_verify_and_not_sign() -> None:
    private, public = pair()
    caller = settings(signing_keys={"shop": private}).seals
    worker = settings(signing_keys={"shop": public, "worker": SECRET}).seals
    assert worker.open(caller.sealed_call(CALL), "queue:mail").key == "shop"
    assert "the key 'worker'" in refusal(caller, worker.sealed_call(CALL))
    with pytest.raises(ConfigurationError, match="has no key that signs"):
        assert settings(signing_keys={"shop": public}).seals


def test_keys_are_read_from_files_and_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text(f"  {SECRET}\n")
    monkeypatch.setenv("THE_KEY", SECRET)
    plain = settings().seals
    for said in (f"file:{tmp_path}/key", "env:THE_KEY"):
        assert settings(signing_keys={"k1": said}).seals.open(plain.sealed_call(CALL), "queue:mail").key == "k1"


@pytest.mark.parametrize("setting", ["signing_keys", "encryption_keys"])
@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("file:/nowhere/key", "the file of the key 'k1' can't be read"),
        ("env:NO_SUCH_KEY", "the environment has no 'NO_SUCH_KEY', which is to hold the key 'k1'"),
        ("too-short", "the secret of the key 'k1' has 9 bytes; it takes 32 or more"),
        ("", "the secret of the key 'k1' has 0 bytes"),
    ],
    ids=["file", "variable", "short", "empty"],
)
def test_a_key_that_can_not_be_used_is_an_error_that_names_it(setting: str, said: str, words: str) -> None:
    made = Settings(**{setting: (("k1", said),)})
    with pytest.raises(ConfigurationError, match=words) as refused:
        assert made.envelope
    assert setting in str(refused.value)


def test_pem_text_that_is_no_ed25519_key_is_an_error() -> None:
    for text in ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", "-----BEGIN PUBLIC KEY-----\nAAAA"):
        with pytest.raises(ConfigurationError, match="the PEM text of the key 'k1'"):
            assert settings(signing_keys={"k1": text}).seals


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"signing_keys": {"k 1": SECRET}}, "'k 1' is not a key's name"),
        ({"signing_keys": {}, "require_signed": True}, "require_signed is set, and signing_keys has no key"),
        ({"require_encrypted": True}, "require_encrypted is set, and encryption_keys has no key"),
        ({"signing_grants": {"k2": "mail.*"}}, "signing_grants names the key 'k2'; there are k1"),
        ({"compression": "lzma"}, "compression is 'lzma'; it takes 'zlib' or 'zstd'"),
        ({"encryption": "rot13"}, "encryption is 'rot13'; it takes 'aes-256-gcm' or 'chacha20-poly1305'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_that_contradict_one_another_are_an_error(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        settings(**given)


@pytest.mark.parametrize("setting", ["signing_keys", "encryption_keys"])
@pytest.mark.parametrize("value", [SECRET, {"k1": None, "k2": SECRET}, [SECRET], f"k1={SECRET}=="])
def test_a_secret_is_not_in_the_error_about_how_it_is_given(setting: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as refused:
        FastQ(**{setting: value})
    cause: BaseException | None = refused.value
    while cause is not None:
        assert SECRET not in f"{cause}{cause!r}"
        cause = cause.__cause__
    assert str(refused.value) == f"arguments: {setting} can't be read; it takes a table of names"


def test_a_secret_is_not_in_the_repr_of_settings_or_of_what_is_made_of_them() -> None:
    made = settings(encryption_keys={"e1": OTHER}, broker="redis://:hunter2@localhost", backend="redis://:hunter2@x")
    shown = repr([made, made.seals, made.packing, made.envelope, FastQ(broker="memory://"), vars(made.seals)])
    assert not [word for word in (SECRET, OTHER, "hunter2") if word in shown]


# -- what a worker makes of it ------------------------------------


def sorted_out(triage: Triage, frame: bytes, queue: str = "mail", fence: int = 1) -> Flight | Completed:
    return triage.sort(Delivery(frame, queue, 1, fence))


def reason(done: Flight | Completed, *, told: bool = False) -> str:
    """Return why a message is a dead letter; unless `told`, nobody is told of it: it may be anyone's."""
    assert isinstance(done, Completed)
    assert done.decision is not None
    assert done.decision.action is Action.DEAD
    assert (done.outcome is not None) == told
    return done.decision.reason


def triage(**given: Any) -> Triage:
    return Triage({"shop.add": TaskInfo("shop.add")}, settings(require_signed=True, **given))


def test_a_signed_message_runs_as_what_is_in_its_seal() -> None:
    flight = sorted_out(triage(), settings().envelope(CALL))
    assert isinstance(flight, Flight)
    assert (flight.message, flight.frame) == (CALL, CALL.encode())


def test_a_signed_message_in_json_runs_too() -> None:
    frame = settings().seals.seal(b'{"task": "shop.add", "args": [4, 4], "queue": "mail"}', "queue:mail")
    flight = sorted_out(triage(), frame)
    assert isinstance(flight, Flight)
    assert flight.message.body == CALL.body


def test_a_worker_refuses_what_is_not_signed_for_it() -> None:
    envelope = settings().envelope
    stranger = Settings(signing_keys=(("k1", OTHER),)).envelope
    json = settings().seals.seal(b'{"task": "shop.add"}', "queue:mail")
    assert "require_signed" in reason(sorted_out(triage(), CALL.encode()))
    assert "its signature is not that of the key 'k1'" in reason(sorted_out(triage(), stranger(CALL)))
    assert "signed for 'queue:mail'" in reason(sorted_out(triage(), envelope(CALL), "payments"))
    assert "signed for the queue 'default'" in reason(sorted_out(triage(), json))
    without_keys = Triage({}, Settings())
    assert reason(sorted_out(without_keys, envelope(CALL))) == "it is signed, and there are no signing_keys here"


def test_the_signature_of_a_message_ends_some_time_after_it_is_due(later: Any) -> None:
    envelope = settings(signature_expires_s=60).envelope
    now = now_us()
    one, delayed = envelope(CALL), envelope(CALL._replace(eta=now + 90_000_000))
    later(59)
    assert isinstance(sorted_out(triage(), one), Flight)
    later(100 - 59)
    assert reason(sorted_out(triage(), one), told=True) == "its signature has expired"
    assert isinstance(sorted_out(triage(), delayed), Flight)
    later(60)
    assert reason(sorted_out(triage(), delayed), told=True) == "its signature has expired"
    assert isinstance(sorted_out(triage(), settings(signature_expires_s=0).envelope(CALL)), Flight)


def test_a_message_that_has_ended_here_does_not_run_again_and_one_that_comes_again_does() -> None:
    """Row 44."""
    sorter, envelope = triage(), settings().envelope
    frame, other = envelope(CALL), envelope(CALL)
    assert isinstance(sorted_out(sorter, frame), Flight)
    assert isinstance(sorted_out(sorter, frame, fence=2), Flight)
    sorter.replays.ended([frame])
    assert "a copy of a signed message is not run again" in reason(sorted_out(sorter, frame))
    again = sorted_out(sorter, frame, fence=2)  # its acknowledgement was lost with a connection
    assert isinstance(again, Completed)
    assert again.decision is not None
    assert (again.decision.action, again.outcome) == (Action.ACK, None)
    assert isinstance(sorted_out(sorter, other), Flight)


def test_the_oldest_ends_are_forgotten_first() -> None:
    replays, frames = Replays(most=2), [settings().envelope(CALL) for _ in range(3)]
    replays.ended([*frames, b"not sealed"])
    assert [replays.has(frame) for frame in frames] == [False, True, True]


def test_a_key_may_call_what_it_was_granted_and_no_more() -> None:
    grants = {"signing_keys": {"k1": SECRET, "shop": OTHER}, "signing_grants": {"shop": ["mail.*", "shop.sub"]}}
    shop = Settings(signing_keys=(("shop", OTHER),)).envelope
    words = r"the key 'shop' may not call 'shop.add': signing_grants has ['mail.*', 'shop.sub']"
    assert reason(sorted_out(triage(**grants), shop(CALL))) == words
    assert isinstance(sorted_out(triage(**grants), settings().envelope(CALL)), Flight)
    granted = {**grants, "signing_grants": {"shop": "shop.*"}}
    assert isinstance(sorted_out(triage(**granted), shop(CALL)), Flight)


# -- the document ------------------------------------


def test_the_example_of_a_seal_in_the_document_is_what_we_write_and_read(
    protocol: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    documented = protocol.bytes("A seal, byte by byte")
    seals = Settings(signing_keys=(("k1", "0123456789abcdef0123456789abcdef"),), require_signed=True).seals
    opened = seals.open(documented, "queue:mail")
    assert opened.inner == b'{"task":"shop.add","queue":"mail"}'
    monkeypatch.setattr(os, "urandom", lambda size: bytes(range(size)))
    set_clock(lambda: 1_730_000_000_000_000_000)
    try:
        assert seals.seal(opened.inner, "queue:mail", 1_730_604_800_000_000) == documented
    finally:
        set_clock(None)
    assert documented[-32:] == hmac.new(b"0123456789abcdef0123456789abcdef", documented[:-32], hashlib.sha256).digest()
