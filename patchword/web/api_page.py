"""The page that describes the HTTP API: plain HTML made from the OpenAPI document, without scripts."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h2 { margin: 2.5rem 0 0.25rem; font-size: 1.1rem; border-top: 1px solid #8886; padding-top: 1rem; }
code, pre { font-family: ui-monospace, monospace; font-size: 0.9em; }
pre { background: #8882; padding: 0.75rem; overflow-x: auto; border-radius: 4px; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 0.25rem 0.75rem 0.25rem 0; border-bottom: 1px solid #8883; }
.method { display: inline-block; min-width: 3.5rem; font-weight: 700; }
"""
# The one inline style is named by its hash; no script, no other source.
PAGE_POLICY = (
    f"default-src 'none'; style-src 'sha256-{base64.b64encode(sha256(_STYLE.encode()).digest()).decode()}'; "
    "base-uri 'none'; frame-ancestors 'none'"
)


def api_page(document: Mapping[str, Any]) -> str:
    """The OpenAPI document as a page.

    Args:
        document: OpenAPI 3.1, as FastAPI makes it.
    """
    about = document["info"]
    body = "".join(
        _operation(method.upper(), path, operation, document)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )
    title, text = escape(about["title"]), escape(about.get("description", ""))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}: API</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>'
        f"<h1>{title} {escape(about['version'])}: API</h1><p>{text}</p>"
        '<p>The same for programs: <a href="/openapi.json">openapi.json</a>.</p>'
        f"{body}</body></html>\n"
    )


def _operation(method: str, path: str, operation: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    parts = [
        f'<h2><code><span class="method">{method}</span> {escape(path)}</code></h2>',
        f"<p><strong>{escape(operation.get('summary', ''))}.</strong> {escape(operation.get('description', ''))}</p>",
    ]
    rows = [
        (p["name"], p.get("schema", {}), bool(p.get("required")), p.get("description", ""))
        for p in operation.get("parameters", [])
    ]
    if rows:
        parts.append("<h3>Parameters</h3>" + _table(rows))
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<h3>Body: {escape(kind)}</h3>" + _schema(content.get("schema", {}), document))
    good = operation.get("responses", {}).get("200", {})
    for kind, content in good.get("content", {}).items():
        parts.append(f"<h3>Answer: {escape(kind)}</h3>" + _schema(content.get("schema", {}), document))
    others = [(code, about) for code, about in operation.get("responses", {}).items() if code != "200"]
    if others:
        told = "; ".join(f"{escape(code)} {escape(about.get('description', ''))}" for code, about in others)
        parts.append(f"<p>Other answers: {told}.</p>")
    return "".join(parts)


def _schema(schema: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    """Fields and example of a body."""
    known = _resolved(schema, document)
    rows = [
        (name, _resolved(field, document), name in known.get("required", []), field.get("description", ""))
        for name, field in known.get("properties", {}).items()
    ]
    examples = "".join(
        f"<pre>{escape(json.dumps(one, indent=2, ensure_ascii=False))}</pre>" for one in known.get("examples", [])
    )
    told = f"<p>{escape(known['description'])}</p>" if "description" in known else ""
    return told + (_table(rows) if rows else "") + examples


def _resolved(schema: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    """A schema with its reference followed."""
    reference = schema.get("$ref", "")
    if not reference:
        return dict(schema)
    found: dict[str, Any] = document["components"]["schemas"][reference.rpartition("/")[2]]
    return found


def _table(rows: Sequence[tuple[str, Mapping[str, Any], bool, str]]) -> str:
    lines = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{escape(_type(schema))}</td>"
        f"<td>{escape(text)}{_default(schema, required)}</td></tr>"
        for name, schema, required, text in rows
    )
    return f"<table><thead><tr><th>Name</th><th>Type</th><th>Meaning</th></tr></thead><tbody>{lines}</tbody></table>"


def _default(schema: Mapping[str, Any], required: bool) -> str:
    if required:
        return " <em>(required)</em>"
    return f" (default {escape(json.dumps(schema['default']))})" if "default" in schema else ""


def _type(schema: Mapping[str, Any]) -> str:
    """A schema's type in a few words."""
    return " or ".join(dict.fromkeys(_types(schema))) or "object"


def _types(schema: Mapping[str, Any]) -> Iterator[str]:
    if "enum" in schema:
        yield from (json.dumps(value) for value in schema["enum"])
    elif "anyOf" in schema:
        for one in schema["anyOf"]:
            yield from _types(one)
    elif "$ref" in schema:
        yield str(schema["$ref"]).rpartition("/")[2]
    elif schema.get("type") == "array":
        yield f"list of {_type(schema.get('items', {}))}"
    elif "type" in schema:
        yield str(schema["type"])
