"""Every error a user can meet, as one tree.

    RedlineError
    ├── UserError                 the caller can mend it (CLI exit 2)
    │   ├── InvalidRequest        400  a field is wrong; `param` names it
    │   │   └── ContextTooLong    400  prompt and answer do not fit the context
    │   ├── UnsupportedField      400  understood, and refused by name
    │   ├── TemplateError         400  the chat template refused, looped or wrote too much
    │   ├── Unauthorized          401  no key, or an unknown one (InvalidKey), or one that was mistyped (MalformedKey), is
    │   │   └── InvalidKey ...    401  over (ExpiredKey) or was taken back (RevokedKey)
    │   ├── Forbidden             403  the key is good and does not allow this
    │   ├── RateLimited           429  the key's budget is used up; retry after `retry_after_s`
    │   │   └── OverLimit         429  more than the key's whole budget: no retry helps
    │   ├── NotFound              404  no such model, route or object
    │   ├── SlowBody              408  the request body took too long to arrive
    │   ├── TooLarge              413  the request body or a part of it
    │   ├── ConfigError           400  contradictory or unknown options
    │   ├── CheckpointError       400  a model file that is truncated, corrupt or lying
    │   │   └── UnsupportedModel  400  a sound file of a kind redline does not run
    │   ├── PullError             502  a model could not be fetched or its hash differs
    │   └── DoesNotFit            507  no memory for the weights or the KV pages
    └── EngineError               ours (CLI exit 1)
        ├── Overloaded            429  the queue is full; retry after `retry_after_s`
        ├── DeadlineExceeded      504
        ├── NotReady              503  the engine is loading, starting again or stuck; retry after `retry_after_s`
        ├── EngineDead            503  the engine process ended; retry
        ├── Draining              503  the server is about to end; retry elsewhere
        ├── StorageFull           507  the disk has no room for what is to be kept
        └── InternalError         500

A class says its HTTP status, a stable `code`, whether a retry can help, and carries one hint: the next step to take.
Open `RedlineError` first. `assert` is for invariants of our own and never reachable from a request.
"""

from __future__ import annotations

from typing import ClassVar


class RedlineError(Exception):
    """Base of the tree. `str(error)` is one sentence; `hint` is what to do next, or empty."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "", param: str | None = None, retry_after_s: float | None = None):
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param
        self.retry_after_s = retry_after_s

    def sentence(self) -> str:
        """The message and its hint as a person reads them."""
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UserError(RedlineError):
    status = 400
    code = "bad_request"
    exit_code = 2


class InvalidRequest(UserError):
    code = "invalid_request"


class ContextTooLong(InvalidRequest):
    code = "context_length_exceeded"


class UnsupportedField(UserError):
    code = "unsupported_field"


class TemplateError(UserError):
    code = "template_error"


class Unauthorized(UserError):
    status = 401
    code = "unauthorized"


class InvalidKey(Unauthorized):
    code = "invalid_api_key"


class MalformedKey(InvalidKey):
    code = "malformed_api_key"


class ExpiredKey(InvalidKey):
    code = "expired_api_key"


class RevokedKey(InvalidKey):
    code = "revoked_api_key"


class Forbidden(UserError):
    status = 403
    code = "forbidden"


class RateLimited(UserError):
    status = 429
    code = "rate_limit_exceeded"
    retryable = True


class OverLimit(RateLimited):
    code = "request_over_limit"
    retryable = False


class NotFound(UserError):
    status = 404
    code = "not_found"


class SlowBody(UserError):
    status = 408
    code = "request_timeout"
    retryable = True


class TooLarge(UserError):
    status = 413
    code = "too_large"


class ConfigError(UserError):
    code = "bad_config"


class CheckpointError(UserError):
    code = "bad_checkpoint"


class UnsupportedModel(CheckpointError):
    code = "unsupported_model"


class PullError(UserError):
    status = 502
    code = "pull_failed"
    retryable = True


class DoesNotFit(UserError):
    status = 507
    code = "does_not_fit"


class EngineError(RedlineError):
    pass


class Overloaded(EngineError):
    status = 429
    code = "overloaded"
    retryable = True


class DeadlineExceeded(EngineError):
    status = 504
    code = "deadline_exceeded"


class NotReady(EngineError):
    status = 503
    code = "not_ready"
    retryable = True


class EngineDead(EngineError):
    status = 503
    code = "engine_dead"
    retryable = True


class Draining(EngineError):
    status = 503
    code = "draining"
    retryable = True


class StorageFull(EngineError):
    status = 507
    code = "storage_full"


class InternalError(EngineError):
    pass


def by_code(code: str) -> type[RedlineError]:
    """The class that carries `code`: how an error crosses a process boundary (see engine/message.py)."""
    pending: list[type[RedlineError]] = [RedlineError]
    while pending:
        cls = pending.pop()
        if cls.code == code and cls not in (RedlineError, EngineError):
            return cls
        pending.extend(cls.__subclasses__())
    return InternalError
