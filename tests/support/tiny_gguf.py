"""Write a 0.4 MB Llama with random weights as GGUF, with the standard library alone (no numpy, no download).

The output head is biased through one constant hidden feature, so that only printable ASCII is sampled and a
turn can end; the rest is random. Held to a JSON schema, the real llama.cpp server then answers with valid JSON.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import array
import random
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

WIDTH, LAYERS, HEADS, KV_HEADS, FEED_FORWARD, CONTEXT = 64, 2, 4, 2, 128, 4096
SPECIAL = ("<s>", "<unk>", "<|im_start|>")
END = len(SPECIAL)
END_MARK = "<|im_end|>"
FIRST_BYTE = END + 1
ALIGNMENT = 32
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}END_MARK\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9


class Tensor(NamedTuple):
    """A tensor; its shape has the fastest dimension first, as in GGUF."""

    name: str
    shape: tuple[int, ...]
    data: "array.array[float]"


def write(path: Path, seed: int = 0, *, end_mark: str = END_MARK, end_is_named: bool = True) -> None:
    """Write the model; the same arguments give the same bytes.

    `end_mark` ends a turn in the chat template. If it is not named, the metadata give another token as the end of a
    text, as in files that were converted without care.
    """
    tokens = [*SPECIAL, end_mark, *_byte_tokens()]
    tensors = list(_tensors(len(tokens), random.Random(seed)))
    metadata = list(_metadata(tokens, end_mark, end=END if end_is_named else 1))
    described, data = b"", bytearray()
    for tensor in tensors:
        shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        described += _string(tensor.name) + shape + struct.pack("<IQ", 0, len(data))
        data += tensor.data.tobytes()
        data += bytes(-len(data) % ALIGNMENT)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + b"".join(metadata) + described
    path.write_bytes(head + bytes(-len(head) % ALIGNMENT) + data)


def _byte_tokens() -> Iterator[str]:
    """Yield one token for each byte, written as in GPT-2: unprintable bytes are moved to 256 and on."""
    moved = 256
    for byte in range(256):
        if 33 <= byte < 127 or 161 <= byte < 173 or byte >= 174:
            yield chr(byte)
        else:
            yield chr(moved)
            moved += 1


def _tensors(vocabulary: int, chance: random.Random) -> Iterator[Tensor]:
    def drawn(rows: int, columns: int, spread: float) -> "array.array[float]":
        return array.array("f", (chance.gauss(0, spread) for _ in range(rows * columns)))

    narrow = WIDTH // HEADS * KV_HEADS
    ones = array.array("f", [1.0] * WIDTH)
    embedding, head = drawn(vocabulary, WIDTH, 0.3), drawn(vocabulary, WIDTH, 0.25)
    for token in range(vocabulary):
        embedding[token * WIDTH] = 6.0
        head[token * WIDTH] = _bias(token)
    yield Tensor("token_embd.weight", (WIDTH, vocabulary), embedding)
    yield Tensor("output_norm.weight", (WIDTH,), ones)
    yield Tensor("output.weight", (WIDTH, vocabulary), head)
    for layer in range(LAYERS):
        attention, down = drawn(WIDTH, WIDTH, 0.05), drawn(WIDTH, FEED_FORWARD, 0.05)
        attention[:WIDTH] = array.array("f", [0.0] * WIDTH)
        down[:FEED_FORWARD] = array.array("f", [0.0] * FEED_FORWARD)
        for name, shape, data in (
            ("attn_norm", (WIDTH,), ones),
            ("ffn_norm", (WIDTH,), ones),
            ("attn_q", (WIDTH, WIDTH), drawn(WIDTH, WIDTH, 0.1)),
            ("attn_k", (WIDTH, narrow), drawn(WIDTH, narrow, 0.1)),
            ("attn_v", (WIDTH, narrow), drawn(WIDTH, narrow, 0.1)),
            ("attn_output", (WIDTH, WIDTH), attention),
            ("ffn_gate", (WIDTH, FEED_FORWARD), drawn(WIDTH, FEED_FORWARD, 0.1)),
            ("ffn_up", (WIDTH, FEED_FORWARD), drawn(WIDTH, FEED_FORWARD, 0.1)),
            ("ffn_down", (FEED_FORWARD, WIDTH), down),
        ):
            yield Tensor(f"blk.{layer}.{name}.weight", shape, data)


def _bias(token: int) -> float:
    """Return the bias of a token: highest for ends of JSON values, lower for letters and digits, lowest for spaces."""
    if token == END:
        return 0.15
    sign = chr(max(token - FIRST_BYTE, 0))
    if sign in '"}],':
        return 0.35
    if sign == " ":
        return -0.1
    if sign.isascii() and sign.isalnum():
        return 0.2
    return 0.0 if 32 < ord(sign) < 127 else -6.0


def _metadata(tokens: list[str], end_mark: str, end: int) -> Iterator[bytes]:
    yield _entry("general.architecture", _STRING, _string("llama"))
    yield _entry("general.name", _STRING, _string("tiny-random"))
    for name, number in (
        ("general.file_type", 0),
        ("llama.context_length", CONTEXT),
        ("llama.embedding_length", WIDTH),
        ("llama.block_count", LAYERS),
        ("llama.feed_forward_length", FEED_FORWARD),
        ("llama.attention.head_count", HEADS),
        ("llama.attention.head_count_kv", KV_HEADS),
        ("llama.rope.dimension_count", WIDTH // HEADS),
        ("llama.vocab_size", len(tokens)),
        ("tokenizer.ggml.bos_token_id", 0),
        ("tokenizer.ggml.eos_token_id", end),
    ):
        yield _entry(name, _U32, struct.pack("<I", number))
    yield _entry("llama.attention.layer_norm_rms_epsilon", _F32, struct.pack("<f", 1e-5))
    yield _entry("tokenizer.ggml.model", _STRING, _string("gpt2"))
    yield _entry("tokenizer.ggml.pre", _STRING, _string("gpt-2"))
    yield _entry("tokenizer.ggml.tokens", _ARRAY, _list(_STRING, map(_string, tokens)))
    kinds = [3] * FIRST_BYTE + [1] * (len(tokens) - FIRST_BYTE)
    yield _entry("tokenizer.ggml.token_type", _ARRAY, _list(_I32, (struct.pack("<i", kind) for kind in kinds)))
    yield _entry("tokenizer.ggml.merges", _ARRAY, _list(_STRING, [_string("t " + tokens[FIRST_BYTE])]))
    yield _entry("tokenizer.ggml.add_bos_token", _BOOL, struct.pack("<?", True))
    template = TEMPLATE.replace("END_MARK", end_mark)
    yield _entry("tokenizer.chat_template", _STRING, _string(template))


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _list(kind: int, items: Iterable[bytes]) -> bytes:
    values = list(items)
    return struct.pack("<IQ", kind, len(values)) + b"".join(values)


def _entry(name: str, kind: int, value: bytes) -> bytes:
    return _string(name) + struct.pack("<I", kind) + value
