from .frames_py import CallFields, CallGlance, EndFields

MAX_NAME: int
MAX_FRAME: int
CALL_HEADER: int
END_HEADER: int

def pack_call(
    id: bytes,
    name: str,
    queue: str,
    body: bytes,
    content: int,
    flags: int,
    priority: int,
    enqueued_at: int,
    eta: int,
    expires: int,
    reply_to: int,
    attempt: int,
    crashes: int,
    extras: bytes,
) -> bytes: ...
def unpack_call(frame: bytes) -> CallFields: ...
def glance_call(frame: bytes) -> CallGlance | None: ...
def pack_answer(frame: bytes, state: int, content: int, body: bytes, started_at: int, finished_at: int) -> bytes: ...
def pack_end(
    id: bytes,
    state: int,
    attempt: int,
    content: int,
    content_name: str,
    body: bytes,
    group: bytes,
    started_at: int,
    finished_at: int,
    due: int,
) -> bytes: ...
def unpack_end(frame: bytes) -> EndFields: ...
def new_id() -> bytes: ...
