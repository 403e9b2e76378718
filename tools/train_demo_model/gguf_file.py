"""A small GGUF v3 reader and writer: F32, F16, BF16 and Q8_0 tensors."""

import struct

import numpy as np

ALIGNMENT = 32
TYPES = {"F32": 0, "F16": 1, "Q8_0": 8, "BF16": 30}
FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32}
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q",
           11: "<q", 12: "<d"}
U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9


def to_bf16(x):
    """float32 array -> uint16 bits of bfloat16, rounded to nearest even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def to_q8_0(x):
    """float32 [rows, n], n a multiple of 32 -> uint8 [rows, n / 32 * 34]: f16 scale, 32 int8."""
    blocks = x.reshape(-1, 32).astype(np.float32)
    scale = np.abs(blocks).max(1, keepdims=True) / np.float32(127)
    inverse = np.where(scale > 0, 1 / np.where(scale > 0, scale, 1), 0).astype(np.float32)
    y = blocks * inverse
    levels = (np.sign(y) * np.floor(np.abs(y) + np.float32(0.5))).astype(np.int8)
    packed = np.concatenate((scale.astype(np.float16).view(np.uint8), levels.view(np.uint8)), 1)
    return packed.reshape(x.shape[0], -1)


def encode(x, kind):
    """The bytes of a float32 array stored as `kind`."""
    if kind == "F32":
        return np.ascontiguousarray(x, "<f4").tobytes()
    if kind == "F16":
        return np.ascontiguousarray(x, "<f2").tobytes()
    return (to_bf16(x) if kind == "BF16" else to_q8_0(x)).tobytes()


def decode(raw, kind, shape):
    """The float32 array [shape] in the bytes of a tensor."""
    if kind == "F32":
        return np.frombuffer(raw, "<f4").reshape(shape).copy()
    if kind == "F16":
        return np.frombuffer(raw, "<f2").astype(np.float32).reshape(shape)
    if kind == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(shape)
    blocks = np.frombuffer(raw, np.uint8).reshape(-1, 34)
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
    return (scale * blocks[:, 2:].copy().view(np.int8)).astype(np.float32).reshape(shape)


def byte_count(kind, count):
    """Bytes of `count` values."""
    return {"F32": 4 * count, "F16": 2 * count, "BF16": 2 * count, "Q8_0": count // 32 * 34}[kind]


def _text(value):
    raw = value.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _value(kind, value):
    if kind == STRING:
        return _text(value)
    if kind == ARRAY:
        element, items = value
        body = b"".join(_value(element, item) for item in items)
        return struct.pack("<IQ", element, len(items)) + body
    return struct.pack(SCALARS[kind], value)


def write(path, metadata, tensors):
    """metadata: list of (key, type, value), an array's value being (element type, items).

    tensors: list of (name, float32 array in row-major order, kind).
    """
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))
    head += b"".join(_text(k) + struct.pack("<I", t) + _value(t, v) for k, t, v in metadata)
    offset, bodies = 0, []
    for name, array, kind in tensors:
        body = encode(array, kind)
        body += bytes(-len(body) % ALIGNMENT)
        dims = array.shape[::-1]
        head += _text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, TYPES[kind],
                                          offset)
        offset += len(body)
        bodies.append(body)
    with open(path, "wb") as out:
        out.write(head + bytes(-len(head) % ALIGNMENT))
        for body in bodies:
            out.write(body)


class Reader:
    """metadata: dict; tensors: dict name -> (kind, shape in row-major order, offset)."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.raw = file.read()
        magic, version, tensors, keys = struct.unpack_from("<4sIQQ", self.raw)
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError(f"{path}: not GGUF v2 or v3 (magic {magic!r}, version {version})")
        self.at, self.metadata, self.tensors = 24, {}, {}
        for _ in range(keys):
            key = self._take(STRING)
            self.metadata[key] = self._take(self._take(U32))
        names = {number: name for name, number in TYPES.items()}
        for _ in range(tensors):
            name, rank = self._take(STRING), self._take(U32)
            shape = tuple(self._take(10) for _ in range(rank))[::-1]
            kind, offset = self._take(U32), self._take(10)
            self.tensors[name] = (names[kind], shape, offset)
        align = self.metadata.get("general.alignment", ALIGNMENT)
        self.start = -(-self.at // align) * align

    def _take(self, kind):
        if kind == STRING:
            length = self._take(10)
            self.at += length
            return self.raw[self.at - length:self.at].decode("utf-8")
        if kind == ARRAY:
            element, count = self._take(U32), self._take(10)
            return [self._take(element) for _ in range(count)]
        value, = struct.unpack_from(SCALARS[kind], self.raw, self.at)
        self.at += struct.calcsize(SCALARS[kind])
        return value

    def tensor(self, name):
        """The tensor as float32, dequantised, in row-major order."""
        kind, shape, offset = self.tensors[name]
        size = byte_count(kind, int(np.prod(shape)))
        begin = self.start + offset
        return decode(self.raw[begin:begin + size], kind, shape)
