#include "scaling_mamba2.cpp"
