#include <cmath>
#include <cstdio>

#include "instructions.hpp"

double loss_in_baseline();
std::string model_in_baseline();

int main() {
  const Result here = result();
  const double there = loss_in_baseline();
  std::printf("%s %.9g, %s %.9g\n", here.model.c_str(), here.loss, model_in_baseline().c_str(), there);
  return here.model != model_in_baseline() && std::abs(here.loss / there - 1) < 1e-5 ? 0 : 1;
}
