"""What traces have to know of an adapter: what its provider is called, and whether its upstream gets their ids."""

import ipaddress
from urllib.parse import urlsplit

from one_api.settings.adapters import AdapterConfig, ClaudeConfig, LocalConfig, OpenAIConfig, OutsideConfig

#: What a host's name ends with -> the provider, by the names of the conventions.
_BY_HOST = {
    "openai.com": "openai",
    "openai.azure.com": "azure.ai.openai",
    "cognitiveservices.azure.com": "azure.ai.openai",
    "services.ai.azure.com": "azure.ai.inference",
    "mistral.ai": "mistral_ai",
    "groq.com": "groq",
    "deepseek.com": "deepseek",
    "x.ai": "x_ai",
    "perplexity.ai": "perplexity",
    "cohere.com": "cohere",
    "cohere.ai": "cohere",
    "generativelanguage.googleapis.com": "gcp.gemini",
}


def provider_of(settings: AdapterConfig) -> str:
    """Return the provider that an adapter's settings name, else the one of its type and host."""
    if isinstance(settings, OutsideConfig):
        return settings.type
    if isinstance(settings, LocalConfig):
        return "llama.cpp"
    if settings.provider is not None:
        return settings.provider
    if isinstance(settings, ClaudeConfig):
        return "anthropic"
    host = urlsplit(settings.base_url).hostname or ""
    return next((name for end, name in _BY_HOST.items() if host == end or host.endswith(f".{end}")), "openai")


def tells_trace(settings: OpenAIConfig | ClaudeConfig) -> bool:
    """Return whether requests to an adapter's upstream carry the id of their trace."""
    if settings.propagate_trace != "auto":
        return settings.propagate_trace
    host = urlsplit(settings.base_url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
