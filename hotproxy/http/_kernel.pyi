"""What `_kernel.pyx` offers: see `head_parser.HeadParser` and `head_encoder`."""

from hotproxy.http.codec import RequestHead, ResponseHead, Violation
from hotproxy.http.headers import Headers

class CompiledHeadParser:
    def parse_request(self, head: bytes) -> RequestHead | Violation: ...
    def parse_response(self, head: bytes, to_head: bool) -> ResponseHead | Violation: ...

def encode_head(start: bytes, headers: Headers, lines: list[bytes]) -> bytes: ...
