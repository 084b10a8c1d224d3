#include "scaling_mamba1.cpp"
