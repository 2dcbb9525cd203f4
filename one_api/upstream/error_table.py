"""Whose fault an upstream's error is: one table, read from top to bottom, in which status and words decide together.

No status alone says it. 404 is a wrong model name at one server and a request with tools at another; 400 is a bad
request, a bad key or an unpaid bill. Each row names where it was seen; the first that fits counts.
"""

import re
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from one_api.dialects.error_body import ErrorReport


class Fault(Enum):
    """What is wrong, by the party that can mend it."""

    #: The caller's: the request itself.
    REQUEST = "request"
    #: The caller's: longer than the model's context. Only a larger model helps.
    TOO_LONG = "too_long"
    #: The caller's: what it says is refused. Never routed around.
    REFUSED = "refused"
    #: Not a fault of either: this deployment cannot serve this one request, another may.
    UNSUITABLE = "unsuitable"
    #: The operator's: the key, or what its account may do.
    CREDENTIAL = "credential"
    #: The operator's: the account may not use this model or feature.
    CLOSED = "closed"
    #: The operator's: the name of the model, or the address.
    MODEL = "model"
    #: The operator's: the account has no credit.
    NO_CREDIT = "no_credit"
    #: Not a fault of either: a limit of the account is reached for now.
    LIMIT = "limit"
    #: The upstream's: it has too much to do.
    OVERLOADED = "overloaded"
    TIMEOUT = "timeout"
    #: The operator's: the address leads elsewhere.
    REDIRECT = "redirect"
    #: The upstream's: all else.
    FAILED = "failed"


class Row(NamedTuple):
    """A row fits a report with one of its statuses and one of its names, or with words that its pattern finds."""

    fault: Fault
    statuses: Iterable[int]
    names: frozenset[str] = frozenset()
    words: re.Pattern[str] | None = None

    def fits(self, status: int, report: ErrorReport) -> bool:
        """Return whether this row is the report's; a row without names and words fits by its status."""
        if status not in self.statuses:
            return False
        if not self.names and self.words is None:
            return True
        if self.names & report.names:
            return True
        if self.words is None or (self.fault in _COOLING_DOWN and _is_about_a_parameter(status, report)):
            return False
        message = report.message if self.fault in _COOLING_DOWN else _PARAMETER.sub(r"\1", report.message)
        return bool(self.words.search(_without_quotes(message)))


#: What makes a deployment cool down for everybody: no client may bring it about by what it sends.
_COOLING_DOWN = frozenset({Fault.CREDENTIAL, Fault.CLOSED, Fault.MODEL, Fault.NO_CREDIT, Fault.LIMIT})
#: A parameter's name in quotes is the server's word. Anthropic: "input length and `max_tokens` exceed context limit".
_PARAMETER = re.compile(r"['\"`](inputs?|prompt|messages|max_tokens|max_completion_tokens|max_new_tokens)['\"`]")


def _is_about_a_parameter(status: int, report: ErrorReport) -> bool:
    """Return whether a server names a place in the request, beside the model: then its words are about the request."""
    return status in (400, 422) and report.param not in (None, "model")


def _without_quotes(text: str) -> str:
    """Return a message without what it quotes, up to the last such sign: that may be the client's own words."""
    for sign in "'\"`":
        start = re.search(rf"(?<!\w){sign}", text)
        if start is not None:
            text = text[: start.end()] + text[max(start.end(), text.rfind(sign)) :]
    return text


def _names(names: str) -> frozenset[str]:
    """Return names, in small letters, that stand in a text with blanks between."""
    return frozenset(names.lower().split())


def _words(patterns: str) -> re.Pattern[str]:
    """Return a pattern that finds any of those which stand in a text, one a line."""
    return re.compile("|".join(line.strip() for line in patterns.splitlines() if line.strip()), re.IGNORECASE)


TABLE: tuple[Row, ...] = (
    # OpenAI, Groq (413: "Request too large ... on tokens per minute (TPM): Limit 6000, Requested 12328").
    Row(
        Fault.LIMIT,
        {400, 413},
        _names("rate_limit_exceeded tokens requests"),
        _words(r"""
            (?:tokens?|requests?) per (?:min|hour|day)
            \b(?:TPM|TPD|RPM|RPD)\b
        """),
    ),
    # OpenRouter: "requires more credits, or fewer max_tokens ... can only afford 3919", "Prompt tokens limit exceeded".
    Row(
        Fault.UNSUITABLE,
        {402},
        words=_words(r"""
            can only afford [1-9]
            fewer max_tokens(?!.*afford 0\b)
            prompt tokens limit exceeded
        """),
    ),
    # OpenAI (429), Anthropic (402; 400 and 429 by their words), DeepSeek and OpenRouter (402), Moonshot (429),
    # DashScope (400 Arrearage, 403), Zhipu (1113), MiniMax (1008), Volcengine (403), one-api and its like (403).
    Row(
        Fault.NO_CREDIT,
        range(400, 600),
        _names("""
            insufficient_quota enforced_spend_limit_reached contract_spend_limit_reached billing_error
            billing_not_active billing_hard_limit_reached exceeded_current_quota_error arrearage 1113 minimax:1008
            accountoverdueerror accountoverdue insufficient_balance insufficient_credits insufficient_user_quota
            not_enough_balance allocationquota.freetieronly prepaidbilloverdue postpaidbilloverdue
            personal-team-blocked:spending-limit
        """),
        _words(r"""
            credit balance
            insufficient[ _](?:account )?(?:balance|credits?|funds|user quota)
            not enough (?:balance|credits?)
            (?:out of|no|used (?:up )?all) (?:your |available |remaining )*credits\b
            spend(?:ing)? (?:limit|cap)
            usage limits? (?:you|set|specified)
            specified (?:api )?usage limits?
            exceeded your (?:\w+ )*included credits
            (?:monthly|billing cycle)\b.{0,30}\b(?:usage|quota|limit)\b.{0,20}(?:exceeded|reached|exhausted)
            (?:exceeded|reached|exhausted)\b.{0,30}\b(?:usage|quota|limit)\b.{0,20}(?:monthly|month\b|billing cycle)
            account is in good standing
            overdue (?:payment|account|balance)
            account.{0,20} overdue
            in arrears
            billing hard limit
            (?:n.t|not) have any credits
            key limit exceeded
            check your billing
            欠费|余额不足|额度不足|余额已用完
        """),
    ),
    Row(Fault.NO_CREDIT, {402}),
    # Limits that come with any status, or with 200: Gemini (403), DashScope, AWS, Zhipu (1302 to 1313), MiniMax (1002,
    # 1039, 2056), Baidu (4, 17, 18, 336501, 336502).
    Row(
        Fault.LIMIT,
        {400, 403, 500, 502},
        _names("""
            resource_exhausted rate_limit_exceeded rate_limit_reached_error rate_limit_error limitrequests
            throttling throttling.ratequota throttling.allocationquota throttlingexception toomanyrequestsexception
            1302 1303 1304 1305 1308 1310 1312 1313 minimax:1002 minimax:1039 minimax:1041 minimax:2056
            baidu:4 baidu:17 baidu:18 baidu:336501 baidu:336502
        """),
        _words(r"""
            throttlingexception
            \btoo many requests\b
            rate limit (?:(?:is|was|has been) )?(?:reached|exceeded|hit)
            exceed\w*\b.{0,40}\brate limit
            out of call volume quota|\bquota exceeded\b
        """),
    ),
    # A closed account says so with words that also stand in refusals, so before them. OpenAI, Anthropic, Zhipu.
    Row(
        Fault.CREDENTIAL,
        {400, 401, 403, 429},
        _names("account_deactivated access_terminated 1110 1111 1112 1120 1121 1220 1309 1311"),
        _words(r"""
            \b(?:account|organi[sz]ation|project|api key)\b.{0,40}\b(?:disabled|deactivated|suspended)\b
            \b(?:account|organi[sz]ation|project|api key)\b.{0,40}\b(?:locked|banned|terminated|revoked)\b
        """),
    ),
    # Azure, OpenAI, Anthropic, DashScope, Moonshot, Volcengine (400), OpenRouter, xAI (403), Zhipu (1301), MiniMax
    # (1026, 1027), Baidu (336104, 336105), Bedrock's guardrails.
    Row(
        Fault.REFUSED,
        {400, 403, 422, 451, 500, 502},
        _names("""
            content_filter content_policy_violation responsibleaipolicyviolation datainspectionfailed
            data_inspection_failed moderation_blocked content_moderation sensitive_words_detected prompt_blocked
            invalid_prompt unsafe_request content_blocked prohibited_content jailbreak 1301
        """),
        _words(r"""
            \bmoderat(?:ion|ed)\b
            \bflagged\b
            content (?:management )?(?:policy|policies|filter)
            inappropriate content
            considered high risk
            content exists risk
            usage (?:policy|policies|guidelines)
            guardrail
            safety (?:system|filter|policy|reasons)
            may contain sensitive|prohibited content|不安全|敏感内容|敏感词|违规
        """),
    ),
    # The same with status 200, where a number is all that says it.
    Row(Fault.REFUSED, {502}, _names("minimax:1026 minimax:1027 baidu:336104 baidu:336105")),
    # OpenAI, vLLM, Mistral, DeepSeek ("maximum context length"), Anthropic ("prompt is too long"), Gemini ("input token
    # count"), llama.cpp, LM Studio, SGLang, DashScope ("Range of input length"), Zhipu (1261), Baidu, vLLM ("max_tokens
    # must be at least 1, got -186"), text-generation-inference, xAI ("maximum prompt length is"), GitHub's ("Max size:
    # 8000 tokens"), Moonshot ("model token limit"), Volcengine ("max message tokens"), Bedrock ("expected maxLength").
    Row(
        Fault.TOO_LONG,
        {400, 413, 422, 500, 502},
        _names("""
            context_length_exceeded exceed_context_size_error context_window_exceeded tokens_too_long
            characters_too_long model_context_window_exceeded model_max_prompt_tokens_exceeded tokens_limit_reached
            prompt_tokens_too_long 1261
        """),
        _words(r"""
            max(?:imum)? (?:context|prompt|input) (?:length|size|window)
            context_length_exceeded
            (?:prompt|input)(?: tokens)? (?:is |are )?too long
            exceeds? (?:the |your |its )?.{0,30}context
            context (?:limit|window|(?:length|size)\b.{0,60}exceed)
            too many tokens(?!: max)
            (?:input|prompt|message)s? (?:tokens?|(?:tokens? )?count|length)\b.{0,40}\bexceed
            input token count.{0,60}only supports
            (?:context|input) length is only
            exceed\w* (?:max message tokens|model token limit)
            expected maxlength: \d+, actual: \d+
            range of input length
            prompt 超长
            trying to keep the first \d+ tokens
            max_tokens must be at least 1, got -
            (?:greater|longer) than the (?:model'?s )?context
            inputs tokens ?\+ ?max_new_tokens must be
            inputs must have less than \d+ tokens
        """),
    ),
    # OpenRouter (404), Ollama (400 "does not support tools"), Bedrock, vLLM ("requires --enable-auto-tool-choice"). And
    # what the model has not done well, this time: Groq.
    Row(
        Fault.UNSUITABLE,
        {400, 401, 403, 404, 422, 500, 501, 502},
        _names("tool_use_failed json_validate_failed"),
        _words(r"""
            no endpoints? found (?:that (?:support|can)|matching)
            no (?:allowed )?(?:providers?|endpoints?)\b.{0,40}(?:support|requested param)
            not (?:currently )?support(?:ed|ing)? (?:for |the )?(?:\w+ )?(?:tools?|function|image|vision|audio|video)
            n.t support(?:ed|ing)? (?:for |the )?(?:\w+ )?(?:tools?|function|image|vision|audio|video)
            not (?:currently )?support(?:ed|ing)? (?:the )?(?:pdf|document|multi-?modal|structured|json|response_format)
            not (?:currently )?support(?:ed|ing)? (?:streaming|system (?:messages?|prompts?|role)|parallel)
            not (?:currently )?support(?:ed|ing)? (?:reasoning|thinking|embeddings|rerank|(?:chat )?completions)
            \b(?:tool|function|image|vision|audio|video)s?(?: \w+)? (?:is|are) not supported
            not (?:a )?multimodal
            not enabled for models/
            \bis only supported by certain models
            at most 0 (?:image|audio|video|file)
            requires --enable-auto-tool-choice
            no allowed providers are available
        """),
    ),
    # What the request refers to is not there, or cannot be fetched: OpenAI (404 "No such File object", "Previous
    # response ... not found"), vLLM and others that fetch images (401, 403, 404 of the image's server).
    Row(
        Fault.UNSUITABLE,
        {401, 403, 404, 410},
        words=_words(r"""
            no such file object
            \bfile[-_](?=\w*\d)\w{6,}
            previous[ _]response
            (?:download|fetch|retriev|load|access)\w*\b.{0,40}\b(?:image|file|media|audio|video|attachment)
            \b(?:image|file|media|audio|video|attachment)\b.{0,40}\b(?:download|fetch|retriev|load)
        """),
    ),
    # A page of the firewall before the server, which some words in a request may call up: Cloudflare, Akamai, AWS, F5.
    Row(
        Fault.FAILED,
        {401, 403, 405},
        words=_words(r"""
            you have been blocked|just a moment\.\.\.|attention required
            \brequest blocked|access denied: access denied|requested url was rejected
        """),
    ),
    # Gemini (400 API_KEY_INVALID, 400 for a country), DashScope (400 InvalidApiKey), Zhipu (1000 to 1004), MiniMax
    # (1004, 2049), Baidu (6, 13, 14, 110, 111), Cloudflare (10000), AWS, OpenAI (403 for a country).
    Row(
        Fault.CREDENTIAL,
        {400, 403, 404, 422, 500, 502},
        _names("""
            api_key_invalid invalid_api_key invalidapikey incorrect_api_key authentication_error unauthenticated
            invalid_authentication_error invalid_iam_token failed_to_auth unrecognizedclientexception
            expiredtokenexception accessdeniedexception invalidsignatureexception accessdenied.unpurchased
            unsupported_country_region_territory 1000 1001 1002 1003 1004 minimax:1004 minimax:2049
            baidu:6 baidu:13 baidu:14 baidu:110 baidu:111 cloudflare:10000
        """),
        _words(r"""
            api[ _-]?key (?:is )?(?:not valid|invalid|incorrect|expired|not found|missing|required|disabled)
            (?:invalid|incorrect|missing|expired|no|wrong) (?:\w+ )?(?:x-)?api[ _-]?key\b
            (?:invalid|incorrect|missing|expired|no|wrong) (?:\w+ )?(?:access token|bearer token|credentials?)\b
            location is not supported for the api
            country, region, or territory not supported
            security token included in the request
            must be verified to use
            accessdeniedexception
            authentication (?:error|failed|failure)
        """),
    ),
    # Anthropic: a feature or a beta that the account has not, which other requests do without; and a whole model.
    Row(Fault.UNSUITABLE, {403}, words=_words(r"\b(?:feature|beta|web search|long context)\b")),
    Row(Fault.CLOSED, {403}, _names("model_not_found"), _words(r"\bmodel\b")),
    # A wrong name of a model with another status than 404: DeepSeek ("Model Not Exist"), OpenRouter ("not a valid model
    # ID"), Mistral ("Invalid model"), Bedrock, LM Studio ("No models loaded"), DashScope, Zhipu (1211), Baidu; one that
    # is gone: Groq. And `http:` where `https:` belongs.
    Row(
        Fault.MODEL,
        {400, 422, 500},
        _names("""
            model_not_found modelnotfound invalid_model deploymentnotfound model_decommissioned model_deprecated
            1211 1221 1222
        """),
        _words(r"""
            \bmodels?:?,? ?[`'\"]?[\w./:@-]*[`'\"]? ?(?:does not exist|(?:is )?not (?:found|exist|available))\b
            not a valid model
            \b(?:invalid|unknown) model\b(?! (?:output|response|parameter))
            no models? (?:is |are )?loaded
            model identifier is invalid
            \bmodel\b.{0,80}\bhas been (?:decommissioned|deprecated|retired)
            \bmodel\b.{0,80}\bwith on-demand throughput
            http request (?:was sent )?to (?:an )?https (?:port|server)
            模型不存在
        """),
    ),
    Row(Fault.CREDENTIAL, {401, 403, 407}),
    Row(Fault.MODEL, {404, 405, 410}),
    # The same by name, where the status does not say it: Moonshot, AWS, MiniMax (1000 unknown, 1001 timeout).
    Row(
        Fault.OVERLOADED,
        {400, 500, 502},
        _names("""
            overloaded_error engine_overloaded_error server_overloaded server_is_overloaded serviceunavailableexception
            minimax:1000
        """),
    ),
    Row(Fault.TIMEOUT, {400, 500, 502}, _names("deadline_exceeded timeout_error modeltimeoutexception minimax:1001")),
    Row(Fault.LIMIT, {429}),
    # 498: Groq. 524: Cloudflare; 598 and 599: other proxies.
    Row(Fault.OVERLOADED, {498, 503, 529}),
    Row(Fault.TIMEOUT, {408, 504, 524, 598, 599}),
    # A bad request with status 200: MiniMax, Zhipu, Baidu, AWS.
    Row(
        Fault.REQUEST,
        {500, 502},
        _names("minimax:2013 1210 1213 1214 1215 baidu:336003 baidu:336006 validationexception"),
    ),
    Row(Fault.REQUEST, {400, 413, 422}),
    Row(Fault.REDIRECT, range(300, 400)),
)

#: The status that a name stands for, where a report came with status 200 or inside a stream. OpenAI, Anthropic, Google.
STATUS_OF_NAME = {
    "invalid_request_error": 400, "invalid_argument": 400, "failed_precondition": 400, "badrequesterror": 400,
    "authentication_error": 401, "unauthenticated": 401, "billing_error": 402, "permission_error": 403,
    "permission_denied": 403, "not_found_error": 404, "not_found": 404, "notfounderror": 404, "conflict_error": 409,
    "request_too_large": 413, "rate_limit_error": 429, "rate_limit_exceeded": 429, "requests": 429, "tokens": 429,
    "insufficient_quota": 429, "resource_exhausted": 429, "api_error": 500, "timeout_error": 504,
    "deadline_exceeded": 504, "unavailable": 503, "overloaded_error": 529, "overloaded": 529,
    "server_is_overloaded": 503,
    # A failed response of OpenAI's has a code alone.
    "context_length_exceeded": 400, "invalid_prompt": 400, "content_policy_violation": 400, "invalid_image": 400,
    "invalid_image_format": 400, "invalid_base64_image": 400, "invalid_image_url": 400, "image_too_large": 400,
    "image_too_small": 400, "image_parse_error": 400, "image_content_policy_violation": 400,
    "invalid_image_mode": 400, "image_file_too_large": 400, "unsupported_image_media_type": 400,
    "empty_image_file": 400, "failed_to_download_image": 400, "image_file_not_found": 400,
}  # fmt: skip


def status_of(report: ErrorReport, status: int | None) -> int:
    """Return the status that counts: the answer's; without one the body's, by number or by name, else 502.

    In Anthropic's envelope the type says it better than the status, which proxies change.
    """
    named = next((STATUS_OF_NAME[name] for name in _main_names(report) if name in STATUS_OF_NAME), None)
    if report.is_claude and named is not None:
        return named
    return status or report.status or named or 502


def fault_of(report: ErrorReport, status: int) -> Fault:
    """Return what is wrong: the first row of the table that fits."""
    return next((row.fault for row in TABLE if row.fits(status, report)), Fault.FAILED)


def _main_names(report: ErrorReport) -> list[str]:
    """Return the type, the code, and then all other names, in small letters."""
    first = [name.lower() for name in (report.type, report.code) if name]
    return [*first, *sorted(report.names.difference(first))]
