"""How vLLM says no: `{"error": {"message", "type", "param", "code"}}`, the code a number equal to the status."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any


class Refused(Exception):
    """An answer that is not a 2xx. `type` and `param` as vLLM tells them."""

    def __init__(
        self, message: str, *, status: int = 400, type: str = "BadRequestError", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.type = type
        self.param = param

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.status}}


class InvalidField(Refused):
    """vLLM's own checks (VLLMValidationError): the message names the parameter and its value once more."""

    def __init__(self, message: str, parameter: str | None = None, value: Any = None) -> None:
        told = [f"{name}={what}" for name, what in (("parameter", parameter), ("value", value)) if what is not None]
        super().__init__(f"{message} ({', '.join(told)})" if told else message, param=parameter)
        self.plain = message


class InvalidBody(Refused):
    """What pydantic refuses: the phrase of the status as type, the place as param."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message, type=HTTPStatus.BAD_REQUEST.phrase, param=param)


class Broken(Refused):
    """A request that makes vLLM itself stumble: 500. `plain`: before its handler runs, which says so in plain text."""

    def __init__(self, message: str, *, type: str = "InternalServerError", plain: bool = False) -> None:
        super().__init__(message, status=500, type=type)
        self.plain = plain
