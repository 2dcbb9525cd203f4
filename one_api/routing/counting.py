"""How many tokens a request has, as an upstream counts them; it does not count for the health of deployments."""

import logging

from one_api.dialects.openai.chat_request import ChatRequest
from one_api.errors import UpstreamError, UpstreamRejected
from one_api.records import CallContext
from one_api.routing.route import Route

logger = logging.getLogger(__name__)

#: How many deployments are asked to count the tokens of a request.
_MAX_COUNTING = 2


async def count_tokens(route: Route, request: ChatRequest, context: CallContext) -> int | None:
    """Return how many tokens the input of ``request`` has; None when no target of ``route`` can count.

    Raises:
        UpstreamRejected: what an upstream finds wrong with the request.
    """
    for deployment in route.targets[:_MAX_COUNTING]:
        attempt = context.for_attempt()
        try:
            asked = request.for_model(deployment.model)
            if (count := await deployment.adapter.count_tokens(asked, attempt)) is not None:
                return count
        except UpstreamRejected:
            raise
        except UpstreamError as error:
            logger.info("%s could not count tokens: %s", deployment.name, error)
    return None
