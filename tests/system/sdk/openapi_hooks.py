"""What is changed in the requests of openapi_check.py before they are sent."""

from __future__ import annotations

import schemathesis

# Answers are cut short, so that many requests take little time.
TOKENS = {
    "/v1/chat/completions": "max_tokens",
    "/v1/completions": "max_tokens",
    "/v1/messages": "max_tokens",
    "/v1/responses": "max_output_tokens",
}


def shorten(path: str, body: object) -> None:
    """Lowers a limit that is legal; what is not stays as it is, to be refused."""
    name = TOKENS.get(path)
    if name is None or not isinstance(body, dict):
        return
    if "max_completion_tokens" in body:
        name = "max_completion_tokens"
    tokens = body.get(name)
    if tokens is None or (isinstance(tokens, int) and not isinstance(tokens, bool) and 4 < tokens <= 1 << 20):
        body[name] = 4


@schemathesis.hook
def before_call(_context, case, _kwargs) -> None:
    shorten(case.operation.path, case.body)
