"""What is wrong with a request, as OpenAI's API says it."""

from collections.abc import Sequence

from fastapi.responses import JSONResponse


class Refusal(Exception):
    """Why a request is not answered.

    Args:
        status: of HTTP.
        message: one sentence.
        param: the field that it is about.
        retry_after: seconds after which it may be answered.
    """

    def __init__(self, status: int, message: str, *, param: str | None = None, retry_after: int | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.retry_after = status, message, param, retry_after

    def as_json(self) -> dict:
        """The body of the reply."""
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.status}}

    def response(self) -> JSONResponse:
        """The reply."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.as_json(), self.status, headers)


def refusal_of_fields(faults: Sequence[dict]) -> Refusal:
    """What pydantic found, as one sentence about the first field, and how many more there are."""
    fault = faults[0]
    place = [str(part) for part in fault["loc"] if part not in ("body", "path", "query")]
    param = ".".join(place) or None
    if fault["type"] == "json_invalid":
        return Refusal(400, f"the body is not JSON: {fault.get('ctx', {}).get('error', fault['msg'])}")
    if not place and isinstance(fault.get("input"), bytes | str):  # the body, not read as JSON
        return Refusal(400, "the body is not read as JSON: send the header Content-Type: application/json")
    if fault["type"] == "extra_forbidden":
        message = f"{param}: this server does not know this field"
    elif fault["type"] == "missing":
        message = f"{param}: this field is missing" if param else "the body is missing"
    else:
        message = f"{param}: {fault['msg']}" if param else fault["msg"]
    others = len({tuple(other["loc"]) for other in faults}) - 1
    return Refusal(400, message + (f" (and {others} more)" if others else ""), param=param)
