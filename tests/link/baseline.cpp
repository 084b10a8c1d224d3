// Compiled for the oldest processors.
#include "instructions.hpp"

double loss_in_baseline() { return result().loss; }
std::string model_in_baseline() { return result().model; }
