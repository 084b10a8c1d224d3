"""Our reader of safetensors files beside Python's: mutations of files, with a fixed seed, of which each side says whether it accepts them.

compare_safetensors.py READ_SAFETENSORS DATA FOLDER [N]: the program, the reference files, a folder for N mutations. Prints every file of which
the two disagree for no reason listed below, and ends with 1; ends with 77 where Python's library is missing, with 1 where MAMBA_REQUIRE_PYTHON is
set, too.
"""
import json
import os
import random
import re
import struct
import subprocess
import sys

try:
    from safetensors import deserialize
except ImportError as error:
    print(f"{error}: it takes Python's safetensors and numpy (pip install safetensors numpy)")
    sys.exit(1 if os.environ.get("MAMBA_REQUIRE_PYTHON") else 77)

# What Python's library accepts and ours refuses on purpose: the words of our refusal, and why.
INTENDED_REFUSALS = {
    "occurs twice": "the format disallows duplicate keys; Python takes the last one",
    "more than 64 dimensions": "NumPy has no more either; a list without bound costs memory",
    "expected an object": "serde reads an entry given as the array [dtype, shape, data_offsets], too; the format says object",
    "shape overflows": "Python multiplies from the left and stops at a 0; ours looks at every dimension",
    "is not an integer that 63 bits hold": "a dimension beyond 63 bits beside one that is 0: shapes are signed here",
}
# The reverse: Python's words. A number in a member that nobody reads is not converted by ours.
INTENDED_ACCEPTANCES = {
    "number out of range": "a number beyond double's range in a member that is passed over",
}

DTYPES = ("BOOL F4 F6_E2M3 F6_E3M2 U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ I16 U16 F16 BF16 I32 U32 F32 C64 F64 I64 U64 "
          "F128 C128 I4 f32").split()
NUMBERS = ["0", "1", "2", "-0", "-1", "1.0", "1e0", "01", "+1", "4294967296", "9223372036854775807", "9223372036854775808", "18446744073709551615",
           "18446744073709551616", "1e400", "null", "\"1\"", "[1]", "NaN", ""]
WORDS = ["null", "{}", "[]", "true", "\"x\"", "\"x\":1,", "\"__metadata__\":null,", "\"__metadata__\":{\"a\":\"b\"},", " ", "\t", "\r\n", "\0", "\v",
         "\u00a0", "\ufeff", "\\u0000", "\\ud800", "\\ud83d\\ude00", "\\x", "é", ",", ":", "{", "}", "[", "]", "\"", "/**/", "[" * 100 + "]" * 100,
         "[" * 124 + "]" * 124, "[" * 125 + "]" * 125, "[" * 126 + "]" * 126, "1e400", "-", "1" * 400, "tru", "0.5", "-0.0e-5"]


def parts(raw):
    size = struct.unpack("<Q", raw[:8])[0]
    return raw[8:8 + size], raw[8 + size:]


def whole(header, data, size=None):
    return struct.pack("<Q", len(header) if size is None else size) + header + data


def edited(text, rng):
    """The header's text with a number, a word, a dtype, a key or a member changed."""
    kind = rng.randrange(9)
    spots = lambda pattern: list(re.finditer(pattern, text))
    replaced = lambda spot, new: text[:spot.start()] + new + text[spot.end():]
    if kind == 0 and spots(r"\d+"):
        return replaced(rng.choice(spots(r"\d+")), rng.choice(NUMBERS))
    if kind == 1 and spots(r'"(F|I|U|BF|BOOL)[0-9A-Z_]*"'):
        return replaced(rng.choice(spots(r'"(F|I|U|BF|BOOL)[0-9A-Z_]*"')), '"' + rng.choice(DTYPES) + '"')
    if kind == 2 and spots(r'"[^"]*"'):
        old, new = rng.choice(spots(r'"[^"]*"')), rng.choice(spots(r'"[^"]*"'))
        return replaced(old, new.group())  # a duplicate, or a key elsewhere
    if kind == 3 and spots(r"[\[\]{},:]"):
        spot = rng.choice(spots(r"[\[\]{},:]"))
        return replaced(spot, rng.choice(["", spot.group() * 2, " " + spot.group() + "\n", rng.choice("[]{},:")]))
    if kind == 4 and spots(r'"dtype"'):
        spot = rng.choice(spots(r'"dtype"'))
        return replaced(spot, '"more":' + rng.choice(WORDS) + ',"dtype"')  # an unknown member
    if kind == 5 and spots(r'"(dtype|shape|data_offsets|__metadata__)"'):
        return replaced(rng.choice(spots(r'"(dtype|shape|data_offsets|__metadata__)"')), '"' + rng.choice(["dtype", "shape", "data_offsets", "__metadata__", "Shape"]) + '"')
    if kind == 6 and spots(r"\{[^{}]*\}"):
        return replaced(rng.choice(spots(r"\{[^{}]*\}")), rng.choice(["null", "{}", "[]", "1", '["F32",[0],[0,0]]', '{"a":"b"}', '{"a":null}', '{"a":"b","a":"c"}']))
    if kind == 7 and spots(r"\[[^\[\]]*\]"):
        return replaced(rng.choice(spots(r"\[[^\[\]]*\]")),
                        rng.choice(["[]", "null", "[0]", "[0,0]", "[0,0,0]", "[0,4611686018427387904,4]", "[4611686018427387904,4,0]", "[" + ",".join("1" * 64) + "]",
                                    "[" + ",".join("1" * 65) + "]", "[-0]", "[1.0]"]))
    at = rng.randrange(len(text) + 1)
    return text[:at] + rng.choice(WORDS) + text[at:]


def mutated(raw, rng):
    header, data = parts(raw)
    kind = rng.randrange(8)
    if kind == 0:  # a bit
        at = rng.randrange(min(len(raw), 8 + len(header) + 8))
        return raw[:at] + bytes([raw[at] ^ 1 << rng.randrange(8)]) + raw[at + 1:]
    if kind == 1:  # truncated, or longer
        return raw[:rng.randrange(len(raw))] if rng.random() < 0.7 else raw + bytes(rng.randrange(1, 9))
    if kind == 2:  # a byte of the header
        at = rng.randrange(len(header))
        return whole(header[:at] + bytes([rng.randrange(256)]) + header[at + 1:], data)
    if kind == 3:  # another length
        return whole(header, data, max(0, len(header) + rng.randrange(-9, 9)) if rng.random() < 0.8 else rng.choice([0, 2**31, 2**63, 2**64 - 1, 100000001]))
    if kind == 4:  # white space around
        space = lambda: "".join(rng.choice(" \t\r\n") for _ in range(rng.randrange(5))).encode()
        return whole(space() + header + space(), data)
    text = header.decode("utf-8", "surrogateescape")
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        text = edited(text, rng)
    return whole(text.encode("utf-8", "surrogateescape"), data)


def small_files(folder):
    """The reference files cut to a few small tensors, and files of every dtype, empty tensors and metadata."""
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".safetensors"):
            continue
        with open(os.path.join(folder, name), "rb") as file:
            header, data = parts(file.read())
        entries = json.loads(header)
        cut, kept = {}, b""
        if "__metadata__" in entries:
            cut["__metadata__"] = entries.pop("__metadata__")
        for key in sorted(entries):
            begin, end = entries[key]["data_offsets"]
            if end - begin > 64 or len(cut) > 5:
                continue
            cut[key] = dict(entries[key], data_offsets=[len(kept), len(kept) + end - begin])
            kept += data[begin:end]
        yield whole(json.dumps(cut, ensure_ascii=False, separators=separators_of(name)).encode(), kept)
    for dtype in DTYPES:
        for size in range(1, 65):
            yield whole(('{"t":{"dtype":"%s","shape":[2,4],"data_offsets":[0,%d]}}' % (dtype, size)).encode(), bytes(size))
        yield whole(('{"t":{"dtype":"%s","shape":[0],"data_offsets":[0,0]}}' % dtype).encode(), b"")
        yield whole(('{"t":{"dtype":"%s","shape":[3],"data_offsets":[0,2]}}' % dtype).encode(), bytes(2))
    yield whole(b'{"__metadata__":null,"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4))
    yield whole(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]},"b":{"dtype":"U8","shape":[2,2],"data_offsets":[0,4]}}', bytes(8))


def separators_of(name):
    return (",", ":") if len(name) % 2 else (", ", ": ")


def refusal_of_python(raw):
    try:
        deserialize(raw)
    except Exception as error:  # whatever it raises is a refusal
        return str(error) or repr(error)


def main():
    program, data, folder = sys.argv[1:4]
    count = int(sys.argv[4]) if len(sys.argv) > 4 else 20000
    os.makedirs(folder, exist_ok=True)
    rng = random.Random(1)
    originals = list(small_files(data))
    valid = [raw for raw in originals if refusal_of_python(raw) is None]
    inputs = originals + [mutated(rng.choice(valid), rng) for _ in range(count)]
    intended, findings = {}, 0
    path = os.path.join(folder, "input.safetensors")
    reader = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", errors="replace")
    both = {True: 0, False: 0}
    for raw in inputs:
        with open(path, "wb") as file:
            file.write(raw)
        reader.stdin.write(path + "\n")
        reader.stdin.flush()
        ours = reader.stdout.readline().rstrip("\n")
        if not ours:
            print("our reader ended at", raw[:2000])
            return 1
        theirs = refusal_of_python(raw) or "ok"
        if (ours == "ok") == (theirs == "ok"):
            both[ours == "ok"] += 1
            continue
        known = INTENDED_REFUSALS if theirs == "ok" else INTENDED_ACCEPTANCES
        words = next((w for w in known if w in (ours if theirs == "ok" else theirs)), None)
        if words:
            intended[words] = intended.get(words, 0) + 1
            continue
        findings += 1
        if findings <= 20:
            print(f"ours: {ours}\nPython: {theirs}\n{raw[:2000]}\n")
    reader.stdin.close()
    print(f"{len(inputs)} files: both accept {both[True]}, both refuse {both[False]}; they differ for no listed reason in {findings}")
    for words, n in sorted(intended.items()):
        print(f"  {n} times, as intended: {words!r}: {INTENDED_REFUSALS.get(words) or INTENDED_ACCEPTANCES[words]}")
    if both[True] < count // 20 or both[False] < count // 20:
        print("the mutations are too weak or too strong to tell anything")
        return 1
    return 1 if findings else 0


sys.exit(main())
