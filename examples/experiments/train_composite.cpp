// Trains a Mamba model on the composite function task and says which solution it prefers.
#include "command_line.hpp"

int main(int argc, char** argv) {
  return runs::train_program<runs::Composite>(
      {"train_composite",
       "Trains a Mamba model on the composite function task (arXiv 2509.17514) and says which solution it prefers.\n"
       "Without options: the reading of the paper that comes closest to its results. --preset quick shows the effect "
       "in minutes.",
       ""},
      argc, argv);
}
