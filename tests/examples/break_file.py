# Changes what a safetensors file holds: `nan` makes every number a NaN, `notes CODE` runs CODE, which changes `notes`, those of a checkpoint.
import json, struct, sys

source, target, what = sys.argv[1:4]
data = open(source, "rb").read()
(size,) = struct.unpack("<Q", data[:8])
header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
if what == "nan":
    body = b"\xff" * len(body)
else:
    notes = json.loads(header["__metadata__"]["notes"])
    exec(sys.argv[4])
    header["__metadata__"]["notes"] = notes if isinstance(notes, str) else json.dumps(notes)
text = json.dumps(header).encode()
open(target, "wb").write(struct.pack("<Q", len(text)) + text + body)
