"""llama.cpp as a peer, by PyPI's package llama-cpp-python: prompts and decoding of a GGUF file on the CPU."""

from __future__ import annotations

import ctypes
from pathlib import Path
from time import perf_counter


class LlamaError(Exception):
    """Says what llama.cpp refused."""


class Llama:
    def __init__(self, path: Path, threads: int, longest: int, matrix_unit: bool = False) -> None:
        """matrix_unit: lets llama.cpp lay weights out for its own kernels of AMX and the like. Of its version of
        2026-11 a second thread dies there of an illegal instruction (a tile is loaded before the unit is set up)."""
        import llama_cpp

        self.api = llama_cpp
        self.quiet = llama_cpp.llama_log_callback(lambda *_: None)  # held, for the library keeps its address
        llama_cpp.llama_log_set(self.quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        how = llama_cpp.llama_model_default_params()
        how.use_extra_bufts = matrix_unit
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), how)
        if not self.model:
            raise LlamaError(f"llama.cpp does not load {path}")
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = longest + 64, longest, min(longest, 512)
        options.n_threads = options.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        if not self.context:
            raise LlamaError(f"llama.cpp makes no context for {path}")

    def close(self) -> None:
        self.api.llama_free(self.context)
        self.api.llama_model_free(self.model)

    def forget(self) -> None:
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)

    def feed(self, tokens: list[int]) -> None:
        array = (self.api.llama_token * len(tokens))(*tokens)
        if self.api.llama_decode(self.context, self.api.llama_batch_get_one(array, len(tokens))) != 0:
            raise LlamaError("llama_decode failed")
        self.api.llama_get_logits(self.context)

    def prompt_ms(self, length: int, repetitions: int) -> list[float]:
        """A prompt of so many tokens through an empty state; the first run, which warms up, is not among them."""
        tokens = [i * 97 % 50280 for i in range(length)]
        times = []
        for _ in range(repetitions + 1):
            self.forget()
            begin = perf_counter()
            self.feed(tokens)
            times.append(1e3 * (perf_counter() - begin))
        return times[1:]

    def decode_ms(self, tokens: int) -> list[float]:
        """One token after the other."""
        self.forget()
        self.feed([42])
        times = []
        for _ in range(tokens):
            begin = perf_counter()
            self.feed([42])
            times.append(1e3 * (perf_counter() - begin))
        return times
