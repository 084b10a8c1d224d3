#include "scaling.hpp"

std::vector<scaling::Measurement> scaling::measure_mamba2(const Plan& plan) {
  return Measure<mamba::Mamba2<>>(plan).all();
}
