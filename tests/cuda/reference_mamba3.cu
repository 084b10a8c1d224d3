#include "model/reference_mamba3.cpp"
