"""Copies of the default model with another chat template."""

import shutil
from pathlib import Path

_KEY = b"tokenizer.chat_template"
_HEADER_BYTES = 4 * 1024 * 1024

#: Shows tools, and calls the way Hermes models write them.
WITH_TOOLS = (
    "{%- if tools %}<|im_start|>system\nTools: {{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}<tool_call>\n{{ c.function | tojson }}\n</tool_call>{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
#: Never ends, when a message says so.
ENDLESS = (
    "{% for m in messages %}{{ m.content }}{% if 'spin' in m.content %}{% for a in range(99999) %}"
    "{% for b in range(99999) %}{% for c in range(99999) %}{% if false %}x{% endif %}{% endfor %}{% endfor %}"
    "{% endfor %}{% endif %}{% endfor %}"
)
#: Tries to get out of the sandbox.
ESCAPING = "{% for m in messages %}{{ ''.__class__.__mro__[1].__subclasses__() }}{{ m.content }}{% endfor %}"
#: Insists on what OpenAI's clients do not keep to.
STRICT = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ m.content }}{% endfor %}"
)


def with_template(source: Path, target: Path, template: str) -> Path:
    """Copy the model ``source`` to ``target`` with ``template``, which must not be longer than the model's own."""
    shutil.copyfile(source, target)
    with target.open("r+b") as file:
        header = file.read(_HEADER_BYTES)
        at = header.index(_KEY) + len(_KEY) + 4
        length = int.from_bytes(header[at : at + 8], "little")
        data = template.encode()
        padding = length - len(data)
        assert padding == 0 or padding >= 4, f"{-padding} bytes too long"
        file.seek(at + 8)
        file.write(data + (b"{#" + b" " * (padding - 4) + b"#}" if padding else b""))
    return target
