# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Heads in C. Read: what is plain is answered here, and everything else by `HttptoolsHeadParser`. Written: all of them.

The kernel knows how ordinary heads look, and gives up at the first byte, field or value that is not ordinary: a
violation, a rare target or host, a list in Connection, an Expect. So there is one place that knows what is wrong with a
head and what rare ones mean, and a mistake here can only be to call something ordinary that is not. That is what
tests/http/test_http_kernel.py and tests/fuzz/ look for, by comparing both on the same bytes.

Memory: lengths are looked at before a byte is. A head is walked by an index that only grows, while the byte under it
belongs to the class that is looked for. CPython keeps a NUL behind the last byte of every bytes object and NUL is in no
class, so every walk ends there at the latest. Fields are noted in an array of MAX_FIELDS; one more, and we give up. A
head is written into exactly as many bytes as its pieces have; no Python code runs between counting and copying them.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

from hotproxy.http._headers cimport FieldLine, Headers, name_of, value_of

from hotproxy.http import codec
from hotproxy.http.codec import RequestHead, ResponseHead
from hotproxy.http.head_parser import HTTPTOOLS
from hotproxy.http.syntax import MAX_FIELDS, MAX_HEAD_BYTES, TOKEN_CHARS

ctypedef unsigned char byte

cdef enum:
    # codec.py's
    NO_BODY = 0
    LENGTH = 1
    CHUNKED = 2
    UNTIL_CLOSE = 3
    HTTP_1_0 = 10
    HTTP_1_1 = 11
    # syntax.py's MAX_FIELDS and MAX_HEAD_BYTES
    FIELDS = 100
    HEAD_BYTES = 65536
    LENGTH_DIGITS = 18  # any number of 18 digits is below syntax.MAX_LENGTH

# A kernel that was built from other sources than these is none.
if (NO_BODY, LENGTH, CHUNKED, UNTIL_CLOSE, HTTP_1_0, HTTP_1_1, FIELDS, HEAD_BYTES) != (
    codec.NO_BODY, codec.LENGTH, codec.CHUNKED, codec.UNTIL_CLOSE, codec.HTTP_1_0, codec.HTTP_1_1,
    MAX_FIELDS, MAX_HEAD_BYTES,
):
    raise ImportError("it was built from other sources: install again")

# Classes of bytes; NUL is in none of them.
cdef enum:
    TOKEN = 1
    TARGET = 2  # visible ASCII without "#"
    VALUE = 4  # of a field, or a reason phrase
    HOST = 8  # letters, digits and "._~-"

cdef byte[256] CLASSES
cdef byte[256] LOWER
cdef int _code
for _code in range(256):
    CLASSES[_code] = 0
    LOWER[_code] = _code + 32 if 65 <= _code <= 90 else _code
    if _code in TOKEN_CHARS:
        CLASSES[_code] |= TOKEN
    if 33 <= _code <= 126 and _code != 35:
        CLASSES[_code] |= TARGET
    if _code == 9 or 32 <= _code <= 126 or _code >= 128:
        CLASSES[_code] |= VALUE
    if 48 <= _code <= 57 or 65 <= _code <= 90 or 97 <= _code <= 122 or _code in b"._~-":
        CLASSES[_code] |= HOST

# What a field's name says to us.
cdef enum:
    END_TO_END = 0
    HOST_FIELD = 1
    EXPECT_FIELD = 2
    CLOSE_FIELD = 3  # "Close: x" is nominated by "Connection: close"
    HOP_BY_HOP = 4  # this one and those that follow are rules.HOP_BY_HOP
    CONNECTION_FIELD = 5
    LENGTH_FIELD = 6
    CODING_FIELD = 7

cdef struct Field:
    int name
    int name_end
    int value  # without surrounding whitespace
    int value_end
    bint trailing  # there was whitespace behind the value
    int kind

# What all fields of a head come to.
cdef struct Block:
    int fields
    int hosts
    int host  # index of the last field of its kind, as are the next three
    int connections
    int connection
    int lengths
    int length
    int codings
    int coding
    bint expects
    bint has_close_field
    bint has_hop_by_hop

cdef struct Meaning:
    int framing  # NO_BODY when nothing is declared
    long long length
    bint close
    bint asks_keep_alive


cdef class CompiledHeadParser:
    """A `HeadParser`; it keeps nothing between heads."""

    def parse_request(self, bytes head not None):
        cdef Field[FIELDS] fields
        cdef Block block
        cdef Meaning meaning
        cdef const byte* text = <const byte*> PyBytes_AS_STRING(head)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(head)
        cdef int at = 0, method_end, target_end, version
        if size > HEAD_BYTES:
            return HTTPTOOLS.parse_request(head)
        while CLASSES[text[at]] & TOKEN:
            at += 1
        method_end = at
        # Not "/": absolute-form, asterisk-form, or CONNECT's.
        if method_end == 0 or text[at] != c" " or text[at + 1] != c"/":
            return HTTPTOOLS.parse_request(head)
        at += 1
        while CLASSES[text[at]] & TARGET:
            at += 1
        target_end = at
        if text[at] != c" ":
            return HTTPTOOLS.parse_request(head)
        version = _version(text, at + 1)
        if version == 0:
            return HTTPTOOLS.parse_request(head)
        at += 9  # " HTTP/1.1"
        if text[at] != c"\r" or text[at + 1] != c"\n":
            return HTTPTOOLS.parse_request(head)
        if not _read_fields(text, at + 2, size, fields, &block) or not _understand(text, version, fields, &block, &meaning):
            return HTTPTOOLS.parse_request(head)
        if block.expects or _is(text, 0, method_end, b"connect", 7):
            return HTTPTOOLS.parse_request(head)
        if block.hosts != 1 and (block.hosts != 0 or version == HTTP_1_1):
            return HTTPTOOLS.parse_request(head)
        if block.hosts == 1 and not _plain_host(text, fields[block.host].value, fields[block.host].value_end):
            return HTTPTOOLS.parse_request(head)
        return RequestHead(
            _piece(text, 0, method_end),
            _piece(text, method_end + 1, target_end),
            version,
            _headers(head, fields, &block),
            meaning.framing,
            meaning.length,
            not meaning.close and (version == HTTP_1_1 or meaning.asks_keep_alive),
        )

    def parse_response(self, bytes head not None, bint to_head):
        cdef Field[FIELDS] fields
        cdef Block block
        cdef Meaning meaning
        cdef const byte* text = <const byte*> PyBytes_AS_STRING(head)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(head)
        cdef int at, phrase, phrase_end, version, status, framing
        if size > HEAD_BYTES or size < 16:  # "HTTP/1.1 200\r\n\r\n"
            return HTTPTOOLS.parse_response(head, to_head)
        version = _version(text, 0)
        if version == 0 or text[8] != c" " or not (c"1" <= text[9] <= c"5" and _digit(text[10]) and _digit(text[11])):
            return HTTPTOOLS.parse_response(head, to_head)
        status = (text[9] - 48) * 100 + (text[10] - 48) * 10 + (text[11] - 48)
        at = phrase = 12
        if text[at] == c" ":
            at = phrase = 13
            while CLASSES[text[at]] & VALUE:
                at += 1
        if text[at] != c"\r" or text[at + 1] != c"\n":
            return HTTPTOOLS.parse_response(head, to_head)
        phrase_end = at
        if not _read_fields(text, at + 2, size, fields, &block) or not _understand(text, version, fields, &block, &meaning):
            return HTTPTOOLS.parse_response(head, to_head)
        framing = meaning.framing
        if status < 200 or status == 204:
            if framing == CHUNKED or meaning.length:
                return HTTPTOOLS.parse_response(head, to_head)
            framing = NO_BODY
        elif framing == NO_BODY and not (to_head or status == 304):
            framing = UNTIL_CLOSE
        return ResponseHead(
            status,
            _piece(text, phrase, phrase_end),
            version,
            _headers(head, fields, &block),
            framing,
            meaning.length,
            not meaning.close and (version == HTTP_1_1 or meaning.asks_keep_alive) and framing != UNTIL_CLOSE,
        )


cdef inline bint _digit(byte code) noexcept:
    return c"0" <= code <= c"9"


cdef inline bytes _piece(const byte* text, int start, int end):
    return PyBytes_FromStringAndSize(<const char*> text + start, end - start)


cdef bint _is(const byte* text, int start, int end, const char* lower, int size) noexcept:
    """Is this piece that word, whatever its case?"""
    cdef int at
    if end - start != size:
        return False
    for at in range(size):
        if LOWER[text[start + at]] != <byte> lower[at]:
            return False
    return True


cdef int _version(const byte* text, int at) noexcept:
    """0 for anything but "HTTP/1.0" and "HTTP/1.1"; reads no further than to the first byte that differs."""
    cdef const char* wanted = b"HTTP/1."
    cdef int index
    for index in range(7):
        if text[at + index] != <byte> wanted[index]:
            return 0
    if text[at + 7] == c"1":
        return HTTP_1_1
    return HTTP_1_0 if text[at + 7] == c"0" else 0


cdef int _kind(const byte* text, int start, int end) noexcept:
    """What the field of this name is to us; the length rules nearly all of them out."""
    cdef int size = end - start
    if size == 2:
        return HOP_BY_HOP if _is(text, start, end, b"te", 2) else END_TO_END
    if size == 4:
        return HOST_FIELD if _is(text, start, end, b"host", 4) else END_TO_END
    if size == 5:
        return CLOSE_FIELD if _is(text, start, end, b"close", 5) else END_TO_END
    if size == 6:
        return EXPECT_FIELD if _is(text, start, end, b"expect", 6) else END_TO_END
    if size == 7:
        return HOP_BY_HOP if _is(text, start, end, b"upgrade", 7) else END_TO_END
    if size == 10:
        if _is(text, start, end, b"connection", 10):
            return CONNECTION_FIELD
        return HOP_BY_HOP if _is(text, start, end, b"keep-alive", 10) else END_TO_END
    if size == 14:
        return LENGTH_FIELD if _is(text, start, end, b"content-length", 14) else END_TO_END
    if size == 16:
        return HOP_BY_HOP if _is(text, start, end, b"proxy-connection", 16) else END_TO_END
    if size == 17:
        return CODING_FIELD if _is(text, start, end, b"transfer-encoding", 17) else END_TO_END
    return END_TO_END


cdef bint _read_fields(const byte* text, int at, Py_ssize_t size, Field* fields, Block* block) noexcept:
    """From the first field line to the end of the head, which must be the end of the bytes."""
    cdef int count = 0, start, end, kind
    block.hosts = block.host = block.connections = block.connection = block.lengths = block.length = 0
    block.codings = block.coding = block.expects = block.has_close_field = block.has_hop_by_hop = 0
    while text[at] != c"\r":
        if count == FIELDS:
            return False
        start = at
        while CLASSES[text[at]] & TOKEN:
            at += 1
        if at == start or text[at] != c":":
            return False
        fields[count].name = start
        fields[count].name_end = at
        kind = _kind(text, start, at)
        fields[count].kind = kind
        at += 1
        while text[at] == c" " or text[at] == c"\t":
            at += 1
        start = at
        while CLASSES[text[at]] & VALUE:
            at += 1
        if text[at] != c"\r" or text[at + 1] != c"\n":
            return False
        end = at
        while end > start and (text[end - 1] == c" " or text[end - 1] == c"\t"):
            end -= 1
        fields[count].value = start
        fields[count].value_end = end
        fields[count].trailing = end != at
        if kind != END_TO_END:
            if kind >= HOP_BY_HOP:
                block.has_hop_by_hop = True
            if kind == HOST_FIELD:
                block.hosts += 1
                block.host = count
            elif kind == EXPECT_FIELD:
                block.expects = True
            elif kind == CLOSE_FIELD:
                block.has_close_field = True
            elif kind == CONNECTION_FIELD:
                block.connections += 1
                block.connection = count
            elif kind == LENGTH_FIELD:
                block.lengths += 1
                block.length = count
            elif kind == CODING_FIELD:
                block.codings += 1
                block.coding = count
        count += 1
        at += 2
    block.fields = count
    return text[at + 1] == c"\n" and at + 2 == size


cdef bint _understand(const byte* text, int version, Field* fields, Block* block, Meaning* meaning) noexcept:
    """Connection and framing, where they are as nearly everybody writes them."""
    cdef Field* field
    cdef int at
    meaning.framing = NO_BODY
    meaning.length = 0
    meaning.close = meaning.asks_keep_alive = False
    if block.connections:
        field = &fields[block.connection]
        if block.connections > 1:
            return False
        if _is(text, field.value, field.value_end, b"keep-alive", 10):
            meaning.asks_keep_alive = True
        elif _is(text, field.value, field.value_end, b"close", 5) and not block.has_close_field:
            meaning.close = True
        else:
            return False
    if block.codings:
        field = &fields[block.coding]
        # Whitespace behind it is llhttp's to judge.
        if block.codings > 1 or block.lengths or version != HTTP_1_1 or field.trailing:
            return False
        if not _is(text, field.value, field.value_end, b"chunked", 7):
            return False
        meaning.framing = CHUNKED
    elif block.lengths:
        field = &fields[block.length]
        at = field.value
        if block.lengths > 1 or field.trailing or not 1 <= field.value_end - at <= LENGTH_DIGITS:
            return False
        while at < field.value_end:
            if not _digit(text[at]):
                return False
            meaning.length = meaning.length * 10 + (text[at] - 48)
            at += 1
        meaning.framing = LENGTH
    return True


cdef bint _plain_host(const byte* text, int at, int end) noexcept:
    """A name or an IPv4 address, perhaps with a port; what is in brackets is not plain."""
    cdef int start = at, port = 0
    while at < end and CLASSES[text[at]] & HOST:
        at += 1
    if at == start:
        return False
    if at == end:
        return True
    if text[at] != c":" or not 1 <= end - at - 1 <= 5:
        return False
    at += 1
    while at < end:
        if not _digit(text[at]):
            return False
        port = port * 10 + (text[at] - 48)
        at += 1
    return port <= 65535


cdef Headers _headers(bytes head, Field* fields, Block* block):
    """The end-to-end fields, as places in the head."""
    cdef Headers headers = Headers.__new__(Headers)
    cdef FieldLine* line
    cdef int index
    headers.raw = head
    headers.make_room(block.fields)
    for index in range(block.fields):
        if fields[index].kind >= HOP_BY_HOP:
            continue
        line = &headers.lines[headers.count]
        line.name = fields[index].name
        line.name_size = fields[index].name_end - fields[index].name
        line.value = fields[index].value
        line.value_size = fields[index].value_end - fields[index].value
        line.own_name = line.own_value = NULL
        headers.count += 1
    return headers


def encode_head(bytes start not None, Headers headers not None, list lines not None):
    """`head_encoder.encode_head`, compiled."""
    cdef Py_ssize_t total = PyBytes_GET_SIZE(start) + 4, size, at = 0
    cdef FieldLine* field
    cdef const char* text
    cdef bytes line, encoded
    cdef byte* into
    cdef bint bad
    cdef int index
    for index in range(headers.count):
        name_of(headers, &headers.lines[index], &size)
        total += size + 4
        value_of(headers, &headers.lines[index], &size)
        total += size
    for line in lines:
        total += _size(line) + 2
    encoded = PyBytes_FromStringAndSize(NULL, total)
    into = <byte*> PyBytes_AS_STRING(encoded)
    bad = _put(into, &at, PyBytes_AS_STRING(start), PyBytes_GET_SIZE(start)) | _put_pair(into, &at, c"\r", c"\n")
    for index in range(headers.count):
        field = &headers.lines[index]
        text = name_of(headers, field, &size)
        bad |= _put(into, &at, text, size) | _put_pair(into, &at, c":", c" ")
        text = value_of(headers, field, &size)
        bad |= _put(into, &at, text, size) | _put_pair(into, &at, c"\r", c"\n")
    for line in lines:
        bad |= _put(into, &at, PyBytes_AS_STRING(line), PyBytes_GET_SIZE(line)) | _put_pair(into, &at, c"\r", c"\n")
    _put_pair(into, &at, c"\r", c"\n")
    if bad:
        raise ValueError("CR, LF or NUL inside a head")
    return encoded


cdef Py_ssize_t _size(object piece) except -1:
    """A variable declared as bytes may still be None, which has no bytes to look at."""
    if not isinstance(piece, bytes):
        raise TypeError(f"a head is made of bytes, not of {type(piece).__name__}")
    return PyBytes_GET_SIZE(piece)


cdef bint _put(byte* into, Py_ssize_t* at, const char* piece, Py_ssize_t size) noexcept:
    """Append a piece; True when it would be more than a piece of a line."""
    cdef const byte* text = <const byte*> piece
    cdef Py_ssize_t index
    cdef byte bad = 0
    memcpy(into + at[0], text, size)
    at[0] += size
    for index in range(size):
        bad |= (text[index] == 0) | (text[index] == 10) | (text[index] == 13)
    return bad


cdef inline bint _put_pair(byte* into, Py_ssize_t* at, byte one, byte two) noexcept:
    into[at[0]] = one
    into[at[0] + 1] = two
    at[0] += 2
    return False
