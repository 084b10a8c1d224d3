"""Our file in Python's safetensors library, and a file of that library in ours. Exits with 77 where it is missing."""
import subprocess
import sys

try:
    import numpy
    from safetensors import safe_open
    from safetensors.numpy import save_file
except ImportError:
    print("the Python safetensors library is not installed: skipped")
    sys.exit(77)

program, folder = sys.argv[1:]
ours, theirs = folder + "/ours.safetensors", folder + "/theirs.safetensors"
subprocess.run([program, "write", ours], check=True)
with safe_open(ours, framework="np") as file:
    metadata = file.metadata()
    tensors = {name: file.get_tensor(name) for name in file.keys()}
assert '"d_model": 16' in metadata["config"], metadata
assert tensors["backbone.embedding.weight"].shape == (16, 16)
assert tensors["backbone.layers.1.mixer.conv1d.weight"].shape == (32, 1, 4)
assert tensors["backbone.layers.0.mixer.A_log"].dtype == numpy.float32
assert numpy.allclose(tensors["backbone.layers.0.mixer.A_log"][5], numpy.log(numpy.arange(1, 9)), atol=1e-7)
tensors["lm_head.weight"] = tensors["backbone.embedding.weight"]  # as mamba_ssm's state_dict has it
save_file(tensors, theirs)
subprocess.run([program, "check", theirs], check=True)
