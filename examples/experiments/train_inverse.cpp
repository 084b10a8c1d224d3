// Trains a Mamba model on the inverse sequence matching task.
#include "command_line.hpp"

int main(int argc, char** argv) {
  return runs::train_program<runs::Inverse>({"train_inverse",
                                             "Trains a Mamba model on the inverse sequence matching task (arXiv "
                                             "2509.17514): which of five orders of three numbers was\n"
                                             "written backwards at the end? Accuracy on training cases, on test cases "
                                             "that differ by a residue, and on other numbers.\n"
                                             "Without options: --preset paper, standard block. The paper's other "
                                             "block: --residual identity --position learned.",
                                             "inverse-"},
                                            argc, argv);
}
