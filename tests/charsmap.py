"""Makes charsmaps, the normalisers of sentencepiece models, that replace one text."""

from __future__ import annotations


def charsmap(key: str, value: str) -> bytes:
    """Make the charsmap of a Precompiled normaliser that replaces one text.

    :param key: What is replaced.
    :param value: By what.
    :return: Length of the trie in bytes, the trie (a double array as the darts-clone library has it), replacements.
    """
    units: dict[int, int] = {}
    node, base = 0, 1  # children of a node lie at node ^ offset ^ label
    for byte in key.encode():
        base += 256
        units[node] = units.get(node, 0) | (node ^ base) << 10
        node = base ^ byte
        units[node] = byte
    base += 256
    units[node] |= (node ^ base) << 10 | 1 << 8
    units[base] = 1 << 31  # the value: where the replacement starts
    size = (max(units) | 0xFF) + 1
    trie = b"".join(units.get(at, 0).to_bytes(4, "little") for at in range(size))
    return len(trie).to_bytes(4, "little") + trie + value.encode() + b"\0"
