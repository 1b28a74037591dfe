"""A check for Schemathesis: a request that is as the document says is refused for reasons only that no schema can state."""

import schemathesis

# In the detail of a 400.
REASONS = (
    # Made by the server, and opaque.
    "expected the cursor of a Link",
    "expected an id of this stream",
    # Parameters that restrict each other.
    "expected a time after from",
    "buckets: expected at most 1000",
    "belongs to an event's id",
    "newest and after are given",
    "expected a number from 1 on",
    "expected 32 hexadecimal digits",
    # Units, and bytes instead of characters.
    "expected 1s to 366d",
    "bytes: at most 1024 are possible",
)


@schemathesis.check
def refused_for_a_reason(ctx, response, case):
    is_valid = case.meta is not None and case.meta.generation.mode.is_positive
    if is_valid and response.status_code == 400:
        detail = response.json()["detail"]
        if not any(reason in detail for reason in REASONS):
            raise AssertionError(f"refused, and as the document says: {detail}")
