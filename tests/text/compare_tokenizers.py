"""Our tokens beside those of Hugging Face's tokenizers library, for tokenizers of many kinds and random texts.

    compare_tokenizers.py PROGRAM DATA FOLDER [TEXTS [SEED]]

PROGRAM is encode_lines, DATA tests/data. Exits with 77 where the library is missing, with 1 where MAMBA_REQUIRE_PYTHON is set, too."""
import glob
import json
import os
import random
import subprocess
import sys

try:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
except ImportError as error:
    print(f"{error}: it takes Python's tokenizers (pip install tokenizers)")
    sys.exit(1 if os.environ.get("MAMBA_REQUIRE_PYTHON") else 77)

program, data, folder = sys.argv[1:4]
count = int(sys.argv[4]) if len(sys.argv) > 4 else 1000
rng = random.Random(int(sys.argv[5]) if len(sys.argv) > 5 else 1)
corpus = [open(name, encoding="utf-8").read() for name in sorted(glob.glob(data + "/../../**/*.md", recursive=True))]
os.makedirs(folder, exist_ok=True)


def trained(pre_tokenizer, normalizer=None, added=(), post_processor=None):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=800, special_tokens=["<s>", "</s>", "<unk>"], show_progress=False,
                                                              initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    for token in added:
        tokenizer.add_tokens([token])
    if post_processor:
        tokenizer.post_processor = post_processor
    return tokenizer


Bytes, Sequence, Split = pre_tokenizers.ByteLevel, pre_tokenizers.Sequence, pre_tokenizers.Split
kinds = {name: Tokenizer.from_file(f"{data}/tokenizer_{name}_tiny/tokenizer.json") for name in ("neox", "llama3")}
kinds["added"] = trained(Bytes(add_prefix_space=True), normalizers.NFKC(), [
    AddedToken("foo", single_word=True), AddedToken("Bar", lstrip=True), AddedToken("\ufb01x", normalized=True),
    AddedToken("baz", rstrip=True, normalized=False), AddedToken("ab", normalized=False), AddedToken("abc", normalized=False)])
kinds["digits"] = trained(Sequence([pre_tokenizers.Digits(individual_digits=True), Bytes(add_prefix_space=False)]), normalizers.NFD())
kinds["template"] = trained(
    Sequence([Split(" ", "merged_with_next"), Bytes(add_prefix_space=False)]), normalizers.Sequence([normalizers.NFD(), normalizers.NFC()]),
    post_processor=processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 1)]))
for behavior in ("isolated", "removed", "merged_with_previous", "merged_with_next", "contiguous"):
    for invert in (False, True):
        split = Split(Regex(r"\s|[,.]+|\p{Lu}"), behavior, invert=invert)
        kinds[f"{behavior}_{invert}"] = trained(Sequence([split, Bytes(add_prefix_space=False, use_regex=False)]),
                                                normalizers.NFKD() if invert else None)

for name, pattern in {"words": r"\w+|[^\w\s]+", "lines": r"^\w+|\h{2}", "class": r"[\w'-]+|\p{N}{1,3}", "scripts": r"\p{Han}+|[\p{Greek}\v]"}.items():
    kinds[name] = trained(Sequence([Split(Regex(pattern), "isolated"), Bytes(add_prefix_space=False, use_regex=False)]), normalizers.NFC())

ranges = [(32, 127), (32, 127), (9, 14), (0, 32), (0xA0, 0x17F), (0x300, 0x36F), (0x370, 0x5FF), (0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F),
          (0x1100, 0x11FF), (0x1680, 0x1681), (0x180E, 0x180F), (0x2000, 0x206F), (0x2100, 0x218F), (0x3000, 0x30FF), (0x4E00, 0x4FFF),
          (0xAC00, 0xAD00), (0xFB00, 0xFB06), (0xFF00, 0xFF5E), (0x1F300, 0x1F64F), (0x1D400, 0x1D4FF), (0xE000, 0xE010), (0x10FFFE, 0x110000)]
words = ["the", " the", "  ", "\n", "\n\n", "\r\n", "'s", "'S", "'ll", "123", "12345678", "foo", "Bar", "baz", "abc", "ab", "<|endoftext|>",
         "<|begin_of_text|>", "<s>", "</s>", "\u00e9", "e\u0301", "\ufb01x", "\u017f", "'\u017f", "\u0130", "a" * 30, "\t", " " * 25, "\u00a0",
         "\u2028", "\u0085", "\u200b", "\u3000", "e\u0327\u0301\u0327\u0323", "\u1e0b\u0323", "\uac00\u11a8", "ab\nab", "\u00b2x\u00bc", "\u24b6foo", "x<unk> ", "<s>  y"]


def text():
    parts = []
    for _ in range(rng.randint(0, 12)):
        kind = rng.random()
        if kind < .5:
            parts.append(rng.choice(words))
        elif kind < .8:
            low, high = rng.choice(ranges)
            parts.append("".join(chr(rng.randrange(low, high)) for _ in range(rng.randint(1, 5))))
        else:
            page = rng.choice(corpus)
            at = rng.randrange(max(1, len(page) - 30))
            parts.append(page[at:at + rng.randint(1, 30)])
    return "".join(parts)


wrong = 0
for name, tokenizer in kinds.items():
    path = f"{folder}/{name}.json"
    tokenizer.save(path)
    texts = [text() for _ in range(count)]
    lines = "".join(json.dumps(t) + "\n" for t in texts)
    found = subprocess.run([program, path], input=lines, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]
    assert len(found) == count
    for t, line in zip(texts, found):
        ids, plain = tokenizer.encode(t).ids, tokenizer.encode(t, add_special_tokens=False).ids
        expected = [ids, plain, tokenizer.decode(plain, skip_special_tokens=False), tokenizer.decode(ids, skip_special_tokens=True)]
        if json.loads(line) != expected:
            wrong += 1
            if wrong <= 5:
                print(f"{name}: {json.dumps(t)}\n  expected {json.dumps(expected)}\n  found    {line}")
print(f"{wrong} of {count * len(kinds)} texts differ")
sys.exit(wrong != 0)
