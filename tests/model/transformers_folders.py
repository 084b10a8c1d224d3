"""Folders that save_folder has written in transformers, and what transformers' save_pretrained writes in ours: the same logits, and the same
greedy continuation. Exits with 77 where torch or transformers is missing."""
import shutil
import subprocess
import sys
from pathlib import Path

try:
    import torch
    import transformers
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM, Mamba2Config, MambaConfig
except ImportError as error:
    print(f"{error}: it takes torch and transformers (pip install torch transformers)")
    sys.exit(77)

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
program, work = sys.argv[1], Path(sys.argv[2])
shutil.rmtree(work, ignore_errors=True)
ours, theirs = work / "ours", work / "theirs"
if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < (5, 23):
    print(f"transformers {transformers.__version__} norms Mamba-2's rows as a whole: it takes 5.23")
    sys.exit(77)
print(f"torch {torch.__version__}, transformers {transformers.__version__}")


def continuation(model, prompt, tokens):
    """Greedy, token by token, whatever config.json says that a text ends with."""
    for _ in range(tokens):
        with torch.no_grad():
            prompt = torch.cat([prompt, model(prompt, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    return prompt[0]


subprocess.run([program, "write", ours], check=True)
good = True
for folder in sorted(ours.iterdir()):
    expected = load_file(folder / "expected.safetensors")
    wide = folder.name.endswith("f64")
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64 if wide else torch.float32, output_loading_info=True)
    as_stored = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").dtype
    logits = model(expected["input_ids"].long()).logits.detach()
    difference = (logits - expected["logits"]).abs().max().item()
    greedy = expected["greedy"].long()
    same = torch.equal(continuation(model, greedy[None, :5], len(greedy) - 5), greedy)
    # transformers' own loop, with its cache.
    generated = model.generate(greedy[None, :5], max_new_tokens=len(greedy) - 5, do_sample=False, eos_token_id=None, pad_token_id=0)[0]
    same = same and torch.equal(generated, greedy)
    complete = not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    stored = {"bf16": torch.bfloat16, "f64": torch.float64}.get(folder.name.split("_")[-1], torch.float32)
    print(f"{folder.name} in transformers: logits up to {logits.abs().max():.3g}, off by {difference:.2g}; {'the same' if same else 'ANOTHER'} "
          f"continuation; {as_stored}{'' if complete else ', ' + str(info)}")
    good = good and complete and same and difference < 1e-5 * logits.abs().max().item() and as_stored == stored

small = dict(hidden_size=32, state_size=8, num_hidden_layers=2, vocab_size=96, conv_kernel=4, expand=2)
odd = dict(small, hidden_size=24, state_size=5, vocab_size=27, conv_kernel=3)
two = dict(small, head_dim=16, num_heads=4, n_groups=2, chunk_size=8)


def save(name, config, dtype=torch.float32, **options):
    torch.manual_seed(len(name))
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # biases and norms that a forgotten one would show by
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += .1 * torch.randn_like(parameter)
    model.to(dtype).save_pretrained(theirs / name, **options)
    model = AutoModelForCausalLM.from_pretrained(theirs / name, dtype=torch.float32)  # the numbers as stored
    ids = torch.randint(0, config.vocab_size, (2, 19))
    save_file({"input_ids": ids.int(), "logits": model(ids).logits.detach().contiguous(),
               "greedy": continuation(model, ids[:1, :5], 12).int()}, theirs / name / "expected.safetensors")


save("mamba", MambaConfig(**small))
save("mamba_sharded", MambaConfig(**small), max_shard_size=20000)
save("mamba_bf16", MambaConfig(**small), torch.bfloat16)
save("mamba_f16", MambaConfig(**small), torch.float16)
save("mamba_untied", MambaConfig(**small, tie_word_embeddings=False))
save("mamba_odd", MambaConfig(**odd))
save("mamba2", Mamba2Config(**two))
save("mamba2_sharded", Mamba2Config(**two), max_shard_size=20000)
save("mamba2_bf16", Mamba2Config(**two), torch.bfloat16)
save("mamba2_tied", Mamba2Config(**dict(two, n_groups=1), tie_word_embeddings=True))
assert len(list((theirs / "mamba_sharded").glob("model-*.safetensors"))) > 1
good = subprocess.run([program, "check", theirs]).returncode == 0 and good
sys.exit(0 if good else 1)
