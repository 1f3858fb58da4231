"""A cluster's `proxy_protocol`, nodes to model: a version, or a section that says also what of the client's goes on."""

from __future__ import annotations

from typing import Final

from hotproxy.config import model, shapes
from hotproxy.config.fields import Fields
from hotproxy.config.scalars import ScalarError
from hotproxy.config.suggestions import did_you_mean
from hotproxy.config.yaml_nodes import Mapping, Scalar

_VERSIONS: Final = {"v1": 1, "v2": 2}
_ALL: Final = "all"


def read_proxy_header(cluster: Fields) -> tuple[int, tuple[int, ...]]:
    """The version, 0 for none, and the types of the TLVs that are passed on."""
    if not isinstance(cluster.get("proxy_protocol"), Mapping):
        return _version(cluster, "proxy_protocol"), ()
    section = cluster.section("proxy_protocol", shapes.PROXY_HEADER)
    if section is None or not section.need("version"):
        return 0, ()
    version = _version(section, "version")
    if version == 1 and section.has("pass_through_tlvs"):
        hint = "write 'version: v2'"
        section.error(section.key("pass_through_tlvs"), "a header of version 1 has no TLVs", hint)
    return version, _tlvs(section)


def _version(fields: Fields, name: str) -> int:
    return _VERSIONS.get(fields.choice(name, tuple(_VERSIONS), ""), 0)


def _tlvs(section: Fields) -> tuple[int, ...]:
    name = "pass_through_tlvs"
    node = section.get(name)
    if node is None:
        return ()
    if isinstance(node, Scalar) and node.text == _ALL:
        return model.ALL_TLVS
    found = [section.reader.value(item, tlv_type, at) for item, at in section.items(name, f"{_ALL}, or [PP2_TYPE_SSL]")]
    return tuple(sorted({kind for kind in found if kind is not None}))


def tlv_type(text: str) -> int:
    """A name of the specification, or any number of a byte."""
    kind = model.TLV_TYPES.get(text)
    if kind is not None:
        return kind
    try:
        number = int(text, 0)
    except ValueError:
        raise ScalarError(
            f"'{text[:60]}' is not a type of a TLV", did_you_mean(text, model.TLV_TYPES) or "as 0xEA"
        ) from None
    if not 0 <= number <= 255:
        raise ScalarError(f"'{text[:60]}' is not a type of a TLV", "from 0x00 to 0xFF")
    return number
