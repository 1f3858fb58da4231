"""What `_kernel.pyx` offers: see `head_parser.HeadParser`."""

from hotproxy.http.codec import RequestHead, ResponseHead, Violation

class CompiledHeadParser:
    def parse_request(self, head: bytes) -> RequestHead | Violation: ...
    def parse_response(self, head: bytes, to_head: bool) -> ResponseHead | Violation: ...
