// Reads paths from the standard input, a line each; says of each file "ok", or "refused: ..." and the rule that it
// breaks.
#include <cstdio>
#include <iostream>
#include <string>

#include <mamba/io/safetensors.hpp>

int main() {
  for (std::string path; std::getline(std::cin, path);) {
    try {
      (void)mamba::io::SafetensorsFile::read(path);
      std::puts("ok");
    } catch (const mamba::Error& error) {
      std::printf("refused: %s\n", error.what());
    }
  }
  return 0;
}
