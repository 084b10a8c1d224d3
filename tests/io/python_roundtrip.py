"""Our file in Python's safetensors library, and a file of that library in ours. Exits with 77 where the library is missing, with 1 where
MAMBA_REQUIRE_PYTHON is set, too."""
import json
import os
import subprocess
import sys

try:
    import numpy
    from safetensors import safe_open
    from safetensors.numpy import save_file
except ImportError as error:
    print(f"{error}: it takes Python's safetensors and numpy (pip install safetensors numpy)")
    sys.exit(1 if os.environ.get("MAMBA_REQUIRE_PYTHON") else 77)

program, folder = sys.argv[1:]
ours, theirs = folder + "/ours.safetensors", folder + "/theirs.safetensors"
subprocess.run([program, "write", ours], check=True)
with safe_open(ours, framework="np") as file:
    metadata = file.metadata()
    tensors = {name: file.get_tensor(name) for name in file.keys()}
assert json.loads(metadata["config"])["d_model"] == 16, metadata
assert json.loads(metadata["variant"])["mixer"], metadata
assert tensors["backbone.embedding.weight"].shape == (16, 16)
assert tensors["backbone.layers.1.mixer.conv1d.weight"].shape == (32, 1, 4)
assert tensors["backbone.layers.0.mixer.A_log"].dtype == numpy.float32
assert numpy.allclose(tensors["backbone.layers.0.mixer.A_log"][5], numpy.log(numpy.arange(1, 9)), atol=1e-7)
tensors["lm_head.weight"] = tensors["backbone.embedding.weight"]  # as mamba_ssm's state_dict has it
save_file(tensors, theirs)
subprocess.run([program, "check", theirs], check=True)
# Without a loss: as numbers of 64 bits, behind metadata of another program.
wide = {name: tensor.astype(numpy.float64) for name, tensor in tensors.items()}
save_file(wide, theirs, metadata={"config": "of another program", "γ": "\x00\"\n"})
subprocess.run([program, "check", theirs], check=True)
# A number that float cannot hold is refused, by the file's and the tensor's names.
wide["backbone.norm_f.weight"][3] = 1e39
save_file(wide, theirs)
refused = subprocess.run([program, "check", theirs], capture_output=True, text=True)
assert refused.returncode == 1 and theirs in refused.stdout and "norm_f" in refused.stdout and "1e+39" in refused.stdout, refused
