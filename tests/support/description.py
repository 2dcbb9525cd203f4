"""What a gateway's description of its routes says that it does."""

from typing import Any


def described_operations(url: str) -> list[Any]:
    """Return the operations in the description of the gateway at ``url``, as schemathesis reads them."""
    # Only here, so that no process but those that need it import it.
    import schemathesis

    return list(schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations())
