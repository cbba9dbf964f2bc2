"""Random changes of a file's bytes, for tests that damage files."""

import numpy as np

TOKENS = [
    b"",
    b"\0",
    b"\xff",
    b"\n",
    b",",
    b'"',
    b"[",
    b"{",
    b"}",
    b":",
    b"-1",
    b"0",
    b"nan",
    b"1e999",
    b"null",
    b"true",
]
TOKENS += [b"9" * 400, b"[" * 400, b"\xed\xa0\x80", b"../", b"/", b"a" * 300, b"\\ud800", b"2026-99-99", b"*a", b"&a "]
NUMBERS = [0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1]


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Returns `content` after one to four random changes: bits flipped, parts cut, inserted, overwritten or moved."""
    result = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        size = len(result)
        begin = int(rng.integers(0, size + 1))
        end = min(size, begin + int(rng.choice([1, 2, 4, 16, 200])))
        match int(rng.integers(0, 8)):
            case 0 if size:
                for place in rng.integers(0, size, rng.integers(1, 9)):
                    result[place] ^= 1 << int(rng.integers(0, 8))
            case 1:
                del result[begin:]
            case 2:
                del result[begin:end]
            case 3:
                result[begin:begin] = rng.bytes(int(rng.integers(1, 20)))
            case 4:
                result[begin:begin] = TOKENS[rng.integers(0, len(TOKENS))]
            case 5:
                result[begin:end] = TOKENS[rng.integers(0, len(TOKENS))]
            case 6:
                order = ("little", "big")[rng.integers(0, 2)]
                result[begin : begin + 4] = NUMBERS[rng.integers(0, len(NUMBERS))].to_bytes(4, order)
            case _:
                other = int(rng.integers(0, size + 1))
                result[begin:end], result[other:other] = result[other : other + end - begin], result[begin:end]
    return bytes(result)
