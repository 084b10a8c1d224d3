#include "scaling.hpp"

std::vector<scaling::Measurement> scaling::measure_mamba1(const Plan& plan) {
  return Measure<mamba::Mamba1>(plan).all();
}
