#include "gpu_problem.cpp"
