# The sizes of language models that the programs are built for; sizes are types, and each is a translation unit or two. A line:
#
#   NAME MIXER D_MODEL VOCABULARY D_STATE D_CONV EXPAND HEAD
#
# MIXER: mamba1, mamba2:HEADDIM:NGROUPS:NORM_GROUPS, or mamba3:HEADDIM:NGROUPS:RANK:half, the last or all being the states that turn, and :norm
# behind it where heads' outputs are normed, :softplus where rates are (a RANK of 0 is SISO; it has no use for D_CONV); HEAD: tied or untied. How many layers a model has is known at run time alone.

# What train_language_model offers as --width, for bytes and for tokenizers of up to 50,280 tokens; generate reads what it writes.
set(mamba_trained_sizes
  "bytes-mamba1-128   mamba1         128   256  16 4 2 tied"
  "bytes-mamba1-256   mamba1         256   256  16 4 2 tied"
  "bytes-mamba2-256   mamba2:64:1:1  256   256  64 4 2 tied"
  "bytes-mamba2-512   mamba2:64:1:1  512   256 128 4 2 tied"
  "bytes-mamba3-256   mamba3:64:1:0:half 256 256 64 4 2 tied"
  "tokens-mamba2-512  mamba2:64:1:1  512 50280 128 4 2 tied")

# What generate alone is built for: the smallest of those that are published, of each mixer.
set(mamba_published_sizes
  "mamba-130m         mamba1         768 50280  16 4 2 tied"
  "mamba2-130m        mamba2:64:1:1  768 50288 128 4 2 tied")

# The others, which are built where MAMBA_LANGUAGE_SIZES names them.
set(mamba_requested_sizes
  "mamba-370m         mamba1        1024 50280  16 4 2 tied"
  "mamba-790m         mamba1        1536 50280  16 4 2 tied"
  "mamba-1.4b         mamba1        2048 50280  16 4 2 tied"
  "mamba-2.8b         mamba1        2560 50280  16 4 2 tied"
  "mamba2-370m        mamba2:64:1:1 1024 50288 128 4 2 tied"
  "mamba2-780m        mamba2:64:1:1 1536 50288 128 4 2 tied"
  "mamba2-1.3b        mamba2:64:1:1 2048 50288 128 4 2 tied"
  "mamba2-2.7b        mamba2:64:1:1 2560 50288 128 4 2 tied")

# What tests need instead: nobody waits for more than that.
set(mamba_tested_sizes
  "bytes-mamba1-64    mamba1          64   256  16 4 2 tied"
  "bytes-mamba3-64    mamba3:32:1:2:half 64 256 16 4 2 tied"
  "tokens-mamba2-64   mamba2:64:1:1   64  1528  16 4 2 tied")
