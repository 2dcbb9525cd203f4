"""llama.cpp's own server on a free port of loopback: `python llama_server.py MODEL PORT`; it ends when its stdin does.

Prints a line when it answers. It speaks Anthropic's dialect at `/v1/messages`, in a way that nobody here wrote.
"""

import sys

import xllamacpp

# What makes the engine read tool calls out of the text: the model's own template knows no tools.
TEMPLATE = """{%- if tools %}<|im_start|>system
You may call functions. <tools>
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}</tools>
Call one with <tool_call>{"name": ..., "arguments": ...}</tool_call>.<|im_end|>
{% endif %}{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}{% if message.tool_calls %}{% for call in message.tool_calls %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}{% endif %}<|im_end|>
{% endfor %}{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def main() -> None:
    """Serve until stdin ends."""
    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.n_ctx, params.n_parallel, params.verbosity = 2048, 1, 0
    params.n_batch = params.n_ubatch = 256
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_ram_mib = 0
    params.chat_template, params.use_jinja = TEMPLATE, True
    params.model_alias = {"claude-haiku-4-5"}
    params.api_keys = ["sk-llama"]
    params.ui = False
    params.port = int(sys.argv[2])
    server = xllamacpp.Server(params)
    print("ready", flush=True)
    sys.stdin.read()
    del server


if __name__ == "__main__":
    main()
